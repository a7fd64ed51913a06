"""What making a template really uses, noted while it is made.

Code that runs shows by Python's monitoring (PEP 669), before Python 3.12 by a profile function.
Files that are opened and directories that are listed show by an audit hook. Of some functions of
Python's and Django's the arguments tell more: what is imported by name, which models are used,
which environment variables are read. What another process reads, or a library by itself, is unseen.
"""

from __future__ import annotations

import genericpath
import importlib.util
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final
from unittest import mock

from django.apps import AppConfig, apps
from django.conf import LazySettings
from django.contrib.auth import hashers
from django.core import management
from django.db.models import Model
from django.db.models.manager import ManagerDescriptor
from django.template import loader
from django.urls import base as urls
from django.utils import module_loading

from .stable_values import digest_file, is_own_file

_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC

# Numbers that tools may have (Python's sys.monitoring), those without a purpose of their own first.
_TOOLS: Final = (4, 3, 5, 2, 1, 0)


class Observer:
    """Notes what is used.

    All of a process is kept together: what a module or a cache got from a file when one database
    was migrated is there when the next one is.

    Attributes:
        executed: The files of code that ran, with the first line of each function.
        opened: Digests of files that were read, by path; empty for one that is not there.
        noted: Names of what else was used, by kind.
    """

    def __init__(self) -> None:
        """Have nothing noted yet."""
        self.executed: defaultdict[str, set[int]] = defaultdict(set)
        self.opened: dict[str, str] = {}
        self.noted: defaultdict[str, set[str]] = defaultdict(set)
        self._written: set[str] = set()
        self._is_watching = False
        self._is_hooked = False
        note = self._note
        # What these functions are called with counts; their arguments are still unchanged.
        self._asked: Final[dict[CodeType, Callable[[dict[str, Any], FrameType], object]]] = {
            importlib.import_module.__code__: self._import,
            module_loading.cached_import.__code__: lambda a, _: note("module", a["module_path"]),
            management.load_command_class.__code__: lambda a, _: note("command", a["name"]),
            AppConfig.get_model.__code__: self._get_model,
            AppConfig.get_models.__code__: self._get_models,
            ManagerDescriptor.__get__.__code__: lambda a, _: self._use_model(a["cls"]),
            Model.__init__.__code__: lambda a, _: self._use_model(type(a["self"])),
            type(os.environ).__getitem__.__code__: self._read_variable,
            urls.reverse.__code__: lambda *_: note("setting", "ROOT_URLCONF"),
            urls.resolve.__code__: lambda *_: note("setting", "ROOT_URLCONF"),
            # Django keeps what it made of these settings when it read them first.
            hashers.get_hasher.__code__: lambda *_: note("setting", "PASSWORD_HASHERS"),
            loader.get_template.__code__: lambda *_: note("setting", "TEMPLATES"),
            genericpath.exists.__code__: lambda a, _: self._look_for(a["path"]),
            genericpath.isfile.__code__: lambda a, _: self._look_for(a["path"]),
            genericpath.isdir.__code__: lambda a, _: self._look_for(a["s"]),
            Path.stat.__code__: lambda a, _: self._look_for(a["self"]),
        }

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note what is used meanwhile, in all threads."""
        if not self._is_hooked:
            # It stays until the process ends: there is no way to remove it.
            self._is_hooked = True
            sys.addaudithook(self._hear)
        monitor = self._monitor() if sys.version_info >= (3, 12) else self._profile()
        getter = mock.patch.object(LazySettings, "__getattribute__", self._getter(), create=True)
        self._is_watching = True
        try:
            with getter, monitor:
                yield
        finally:
            self._is_watching = False

    @contextmanager
    def _monitor(self) -> Iterator[None]:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        started = monitoring.events.PY_START
        tool = next(each for each in _TOOLS if monitoring.get_tool(each) is None)
        # Another thread may still be in a function that began when nobody watched: that is no use.
        hear = {True: None, False: monitoring.DISABLE}
        monitoring.use_tool_id(tool, __name__)
        try:
            monitoring.register_callback(
                tool, started, lambda code, _: hear[self._start(code, sys._getframe(1))]
            )
            monitoring.set_events(tool, started)
            yield
        finally:
            monitoring.set_events(tool, 0)
            monitoring.register_callback(tool, started, None)
            monitoring.free_tool_id(tool)

    @contextmanager
    def _profile(self) -> Iterator[None]:
        def hear(frame: FrameType, event: str, _argument: object) -> None:
            if event == "call":
                self._start(frame.f_code, frame)

        before = sys.getprofile(), threading.getprofile()
        sys.setprofile(hear)
        threading.setprofile(hear)
        try:
            yield
        finally:
            sys.setprofile(before[0])
            threading.setprofile(before[1])

    def _start(self, code: CodeType, frame: FrameType) -> bool:
        """Note that a function begins, and tell whether it counts each time."""
        if (ask := self._asked.get(code)) is not None:
            ask(frame.f_locals, frame)
            return True
        if not code.co_filename.startswith("<"):
            self.executed[code.co_filename].add(code.co_firstlineno)
        return False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note what the interpreter is about to do with a file or a directory."""
        if not self._is_watching or event not in {"open", "os.listdir", "os.scandir"}:
            return
        # The import system looks for modules everywhere; what it finds shows when it runs.
        caller = sys._getframe().f_back
        is_import = caller and caller.f_code.co_filename.startswith("<frozen importlib")
        if is_import or isinstance(arguments[0], int):
            return
        path = _absolute(arguments[0] or os.curdir)
        if event != "open":
            self._note("directory", path)
        elif arguments[2] & _WRITES:
            self._written.add(path)
        elif path not in self.opened and path not in self._written and is_own_file(path):
            self.opened[path] = ""  # to read it opens it again
            self.opened[path] = digest_file(path)

    def _note(self, kind: str, name: object) -> None:
        self.noted[kind].add(str(name))

    def _getter(self) -> Callable[[LazySettings, str], Any]:
        def get(settings: LazySettings, name: str) -> Any:
            if name.isupper():
                # Django looks at each cursor whether it shall note the statements.
                reader = sys._getframe(1).f_globals.get("__name__", "")
                if name != "DEBUG" or not reader.startswith("django."):
                    self._note("setting", name)
            return object.__getattribute__(settings, name)

        return get

    def _import(self, arguments: dict[str, Any], _: FrameType) -> None:
        name, package = arguments["name"], arguments["package"]
        self._note("module", importlib.util.resolve_name(name, package) if package else name)

    def _get_model(self, arguments: dict[str, Any], _: FrameType) -> None:
        config, name = arguments["self"], arguments["model_name"].lower()
        if config.apps is apps and name in config.models:
            self._use_model(config.models[name])

    def _get_models(self, arguments: dict[str, Any], frame: FrameType) -> None:
        # To find the relations of one model, Django goes through all.
        reader = _find_caller(frame, ("django.apps.registry",))
        if arguments["self"].apps is apps and not reader.startswith("django.db."):
            for model in arguments["self"].models.values():
                self._use_model(model)

    def _use_model(self, model: Any) -> None:
        # Django makes others of the migrations' states; what those have of ours, migrations import.
        if model.__module__ != "__fake__" and model._meta.label not in self.noted["model"]:
            self._note("model", model._meta.label)
            self.noted["module"].update(base.__module__ for base in model.__mro__)

    def _read_variable(self, arguments: dict[str, Any], frame: FrameType) -> None:
        root = _find_caller(frame, ("os", "_collections_abc", "collections.abc")).partition(".")[0]
        # How Python and Django write to a terminal, or find temporary files, is of no account.
        if root != "django" and root not in sys.stdlib_module_names:
            self._note("variable", arguments["key"])

    def _look_for(self, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            self._note("place", _absolute(path))


def _absolute(path: str | bytes | os.PathLike[Any]) -> str:
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # it may be no path at all


def _find_caller(frame: FrameType, between: tuple[str, ...]) -> str:
    """Return the name of the module that called a function, by way of some modules or directly."""
    caller = frame.f_back
    while caller is not None and caller.f_globals.get("__name__") in between:
        caller = caller.f_back
    return str(caller.f_globals.get("__name__", "")) if caller is not None else ""


observer: Final = Observer()
