"""Elements that a page begins with. Those of gradio's `head` come when its scripts have run, which takes seconds."""

from __future__ import annotations

import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BODY = re.compile(rb"<body[^>]*>")


class PageBeginning:
    """Around an ASGI application: puts `first` in front of what is in the body of its page at the root."""

    def __init__(self, app: ASGIApp, first: str) -> None:
        self._app, self._first = app, first.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in ("", "/")
        await self._app(scope, receive, self._inserting(send) if page else send)

    def _inserting(self, send: Send) -> Send:
        begun: list[Message] = []
        parts: list[bytes] = []

        async def held(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.append(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = _BODY.sub(lambda tag: tag.group() + self._first, b"".join(parts), count=1)
            MutableHeaders(scope=begun[0])["content-length"] = str(len(body))
            await send(begun[0])
            await send({"type": "http.response.body", "body": body})

        return held
