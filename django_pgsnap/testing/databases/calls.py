"""Functions that tell of their calls, for as long as somebody wants to hear of them."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import update_wrapper
from inspect import isgeneratorfunction
from operator import getitem
from types import FrameType, FunctionType, MethodType
from typing import Any, Final

Hear = Callable[..., object]

_OURS: Final = os.path.dirname(__file__)  # noqa: PTH120  # as in frames


@contextmanager
def hear_calls(places: Iterable[tuple[Any, str, Hear]]) -> Iterator[None]:
    """Have functions tell meanwhile what they are called with.

    They are named by what has them, a module, class or object, and by their name in it. One written
    in Python gets other code, so that those who took it before tell as well. Any other is replaced
    where it is.
    """
    with ExitStack() as undoing:
        for owner, name, hear in places:
            function = getattr(owner, name)
            is_plain = isinstance(function, FunctionType) and not function.__closure__
            if is_plain and not isgeneratorfunction(function):
                undoing.callback(_replace_code(function, hear))
            else:
                undoing.callback(_replace(owner, name, hear))
        yield


def find_caller() -> FrameType:
    """Return the frame that has called a function which is telling of it."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_OURS) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _replace_code(function: FunctionType, hear: Hear) -> Callable[[], None]:
    code, defaults = function.__code__, function.__kwdefaults__
    same = FunctionType(code, function.__globals__, argdefs=function.__defaults__)
    same.__kwdefaults__ = defaults
    function.__kwdefaults__ = {**(defaults or {}), "_telling": Telling(same, hear)}
    function.__code__ = _call.__code__

    def undo() -> None:
        function.__code__, function.__kwdefaults__ = code, defaults

    return undo


def _call(*arguments: Any, _telling: "Telling", **named: Any) -> Any:
    return _telling(*arguments, **named)


def _replace(owner: Any, name: str, hear: Hear) -> Callable[[], None]:
    before, function = vars(owner).get(name), getattr(owner, name)
    if isinstance(function, Telling):  # what somebody had put over ours, and took away since
        before = function = function.__wrapped__
    telling = Telling(function, hear)
    setattr(owner, name, telling)

    def undo() -> None:
        if vars(owner).get(name) is not telling:
            return  # what somebody put over ours stays, and calls it
        if before is None:  # an object has it of its class
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    return undo


class Telling:
    """A function with what hears of its calls.

    It equals the function, since there are sets of those as `os.supports_fd`, and is copied as it.
    """

    __wrapped__: Any

    def __init__(self, function: Any, hear: Hear) -> None:
        update_wrapper(self, function)
        self._hear = hear

    def __call__(self, /, *arguments: Any, **named: Any) -> Any:
        # What the function cannot be called with, it says itself.
        with suppress(Exception):
            self._hear(*arguments, **named)
        return self.__wrapped__(*arguments, **named)

    def __get__(self, instance: object, _owner: object = None) -> Any:
        """Bind it as the function: one that is written in C is no method where a class has it."""
        is_method = instance is not None and hasattr(self.__wrapped__, "__get__")
        return MethodType(self, instance) if is_method else self

    def __eq__(self, other: object) -> bool:
        return bool(self.__wrapped__ == getattr(other, "__wrapped__", other))

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __reduce__(self) -> tuple[Any, ...]:
        return getitem, ((self.__wrapped__,), 0)
