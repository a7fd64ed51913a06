"""What a template was made from. It is kept with the template, which serves as long as it holds.

The list is part of the template's comment, because the server is the one place that a run finds
again in any container. Comments can be read by every role, so the list is sealed with a key made
from ``SECRET_KEY``: nobody else learns the names of files, or can try what was in them.
"""

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import chain
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

_NONCE_BYTES: Final = 16

# Of the first three everybody counts who listens, of the others those who hear of a model used.
_SIGNALS: Final = (
    *(connection_created, signals.pre_migrate, signals.post_migrate),
    *(signals.pre_init, signals.post_init, signals.pre_save, signals.post_save),
    *(signals.pre_delete, signals.post_delete, signals.m2m_changed),
)
_HEARD_BY_ALL: Final = 3
_ALL: Final = "all models"


def find_change(then: Facts, now: Facts, *, with_files: bool = True) -> str | None:
    """Return what has changed since a template was made from *then*, None if nothing has."""
    # Readers raise only the sessions, autovacuum only the rows, those of catalogs included. Cloning
    # needs an empty database, so a later writer opened a later session.
    counters = zip(then.counters, now.counters, strict=True)
    if all(before != after for before, after in counters):
        return "somebody wrote into the database that new ones are cloned from"
    looks: dict[str, Callable[[str], str]] = {
        **_LOOKS,
        "fact": lambda fact: now.digests.get(("fact", fact), ""),
    }
    for (kind, name), digest in then.digests.items():
        if with_files or kind not in _FILES:
            digest_now = looks[kind](name)
            if digest_now.startswith(UNKNOWN):
                return _describe_unknown(kind, name, digest_now)
            if digest_now != digest:
                return f"{_CALLED.get(kind, '')}{name} changed"
    observer.unchanged |= {use: then.digests[use] for use in then.digests if use[0] != "fact"}
    return None


@contextmanager
def record(facts: Facts) -> Iterator[Callable[[], Facts]]:
    """Note what is used meanwhile, and give a function that adds all of it to these facts."""
    read_beginning()  # before anything migrates
    with observer.watch():
        for model in chain.from_iterable(list_unmigrated_models().values()):
            options = model._meta
            parts = (*options.local_fields, *options.indexes, *options.constraints)
            observer.noted["module"].update(type(part).__module__ for part in parts)
        yield lambda: replace(facts, digests={**facts.digests, **dict(_digest_noted())})


def seal(facts: Facts) -> str:
    """Return facts as text that says nothing without the project's ``SECRET_KEY``.

    Raises:
        ConfigurationError: There is no ``SECRET_KEY``, or something cannot be compared.
    """
    for (kind, name), digest in facts.digests.items():
        if digest.startswith(UNKNOWN):
            raise ConfigurationError(_describe_unknown(kind, name, digest))
    nonce = os.urandom(_NONCE_BYTES)
    rows = [[*key, digest] for key, digest in facts.digests.items()]
    try:
        signed = signing.dumps([facts.counters, rows], salt=__name__, compress=True)
    except ImproperlyConfigured as error:
        raise ConfigurationError(
            "What a template was made from cannot be kept secret without a key.",
            hint="Give the settings of the tests a SECRET_KEY.",
        ) from error
    return base64.b85encode(nonce + _mask(signed.encode(), nonce)).decode()


def _describe_unknown(kind: str, name: str, digest: str) -> str:
    return f"{_CALLED.get(kind, '')}{name} cannot be compared: {digest[len(UNKNOWN) :]}"


def unseal(text: str) -> Facts | None:
    """Return what was sealed, None if it was not sealed with this ``SECRET_KEY``."""
    try:
        data = base64.b85decode(text)
        signed = _mask(data[_NONCE_BYTES:], data[:_NONCE_BYTES]).decode()
        counters, rows = signing.loads(signed, salt=__name__)
    except (ValueError, signing.BadSignature, ImproperlyConfigured):
        return None
    digests = {(kind, name): digest for kind, name, digest in rows}
    return Facts(digests=digests, counters=tuple(counters))


def _mask(data: bytes, nonce: bytes) -> bytes:
    """Hide bytes, or show them again: the key and a nonce make a stream that nobody else can."""
    stream = hashlib.shake_256(force_bytes(settings.SECRET_KEY) + nonce).digest(len(data))
    return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))


def _digest_noted() -> Iterator[tuple[tuple[str, str], str]]:
    """Yield digests of all that was used, by kind and name."""
    noted = observer.noted
    modules = set(noted["module"])
    if "ROOT_URLCONF" in noted["setting"]:
        modules.update(_list_urlconfs(get_resolver()))
    imported = ImportReader(observer.executed).follow(modules)
    # What code read before counts where migrations have to do with that.
    readers = ("", *imported["source"])
    files = {path: digest_file(path) for path in _list_message_catalogs() if is_own_file(path)}
    for reader in readers:
        files.update(file_reads.files[reader])
    used = {
        "receivers": {_ALL, *noted["model"]},
        "source": imported["source"],
        "place": {*noted["place"], *imported["place"]} - files.keys(),
        "directory": {path for reader in readers for path in file_reads.directories[reader]},
        "setting": {*noted["setting"], *imported["setting"]} - _NOT_COMPARED,
        "variable": {*noted["variable"], *imported["variable"]} - _NOT_COMPARED_VARIABLES,
        "command": noted["command"],
    }
    yield from observer.unchanged.items()
    for path, digest in files.items():
        # What came or went meanwhile is the migrations' own work.
        if bool(digest) == os.path.isfile(path):  # noqa: PTH113  # many, perhaps
            yield ("file", name_file(path)), digest
    for kind in used.keys() & _FILES:
        used[kind] = {name_file(path) for path in used[kind] if is_own_file(path)}
    for kind, names in used.items():
        yield from (((kind, name), _LOOKS[kind](name)) for name in sorted(names))


def _list_urlconfs(resolver: URLResolver) -> Iterator[str]:
    yield str(getattr(resolver.urlconf_module, "__name__", ""))
    for each in resolver.url_patterns:
        if isinstance(each, URLResolver):
            yield from _list_urlconfs(each)


def _list_message_catalogs() -> Iterator[str]:
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
    if digest and os.stat(path).st_ctime > _started_s() + _TICK_S:  # noqa: PTH116  # a hot spot
        return f"{UNKNOWN}it was saved after this run began, so run the tests again"
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
    if os.path.isfile(path):  # noqa: PTH113  # a hot spot of the start-up
        return "file"
    return "directory" if os.path.isdir(path) else ""  # noqa: PTH112  # the same


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


@cache
def read_beginning() -> tuple[Mapping[str, str], list[tuple[int, int, str]]]:
    """Return what migrations may change, as the next run finds it, too.

    That is the environment, and who listens to signals: the signal's number, the sender's `id`, and
    the receiver's name.
    """
    listening = []
    for number, signal in enumerate(_SIGNALS):
        for entry in signal.receivers or ():
            receiver = entry[1]() if isinstance(entry[1], ReferenceType) else entry[1]
            text = str(make_plain(receiver))
            if not text.startswith(__name__.partition(".")[0]):
                listening.append((number, entry[0][1], text))
    return dict(os.environ), listening


def _look_at_receivers(label: str) -> str:
    """Return a digest of those who hear of all models' objects, or of one model's."""
    try:
        sender = None if label == _ALL else apps.get_model(label)
    except LookupError:
        return ""
    return digest_value(
        [
            (signal, text)
            for signal, heard, text in read_beginning()[1]
            if heard == id(sender) or (label == _ALL and signal < _HEARD_BY_ALL)
        ]
    )


_FILES: Final = {"source", "file", "place", "directory"}
_LOOKS: Final[dict[str, Callable[[str], str]]] = {
    "source": _look_at_source,
    "file": lambda name: digest_file(locate_file(name)),
    "place": _look_at_place,
    "directory": _look_at_directory,
    "setting": lambda name: digest_result(lambda: getattr(settings, name, _NO_VALUE)),
    "variable": lambda name: digest_value(read_beginning()[0].get(name)),
    "command": lambda name: digest_value(get_commands().get(name)),
    "receivers": _look_at_receivers,
}
_CALLED: Final = {
    "setting": "the setting ",
    "variable": "the environment variable ",
    "command": "the command ",
    "receivers": "who listens to signals of ",
}
