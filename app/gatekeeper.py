"""Checks in front of the server: which names it answers to, which pages may use it, and how much they may send."""

from __future__ import annotations

import ipaddress
import json
import re
import secrets
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlsplit

from gradio.routes import App, ORJSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accel.app.page_beginning import PageBeginning
from accel.app.visitors import COOKIE, Listeners, Sessions

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::", "")
_LARGEST_BODY = 2**20  # bytes of a request that is no upload
_READS = ("GET", "HEAD")
_STREAMS = re.compile(r"/gradio_api/call/(?:v2/)?[^/]+/([^/]+)")
_NAMED = re.compile(r"/gradio_api/(?:heartbeat|stream)/([^/]+)")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(?::\d+)?")
_TOKEN = re.compile(r"[0-9a-f]{32}")
_HEADERS = {
    # gradio's page evaluates scripts of its own; nothing is loaded from elsewhere, and nobody may frame the page.
    "Content-Security-Policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Names:
    """The names that a server answers to. A page of another site can make its own name mean this machine, and would
    then be of the same origin; so the name decides, and not the address.
    """

    def __init__(self, host: str, further: Iterable[str] = ()) -> None:
        bound = host.strip("[]").lower()
        self._everywhere = bound in _EVERYWHERE
        self._known = {*LOOPBACK, bound, *(name.strip("[]").lower() for name in further)} - {*_EVERYWHERE}

    def add(self, url: str) -> None:
        """And the one of this address."""
        self._known.add((urlsplit(url).hostname or "").lower())

    def include(self, netloc: str) -> bool:
        """Whether a Host header is one of them. A server on all addresses answers to each address, by number."""
        found = _HOST.fullmatch(netloc.lower())
        name = found.group(1).strip("[]") if found else ""
        return name in self._known or (self._everywhere and _is_address(name))


class Gatekeeper:
    """Around an ASGI application. Refuses other names and other origins, what is too large, and sessions of others.

    make_room: called with the bytes of an upload before it is received; False refuses it. uploads: their most bytes.
    """

    def __init__(
        self, app: ASGIApp, names: Names, listeners: Listeners, uploads: int, make_room: Callable[[int], bool]
    ) -> None:
        self._app, self._names, self._listeners = app, names, listeners
        self._uploads, self._make_room = uploads, make_room
        self._sessions = Sessions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        sent = _Sender(send, request)
        try:
            self._check_origin(request)
            received = await self._received(request)
        except _Refused as refused:
            await PlainTextResponse(f"{refused}\n", refused.status)(scope, receive, sent)
            return
        stream = _stream(request)
        with self._listeners.listening(stream) if stream else nullcontext():
            await self._app(scope, received, sent)

    def _check_origin(self, request: Request) -> None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not self._names.include(host):
            raise _Refused(403, f"This server does not answer to {host!r}; its owner can add it with --allow-host.")
        foreign = request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
        if origin is not None:
            foreign = urlsplit(origin).netloc.lower() != host.lower()
        if foreign and (origin is not None or request.method not in _READS):
            raise _Refused(403, "This server takes no requests from pages of other origins.")

    async def _received(self, request: Request) -> Receive:
        """The body, once it is known to be small enough and to speak for nobody else."""
        self._check_sessions(request, _sessions_of(request))
        if request.method in _READS or request.headers.get("content-length") == "0":
            return request.receive
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            raise _Refused(411, "A request must say how long it is.")
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            if int(length) > self._uploads:
                raise _Refused(413, f"This server takes files of at most {self._uploads // 2**20} MiB.")
            if not await run_in_threadpool(self._make_room, int(length)):
                raise _Refused(507, "This server has no room for another file; try again later.")
            return request.receive
        if int(length) > _LARGEST_BODY:
            raise _Refused(413, f"This server takes requests of at most {_LARGEST_BODY // 2**10} KiB.")
        body = await request.body()
        self._check_sessions(request, _sessions_in(body))
        return _replayed(body, request.receive)

    def _check_sessions(self, request: Request, sessions: Iterable[str]) -> None:
        for session in sessions:
            if not self._sessions.belongs(session, request.cookies.get(COOKIE, "")):
                raise _Refused(403, "This session belongs to another browser.")


class GuardedApp(App):
    """gradio's application behind a gatekeeper, which stands in front of everything that gradio puts around it.

    first: elements that the page begins with, which are there before any of gradio's scripts is.
    """

    def __init__(self, guard: Callable[[ASGIApp], Gatekeeper], first: str = "") -> None:
        super().__init__(default_response_class=ORJSONResponse)
        self._guard = guard
        if first:  # before gradio adds what compresses, which is then around it
            self.add_middleware(PageBeginning, first=first)

    def build_middleware_stack(self) -> ASGIApp:
        return self._guard(super().build_middleware_stack())


class _Refused(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Sender:
    """Sends answers with our headers in place of gradio's, and gives a browser its cookie with the page."""

    def __init__(self, send: Send, request: Request) -> None:
        self._send = send
        page = request.method in _READS and request.scope["path"] == "/"
        self._new = page and not _TOKEN.fullmatch(request.cookies.get(COOKIE, ""))

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name in [name for name in headers if name.startswith("access-control-")]:
                del headers[name]
            headers.update(_HEADERS)
            if self._new:
                headers.append("Set-Cookie", f"{COOKIE}={secrets.token_hex(16)}; Path=/; HttpOnly; SameSite=Lax")
        await self._send(message)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _sessions_of(request: Request) -> list[str]:
    """The sessions that an address names."""
    found = _NAMED.match(request.scope["path"])
    return [*request.query_params.getlist("session_hash"), *([found.group(1)] if found else [])]


def _sessions_in(body: bytes) -> list[str]:
    """The session that a body names."""
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused(400, "The request is not JSON.") from None
    session = data.get("session_hash") if isinstance(data, dict) else None
    if not isinstance(session, str | None):
        raise _Refused(400, "A session's name is text.")
    return [session] if session else []


def _stream(request: Request) -> str:
    """On what this request listens for answers: a session, or one call. "" where it does not."""
    if request.method != "GET":
        return ""
    if request.scope["path"] == "/gradio_api/queue/data":
        return request.query_params.get("session_hash", "")
    found = _STREAMS.fullmatch(request.scope["path"])
    return found.group(1) if found else ""


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that has been read, and then whatever comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
