"""What a page begins with is in it before anything of gradio's is, and nothing else is changed."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio", reason="the app needs gradio")
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from accel.app.page_beginning import PageBeginning

PAGE = "<html><head><title>a body</title></head><body class='x'>\n<p>ü</p></body></html>"


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE)


async def pieces(request: Request) -> Response:
    return StreamingResponse(iter([PAGE[:60], PAGE[60:]]), media_type="text/html")


def client(root: object) -> TestClient:
    routes = [Route("/", root), Route("/other", page)]  # type: ignore[arg-type]
    return TestClient(PageBeginning(Starlette(routes=routes), "<b>\\1 first</b>"))


@pytest.mark.parametrize("root", [page, pieces])
def test_the_body_begins_with_it(root: object) -> None:
    found = client(root).get("/")
    assert found.text == PAGE.replace("<body class='x'>", "<body class='x'><b>\\1 first</b>")
    assert int(found.headers["content-length"]) == len(found.content)


def test_other_pages_and_what_is_no_page_stay_as_they_are() -> None:
    some = client(page)
    assert some.get("/other").text == PAGE
    assert some.head("/").headers["content-length"] == str(len(PAGE.encode()))
    assert some.post("/").status_code == 405
