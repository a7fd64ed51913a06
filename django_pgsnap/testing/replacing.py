"""Functions of other packages' classes that ours stand in for, while tests run."""

from __future__ import annotations

from typing import Any

_replaced: dict[tuple[type, str], Any] = {}


def replace(owner: type, name: str, function: Any) -> None:
    """Put a function in the place of a class' own."""
    _replaced.setdefault((owner, name), owner.__dict__[name])
    setattr(owner, name, function)


def put_back() -> None:
    """Give all classes their own functions back."""
    while _replaced:
        (owner, name), function = _replaced.popitem()
        setattr(owner, name, function)


def stock(owner: type, name: str) -> Any:
    """Return a class' own function."""
    return _replaced[owner, name]
