"""What a template was made from. It is kept with the template, which serves as long as it holds.

The list is part of the template's comment, because the server is the one place that a run finds
again in any container. Comments can be read by every role, so the list is sealed with a key made
from ``SECRET_KEY``: nobody else learns the names of files, or can try what was in them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Final
from weakref import ReferenceType

from django.apps import apps
from django.conf import settings
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands
from django.db.backends.signals import connection_created
from django.db.models import signals
from django.urls import URLResolver, get_resolver
from django.utils.encoding import force_bytes
from django.utils.translation import to_locale, trans_real

from ...conf import TEST_DATABASES
from ...errors import ConfigurationError
from .facts import (
    UNKNOWN,
    Facts,
    SourceCounters,
    digest_result,
    digest_value,
    list_unmigrated_models,
    locate_file,
    make_plain,
    name_file,
)
from .file_reads import digest_file, file_reads, is_own_file
from .imports import ImportReader
from .observer import observer

# These have the names of test databases, which differ between processes, or are facts.
_NOT_COMPARED: Final = frozenset({"DATABASES", "PGSNAP"})

# What a run itself announces to its children, and what terminals and shells are about.
_NOT_COMPARED_VARIABLES: Final = frozenset(
    {
        *(TEST_DATABASES, "PYTEST_CURRENT_TEST", "PYTEST_VERSION", "PYTEST_XDIST_WORKER"),
        *("COLORTERM", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TERM"),
        *("OLDPWD", "PATH", "PWD", "SHLVL", "TEMP", "TMP", "TMPDIR", "_"),
    }
)

# Times of files are those of the last tick of the clock.
_TICK_S: Final = 0.02

_NO_VALUE: Final = ("there is no such setting",)

_Listener = tuple[int, int, str]

_NONCE_BYTES: Final = 16

# Of the first three everybody counts who listens, of the others those who hear of a model used.
_SIGNALS: Final = (
    *(connection_created, signals.pre_migrate, signals.post_migrate),
    *(signals.pre_init, signals.post_init, signals.pre_save, signals.post_save),
    *(signals.pre_delete, signals.post_delete, signals.m2m_changed),
)
_HEARD_BY_ALL: Final = 3
_ALL: Final = "all models"


class SavedMeanwhileError(ConfigurationError):
    """Code was saved when it may have been imported already."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What a template was made from: digests of what was used, by kind and name.

    The counters are those of the database that it was cloned from before it was migrated.
    """

    uses: Mapping[tuple[str, str], str]
    counters: SourceCounters

    def find_change(self, facts: Facts, *, with_files: bool = True) -> str | None:
        """Return what has changed since, None if nothing has."""
        if not facts.counters.show_no_writer_since(self.counters):
            return "somebody wrote into the database that new ones are cloned from"
        looks: dict[str, Callable[[str], str | None]] = {**_LOOKS, "fact": facts.digests.get}
        try:
            for (kind, name), digest in self.uses.items():
                if with_files or kind not in _FILES:
                    now = looks[kind](name) or ""
                    if UNKNOWN in (now[:1], digest[:1]):
                        return _describe_unknown(kind, name, now)
                    if now != digest:
                        return f"{_CALLED.get(kind, '')}{name} changed"
        except SavedMeanwhileError as error:
            return error.message
        observer.unchanged |= {use: self.uses[use] for use in self.uses if use[0] != "fact"}
        return None


@contextmanager
def record(facts: Facts) -> Iterator[Callable[[], Recording]]:
    """Note what is used meanwhile, and give a function that returns all of it."""
    with observer.watch():
        for model in list_unmigrated_models():
            options = model._meta
            parts = (*options.local_fields, *options.indexes, *options.constraints)
            observer.noted["module"].update(type(part).__module__ for part in parts)
        # Migrations may import what connects more of them.
        listening = list(_list_receivers())
        yield lambda: Recording(uses=dict(_list_uses(facts, listening)), counters=facts.counters)


def seal(recording: Recording) -> str:
    """Return a recording as text that says nothing without the project's ``SECRET_KEY``.

    Raises:
        ConfigurationError: There is no ``SECRET_KEY``, or something cannot be compared.
    """
    for (kind, name), digest in recording.uses.items():
        if digest.startswith(UNKNOWN):
            raise ConfigurationError(_describe_unknown(kind, name, digest))
    nonce = os.urandom(_NONCE_BYTES)
    rows = [[*key, digest] for key, digest in recording.uses.items()]
    try:
        signed = signing.dumps([astuple(recording.counters), rows], salt=__name__, compress=True)
    except ImproperlyConfigured as error:
        raise ConfigurationError(
            "What a template was made from cannot be kept secret without a key.",
            hint="Give the settings of the tests a SECRET_KEY.",
        ) from error
    return base64.b85encode(nonce + _mask(signed.encode(), nonce)).decode()


def _describe_unknown(kind: str, name: str, digest: str) -> str:
    return f"{_CALLED.get(kind, '')}{name} cannot be compared: {digest[len(UNKNOWN) :]}"


def unseal(text: str) -> Recording | None:
    """Return what was sealed, None if it was not sealed with this ``SECRET_KEY``."""
    try:
        data = base64.b85decode(text)
        signed = _mask(data[_NONCE_BYTES:], data[:_NONCE_BYTES]).decode()
        (sessions, written), rows = signing.loads(signed, salt=__name__)
    except (ValueError, signing.BadSignature, ImproperlyConfigured):
        return None
    return Recording(
        uses={(kind, name): digest for kind, name, digest in rows},
        counters=SourceCounters(sessions=sessions, written=written),
    )


def _mask(data: bytes, nonce: bytes) -> bytes:
    """Hide bytes, or show them again: the key and a nonce make a stream that nobody else can."""
    stream = hashlib.shake_256(force_bytes(settings.SECRET_KEY) + nonce).digest(len(data))
    return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))


def _list_uses(facts: Facts, listening: list[_Listener]) -> Iterator[tuple[tuple[str, str], str]]:
    noted = observer.noted
    modules = set(noted["module"])
    if "ROOT_URLCONF" in noted["setting"]:
        modules.update(_list_urlconfs(get_resolver()))
    imported = ImportReader(observer.executed).follow(modules)
    yield from observer.unchanged.items()
    yield from ((("fact", name), digest) for name, digest in facts.digests.items())
    # What code read before counts where migrations have to do with that.
    readers = ("", *imported["source"])
    files = {path: each for reader in readers for path, each in file_reads.files[reader].items()}
    for path, digest in files.items():
        # What came or went meanwhile is the migrations' own work.
        if bool(digest) == os.path.isfile(path):  # noqa: PTH113  # many, perhaps
            yield ("file", name_file(path)), digest
    for label in (_ALL, *sorted(noted["model"])):
        yield ("receivers", label), _digest_receivers(label, listening)
    paths = {
        "source": imported["source"],
        "place": {*noted["place"], *imported["place"]} - files.keys(),
        "directory": {path for reader in readers for path in file_reads.directories[reader]},
        "catalog": set(_list_catalogs()),
    }
    names = {
        "setting": {*noted["setting"], *imported["setting"]} - _NOT_COMPARED,
        "variable": {*noted["variable"], *imported["variable"]} - _NOT_COMPARED_VARIABLES,
        "command": noted["command"],
        **{kind: {name_file(path) for path in paths[kind] if is_own_file(path)} for kind in paths},
    }
    looks: dict[str, Callable[[str], str]] = {
        **_LOOKS,
        "variable": lambda name: digest_value(observer.environment.get(name)),
    }
    for kind, used in names.items():
        yield from (((kind, name), looks[kind](name)) for name in sorted(used))


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
    """Return a digest of code, as long as what was imported cannot be anything else."""
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


def _look_at_directory(path: str) -> str:
    try:
        names = os.listdir(locate_file(path))  # noqa: PTH208  # a hot spot of the start-up
    except OSError:
        return ""
    # Without compiled code, hidden files and what editors leave.
    left_out = (".", "#", "__pycache__")
    return digest_value(
        {name for name in names if not name.startswith(left_out) and name[-1] != "~"}
    )


def _list_receivers() -> Iterator[_Listener]:
    """Yield who listens: the signal's number, the sender's `id`, and the receiver's name."""
    for number, signal in enumerate(_SIGNALS):
        for entry in signal.receivers or ():
            receiver = entry[1]() if isinstance(entry[1], ReferenceType) else entry[1]
            text = str(make_plain(receiver))
            if not text.startswith(__name__.partition(".")[0]):
                yield number, entry[0][1], text


def _digest_receivers(label: str, listening: Iterable[_Listener]) -> str:
    """Return a digest of those who hear of all models' objects, or of one model's."""
    try:
        sender = None if label == _ALL else apps.get_model(label)
    except LookupError:
        return ""
    return digest_value(
        [
            (signal, text)
            for signal, heard, text in listening
            if heard == id(sender) or (label == _ALL and signal < _HEARD_BY_ALL)
        ]
    )


_FILES: Final = ("source", "file", "place", "directory", "catalog")
_LOOKS: Final[dict[str, Callable[[str], str]]] = {
    "source": _look_at_source,
    "file": lambda name: digest_file(locate_file(name)),
    "place": _look_at_place,
    "directory": _look_at_directory,
    "catalog": lambda name: digest_file(locate_file(name)),
    "setting": lambda name: digest_result(lambda: getattr(settings, name, _NO_VALUE)),
    "variable": lambda name: digest_value(os.environ.get(name)),
    "command": lambda name: digest_value(get_commands().get(name)),
    "receivers": lambda label: _digest_receivers(label, _list_receivers()),
}
_CALLED: Final = {
    "setting": "the setting ",
    "variable": "the environment variable ",
    "command": "the command ",
    "receivers": "who listens to signals of ",
}
