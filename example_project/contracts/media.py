"""Carry uploaded files along with snapshots: the database says which files there are.

A snapshot holds databases only. So whenever one is taken or restored, every file gets a second name
in `KEPT_MEDIA_ROOT`: a hard link, which takes no space and stays when the file is deleted. After a
restore or an undo, MEDIA_ROOT has the files that the databases name, and those that were not kept,
such as an upload whose row is not there yet.

A name must never stand for two contents; here it ends in a digest of the content.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connections
from django.db.models import FileField
from django.dispatch import receiver

from django_pgsnap.signals import post_restore, post_take, pre_restore, pre_take


@receiver([pre_take, post_take, pre_restore])
def keep_files(**_signal: Any) -> None:
    """Keep every file that there is, so that deleting it can be undone."""
    for name in _files():
        _link(Path(settings.MEDIA_ROOT), Path(settings.KEPT_MEDIA_ROOT), name)


@receiver(post_restore)
def put_files_back(**_signal: Any) -> None:
    """Have the files that the databases name, and none that is kept and that they do not name."""
    media, kept = Path(settings.MEDIA_ROOT), Path(settings.KEPT_MEDIA_ROOT)
    present, named = set(_files()), set(_named_files())
    for name in present - named:
        with suppress(FileNotFoundError):  # not kept, or another process was faster
            if (media / name).samefile(kept / name):
                (media / name).unlink()
    for name in named - present:
        _link(kept, media, name)


def _files() -> Iterator[str]:
    root = Path(settings.MEDIA_ROOT)
    yield from (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def _named_files() -> Iterator[str]:
    for alias in connections:
        tables = connections[alias].introspection.table_names()
        for model in apps.get_models():
            for field in model._meta.get_fields():  # noqa: SLF001 - public, in spite of its name
                if isinstance(field, FileField) and field.model._meta.db_table in tables:  # noqa: SLF001
                    rows = model._base_manager.using(alias)  # noqa: SLF001
                    yield from filter(None, rows.values_list(field.name, flat=True))


def _link(source: Path, target: Path, name: str) -> None:
    if (source / name).exists():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            (target / name).hardlink_to(source / name)
