"""A model without a table: what Django's admin and permissions hang on.

Snapshots are databases, and known from the server alone. A table of them would go stale, and a
restore would rewind it.
"""

from typing import Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class NoRows(models.Manager["Snapshot"]):
    """Answers every query without asking the database, in which there is no such table."""

    # dumpdata, for one, reads all models, whether they have a table or not.
    def get_queryset(self) -> "models.QuerySet[Snapshot]":
        return super().get_queryset().none()


class Snapshot(models.Model):
    """Stands for the snapshots in the admin's index, in its log, and in permissions."""

    set_id = models.CharField(_("identity"), max_length=16, primary_key=True)
    name = models.CharField(_("name"), max_length=100)

    # What the admin knows of it beside its fields: the snapshot, and its migrations' drift.
    snapshot: Any = None
    drift: Any = None

    objects: ClassVar[NoRows] = NoRows()

    class Meta:
        managed = False
        base_manager_name = "objects"
        verbose_name = _("snapshot")
        verbose_name_plural = _("snapshots")
        default_permissions = ("view", "delete")
        permissions = (
            ("take_snapshot", "Can take, rename, annotate and pin snapshots"),
            (
                "restore_snapshot",
                "Can restore snapshots and undo that, old rights of users included",
            ),
        )

    def __str__(self) -> str:
        return self.name
