"""Clear what a server leaves behind when it is killed, so that the next one starts.

PostgreSQL refuses to start while `postmaster.pid` names a process that lives, or while a process of
the old server still uses its shared memory. After a crash the first may be a stranger who was
given the same number (the rule rather than the exception in a restarted container) and the second a
long query that has not yet noticed. What counts is who works in the folder: every process of a
server does.
"""

from pathlib import Path

import psutil  # type: ignore[import-untyped]

PATIENCE_S = 10


def clear_leftovers(data: Path) -> None:
    """End the processes of a server that no longer answers and remove its `postmaster.pid`."""
    processes = _processes_in(data)
    for process in processes:
        process.terminate()
    _, deaf = psutil.wait_procs(processes, timeout=PATIENCE_S)
    for process in deaf:
        process.kill()
    psutil.wait_procs(deaf, timeout=PATIENCE_S)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _processes_in(data: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["name", "cwd"])
        if process.info["name"] == "postgres" and process.info["cwd"] == str(data.resolve())
    ]
