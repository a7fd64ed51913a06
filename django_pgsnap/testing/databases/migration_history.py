"""Today's migrations in their order, each with a digest of all that it is made of."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.migrations.loader import MigrationLoader

from .source_dependencies import Reader
from .stable_values import digest


@dataclass(frozen=True, kw_only=True)
class Step:
    """A migration of today's plan.

    Attributes:
        app: Label of its app.
        name: Its name.
        digest: Of its file, the project's code that it imports, and the settings that they read.
    """

    app: str
    name: str
    digest: str


def todays_plan() -> list[Step]:
    """Return the migrations in the order in which a new database gets them."""
    loader = MigrationLoader(None)
    keys: dict[tuple[str, str], None] = {}
    for leaf in loader.graph.leaf_nodes():
        keys.update(dict.fromkeys(loader.graph.forwards_plan(leaf)))
    reader = Reader()
    return [
        Step(app=app, name=name, digest=_digest(reader, loader.graph.nodes[app, name].__module__))
        for app, name in keys
    ]


def digest_of(steps: list[Step]) -> str:
    """Return the digest of migrations in their order."""
    return digest([(step.app, step.name, step.digest) for step in steps])


def _digest(reader: Reader, module: str) -> str:
    reached = reader.reached_from([module])
    return digest([reached.files, reached.reads])
