"""Requests as an attacker would write them: any host, origin, cookie and address, and no client that helps."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Raw:
    """Somebody with an address of his own (this machine has many of its own) and headers that he chooses."""

    url: str
    address: str = "127.0.0.1"
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = self._connection()
        connection.request(method, path, body, self._named(headers))
        response = connection.getresponse()
        found = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        connection.close()
        return found

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, data: Any, **headers: str) -> Answer:
        return self.ask("POST", path, json.dumps(data).encode(), content_type="application/json", **headers)

    def upload(self, name: str, content: bytes) -> str:
        """The path at which the server keeps it."""
        border = uuid.uuid4().hex
        head = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{border}--\r\n".encode()
        answer = self.ask("POST", "/gradio_api/upload", body, content_type=f"multipart/form-data; boundary={border}")
        assert answer.status == 200, answer.text
        return str(json.loads(answer.body)[0])

    def order(self, name: str, *values: Any, session: str | None = None) -> str:
        """Asks an endpoint, and gives the id under which its answer can be heard."""
        answer = self.post(f"/gradio_api/call/{name}", {"data": values, "session_hash": session})
        assert answer.status == 200, answer.text
        return str(json.loads(answer.body)["event_id"])

    def call(self, name: str, *values: Any, session: str | None = None) -> Any:
        """The last answer of an endpoint: its value, or its error's sentence as a Refusal."""
        event = self.order(name, *values, session=session)
        told = self.get(f"/gradio_api/call/{name}/{event}").text
        *_, (kind, data) = [_message(part) for part in told.split("\n\n") if part.startswith("event: ")]
        return Refusal(data["error"]) if kind == "error" else data[0]

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=300, source_address=(self.address, 0))

    def _named(self, headers: dict[str, str]) -> dict[str, str]:
        return self.headers | {name.replace("_", "-"): value for name, value in headers.items()}


class Refusal(str):
    """The sentence of an error."""


def _message(part: str) -> tuple[str, Any]:
    kind, _, data = part.partition("\ndata: ")
    return kind.removeprefix("event: "), json.loads(data)


def eventually(true: Any, seconds: float = 300.0) -> bool:
    """Whether it becomes true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return False
