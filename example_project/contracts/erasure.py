"""Erase a person: the destructive code under development.

What has no purpose any more is deleted: invitations to contracts that were never completed, and the
PDF files of those that were. What
proves a contract stays, with every personal value replaced by the beginning of its SHA-256: who
brings an address can still attest that it signed, while the database no longer says whose it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from django.db import connection, models, transaction
from django.utils import timezone

from .models import AuditEvent, Contract, Document, Signature, Signer

HASH_BYTES = 14
EVENTS_PER_UPDATE = 500
PERSONAL_KEYS = frozenset({"name", "email", "ip_address", "browser"})


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """What an erasure did, in numbers of rows by model.

    Attributes:
        deleted: Rows that are gone.
        redacted: Rows that stay, without what was personal.
    """

    deleted: dict[str, int]
    redacted: dict[str, int]


@transaction.atomic
def erase(signer: Signer) -> Erasure:
    """Erase *signer* from every table, in one transaction."""
    documents = _delete_documents(signer)
    invitations, _ = signer.signatures.exclude(contract__status=Contract.Status.COMPLETED).delete()
    return Erasure(
        deleted={"signatures": invitations, "documents": documents},
        redacted={
            "signatures": _redact_signatures(signer),
            "audit events": _redact_events(signer),
            "signer": _redact_signer(signer),
        },
    )


def redacted(value: str) -> str:
    """Return what takes the place of a personal *value*: the same for the same value."""
    return sha256(value.encode()).digest()[:HASH_BYTES].hex()


def _delete_documents(signer: Signer) -> int:
    """Delete the PDF files that show the person's name."""
    documents = list(Document.objects.filter(contract__signatures__signer=signer))
    for document in documents:
        document.file.delete(save=False)
        document.delete()
    return len(documents)


def _redact_signatures(signer: Signer) -> int:
    signatures = list(signer.signatures.all())
    for signature in signatures:
        signature.typed_name = redacted(signature.typed_name)
        signature.drawing = redacted(signature.drawing)
        signature.ip_address = redacted(signature.ip_address)
    return Signature.objects.bulk_update(signatures, ["typed_name", "drawing", "ip_address"])


def _redact_events(signer: Signer) -> int:
    events = list(signer.events.all())
    for event in events:
        event.payload = _redacted_payload(event.payload)
    # The model's own refuses every update.
    plain_queryset: models.QuerySet[AuditEvent] = models.QuerySet(AuditEvent)
    with _redaction_allowed():
        return plain_queryset.bulk_update(events, ["payload"], batch_size=EVENTS_PER_UPDATE)


def _redact_signer(signer: Signer) -> int:
    signer.name = redacted(signer.name)
    signer.email = redacted(signer.email)
    signer.phone = redacted(signer.phone)
    signer.erased_at = timezone.now()
    signer.save()
    return 1


def _redacted_payload(payload: dict[str, Any]) -> dict[str, Any]:
    return {key: _redacted_value(key, value) for key, value in payload.items()}


def _redacted_value(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return _redacted_payload(value)
    return redacted(value) if key in PERSONAL_KEYS else value


@contextmanager
def _redaction_allowed() -> Iterator[None]:
    """Have the trigger of the migration `append_only` let payloads be changed meanwhile."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL contracts.redacting = on")
        yield
        # After an error there is nothing to take back: the setting ends with the transaction.
        cursor.execute("SET LOCAL contracts.redacting = off")
