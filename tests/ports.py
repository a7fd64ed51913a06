"""Ports for servers of tests, which stay theirs while they are down."""

import secrets
import socket

# The kernel lends clients the ports above these (Linux: 32768 on, IANA: 49152 on). One lent while
# a server is down would answer in its place, and keep it from starting again.
_RANGE = range(20000, 32768)


def free_port() -> int:
    """Return a TCP port on loopback that nobody listens on, and that no client is given."""
    while True:
        port = secrets.choice(_RANGE)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
