"""The app, whose files follow its snapshots."""

from django.apps import AppConfig


class ContractsConfig(AppConfig):
    """Connects the receivers of `django_pgsnap.signals`."""

    name = "contracts"

    def ready(self) -> None:
        from . import media  # noqa: F401 - connects its receivers
