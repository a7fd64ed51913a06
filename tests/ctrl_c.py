"""Ctrl-C, where a shell has started the tests in its background."""

import signal


def heed() -> None:
    """Have this process and its children stop by Ctrl-C, which such a shell has them ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
