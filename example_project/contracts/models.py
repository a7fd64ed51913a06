"""Who signed what: companies, signers, contracts, signatures, and the audit trail of it all."""

from typing import Any, Never

from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower

# Long enough for an address, a name, and for the hash that takes their place.
PERSONAL_LENGTH = 254


class Company(models.Model):
    """A customer: its people send contracts and sign them."""

    name = models.CharField(max_length=200)
    country = models.CharField(max_length=2)
    domain = models.CharField(max_length=100, unique=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["name", "pk"]
        verbose_name_plural = "companies"

    def __str__(self) -> str:
        return self.name


class Signer(models.Model):
    """A person who is asked to sign."""

    company = models.ForeignKey(Company, on_delete=models.PROTECT, related_name="signers")
    name = models.CharField(max_length=PERSONAL_LENGTH)
    email = models.CharField(max_length=PERSONAL_LENGTH)
    phone = models.CharField(max_length=PERSONAL_LENGTH)
    created_at = models.DateTimeField()
    erased_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name", "pk"]
        constraints = [
            models.UniqueConstraint(Lower("email"), name="signer_email_unique"),
            models.CheckConstraint(
                condition=Q(email__contains="@") | Q(erased_at__isnull=False),
                name="signer_email_or_erased",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>"


class Contract(models.Model):
    """A document on its way from draft to completed."""

    class Status(models.TextChoices):
        DRAFT = "draft"
        SENT = "sent"
        COMPLETED = "completed"
        DECLINED = "declined"

    reference = models.CharField(max_length=20, unique=True)
    company = models.ForeignKey(Company, on_delete=models.PROTECT, related_name="contracts")
    title = models.CharField(max_length=200)
    body = models.TextField()
    body_sha256 = models.CharField("SHA-256 of the body", max_length=64)
    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT)
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True, blank=True)
    signers = models.ManyToManyField(Signer, through="Signature", related_name="contracts")

    class Meta:
        ordering = ["-created_at", "reference"]
        indexes = [models.Index(fields=["status", "-created_at"], name="contract_by_status")]
        constraints = [
            models.CheckConstraint(
                condition=Q(status="completed", completed_at__gt=F("created_at"))
                | (~Q(status="completed") & Q(completed_at__isnull=True)),
                name="contract_completed_at",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.reference} {self.title}"


class Signature(models.Model):
    """One person's place on a contract: an invitation at first, a signature in the end."""

    contract = models.ForeignKey(Contract, on_delete=models.CASCADE, related_name="signatures")
    signer = models.ForeignKey(Signer, on_delete=models.PROTECT, related_name="signatures")
    position = models.PositiveSmallIntegerField()
    typed_name = models.CharField(max_length=PERSONAL_LENGTH, blank=True)
    drawing = models.TextField("SVG path of the drawn signature", blank=True)
    ip_address = models.CharField(max_length=PERSONAL_LENGTH, blank=True)
    signed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["contract", "position"]
        constraints = [
            models.UniqueConstraint(fields=["contract", "signer"], name="signature_once"),
            models.UniqueConstraint(fields=["contract", "position"], name="signature_position"),
            models.CheckConstraint(
                condition=Q(signed_at__isnull=True, typed_name="", drawing="", ip_address="")
                | (Q(signed_at__isnull=False) & ~Q(typed_name="") & ~Q(drawing="")),
                name="signature_signed",
            ),
        ]

    def __str__(self) -> str:
        state = f"signed {self.signed_at:%Y-%m-%d}" if self.signed_at else "invited"
        return f"{self.contract_id}/{self.position} {state}"


class Document(models.Model):
    """The signed contract as a PDF file, which shows who signed it."""

    contract = models.OneToOneField(Contract, on_delete=models.PROTECT, related_name="document")
    file = models.FileField(upload_to="contracts")

    def __str__(self) -> str:
        return self.file.name or ""


class AppendOnlyError(PermissionDenied):
    """Somebody tried to change or delete what has been recorded."""


class AuditEventQuerySet(models.QuerySet["AuditEvent"]):
    """Events to read and to add to."""

    def update(self, **_values: Any) -> Never:
        raise AppendOnlyError("Audit events cannot be changed.")

    def delete(self) -> Never:
        raise AppendOnlyError("Audit events cannot be deleted.")


class AuditEvent(models.Model):
    """Something that happened to a contract, recorded for good.

    PostgreSQL refuses changes too, see the migration `append_only`; the one way past both is
    `contracts.erasure`.
    """

    class Kind(models.TextChoices):
        CREATED = "contract.created"
        UPLOADED = "document.uploaded"
        INVITED = "invitation.sent"
        DELIVERED = "invitation.delivered"
        OPENED = "invitation.opened"
        VIEWED = "document.viewed"
        IDENTIFIED = "identity.verified"
        CONSENTED = "consent.given"
        SIGNED = "signature.applied"
        DECLINED = "signature.declined"
        COMPLETED = "contract.completed"
        CERTIFIED = "certificate.issued"

    contract = models.ForeignKey(Contract, on_delete=models.PROTECT, related_name="events")
    signer = models.ForeignKey(
        Signer, on_delete=models.PROTECT, related_name="events", null=True, blank=True
    )
    kind = models.CharField(max_length=30, choices=Kind)
    payload = models.JSONField(default=dict)
    happened_at = models.DateTimeField()

    objects = AuditEventQuerySet.as_manager()

    class Meta:
        ordering = ["-happened_at", "-pk"]
        indexes = [models.Index(fields=["-happened_at", "-id"], name="event_latest")]

    def __str__(self) -> str:
        return f"{self.happened_at:%Y-%m-%d %H:%M} {self.kind}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnlyError("Audit events cannot be changed.")
        super().save(*args, **kwargs)

    def delete(self, *_args: Any, **_kwargs: Any) -> Never:
        raise AppendOnlyError("Audit events cannot be deleted.")
