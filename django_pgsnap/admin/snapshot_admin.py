"""Snapshots in Django's admin.

The list, the form, the history and the deletion are Django's own, on rows in memory, so that they
look and work as everything else in the project's admin. Taking, restoring and undoing have a page
that says what will happen, and one that shows how far the work is.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, cast

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.helpers import AdminErrorList, AdminForm
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from ..comparison.diff import diff
from ..errors import PgsnapError
from ..models import Snapshot as Row
from ..snapshots import manage
from ..snapshots.context import choose_targets
from ..snapshots.queries import Overview, describe_occupied, describe_operation, overview
from ..snapshots.restore import check_complete
from ..snapshots.status import read_status
from ..snapshots.types import Snapshot
from . import changelist
from .actions import ERROR_FIELDS, Action, BringBack, Delete, Restore, Take
from .background import AdminError, release_connections
from .changelist import SnapshotRows
from .forms import SnapshotForm
from .progress_pages import ProgressPages, View
from .text import describe_error, describe_live, describe_snapshot, describe_undo, translate_all


class SnapshotAdmin(ProgressPages):
    form = SnapshotForm
    actions = ("delete_selected",)
    list_filter = changelist.FILTERS
    search_fields = ("name", "note", "branch", "commit")
    show_facets = admin.ShowFacets.NEVER
    # django-unfold shows no link to add something without it.
    show_add_link = True
    readonly_fields = changelist.FACTS  # type: ignore[assignment]

    class Media:
        css: ClassVar[dict[str, tuple[str, ...]]] = {"all": ("django_pgsnap/admin.css",)}

    # Permissions

    def may(self, request: HttpRequest, permission: str) -> bool:
        """Tell whether a user has the permission to ``view``, ``take``, ``restore``, ``delete``."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.{permission}_snapshot"))

    def has_view_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """Tell whether a user may look: those who may do something, may."""
        return any(self.may(request, each) for each in ("view", "take", "restore", "delete"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Tell whether to offer a take; not where snapshots are switched off."""
        try:
            return self.may(request, "take") and bool(choose_targets(None))
        except PgsnapError:
            return False

    def has_change_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        return self.may(request, "take")

    # Addresses

    def get_urls(self) -> list[URLPattern]:
        """Return Django's own addresses and ours. A snapshot is addressed by its set id."""
        own: list[tuple[str, str, View]] = [
            ("undo/<slug:set_id>/", "undo", self.admin_site.admin_view(self.undo_view)),
            ("<slug:set_id>/restore/", "restore", self.admin_site.admin_view(self.restore_view)),
            ("<slug:set_id>/diff/", "diff", self.admin_site.admin_view(self.diff_view)),
            ("progress/<slug:token>/", "progress", self.progress_view),
            ("progress/<slug:token>/cancel/", "cancel", self.cancel_view),
        ]
        prefix = f"{self.opts.app_label}_{self.opts.model_name}"
        patterns = [path(route, view, name=f"{prefix}_{name}") for route, name, view in own]
        patterns += super().get_urls()
        for pattern in patterns:
            pattern.callback = self.guard(pattern.callback)
        return patterns

    # The list and the form

    def find_overview(self, request: Any) -> Overview:
        """Return what there is, looked up once per request."""
        if not hasattr(request, "pgsnap_overview"):
            request.pgsnap_overview = overview()
        return cast(Overview, request.pgsnap_overview)

    def get_queryset(self, request: Any) -> SnapshotRows:
        if not hasattr(request, "pgsnap_rows"):
            request.pgsnap_rows = SnapshotRows.of_snapshots(self.find_overview(request).snapshots)
        return cast(SnapshotRows, request.pgsnap_rows)

    def get_object(self, request: HttpRequest, object_id: str, _from: Any = None) -> Row | None:
        return next((row for row in self.get_queryset(request) if row.pk == object_id), None)

    def get_search_results(
        self, _request: HttpRequest, queryset: Any, search_term: str
    ) -> tuple[Any, bool]:
        return queryset.search(search_term), False

    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns: databases where they differ, Restore for whoever may.

        Restore comes early in the row, so that it is there on narrow screens.
        """
        found = {row.snapshot.aliases for row in self.get_queryset(request)}
        restore = ("restore",) if self.may(request, "restore") else ()
        left_out = () if len(found) > 1 else (changelist.aliases,)
        return ("name", *restore, *(each for each in changelist.COLUMNS if each not in left_out))

    def changelist_view(self, request: Any, extra_context: Any = None) -> HttpResponse:
        """Show the list, below what is live, what is at work and which replaced states are kept."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        status = read_status()
        request.pgsnap_overview = found = status.overview
        facts = {
            "title": str(self.opts.verbose_name_plural).capitalize(),
            "live": list(map(describe_live, status.live)),
            "running": translate_all(map(describe_operation, found.underway)),
            "undos": [(undo.set_id, describe_undo(undo)) for undo in found.undos],
            "may_restore": self.may(request, "restore"),
            "occupied": " ".join(translate_all(describe_occupied(found))),
        }
        return super().changelist_view(request, {**facts, **(extra_context or {})})

    def get_fieldsets(self, request: HttpRequest, _obj: Any = None) -> Any:
        fields = ("note", "pinned") if self.has_change_permission(request) else (changelist.note,)
        return [
            (None, {"fields": ("name", *fields)}),
            (_("Facts"), {"fields": changelist.DETAILS}),
            (_("Databases"), {"fields": (changelist.databases,)}),
            (_("Migrations"), {"fields": (changelist.migrations,)}),
        ]

    def render_change_form(  # type: ignore[override]
        self, request: HttpRequest, context: dict[str, Any], **options: Any
    ) -> HttpResponse:
        """Say on the form whether it may be restored, and leave it with one primary button."""
        context["may_restore"] = self.may(request, "restore")
        context |= {"show_save_and_continue": False, "show_save_and_add_another": False}
        return super().render_change_form(request, context, **options)

    def save_model(self, request: HttpRequest, obj: Row, form: Any, _change: Any) -> None:
        """Write what was changed; a snapshot is known by its name until it has another."""
        snapshot: Snapshot = obj.snapshot
        self._check_name(request, snapshot.name)
        values = form.cleaned_data
        if "note" in form.changed_data:
            manage.annotate(snapshot.name, values["note"])
        if "pinned" in form.changed_data:
            manage.pin(snapshot.name, pinned=values["pinned"])
        if "name" in form.changed_data:
            manage.rename(snapshot.name, values["name"])

    # Deletion

    def get_deleted_objects(self, objs: Iterable[Any], request: HttpRequest) -> Any:
        """Return what goes with these snapshots, for the pages that ask."""
        snapshots = [row.snapshot for row in objs]
        named: list[str | list[str]] = []
        copy = _("its copy of %(alias)s: %(name)s")
        for each in snapshots:
            copies = [copy % {"alias": m.alias, "name": m.database.name} for m in each.members]
            named += [describe_snapshot(each), copies]
        databases = sum(len(each.members) for each in snapshots)
        counts = {self.opts.verbose_name_plural: len(snapshots), _("databases"): databases}
        lacking = set() if self.has_delete_permission(request) else {self.opts.verbose_name}
        return named, counts, lacking, []

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: Any = None
    ) -> HttpResponse:
        row = self.get_object(request, object_id)
        if request.method != "POST" or row is None:
            return super().delete_view(request, object_id, extra_context)
        return self._delete(request, [row])

    @admin.action(permissions=["delete"], description=delete_selected.short_description)  # type: ignore[attr-defined]
    def delete_selected(self, request: HttpRequest, queryset: Any) -> HttpResponseBase | None:
        """Delete those that were chosen in the list, once Django's own page has asked."""
        if not request.POST.get("post"):
            return delete_selected(self, request, queryset)
        return self._delete(request, list(queryset))

    def _delete(self, request: HttpRequest, rows: list[Row]) -> HttpResponse:
        self._check_may(request, Delete)
        for row in rows:
            self._check_name(request, row.name)
        answer = self.perform(request, Delete([row.snapshot for row in rows]), {})
        if isinstance(answer, PgsnapError):
            raise answer
        return answer

    def _check_name(self, request: HttpRequest, name: str) -> None:
        """Refuse a name that means two snapshots: what is done is done by name."""
        if [each.name for each in self.find_overview(request).snapshots].count(name) > 1:
            raise AdminError(
                "There are two snapshots “{name}”, since a replacement was interrupted.",
                hint="On the command line the newest complete one is meant: delete or rename it.",
                name=name,
            )

    # Actions

    def add_view(self, request: HttpRequest, *_arguments: Any, **_options: Any) -> HttpResponse:
        self._check_may(request, Take)
        snapshots = self.find_overview(request).snapshots
        return self._act(request, Take(snapshots, may_replace=self.has_delete_permission(request)))

    def restore_view(self, request: HttpRequest, set_id: str) -> HttpResponse:
        self._check_may(request, Restore)
        row = self.get_object(request, set_id)
        if row is None:
            return self._say_gone(request, _("This snapshot is not there any more."))
        self._check_name(request, row.name)
        check_complete(row.snapshot, None)
        return self._act(request, Restore(row.snapshot), row.name)

    def diff_view(self, request: HttpRequest, set_id: str) -> HttpResponse:
        """Show what changed since a snapshot: numbers and names, and no values.

        Who may look at snapshots need not be allowed to look into each model.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, set_id)
        if row is None:
            return self._say_gone(request, _("This snapshot is not there any more."))
        self._check_name(request, row.name)
        release_connections()
        found = diff(row.name, databases=row.snapshot.aliases)
        title = _("What changed since “%s”") % row.name
        notes = translate_all(found.notes)
        return self.render(
            request, "diff", title, original=row.name, diff=found, set_id=set_id, notes=notes
        )

    def undo_view(self, request: HttpRequest, set_id: str) -> HttpResponse:
        self._check_may(request, BringBack)
        found = self.find_overview(request)
        undo = next((undo for undo in found.undos if undo.set_id == set_id), None)
        if undo is None:
            return self._say_gone(request, _("This state is not kept any more."))
        return self._act(request, BringBack(undo))

    def _say_gone(self, request: HttpRequest, text: str) -> HttpResponse:
        messages.warning(request, text)
        return HttpResponseRedirect(self.url("changelist"))

    def _check_may(self, request: HttpRequest, kind: type[Action]) -> None:
        if not self.may(request, kind.permission):
            raise PermissionDenied

    def _act(self, request: HttpRequest, action: Action, name: str = "") -> HttpResponse:
        """Answer with the page of an action, or do it once it is confirmed."""
        form: Any = action.build_form(request.POST if request.method == "POST" else None)
        if form.is_valid():
            answer = self.perform(request, action, form.cleaned_data)
            if not isinstance(answer, PgsnapError):
                return answer
            field = ERROR_FIELDS.get(type(answer))
            form.add_error(field if field in form.fields else None, describe_error(answer))
        fields = AdminForm(form, [(None, {"fields": list(form.fields)})], {}, model_admin=self)
        context: dict[str, Any] = {
            "action": action,
            # The breadcrumbs end with this. Were it longer than their links, these would have to
            # stand out from it.
            "original": name or str(action.button),
            # Worked out here, since what goes wrong in a template is no page any more.
            "consequences": action.describe_consequences(),
            "busy": translate_all(action.preview.busy),
            "idle": translate_all(action.preview.idle),
            "adminform": fields,
            "errors": AdminErrorList(form, []),
            "media": self.media + fields.media,
            "inline_admin_formsets": [],
        }
        return self.render(request, "action", action.title, **context)

    @admin.display(description=gettext_lazy("restore"))
    def restore(self, row: Row) -> str:
        return format_html(
            '<a href="{}" aria-label="{}">{}</a>',
            *(self.url("restore", row.pk), _("Restore “%s”") % row.name, _("Restore")),
        )
