"""What a run wants of a template, of which only what matters has to be said."""

from django_pgsnap.testing.databases.facts import Facts
from django_pgsnap.testing.databases.templates import Wanted

COUNTERS = (1, 1)
FACTS = Facts(digests={("fact", "the server"): "18"}, counters=COUNTERS)


def wanted(
    *, source: str = "live", server: str = "18", counters: tuple[int, int] = COUNTERS
) -> Wanted:
    """Return what a run on this server wants."""
    facts = Facts(digests={("fact", "the server"): server}, counters=counters)
    return Wanted(alias="default", source=source, facts=facts)
