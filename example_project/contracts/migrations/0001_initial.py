"""Companies, signers, contracts, signatures and audit events."""

import django.db.models.deletion
import django.db.models.functions.text
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Company",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=200)),
                ("country", models.CharField(max_length=2)),
                ("domain", models.CharField(max_length=100, unique=True)),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "verbose_name_plural": "companies",
                "ordering": ["name", "pk"],
            },
        ),
        migrations.CreateModel(
            name="Contract",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("reference", models.CharField(max_length=20, unique=True)),
                ("title", models.CharField(max_length=200)),
                ("body", models.TextField()),
                (
                    "body_sha256",
                    models.CharField(max_length=64, verbose_name="SHA-256 of the body"),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("draft", "Draft"),
                            ("sent", "Sent"),
                            ("completed", "Completed"),
                            ("declined", "Declined"),
                        ],
                        default="draft",
                        max_length=10,
                    ),
                ),
                ("created_at", models.DateTimeField()),
                ("completed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "company",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="contracts",
                        to="contracts.company",
                    ),
                ),
            ],
            options={
                "ordering": ["-created_at", "reference"],
            },
        ),
        migrations.CreateModel(
            name="Signer",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=254)),
                ("email", models.CharField(max_length=254)),
                ("phone", models.CharField(max_length=254)),
                ("created_at", models.DateTimeField()),
                ("erased_at", models.DateTimeField(blank=True, null=True)),
                (
                    "company",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="signers",
                        to="contracts.company",
                    ),
                ),
            ],
            options={
                "ordering": ["name", "pk"],
            },
        ),
        migrations.CreateModel(
            name="Signature",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("position", models.PositiveSmallIntegerField()),
                ("typed_name", models.CharField(blank=True, max_length=254)),
                (
                    "drawing",
                    models.TextField(blank=True, verbose_name="SVG path of the drawn signature"),
                ),
                ("ip_address", models.CharField(blank=True, max_length=254)),
                ("signed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "contract",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="signatures",
                        to="contracts.contract",
                    ),
                ),
                (
                    "signer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="signatures",
                        to="contracts.signer",
                    ),
                ),
            ],
            options={
                "ordering": ["contract", "position"],
            },
        ),
        migrations.AddField(
            model_name="contract",
            name="signers",
            field=models.ManyToManyField(
                related_name="contracts", through="contracts.Signature", to="contracts.signer"
            ),
        ),
        migrations.CreateModel(
            name="AuditEvent",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("contract.created", "Created"),
                            ("document.uploaded", "Uploaded"),
                            ("invitation.sent", "Invited"),
                            ("invitation.delivered", "Delivered"),
                            ("invitation.opened", "Opened"),
                            ("document.viewed", "Viewed"),
                            ("identity.verified", "Identified"),
                            ("consent.given", "Consented"),
                            ("signature.applied", "Signed"),
                            ("signature.declined", "Declined"),
                            ("contract.completed", "Completed"),
                            ("certificate.issued", "Certified"),
                        ],
                        max_length=30,
                    ),
                ),
                ("payload", models.JSONField(default=dict)),
                ("happened_at", models.DateTimeField()),
                (
                    "contract",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="events",
                        to="contracts.contract",
                    ),
                ),
                (
                    "signer",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="events",
                        to="contracts.signer",
                    ),
                ),
            ],
            options={
                "ordering": ["-happened_at", "-pk"],
            },
        ),
        migrations.AddConstraint(
            model_name="signer",
            constraint=models.UniqueConstraint(
                django.db.models.functions.text.Lower("email"), name="signer_email_unique"
            ),
        ),
        migrations.AddConstraint(
            model_name="signer",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("email__contains", "@"), ("erased_at__isnull", False), _connector="OR"
                ),
                name="signer_email_or_erased",
            ),
        ),
        migrations.AddConstraint(
            model_name="signature",
            constraint=models.UniqueConstraint(
                fields=("contract", "signer"), name="signature_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="signature",
            constraint=models.UniqueConstraint(
                fields=("contract", "position"), name="signature_position"
            ),
        ),
        migrations.AddConstraint(
            model_name="signature",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("drawing", ""),
                        ("ip_address", ""),
                        ("signed_at__isnull", True),
                        ("typed_name", ""),
                    ),
                    models.Q(
                        ("signed_at__isnull", False),
                        models.Q(("typed_name", ""), _negated=True),
                        models.Q(("drawing", ""), _negated=True),
                    ),
                    _connector="OR",
                ),
                name="signature_signed",
            ),
        ),
        migrations.AddIndex(
            model_name="contract",
            index=models.Index(fields=["status", "-created_at"], name="contract_by_status"),
        ),
        migrations.AddConstraint(
            model_name="contract",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("completed_at__gt", models.F("created_at")), ("status", "completed")),
                    models.Q(
                        models.Q(("status", "completed"), _negated=True),
                        ("completed_at__isnull", True),
                    ),
                    _connector="OR",
                ),
                name="contract_completed_at",
            ),
        ),
        migrations.AddIndex(
            model_name="auditevent",
            index=models.Index(fields=["-happened_at", "-id"], name="event_latest"),
        ),
    ]
