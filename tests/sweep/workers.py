"""What the sweep's worker processes do: each has a server of its own, for as long as it lives."""

from tests import ctrl_c
from tests.servers import Server, find_bin_dir
from tests.sweep.sweeper import Case, Result, Sweeper

_mine: list[Sweeper] = []


def begin(choice: str) -> None:
    """Start this worker's server; it ends with the worker, however that ends."""
    ctrl_c.heed()
    server = Server(find_bin_dir(choice))
    server.start()
    _mine.append(Sweeper(server))


def cases(command: str) -> list[Case]:
    """Return all cases of a command."""
    return _mine[0].cases(command)


def run(case: Case) -> Result:
    """Run one case."""
    return _mine[0].run(case)
