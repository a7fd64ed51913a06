"""The rows of the list: snapshots as a query set in memory, for Django's own change list.

Everything is worked out from one look at the servers and one at the migrations on disk, however
many snapshots there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from django.contrib import admin
from django.core.exceptions import FieldError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.timesince import timesince
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import models
from ..messages import printable
from ..snapshots.queries import read_carried_properties
from ..snapshots.types import Drift, KnownMigrations, Snapshot
from .text import DRIFT_KINDS, describe_drift, describe_spare, format_duration, format_moment

_SHORT_COMMIT: Final = 8


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the pages show of a row.

    Attributes:
        drift: How far its migrations are from this checkout's.
    """

    snapshot: Snapshot
    drift: Drift

    @property
    def branch(self) -> str:
        """The branch of the code that it was taken with."""
        return printable(self.snapshot.git_branch)

    @property
    def searched(self) -> str:
        """What a search looks into."""
        of = self.snapshot
        return f"{of.name}\n{of.note}\n{of.git_branch}\n{of.git_commit}".casefold()


# What can be sorted by, and how.
_ORDERS: Final[dict[str, Callable[[Facts], Any]]] = {
    "name": lambda facts: facts.snapshot.name.casefold(),
    "taken": lambda facts: facts.snapshot.taken_at,
    "size": lambda facts: facts.snapshot.size_bytes,
    "branch": lambda facts: facts.branch.casefold(),
    "migrations": lambda facts: (len(facts.drift.unknown), len(facts.drift.missing)),
    "pk": lambda facts: facts.snapshot.set_id,
}


class SnapshotRows(QuerySet[models.Snapshot]):
    """A query set that has all its rows, and never asks a database."""

    # Newest first, as they are found, if by nothing else.
    ordered = True

    @classmethod
    def of(cls, rows: Iterable[models.Snapshot]) -> Self:
        """Return these rows, in this order."""
        found = cls(models.Snapshot)
        found._result_cache = list(rows)
        return found

    @classmethod
    def of_snapshots(cls, snapshots: Iterable[Snapshot]) -> Self:
        """Return a row for each snapshot."""
        known = KnownMigrations()
        rows = []
        for each in snapshots:
            row = models.Snapshot(set_id=each.set_id, name=each.name)
            row.facts = Facts(snapshot=each, drift=known.drift(each.migrations))
            rows.append(row)
        return cls.of(rows)

    def _chain(self) -> Self:
        return self.of(self)

    _clone = _chain

    def filter(self, *conditions: Any, **lookups: Any) -> Self:
        """Return those of these primary keys, which is all that the admin asks for.

        Raises:
            FieldError: Something else was asked for, by an address that was made up.
        """
        if any(conditions) or lookups.keys() - {"pk__in"}:
            raise FieldError(f"There is no looking for {conditions or lookups}.")
        wanted = lookups.get("pk__in")
        return self.of(row for row in self if wanted is None or row.pk in wanted)

    def order_by(self, *names: Any) -> Self:
        """Return them sorted, by the first name first."""
        rows = list(self)
        for name in reversed(names):
            by = _ORDERS[name.removeprefix("-")]
            rows.sort(key=lambda row: by(row.facts), reverse=name.startswith("-"))
        return self.of(rows)

    def search(self, words: str) -> Self:
        """Return those that have each of these words somewhere."""
        wanted = words.casefold().split()
        return self.of(row for row in self if all(word in row.facts.searched for word in wanted))


class _Filter(admin.SimpleListFilter):
    """A filter that offers what there is, if that is more than one thing."""

    @staticmethod
    def values(facts: Facts) -> dict[str, Any]:
        """Return the values by which a row is found, with their labels."""
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        found: dict[str, Any] = {}
        for row in model_admin.get_queryset(request):
            found |= self.values(row.facts)
        return sorted(found.items()) if len(found) > 1 else []

    def queryset(self, _request: HttpRequest, queryset: Any) -> Any:
        chosen = self.value()
        if chosen is None:
            return queryset
        return queryset.of(row for row in queryset if chosen in self.values(row.facts))


class DatabaseFilter(_Filter):
    """By alias."""

    title = _("database")
    parameter_name = "database"

    @staticmethod
    def values(facts: Facts) -> dict[str, Any]:
        return {alias: printable(alias) for alias in facts.snapshot.aliases}


class BranchFilter(_Filter):
    """By the branch of the code that it was taken with."""

    title = _("branch")
    parameter_name = "branch"

    @staticmethod
    def values(facts: Facts) -> dict[str, Any]:
        return {facts.snapshot.git_branch or "-": facts.branch or _("none")}


class MigrationsFilter(_Filter):
    """By how its migrations compare with this checkout's."""

    title = _("migrations")
    parameter_name = "drift"

    @staticmethod
    def values(facts: Facts) -> dict[str, Any]:
        kinds = {"behind": facts.drift.missing, "unknown": facts.drift.unknown}
        present = [kind for kind, migrations in kinds.items() if migrations] or ["current"]
        return {kind: DRIFT_KINDS[kind] for kind in present}


class PinnedFilter(_Filter):
    """By whether it is pinned."""

    title = _("pinned")
    parameter_name = "pinned"

    @staticmethod
    def values(facts: Facts) -> dict[str, Any]:
        return {"yes": _("Yes")} if facts.snapshot.pinned else {"no": _("No")}


# Columns of the list and facts on the form


@admin.display(description=_("age"), ordering="-taken")
def age(row: models.Snapshot) -> str:
    """How long ago it was taken."""
    taken_at = row.facts.snapshot.taken_at
    since = timesince(taken_at, depth=1)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        *(taken_at.isoformat(), format_moment(taken_at)),
        gettext("now") if since.startswith("0") else since,
    )


@admin.display(description=_("size"), ordering="size")
def size(row: models.Snapshot) -> str:
    """What its copies occupy."""
    return filesizeformat(row.facts.snapshot.size_bytes)


@admin.display(description=_("note"))
def note(row: models.Snapshot) -> str:
    """The note, on one line, after that it is pinned, or that a part is missing."""
    snapshot: Snapshot = row.facts.snapshot
    marks = [gettext("Pinned.")] if snapshot.pinned else []
    marks += [] if snapshot.is_complete else [gettext("Incomplete.")]
    return " ".join([*marks, printable(snapshot.note)]).strip()


@admin.display(description=_("databases"))
def aliases(row: models.Snapshot) -> str:
    """The aliases of its databases."""
    return ", ".join(map(printable, row.facts.snapshot.aliases))


@admin.display(description=_("code"), ordering="branch")
def code(row: models.Snapshot) -> str | None:
    """The branch and the commit of the code that it was taken with."""
    snapshot: Snapshot = row.facts.snapshot
    if not snapshot.git_commit:
        return None
    text = f"{row.facts.branch} {printable(snapshot.git_commit[:_SHORT_COMMIT])}".strip()
    return gettext("%s (changed)") % text if snapshot.git_dirty else text


@admin.display(description=_("migrations"), ordering="migrations")
def drift(row: models.Snapshot) -> str:
    """How far its migrations are from this checkout's."""
    return describe_drift(row.facts.drift)


@admin.display(description=_("prepared clone"))
def spare(row: models.Snapshot) -> str:
    """Whether a ready-made clone of it stands by."""
    return describe_spare(row.facts.snapshot)


@admin.display(description=_("taken"))
def taken(row: models.Snapshot) -> str:
    """When it was taken."""
    return format_moment(row.facts.snapshot.taken_at)


@admin.display(description=_("copying took"))
def copying(row: models.Snapshot) -> str:
    """How long copying took."""
    return format_duration(row.facts.snapshot.seconds)


@admin.display(description=_("identity"))
def identity(row: models.Snapshot) -> Any:
    """What its copies share, and no other snapshot has."""
    return row.pk


@admin.display(description=_("databases"))
def databases(row: models.Snapshot) -> str:
    """What each copy is, and what it carries."""
    snapshot: Snapshot = row.facts.snapshot
    parts = list(zip(snapshot.members, read_carried_properties(snapshot), strict=True))
    return render_to_string("admin/django_pgsnap/snapshot/databases.html", {"parts": parts})


@admin.display(description=_("migrations"))
def migrations(row: models.Snapshot) -> str:
    """The migrations that it lacks, and those that this checkout does not know."""
    return render_to_string(
        "admin/django_pgsnap/snapshot/migrations.html",
        {"snapshot": row.facts.snapshot, "drift": row.facts.drift},
    )


COLUMNS: Final = (age, size, note, aliases, code, drift, spare)
_DETAILS: Final = (taken, size, copying, spare, code, identity)
FACTS: Final = (*_DETAILS, databases, migrations, note)


def describe_fieldsets(*, may_change: bool) -> Any:
    """Return the parts of the form: what can be changed, and what is known."""
    return [
        (None, {"fields": ("name", *(("note", "pinned") if may_change else (note,)))}),
        (_("Facts"), {"fields": _DETAILS}),
        (_("Databases"), {"fields": (databases,)}),
        (_("Migrations"), {"fields": (migrations,)}),
    ]
