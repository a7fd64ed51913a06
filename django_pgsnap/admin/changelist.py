"""The rows of the list: snapshots as a query set in memory, for Django's own change list.

Everything is worked out from one look at the servers and one at the migrations on disk, however
many snapshots there are.
"""

from collections.abc import Callable, Iterable
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

from ..messages import format_moment, printable, translate
from ..models import Snapshot as Row
from ..snapshots.queries import read_carried_properties
from ..snapshots.types import KnownMigrations, Snapshot
from .text import format_duration

# What can be sorted by, and how.
_ORDERS: Final[dict[str, Callable[[Row], Any]]] = {
    "name": lambda row: row.name.casefold(),
    "taken": lambda row: row.snapshot.taken_at,
    "size": lambda row: row.snapshot.size_bytes,
    "branch": lambda row: row.snapshot.git_branch.casefold(),
    "migrations": lambda row: (len(row.drift.unknown), len(row.drift.missing)),
    "pk": lambda _: 0,  # comes last: those that are alike stay as they were found, newest first
}


class SnapshotRows(QuerySet[Row]):
    """A query set that has all its rows, and never asks a database."""

    ordered = True  # newest first, as they are found

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        found = cls(Row)
        found._result_cache = list(rows)
        return found

    @classmethod
    def of_snapshots(cls, snapshots: Iterable[Snapshot]) -> Self:
        known = KnownMigrations()
        rows = []
        for each in snapshots:
            row = Row(set_id=each.set_id, name=each.name)
            row.snapshot, row.drift = each, known.drift(each.migrations)
            rows.append(row)
        return cls.of(rows)

    def _chain(self) -> Self:
        return self.of(self)

    _clone = _chain

    def filter(self, condition: Any = None, pk__in: Any = None) -> Self:
        """Return those of these primary keys, which is all that the admin asks for."""
        if condition:  # from an address that was made up
            raise FieldError(f"There is no looking for {condition}.")
        return self.of(row for row in self if pk__in is None or row.pk in pk__in)

    def order_by(self, *names: Any) -> Self:
        """Return them sorted, by the first name first."""
        rows = list(self)
        for name in reversed(names):
            rows.sort(key=_ORDERS[name.removeprefix("-")], reverse=name.startswith("-"))
        return self.of(rows)

    def search(self, words: str) -> Self:
        """Return those that have each of these words somewhere."""
        wanted = words.casefold().split()
        return self.of(row for row in self if all(word in _searched(row) for word in wanted))


def _searched(row: Row) -> str:
    of: Snapshot = row.snapshot
    return f"{of.name}\n{of.note}\n{of.git_branch}\n{of.git_commit}".casefold()


class _Filter(admin.SimpleListFilter):
    """A filter that offers what there is, if that is more than one thing."""

    # Returns the values by which a row is found, with their labels.
    read_values: Callable[[Row], dict[str, Any]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        found: dict[str, Any] = {}
        for row in model_admin.get_queryset(request):
            found |= self.read_values(row)
        return sorted(found.items()) if len(found) > 1 else []

    def queryset(self, _request: HttpRequest, queryset: Any) -> Any:
        chosen = self.value()
        if chosen is None:
            return queryset
        return queryset.of(row for row in queryset if chosen in self.read_values(row))


def _filter_by(name: str, title: Any, read_values: Callable[[Row], dict[str, Any]]) -> type:
    values = {"title": title, "parameter_name": name, "read_values": staticmethod(read_values)}
    return type(_Filter.__name__, (_Filter,), values)


def _drift_kinds(row: Row) -> dict[str, Any]:
    kinds = {} if row.drift.is_known else {"not known": _("not known")}
    if row.drift.missing:
        kinds["behind"] = _("some not run")
    if row.drift.unknown:
        kinds["unknown"] = _("some not in this code")
    return kinds or {"current": _("as in this checkout")}


def _branches(row: Row) -> dict[str, Any]:
    branch = row.snapshot.git_branch
    return {branch or "-": printable(branch) or _("none")}


FILTERS: Final = (
    _filter_by(
        "pinned",
        _("pinned"),
        lambda row: {"yes": _("Yes")} if row.snapshot.pinned else {"no": _("No")},
    ),
    _filter_by("drift", _("migrations"), _drift_kinds),
    _filter_by("branch", _("branch"), _branches),
    _filter_by(
        "database", _("database"), lambda row: {a: printable(a) for a in row.snapshot.aliases}
    ),
)


# Columns of the list and facts on the form


@admin.display(description=_("age"), ordering="-taken")
def age(row: Row) -> str:
    taken_at = row.snapshot.taken_at
    since = timesince(taken_at, depth=1)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        *(taken_at.isoformat(), format_moment(taken_at)),
        gettext("now") if since.startswith("0") else since,
    )


@admin.display(description=_("note"))
def note(row: Row) -> str:
    """The note, on one line, after that it is pinned, or that a part is missing."""
    snapshot: Snapshot = row.snapshot
    marks = [gettext("Pinned.")] if snapshot.pinned else []
    marks += [] if snapshot.is_complete else [gettext("Incomplete.")]
    return " ".join([*marks, printable(snapshot.note)]).strip()


@admin.display(description=_("code"), ordering="branch")
def code(row: Row) -> str | None:
    snapshot: Snapshot = row.snapshot
    if not snapshot.git_commit:
        return None
    text = printable(f"{snapshot.git_branch} {snapshot.git_commit[:8]}").strip()
    return gettext("%s (changed)") % text if snapshot.git_dirty else text


@admin.display(description=_("migrations"), ordering="migrations")
def drift(row: Row) -> str:
    return translate(row.drift.summary) or gettext("as in this code")


@admin.display(description=_("spare"))
def spare(row: Row) -> str:
    states = {"ready": gettext("ready"), "building": gettext("being made"), "none": gettext("none")}
    return states[row.snapshot.spare]


@admin.display(description=_("databases"))
def databases(row: Row) -> str:
    snapshot: Snapshot = row.snapshot
    parts = list(zip(snapshot.members, read_carried_properties(snapshot), strict=True))
    return render_to_string("admin/django_pgsnap/snapshot/databases.html", {"parts": parts})


def _fact(name: str, title: Any, read: Callable[[Row], Any], ordering: str | None = None) -> Any:
    """Return what the admin takes for a column: a function with a name, a title and an order."""
    read.__name__ = name
    return admin.display(description=title, ordering=ordering)(read)


size = _fact("size", _("size"), lambda row: filesizeformat(row.snapshot.size_bytes), "size")
aliases = _fact(
    "aliases", _("databases"), lambda row: ", ".join(map(printable, row.snapshot.aliases))
)
taken = _fact("taken", _("taken"), lambda row: format_moment(row.snapshot.taken_at))
copying = _fact("copying", _("copying took"), lambda row: format_duration(row.snapshot.seconds))
migrations = _fact(
    "migrations",
    _("migrations"),
    lambda row: render_to_string("admin/django_pgsnap/snapshot/migrations.html", {"row": row}),
)

COLUMNS: Final = (age, size, note, aliases, code, drift, spare)
DETAILS: Final = (taken, size, copying, spare, code, "set_id")
FACTS: Final = (*DETAILS, databases, migrations, note)
