"""What making a template really uses, noted while it is made.

Code that runs shows by Python's monitoring (PEP 669), before Python 3.12 by a profile function. Of
some functions of Python's and Django's the arguments tell more: what is imported by name, which
models are used, which environment variables are read.
"""

from __future__ import annotations

import genericpath
import importlib.util
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final
from unittest import mock

from django.apps import AppConfig, apps
from django.apps.registry import Apps
from django.conf import LazySettings
from django.contrib.auth import hashers
from django.core import management
from django.db.models import Model
from django.db.models.manager import ManagerDescriptor
from django.template import loader
from django.urls import base as urls
from django.utils import module_loading

from .file_reads import file_reads, make_absolute

# Numbers that tools may have (Python's sys.monitoring), those without a purpose of their own first.
_TOOLS: Final = (4, 3, 5, 2, 1, 0)

_PYTHON: Final = sys.stdlib_module_names


class Observer:
    """Notes what is used.

    All of a process is kept together: what a module or a cache got from a file when one database
    was migrated is there when the next one is.

    Attributes:
        executed: The files of code that ran, with the first line of each function.
        environment: The environment variables before migrations could change them.
        noted: Names of what else was used, by kind.
        unchanged: Digests of what the templates were made from that are used, by kind and name.
    """

    def __init__(self) -> None:
        """Have nothing noted yet."""
        self.executed: defaultdict[str, set[int]] = defaultdict(set)
        self.environment: dict[str, str] = {}
        self.noted: defaultdict[str, set[str]] = defaultdict(set)
        self.unchanged: dict[tuple[str, str], str] = {}
        note = self._note
        # What these functions are called with counts; their arguments are still unchanged.
        asked: dict[CodeType, Callable[[dict[str, Any], FrameType], object]] = {
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
            Apps.get_app_config.__code__: self._get_app_config,
            genericpath.getsize.__code__: lambda a, _: file_reads.note_file(
                make_absolute(a["filename"])
            ),
            genericpath.exists.__code__: lambda a, _: self._look_for(a["path"]),
            genericpath.isfile.__code__: lambda a, _: self._look_for(a["path"]),
            genericpath.isdir.__code__: lambda a, _: self._look_for(a["s"]),
            Path.stat.__code__: lambda a, _: self._look_for(a["self"]),
        }
        # By their places, since the hash of code is that of all that is in it, and to ask for an
        # identity is an event that every audit hook hears.
        self._asked: Final = {_place_of(code): (code, ask) for code, ask in asked.items()}
        self._heard: Final[set[tuple[str, int]]] = set()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note what is used meanwhile, in all threads."""
        self.environment = self.environment or dict(os.environ)
        monitor = self._monitor() if sys.version_info >= (3, 12) else self._profile()
        getter = mock.patch.object(LazySettings, "__getattribute__", self._getter(), create=True)
        with getter, file_reads.record(), monitor:
            yield

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
                place = _place_of(frame.f_code)
                if place not in self._heard and not self._start(frame.f_code, frame):
                    self._heard.add(place)

        before: Any = sys.getprofile()
        before_in_threads = threading.getprofile()
        sys.setprofile(hear)
        threading.setprofile(hear)
        try:
            yield
        finally:
            threading.setprofile(before_in_threads)
            if before is None or callable(before):
                sys.setprofile(before)
            else:  # a profiler that is written in C, as cProfile's
                before.enable()

    def _start(self, code: CodeType, frame: FrameType) -> bool:
        """Note that a function begins, and tell whether it counts each time."""
        asked, ask = self._asked.get(_place_of(code), (None, None))
        if ask is not None and asked is code:
            ask(frame.f_locals, frame)
            return True
        path = code.co_filename
        if not path.startswith("<"):
            if path not in self.executed and not os.path.isfile(path):  # noqa: PTH113  # many
                # Compiled code may be all that there is of a module.
                self._note("module", frame.f_globals.get("__name__", ""))
            self.executed[path].add(code.co_firstlineno)
        return False

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

    def _get_app_config(self, arguments: dict[str, Any], frame: FrameType) -> None:
        # Django asks for each; who else does may want what the project's own has.
        if not _find_caller(frame, _PYTHON).startswith("django."):
            config = arguments["self"].app_configs.get(arguments["app_label"])
            self._note("module", type(config).__module__)

    def _read_variable(self, arguments: dict[str, Any], frame: FrameType) -> None:
        # How Django writes to a terminal is of no account. What others have Python read is.
        if not _find_caller(frame, _PYTHON).startswith(("django.", "<")):
            self._note("variable", os.fsdecode(arguments["key"]))

    def _look_for(self, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            self._note("place", make_absolute(path))


def _place_of(code: CodeType) -> tuple[str, int]:
    return code.co_filename, code.co_firstlineno


def _find_caller(frame: FrameType, between: Container[str]) -> str:
    """Return the name of the module that called a function, by way of some packages or directly."""
    caller = frame.f_back
    while caller is not None:
        name = str(caller.f_globals.get("__name__", ""))
        if name not in between and name.partition(".")[0] not in between:
            return name
        caller = caller.f_back
    return "<nobody>"


observer: Final = Observer()
