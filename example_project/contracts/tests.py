"""What erasing a person does to the database, and that it does nothing else."""

from tempfile import TemporaryDirectory

from django.test import TestCase, override_settings

from django_pgsnap.testing import DatabaseChangesMixin

from .erasure import erase
from .models import Contract, Signer
from .seeding import seed_database


class ErasureTests(DatabaseChangesMixin, TestCase):
    """An erasure redacts a person everywhere, and deletes only what has no purpose any more."""

    @classmethod
    def setUpClass(cls) -> None:
        folder = cls.enterClassContext(TemporaryDirectory())
        cls.enterClassContext(override_settings(MEDIA_ROOT=folder))
        super().setUpClass()

    @classmethod
    def setUpTestData(cls) -> None:
        for _ in seed_database(contracts=20, seed=1):
            pass

    def test_only_what_is_personal_changes(self) -> None:
        """Contracts and companies stay as they are, and nobody else is touched."""
        signer = Signer.objects.filter(signatures__contract__status=Contract.Status.COMPLETED)[0]
        signatures = signer.signatures.filter(contract__status=Contract.Status.COMPLETED)
        invitations = signer.signatures.count() - signatures.count()
        documents = sum(1 for each in signer.signatures.all() if hasattr(each.contract, "document"))

        with self.assertDatabaseChanges(
            {
                "contracts.Signer": {"changed": {"name", "email", "phone", "erased_at"}},
                "contracts.Signature": {
                    "changed": {"typed_name", "drawing", "ip_address"},
                    "removed": invitations,
                },
                "contracts.AuditEvent": {"changed": {"payload"}},
                "contracts.Document": {"removed": documents},
            }
        ):
            erase(signer)
