"""Ports of this machine for servers in other processes."""

from __future__ import annotations

import random
import socket

# Below those that systems hand out to whoever asks for any (32768 and up on Linux, 49152 elsewhere): a connection or
# a server of another test cannot take it between this look and the start of the process that it is for.
RANGE = (10_000, 32_000)


def free_port() -> int:
    """A port that nobody listens on, for a process that will in a moment."""
    while True:
        port = random.SystemRandom().randrange(*RANGE)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
