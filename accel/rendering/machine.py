"""Identifies this machine without naming it: files that are passed on contain no host names."""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import suppress
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def machine() -> str:
    """A word that is the same for processes whose numbers can be compared: those of one boot of one system that are in
    one container. Where the system tells less, as outside of Linux, for those of one host name.
    """
    facts = [socket.gethostname()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError, AttributeError):
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
