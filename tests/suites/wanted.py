"""What a run wants of a template, of which only what matters has to be said."""

from django_pgsnap.testing.databases.facts import Facts, SourceCounters
from django_pgsnap.testing.databases.recording import Recording
from django_pgsnap.testing.databases.templates import Wanted

COUNTERS = SourceCounters(sessions=1, written=1)
RECORDING = Recording(uses={("fact", "the server"): "18"}, counters=COUNTERS)


def wanted(
    *, source: str = "live", server: str = "18", counters: SourceCounters = COUNTERS
) -> Wanted:
    """Return what a run on this server wants."""
    facts = Facts(digests={"the server": server}, counters=counters)
    return Wanted(alias="default", source=source, facts=facts)
