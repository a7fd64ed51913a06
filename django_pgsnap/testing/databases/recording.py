"""What a template was made from. It is kept with the template, which serves as long as it holds.

The list is part of the template's comment, because the server is the one place that a run finds
again in any container. Comments can be read by every role, so the list is sealed with a key made
from ``SECRET_KEY``: nobody else learns the names of files, or can try what was in them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from weakref import ReferenceType

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands
from django.db.backends.signals import connection_created
from django.db.models import signals
from django.urls import URLResolver, get_resolver
from django.utils.encoding import force_bytes
from django.utils.translation import to_locale, trans_real

from ...conf import TEST_DATABASES
from ...errors import ConfigurationError
from .facts import Facts, SourceCounters, list_unmigrated_models
from .imports import ImportReader
from .observer import observer
from .stable_values import (
    digest_bytes,
    digest_file,
    digest_value,
    is_own_file,
    locate_file,
    make_plain,
    name_file,
)

# These have the names of test databases, which differ between processes, or are facts.
_NOT_COMPARED: Final = frozenset({"DATABASES", "PGSNAP"})

# What a run itself announces to its children.
_OF_RUNS: Final = frozenset(
    {TEST_DATABASES, "PYTEST_CURRENT_TEST", "PYTEST_VERSION", "PYTEST_XDIST_WORKER"}
)

# Times of files are those of the last tick of the clock.
_TICK_S: Final = 0.02

_Listener = tuple[str, int, str]

_NONCE_BYTES: Final = 16
_TAG_BYTES: Final = 16

# Of the first three everybody counts who listens, of the others those who hear of a model used.
_SIGNALS: Final = {
    "connection_created": connection_created,
    **{
        name: getattr(signals, name)
        for name in (
            *("pre_migrate", "post_migrate", "pre_init", "post_init", "pre_save", "post_save"),
            *("pre_delete", "post_delete", "m2m_changed"),
        )
    },
}
_HEARD_BY_ALL: Final = ("connection_created", "pre_migrate", "post_migrate")


class SavedMeanwhileError(ConfigurationError):
    """Code was saved when it may have been imported already."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What a template was made from.

    Attributes:
        uses: Digests of what was used, by kind and name.
        counters: Those of the database that it was cloned from before it was migrated.
    """

    uses: Mapping[tuple[str, str], str]
    counters: SourceCounters

    def find_change(self, facts: Facts, *, with_files: bool = True) -> str | None:
        """Return what has changed since, None if nothing has.

        Args:
            facts: Those that count now.
            with_files: Whether files are compared, too.
        """
        if not facts.counters.show_no_writer_since(self.counters):
            return "somebody wrote into the database that new ones are cloned from"
        for name in sorted({*facts.digests, *(n for kind, n in self.uses if kind == "fact")}):
            if self.uses.get(("fact", name)) != facts.digests.get(name):
                return f"{name} changed"
        for (kind, name), digest in self.uses.items():
            if kind == "fact" or (kind in _FILES and not with_files):
                continue
            try:
                if _LOOKS[kind](name) != digest:
                    return _TEXTS.get(kind, "{} changed").format(name)
            except SavedMeanwhileError as error:
                return error.message
        return None


@contextmanager
def record(facts: Facts) -> Iterator[Callable[[], Recording]]:
    """Note what is used meanwhile, and give a function that returns all of it."""
    with observer.watch():
        for field in _fields_without_migrations():
            observer.noted["module"].add(type(field).__module__)
        # Migrations may import what connects more of them.
        listening = list(_list_receivers())
        yield lambda: Recording(uses=dict(_list_uses(facts, listening)), counters=facts.counters)


def seal(recording: Recording) -> str:
    """Return a recording as text that says nothing without the project's ``SECRET_KEY``.

    Raises:
        ConfigurationError: There is no ``SECRET_KEY``.
    """
    counters = recording.counters
    rows = [[*key, digest] for key, digest in recording.uses.items()]
    document = json.dumps([counters.sessions, counters.written, rows], separators=(",", ":"))
    nonce = os.urandom(_NONCE_BYTES)
    hidden = _mask(zlib.compress(document.encode(errors="surrogatepass")), nonce)
    return base64.b85encode(nonce + _tag(nonce + hidden) + hidden).decode()


def unseal(text: str) -> Recording | None:
    """Return what was sealed, None if it was not sealed with this ``SECRET_KEY``."""
    try:
        data = base64.b85decode(text)
        nonce, rest = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
        tag, hidden = rest[:_TAG_BYTES], rest[_TAG_BYTES:]
        if not hmac.compare_digest(tag, _tag(nonce + hidden)):
            return None
        document = zlib.decompress(_mask(hidden, nonce)).decode(errors="surrogatepass")
    except (ValueError, ConfigurationError):
        return None
    sessions, written, rows = json.loads(document)
    return Recording(
        uses={(kind, name): digest for kind, name, digest in rows},
        counters=SourceCounters(sessions=sessions, written=written),
    )


def _key() -> bytes:
    try:
        secret = settings.SECRET_KEY
    except ImproperlyConfigured as error:
        raise ConfigurationError(
            "What a template was made from cannot be kept secret without a key.",
            hint="Give the settings of the tests a SECRET_KEY.",
        ) from error
    return hashlib.blake2b(force_bytes(secret), person=b"pgsnap recording").digest()


def _mask(data: bytes, nonce: bytes) -> bytes:
    """Hide bytes, or show them again: the key and a nonce make a stream that nobody else can."""
    stream = hashlib.shake_256(_key() + b"hide" + nonce).digest(len(data))
    return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))


def _tag(data: bytes) -> bytes:
    return hmac.digest(_key() + b"sign", data, "sha256")[:_TAG_BYTES]


def _list_uses(facts: Facts, listening: list[_Listener]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield what was used, with the digest of each."""
    noted = observer.noted
    modules = set(noted["module"])
    if "ROOT_URLCONF" in noted["setting"]:
        modules.update(_list_urlconfs(get_resolver()))
    imported = ImportReader(observer.executed).follow(modules)
    yield from ((("fact", name), digest) for name, digest in facts.digests.items())
    for path, digest in observer.opened.items():
        # What came or went meanwhile is the migrations' own work.
        if bool(digest) == os.path.isfile(path):  # noqa: PTH113  # many, perhaps
            yield ("file", name_file(path)), digest
    for label in ("", *sorted(noted["model"])):
        yield ("receivers", label), _digest_receivers(label, listening)
    paths = {
        "source": imported.files,
        "place": {*noted["place"], *imported.missing} - observer.opened.keys(),
        "directory": noted["directory"],
        "catalog": set(_list_catalogs()),
    }
    names = {
        "setting": {*noted["setting"], *imported.settings} - _NOT_COMPARED,
        "variable": {*noted["variable"], *imported.variables} - _OF_RUNS,
        "command": noted["command"],
        **{kind: {name_file(path) for path in paths[kind] if is_own_file(path)} for kind in paths},
    }
    for kind, used in names.items():
        yield from (((kind, name), _LOOKS[kind](name)) for name in sorted(used))


def _fields_without_migrations() -> Iterator[Any]:
    """Yield what tables of apps without migrations are made of."""
    for model in list_unmigrated_models():
        options = model._meta
        yield from (*options.local_fields, *options.indexes, *options.constraints)


def _list_urlconfs(resolver: URLResolver) -> Iterator[str]:
    yield str(getattr(resolver.urlconf_module, "__name__", ""))
    for each in resolver.url_patterns:
        if isinstance(each, URLResolver):
            yield from _list_urlconfs(each)


def _list_catalogs() -> Iterator[str]:
    """Yield where catalogs of the languages would be that are in use.

    Django reads them when the first text is translated, often before anything can watch.
    """
    places = [*settings.LOCALE_PATHS]
    places += [os.path.join(app.path, "locale") for app in apps.get_app_configs()]  # noqa: PTH118
    for language in trans_real._translations:  # type: ignore[attr-defined,unused-ignore]
        for locale in {to_locale(language), to_locale(language).partition("_")[0]}:
            for place in places:
                yield str(Path(place, locale, "LC_MESSAGES", "django.mo").absolute())


def _look_at_source(name: str) -> str:
    """Return a digest of code, as long as what was imported cannot be anything else.

    Raises:
        SavedMeanwhileError: It was saved after this process began.
    """
    path = locate_file(name)
    digest = digest_file(path)
    try:
        changed_s = os.stat(path).st_ctime  # noqa: PTH116  # a hot spot of the start-up
    except OSError:
        return ""
    if changed_s > _started_s() + _TICK_S:
        raise SavedMeanwhileError(
            f"{name} was saved after this run began", hint="Run the tests again."
        )
    return digest


@cache
def _started_s() -> float:
    """Return when this process began, in seconds since the epoch."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        age_s = time.process_time()
    return time.time() - age_s


def _look_at_place(name: str) -> str:
    path = locate_file(name)
    return "file" if os.path.isfile(path) else "directory" * os.path.isdir(path)  # noqa: PTH112,PTH113


def _look_at_directory(name: str) -> str:
    try:
        names = os.listdir(locate_file(name))  # noqa: PTH208  # a hot spot of the start-up
    except OSError:
        return ""
    # Compiled code, hidden files and what editors leave.
    kept = [each for each in names if not each.startswith((".", "__pycache__", "#"))]
    return digest_bytes("\0".join(sorted(each for each in kept if each[-1] != "~")).encode())


def _look_at_setting(name: str) -> str:
    return digest_value(getattr(settings, name)) if hasattr(settings, name) else ""


def _look_at_variable(name: str) -> str:
    return digest_value(os.environ.get(name))


def _look_at_command(name: str) -> str:
    return digest_value(get_commands().get(name))


def _list_receivers() -> Iterator[_Listener]:
    """Yield who listens: the signal's name, the sender's `id`, and the receiver's name."""
    for name, signal in _SIGNALS.items():
        for entry in signal.receivers or ():
            receiver = entry[1]() if isinstance(entry[1], ReferenceType) else entry[1]
            text = str(make_plain(receiver))
            if not text.startswith(__name__.partition(".")[0]):
                yield name, entry[0][1], text


def _digest_receivers(label: str, listening: Iterable[_Listener]) -> str:
    """Return a digest of those who hear of all models' objects, or of one model's."""
    try:
        sender = apps.get_model(label) if label else None
    except LookupError:
        return ""
    return digest_value(
        [
            (name, text)
            for name, heard, text in listening
            if heard == id(sender) or (not label and name in _HEARD_BY_ALL)
        ]
    )


_FILES: Final = ("source", "file", "place", "directory", "catalog")
_LOOKS: Final[dict[str, Callable[[str], str]]] = {
    "source": _look_at_source,
    "file": lambda name: digest_file(locate_file(name)),
    "place": _look_at_place,
    "directory": _look_at_directory,
    "catalog": lambda name: digest_file(locate_file(name)),
    "setting": _look_at_setting,
    "variable": _look_at_variable,
    "command": _look_at_command,
    "receivers": lambda label: _digest_receivers(label, _list_receivers()),
}
_TEXTS: Final = {
    "setting": "the setting {} changed",
    "variable": "the environment variable {} changed",
    "command": "the command {} changed",
    "receivers": "the receivers of signals of {} changed",
}
