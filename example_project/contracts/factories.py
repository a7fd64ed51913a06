"""Factories of believable rows.

All chance comes from factory-boy's generator and all times from `EPOCH`, so that
`factory.random.reseed_random` decides every value. Faker takes longer for a value than PostgreSQL
for a row, so it serves the models with few rows only.
"""

# mypy: disable-error-code="no-untyped-call"
# factory-boy says that it is typed; its declarations are not.

import datetime as dt
from hashlib import sha256
from typing import Any

from django.utils.text import slugify
from factory.declarations import (
    LazyAttribute,
    LazyAttributeSequence,
    LazyFunction,
    Sequence,
    Trait,
)
from factory.django import DjangoModelFactory
from factory.faker import Faker
from factory.fuzzy import FuzzyChoice, FuzzyDateTime
from factory.random import randgen

from .models import AuditEvent, Company, Contract, Signature, Signer
from .wording import BROWSERS, CLAUSES, COUNTRIES, TITLES

EPOCH = dt.datetime(2025, 1, 1, 8, tzinfo=dt.UTC)
CLAUSES_PER_CONTRACT = 8
STROKES_PER_DRAWING = 60


def _ip_address() -> str:
    return ".".join(str(randgen.randrange(1, 255)) for _ in range(4))


def _body() -> str:
    clauses = randgen.sample(CLAUSES, CLAUSES_PER_CONTRACT)
    return "\n\n".join(
        f"{number}. {clause}".format(n=randgen.randrange(2, 12), m=randgen.randrange(12, 60))
        for number, clause in enumerate(clauses, start=1)
    )


def _drawing() -> str:
    strokes = randgen.randbytes(STROKES_PER_DRAWING * 2)
    return "M0 0" + "".join(f"l{x} {y}" for x, y in zip(strokes[::2], strokes[1::2], strict=True))


def _payload(contract: Contract, signer: Signer | None) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "request_id": f"{randgen.getrandbits(64):016x}",
        "document": {"reference": contract.reference, "sha256": contract.body_sha256},
    }
    if signer is not None:
        payload["actor"] = {"name": signer.name, "email": signer.email}
        payload["client"] = {"ip_address": _ip_address(), "browser": randgen.choice(BROWSERS)}
    return payload


class CompanyFactory(DjangoModelFactory[Company]):
    class Meta:
        model = Company

    name = Faker("company")
    country = FuzzyChoice(COUNTRIES)
    domain = LazyAttributeSequence(lambda new, n: f"{slugify(new.name)[:60]}-{n}.example")
    created_at = FuzzyDateTime(EPOCH, EPOCH + dt.timedelta(days=30))


class SignerFactory(DjangoModelFactory[Signer]):
    class Meta:
        model = Signer

    name = Faker("name")
    email = LazyAttributeSequence(lambda new, n: f"{slugify(new.name)}.{n}@{new.company.domain}")
    phone = Faker("phone_number")
    created_at = FuzzyDateTime(EPOCH + dt.timedelta(days=30), EPOCH + dt.timedelta(days=60))


class ContractFactory(DjangoModelFactory[Contract]):
    class Meta:
        model = Contract

    reference = Sequence(lambda n: f"C-{n + 1:06}")
    title = FuzzyChoice(TITLES)
    body = LazyFunction(_body)
    body_sha256 = LazyAttribute(lambda new: sha256(new.body.encode()).hexdigest())
    created_at = FuzzyDateTime(EPOCH + dt.timedelta(days=60), EPOCH + dt.timedelta(days=360))


class SignatureFactory(DjangoModelFactory[Signature]):
    class Meta:
        model = Signature

    class Params:
        signed = Trait(
            typed_name=LazyAttribute(lambda new: new.signer.name),
            drawing=LazyFunction(_drawing),
            ip_address=LazyFunction(_ip_address),
        )


class AuditEventFactory(DjangoModelFactory[AuditEvent]):
    class Meta:
        model = AuditEvent

    payload = LazyAttribute(lambda new: _payload(new.contract, new.signer))
