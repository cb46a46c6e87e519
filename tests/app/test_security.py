"""What strangers can do with a running app, by requests that no client would send: docs/security.md, kept."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio", reason="the app needs gradio")

from accel.app.gatekeeper import Names
from accel.app.limits import Limits
from accel.app.settings import StudioSettings
from accel.method import Method
from accel.recipe import LEVERS
from tests.app.raw import Raw, Refusal
from tests.app.served import SMALL, Served

pytestmark = pytest.mark.xdist_group("security")
BRIEF = SMALL | {"steps": 2}  # where it is not asked what comes of it


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    found = Served(Limits(hub=False, queue_of_address=3, unheard_seconds=2.0))
    yield found
    found.close()


@pytest.fixture
def raw(served: Served) -> Raw:
    return Raw(served.url)


def browser(raw: Raw) -> Raw:
    """One that has opened the page, and so has a cookie."""
    cookie = raw.get("/").headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite" in cookie
    return Raw(raw.url, headers={"Cookie": cookie.partition(";")[0]})


@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}, {"meta": {"_type": "other"}}])
def test_a_path_is_no_upload(raw: Raw, tmp_path: Path, meta: dict[str, Any]) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(SMALL))
    answer = raw.call("restore", {"path": str(secret)} | meta)
    assert isinstance(answer, Refusal) and SMALL["prompt"] not in answer


@pytest.mark.parametrize("posted", ["/etc/passwd", {"url": "x"}, {"path": 3}, {"path": "a\0b"}, [], None])
def test_nor_is_anything_else(raw: Raw, posted: Any) -> None:
    answer = raw.call("restore", posted)
    assert isinstance(answer, Refusal) and "root:" not in answer


def test_nor_a_path_that_a_page_sends(served: Served, raw: Raw, tmp_path: Path) -> None:
    """The event behind the page's own field is no endpoint, and yet anybody can post to it."""
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(SMALL))
    config = json.loads(raw.get("/config").body)
    field = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == "dropped")
    event = next(part["id"] for part in config["dependencies"] if part["inputs"] == [field])
    body = {"data": [{"path": str(secret)}], "fn_index": event, "session_hash": "page"}
    assert raw.post("/gradio_api/queue/join", body).status == 200
    told = raw.get("/gradio_api/queue/data?session_hash=page").text
    assert "process_completed" in told and SMALL["prompt"] not in told


def test_no_address_is_opened(raw: Raw) -> None:
    """FFmpeg opens addresses by itself, and Pillow guesses at formats."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.2)
        port = trap.getsockname()[1]
        raw.call("restore", {"path": f"http://127.0.0.1:{port}/clip.mp4"})
        raw.call("restore", {"path": f"concat:http://127.0.0.1:{port}/clip.mp4"})
        with pytest.raises(TimeoutError):
            trap.accept()


def test_an_upload_is_read_in_its_own_format_alone(raw: Raw, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(SMALL))
    listing = f"ffconcat version 1.0\nfile '{secret}'\n".encode()
    for name in ("list.mp4", "list.png", "list.webp"):
        assert "cannot be read" in raw.call("restore", {"path": raw.upload(name, listing)})


def test_reading_settings_decodes_no_picture(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of some kilobytes can be a picture of a gigabyte."""
    from PIL import Image, ImageFile

    buffers = {}
    for name in ("large.png", "large.webp"):
        buffers[name] = io.BytesIO()
        Image.new("RGB", (400, 400)).save(buffers[name], name[-4:].strip(".").upper())
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: decoded.append(self))
    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile._open", lambda self: decoded.append(self))
    for name, buffer in buffers.items():
        assert isinstance(raw.call("restore", {"path": raw.upload(name, buffer.getvalue())}), Refusal)
    assert decoded == []


def test_a_video_that_claims_many_frames_costs_nothing(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg makes room for as many frames as some kilobytes claim to have, even where it is told the format."""
    files = raw.call("run", BRIEF, session="video")["pair"]["files"]
    video = raw.get(f"/gradio_api/file={files['accelerated']['path']}").body
    place = video.index(b"stsz") + 8  # after version and flags: the size of each frame, and their number
    claimed = video[:place] + (1).to_bytes(4, "big") + (10**7).to_bytes(4, "big") + video[place + 8 :]
    monkeypatch.setattr("av.open", lambda *_, **__: pytest.fail("FFmpeg was asked"))
    restored = raw.call("restore", {"path": raw.upload("video.mp4", claimed)})
    assert restored["prompt"] == SMALL["prompt"] and restored["steps"] == BRIEF["steps"]
    torn = [video[: len(video) * part // 5] for part in range(5)]
    assert all(isinstance(raw.call("restore", {"path": raw.upload("video.mp4", part)}), Refusal) for part in torn)


def test_an_upload_that_is_linked_elsewhere_is_none(served: Served, raw: Raw, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(SMALL))
    link = served.studio.files / "link.json"
    link.symlink_to(secret)
    assert isinstance(raw.call("restore", {"path": str(link)}), Refusal)


def test_uploads_share_a_room_of_limited_size(served: Served, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = raw.upload("first.json", b"." * 1000), raw.upload("second.json", b"-" * 1000)
    monkeypatch.setattr(served.studio._scratch, "_most", 2500)
    third = raw.upload("third.json", b"+" * 1000)
    assert not Path(first).exists() and Path(third).exists()
    form = {"content_type": "multipart/form-data; boundary=x"}
    assert raw.ask("POST", "/gradio_api/upload", b"." * 3000, **form).status == 507
    assert isinstance(raw.call("restore", {"path": second}), Refusal)


def test_what_is_too_large_is_not_received(served: Served, raw: Raw) -> None:
    for path, kind in (("upload", "multipart/form-data; boundary=x"), ("call/cost", "application/json")):
        answer = raw.ask("POST", f"/gradio_api/{path}", b"", content_type=kind, content_length=str(10**10))
        assert answer.status == 413
    chunked = raw.ask("POST", "/gradio_api/upload", b"0\r\n\r\n", transfer_encoding="chunked")
    assert chunked.status == 411
    nested = b'{"data": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"
    assert raw.ask("POST", "/gradio_api/call/cost", nested, content_type="application/json").status == 400


def test_another_name_is_not_answered(raw: Raw) -> None:
    for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", "evil.example@127.0.0.1:1"):
        answer = raw.get("/config", host=name, origin=f"http://{name}")
        assert answer.status == 403 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"])
def test_another_origin_can_use_nothing(raw: Raw, origin: str) -> None:
    for answer in (
        raw.post("/gradio_api/call/cost", {"data": [SMALL]}, origin=origin),
        raw.post("/gradio_api/call/cost", {"data": [SMALL]}, sec_fetch_site="cross-site"),
        raw.ask("OPTIONS", "/gradio_api/call/cost", origin=origin, access_control_request_method="POST"),
        raw.get("/config", origin=origin),
    ):
        assert answer.status == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_its_own_pages_can(raw: Raw) -> None:
    origin = raw.url.rstrip("/")
    answer = raw.post("/gradio_api/call/cost", {"data": [SMALL]}, origin=origin, sec_fetch_site="same-origin")
    assert answer.status == 200
    assert raw.get("/", host=f"localhost:{urlsplit(raw.url).port}").status == 200


def test_nobody_frames_the_page_or_guesses_its_types(raw: Raw) -> None:
    for path in ("/", "/config", "/gradio_api/file=/etc/passwd"):
        headers = raw.get(path).headers
        assert headers["x-frame-options"] == "DENY" and "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_names_are_those_that_were_given() -> None:
    assert Names("127.0.0.1").include("[::1]:7860") and Names("::1").include("localhost")
    assert Names("127.0.0.1", ["gpu.lan"]).include("GPU.lan:7860")
    assert Names("gpu.lan").include("gpu.lan") and not Names("gpu.lan").include("192.168.0.4")
    everywhere = Names("0.0.0.0")  # by any number, which no other site can have; but by no name
    assert everywhere.include("192.168.0.4:7860") and not everywhere.include("gpu.lan")
    shared = Names("127.0.0.1")
    shared.add("https://1234.gradio.live")
    assert shared.include("1234.gradio.live") and not shared.include("1235.gradio.live")


def test_agents_are_not_served_unless_asked_for(raw: Raw) -> None:
    assert raw.get("/gradio_api/mcp/").status == 404


def test_votes_are_not_served_and_tell_nobody(served: Served, raw: Raw) -> None:
    key = raw.call("run", BRIEF, session="voter-12345")["pair"]["key"]
    assert raw.call("vote", key, "same", session="voter-12345")["winner"] == "same"
    assert "already" in raw.call("vote", key, "accelerated", session="voter-12345")
    path = served.studio.folder / "votes.jsonl"
    assert path.exists() and "voter-12345" not in path.read_text()
    assert raw.get(f"/gradio_api/file={path}").status == 403
    assert raw.call("votes", session="somebody else") == []
    assert [vote["pair"] for vote in raw.call("votes", session="voter-12345")] == [key]


def test_clips_are_served(raw: Raw) -> None:
    files = raw.call("run", BRIEF, session="viewer")["pair"]["files"]
    answer = raw.get(f"/gradio_api/file={files['accelerated']['path']}")
    assert answer.status == 200 and answer.headers["content-type"] == "video/mp4"


def test_a_session_belongs_to_the_browser_that_opened_it(served: Served, raw: Raw) -> None:
    mine, theirs = browser(raw), browser(raw)
    key = mine.call("run", BRIEF, session="tab-1")["pair"]["key"]
    assert [run["key"] for run in mine.call("history", session="tab-1")] == [key]
    for stranger in (theirs, raw):
        body = {"data": [], "session_hash": "tab-1"}
        assert stranger.post("/gradio_api/call/history", body).status == 403
        assert stranger.post("/gradio_api/call/cancel", body).status == 403
        assert (
            stranger.post("/gradio_api/cancel", {"session_hash": "tab-1", "fn_index": 0, "event_id": ""}).status == 403
        )
        for path in ("queue/data?session_hash=tab-1", "heartbeat/tab-1", "heartbeat/tab%2d1"):
            assert stranger.get(f"/gradio_api/{path}").status == 403
    assert "no longer in memory" in theirs.call("pair", key, session="tab-2")
    assert "no longer in memory" in theirs.call("vote", key, "same", session="tab-2")


def test_requests_without_an_id_are_nobodys(raw: Raw) -> None:
    raw.call("run", BRIEF)
    assert raw.call("history") == []
    assert raw.call("cancel") == 0


def test_manifests_leave_one_file_however_often_they_are_asked_for(served: Served, raw: Raw) -> None:
    paths = {raw.call("manifest", SMALL, {})["path"] for _ in range(3)}
    assert len(paths) == 1 and len(list(served.studio.files.rglob("manifest.jsonl"))) == 1


PATTERN = "(a+)+$"


def test_patterns_are_no_names(raw: Raw) -> None:
    recipe = {"sampler": {"method": "ModelSwitch", "model": PATTERN}}
    assert "is no name" in raw.call("cost", SMALL | {"recipe": recipe})


@pytest.mark.parametrize("value", [PATTERN, [PATTERN], [[PATTERN, PATTERN]], {PATTERN: PATTERN}], ids=str)
def test_no_parameter_of_any_method_takes_a_pattern(value: Any) -> None:
    """What is text is checked as a name, and nothing else that a visitor sends reaches a method as text."""
    kinds = [kind for lever in LEVERS for kind in Method.registry.get(lever, {}).values()]
    for kind in kinds:
        for parameter in dataclasses.fields(kind):
            recipe = {kind.lever: {"method": kind.__name__, parameter.name: value}}
            with pytest.raises(ValueError):
                StudioSettings.from_dict(SMALL | {"recipe": recipe}).check(Limits(hub=False))


def test_patterns_that_diffusers_would_search_with_are_refused(raw: Raw) -> None:
    settings = {"spatial_attention_block_identifiers": [PATTERN]}
    recipe = {"method": "DiffusersCache", "config": "PyramidAttentionBroadcastConfig", "settings": settings}
    assert "no method of accel any more" in raw.call("cost", SMALL | {"recipe": {"cache": recipe}})


@pytest.mark.parametrize("name", ["gpt2", "someone/something"])
def test_methods_load_nothing_of_the_hub_either(raw: Raw, name: str) -> None:
    recipe = {"sampler": {"method": "ModelSwitch", "model": name}}
    assert "loads no models of the hub" in raw.call("cost", SMALL | {"recipe": recipe})


def test_a_recipe_has_a_size(raw: Raw) -> None:
    table = {"cache": {"method": "MagCache", "ratios": [1.0] * 60_000}}
    assert "larger than" in raw.call("cost", SMALL | {"recipe": table})
    evidence = SMALL["recipe"] | {"evidence": {"note": "x" * 300_000}}
    assert "larger than" in raw.call("cost", SMALL | {"recipe": evidence})
    deep: Any = {"method": "EasyCache"}
    for _ in range(400):
        deep = {"method": "EasyCache", "predictor": deep}
    assert isinstance(raw.call("cost", SMALL | {"recipe": {"cache": deep}}), Refusal)


def test_invented_sessions_fill_no_queue_and_unheard_runs_are_dropped(served: Served, raw: Raw) -> None:
    raw.call("run", SMALL | {"steps": 2})
    other = Raw(raw.url, address="127.0.0.2")
    with served.slowly(0.1):
        for number in range(10):
            raw.order("run", SMALL | {"seed": 100 + number, "steps": 200}, session=f"invented-{number}")
        assert "of your address" in raw.call("run", SMALL, session="invented-more")
        begun = served.calls
        answer = other.call("run", SMALL | {"seed": 300, "steps": 4}, session="honest")
        assert answer["stage"] == "done"
        # Three of the ten were taken, of 400 calls each; those that nobody listens to have ended.
        assert served.at_rest() - begun < 200


def test_predictions_are_made_a_few_at_a_time(served: Served, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction rehearses the recipe, which computes; and others are still answered meanwhile."""
    cost, go, now = served.studio.cost, threading.Event(), threading.Semaphore(0)

    def slow(settings: StudioSettings) -> Any:
        now.release()
        assert go.wait(60.0)
        return cost(settings)

    monkeypatch.setattr(served.studio, "cost", slow)
    events = [raw.order("cost", SMALL, session=f"cost-{number}") for number in range(6)]
    assert now.acquire(timeout=60.0) and now.acquire(timeout=60.0)
    assert "fast" in raw.call("presets")
    assert not now.acquire(timeout=0.2)
    go.set()
    assert all("complete" in raw.get(f"/gradio_api/call/cost/{event}").text for event in events)


def test_who_listens_is_served_to_the_end(served: Served, raw: Raw) -> None:
    with served.slowly(0.1):  # longer than the patience with those who do not
        assert raw.call("run", SMALL | {"seed": 400, "steps": 12}, session="patient")["stage"] == "done"


def test_the_settings_of_a_file_are_bounded_too(raw: Raw) -> None:
    long = json.dumps(SMALL | {"prompt": "x" * 5000}).encode()
    restored = raw.call("restore", {"path": raw.upload("long.json", long)})
    assert isinstance(restored, Refusal)
    assert raw.call("restore", {"path": raw.upload("short.json", json.dumps(SMALL).encode())})["steps"] == 10


def test_everything_that_is_written_is_private(served: Served) -> None:
    assert os.stat(served.studio.folder).st_mode & 0o777 == 0o700
    assert StudioSettings.from_dict(SMALL).check(served.studio.limits).steps == 10
