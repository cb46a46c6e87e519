"""Nothing stays behind: not at the end, not after a kill, and not beyond the quota."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the app needs gradio")

from accel.app.scratch import PREFIX, Scratch, clear_dead
from accel.app.serve import serve
from tests.app.raw import Raw, eventually
from tests.ports import free_port
from tests.processes import needs_fork


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The machine's folder for temporary files, as if it were only ours."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    yield tmp_path


def test_it_is_private_and_goes_with_its_owner(temporary: Path) -> None:
    scratch = Scratch(10)
    (scratch.clips / "clip.mp4").write_bytes(b"video")
    assert scratch.folder.parent == temporary and scratch.folder.stat().st_mode & 0o777 == 0o700
    scratch.close()
    assert list(temporary.iterdir()) == []


def crash() -> None:
    scratch = Scratch(1)
    (scratch.clips / "clip.mp4").write_bytes(b"video")
    os._exit(9)


@needs_fork
def test_what_a_killed_process_left_goes_at_the_next_start(temporary: Path) -> None:
    killed = multiprocessing.get_context("fork").Process(target=crash)
    killed.start()
    killed.join()
    (left,) = temporary.glob(f"{PREFIX}*")
    assert killed.exitcode == 9 and (left / "files" / "clips" / "clip.mp4").exists()
    alive, scratch = Scratch(1), Scratch(1)
    assert not left.exists() and alive.folder.exists()
    alive.close()
    scratch.close()


def test_nothing_else_is_taken_for_one(temporary: Path) -> None:
    outside = temporary / "mine"
    outside.mkdir()
    (outside / "file").touch()
    (temporary / f"{PREFIX}link").symlink_to(outside)
    (temporary / f"{PREFIX}young").mkdir()  # whose process has not come to lock it yet
    (temporary / f"{PREFIX}file").touch()
    clear_dead()
    assert (outside / "file").exists()
    assert {path.name for path in temporary.iterdir()} == {
        "mine",
        *(f"{PREFIX}{name}" for name in ("link", "young", "file")),
    }


def test_old_uploads_make_room_and_clips_stay(temporary: Path) -> None:
    scratch = Scratch(100)
    (scratch.clips / "clip.mp4").write_bytes(b"." * 500)
    for number in range(4):
        (scratch.files / str(number)).mkdir()
        path = scratch.files / str(number) / "upload.png"
        path.write_bytes(b"." * 30)
        os.utime(path, (number, number))
    assert scratch.make_room(50)
    left = sorted(path.parent.name for path in scratch.files.rglob("upload.png"))
    assert left == ["3"] and (scratch.clips / "clip.mp4").exists()
    assert not scratch.make_room(101)
    scratch.close()


def open_app(port: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell has put into the background
    serve(port, model="pocket:few", quiet=True)


@needs_fork
@pytest.mark.part(1)
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_app_that_is_ended_leaves_nothing(temporary: Path, ending: signal.Signals) -> None:
    port = free_port()
    app = multiprocessing.get_context("fork").Process(target=open_app, args=(port,))
    app.start()
    raw = Raw(f"http://127.0.0.1:{port}/")
    try:
        assert eventually(lambda: not app.is_alive() or _answers(raw)) and app.is_alive()
        uploaded = Path(raw.upload("mine.json", b"{}"))
        assert uploaded.exists() and any(uploaded.is_relative_to(path) for path in temporary.glob(f"{PREFIX}*"))
        os.kill(app.pid, ending)
        app.join(300)
    finally:
        app.kill()
    assert [path for path in temporary.rglob("*") if path.is_file() or path.name.startswith(PREFIX)] == []


def _answers(raw: Raw) -> bool:
    try:
        return raw.get("/gradio_api/startup-events").status == 200
    except (OSError, HTTPException):  # nobody listens yet, or it was its own port that it reached
        return False
