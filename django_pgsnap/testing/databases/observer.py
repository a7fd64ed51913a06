"""What making a template really uses, noted while it is made.

Python itself tells which functions run: by its monitoring (PEP 669), before Python 3.12 by the
profiler that is written in C. Some functions of Python's and Django's tell what they are called
with: what is imported by name, which models are used, which environment variables are read.
"""

import cProfile
import genericpath
import importlib
import importlib.util
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final
from unittest import mock

from django.apps import AppConfig, apps
from django.apps.registry import Apps
from django.conf import LazySettings
from django.core import management
from django.db.models import Model
from django.db.models.manager import ManagerDescriptor
from django.utils import module_loading

from .calls import Hear, find_caller, hear_calls
from .file_reads import file_reads, make_absolute

# Numbers that tools may have (Python's sys.monitoring), those without a purpose of their own first.
_TOOLS: Final = (4, 3, 5, 2, 1, 0)

_PYTHON: Final = sys.stdlib_module_names


class Observer:
    """Notes what is used.

    All of a process is kept together: what a module or a cache got from a file when one database
    was migrated is there when the next one is.
    """

    def __init__(self) -> None:
        # The files of code that ran, with the first line of each function.
        self.executed: defaultdict[str, set[int]] = defaultdict(set)
        # Names of what else was used, by kind.
        self.noted: defaultdict[str, set[str]] = defaultdict(set)
        # Digests of what the templates were made from that are used, by kind and name.
        self.unchanged: dict[tuple[str, str], str] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note what is used meanwhile, in all threads."""
        monitor = self._monitor() if sys.version_info >= (3, 12) else self._profile()
        # Settings are read too often for what tells of other calls.
        getter = mock.patch.object(LazySettings, "__getattribute__", self._getter(), create=True)
        with getter, hear_calls(self._list_places()), file_reads.record(), monitor:
            yield

    @contextmanager
    def _monitor(self) -> Iterator[None]:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        started = monitoring.events.PY_START
        tool = next(each for each in _TOOLS if monitoring.get_tool(each) is None)
        ran: list[CodeType] = []

        def begin(code: CodeType, _: int) -> object:
            ran.append(code)
            return monitoring.DISABLE

        monitoring.use_tool_id(tool, __name__)
        try:
            monitoring.register_callback(tool, started, begin)
            monitoring.set_events(tool, started)
            yield
        finally:
            monitoring.set_events(tool, 0)
            monitoring.register_callback(tool, started, None)
            monitoring.free_tool_id(tool)
            self._note_code(ran)

    @contextmanager
    def _profile(self) -> Iterator[None]:
        profilers: list[cProfile.Profile] = []

        def begin(*_: object) -> None:
            profilers.append(cProfile.Profile(subcalls=False, builtins=False))
            profilers[-1].enable()

        before: Any = sys.getprofile()
        before_in_threads = threading.getprofile()
        threading.setprofile(begin)
        begin()
        try:
            yield
        finally:
            threading.setprofile(before_in_threads)
            for profiler in profilers:
                profiler.disable()
                self._note_code(entry.code for entry in profiler.getstats())
            if before is None or callable(before):
                sys.setprofile(before)
            else:  # a profiler that is written in C, as cProfile's
                before.enable()

    def _note_code(self, ran: Iterable[CodeType | str]) -> None:
        known = set(self.executed)
        for code in ran:
            if isinstance(code, CodeType) and not code.co_filename.startswith("<"):
                self.executed[code.co_filename].add(code.co_firstlineno)
        if not all(map(os.path.isfile, self.executed.keys() - known)):
            # Compiled code may be all that there is of a module.
            files = {name: getattr(each, "__file__", None) for name, each in sys.modules.items()}
            self.noted["module"].update(
                name for name, file in files.items() if file and not file.endswith(".py")
            )

    def _list_places(self) -> Iterator[tuple[Any, str, Hear]]:
        """Yield the functions that count by what they are called with, and what hears of it."""
        note = self._note
        yield importlib, "import_module", self._import
        yield module_loading, "cached_import", lambda module_path, _: note("module", module_path)
        yield management, "load_command_class", lambda _, name: note("command", name)
        # Not the class: Django asks others of it millions of times to render migrations' states.
        for config in apps.get_app_configs():
            yield config, "get_model", partial(self._get_model, config)
            yield config, "get_models", partial(self._get_models, config)
        yield Apps, "get_app_config", self._get_app_config
        yield ManagerDescriptor, "__get__", lambda _, __, cls=None: self._use_model(cls)
        yield Model, "__init__", lambda instance, *_, **__: self._use_model(type(instance))
        yield type(os.environ), "__getitem__", self._read_variable
        yield genericpath, "getsize", lambda name: file_reads.note_file(make_absolute(name))
        for name in ("exists", "isfile", "isdir"):
            yield genericpath, name, self._look_for
        yield Path, "stat", lambda path, **_: self._look_for(path)

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

    def _import(self, name: str, package: str | None = None) -> None:
        self._note("module", importlib.util.resolve_name(name, package) if package else name)

    def _get_model(self, config: AppConfig, model_name: str, *_: object, **__: object) -> None:
        self._use_model(config.models[model_name.lower()])

    def _get_models(self, config: AppConfig, *_: object, **__: object) -> None:
        # To find the relations of one model, Django goes through all.
        between = ("django.apps.registry",)
        if not _name_caller(between).startswith("django.db."):
            for model in config.models.values():
                self._use_model(model)

    def _use_model(self, model: Any) -> None:
        # Django makes others of the migrations' states; what those have of ours, migrations import.
        if model.__module__ != "__fake__" and model._meta.label not in self.noted["model"]:
            self._note("model", model._meta.label)
            self.noted["module"].update(base.__module__ for base in model.__mro__)

    def _get_app_config(self, registry: Apps, app_label: str) -> None:
        # Django asks for each; who else does may want what the project's own has.
        if not _name_caller(_PYTHON).startswith("django."):
            self._note("module", type(registry.app_configs.get(app_label)).__module__)

    def _read_variable(self, _: object, key: str | bytes) -> None:
        # How Django writes to a terminal is of no account. What others have Python read is.
        if not _name_caller(_PYTHON).startswith(("django.", "<")):
            self._note("variable", os.fsdecode(key))

    def _look_for(self, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            self._note("place", make_absolute(path))


def _name_caller(between: Container[str]) -> str:
    """Return the name of the module that called a function, by way of some packages or directly."""
    caller: FrameType | None = find_caller()
    while caller is not None:
        name = str(caller.f_globals.get("__name__", ""))
        if name not in between and name.partition(".")[0] not in between:
            return name
        caller = caller.f_back
    return "<nobody>"


observer: Final = Observer()
