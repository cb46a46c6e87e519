"""Who is asking, told apart by a secret that only they have, and whether they still listen."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import gradio as gr
from gradio.context import LocalContext

COOKIE = "accel_visitor"
_SALT = secrets.token_bytes(32)
_REMEMBERED = 8192


@dataclass(frozen=True)
class Visitor:
    """One open page, or one client. key: of no use to anybody else, and of none after the server's end. browser: the
    same for all pages of a browser, also after a reload; whose runs and votes these are. address: where the request
    came from. streams: over which its answers may leave.
    """

    key: str
    browser: str
    address: str
    streams: tuple[str, ...]


def visitor(request: gr.Request) -> Visitor:
    """Who made this request. The ids that clients choose are kept as salted hashes alone, because an id is enough to
    speak in somebody's name. A client without an id is another one at each request.
    """
    session = str(request.session_hash or "")
    cookie = request.request.cookies.get(COOKIE, "") if request.request else ""
    client = request.request.client if request.request else None
    event = str(LocalContext.event_id.get(None) or secrets.token_hex())
    key = hash_text(f"{cookie}/{session or event}")
    browser = hash_text(f"{cookie}/") if cookie else key
    return Visitor(key, browser, client.host if client else "", (hash_text(session), hash_text(event)))


def hash_text(text: str) -> str:
    """A name that cannot be turned back."""
    return hmac.digest(_SALT, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:32]


class Sessions:
    """Sessions belong to the browser that named them first, which shows itself by a cookie. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owners: OrderedDict[str, str] = OrderedDict()

    def belongs(self, session: str, cookie: str) -> bool:
        """Whether whoever has this cookie ("" for none) may speak in the name of the session."""
        key, owner = hash_text(session), hash_text(cookie)
        with self._lock:
            found = self._owners.setdefault(key, owner)
            self._owners.move_to_end(key)
            while len(self._owners) > _REMEMBERED:
                self._owners.popitem(last=False)
        return hmac.compare_digest(found, owner)


class Listeners:
    """On which streams somebody listens for updates, and since when nobody does. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._left: OrderedDict[str, float] = OrderedDict()

    @contextmanager
    def listening(self, stream: str) -> Iterator[None]:
        """Somebody listens for the duration of the block."""
        key = hash_text(stream)
        with self._lock:
            self._open[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= Counter({key: 1})
                self._left[key] = time.monotonic()
                self._left.move_to_end(key)
                while len(self._left) > _REMEMBERED:
                    self._left.popitem(last=False)

    def silence(self, streams: Iterable[str], since: float) -> float:
        """For how many seconds nobody has listened to any of `Visitor.streams`, counted from `since` at most."""
        with self._lock:
            if any(stream in self._open for stream in streams):
                return 0.0
            return time.monotonic() - max(since, *(self._left.get(stream, 0.0) for stream in streams))
