"""Nothing stays behind: not at the end, not after a kill, and not beyond the quota."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the app needs gradio")

from accel.app.scratch import PREFIX, Scratch, clear_dead
from tests.app.raw import Raw, eventually
from tests.ports import free_port

APP = """
import sys
from accel.app.serve import serve
serve(int(sys.argv[1]), model="pocket:few", quiet=True)
"""
CRASH = """
import os, sys
from accel.app.scratch import Scratch
scratch = Scratch(1)
(scratch.clips / "clip.mp4").write_bytes(b"video")
print(scratch.folder, flush=True)
os._exit(9)
"""


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


def test_what_a_killed_process_left_goes_at_the_next_start(temporary: Path) -> None:
    told = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, check=False)
    left = Path(told.stdout.strip())
    assert told.returncode == 9 and (left / "files" / "clips" / "clip.mp4").exists()
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


@pytest.mark.part(1)
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_an_app_that_is_ended_leaves_nothing(temporary: Path, ending: signal.Signals) -> None:
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    app = subprocess.Popen([sys.executable, "-c", APP, str(port)], **quiet)
    raw = Raw(f"http://127.0.0.1:{port}/")
    try:
        assert eventually(lambda: app.poll() is not None or _answers(raw)) and app.poll() is None
        uploaded = Path(raw.upload("mine.json", b"{}"))
        assert uploaded.exists() and any(uploaded.is_relative_to(path) for path in temporary.glob(f"{PREFIX}*"))
        app.send_signal(ending)
        app.wait(300)
    finally:
        app.kill()
    assert [path for path in temporary.rglob("*") if path.is_file() or path.name.startswith(PREFIX)] == []


def _answers(raw: Raw) -> bool:
    try:
        return raw.get("/gradio_api/startup-events").status == 200
    except (OSError, HTTPException):  # nobody listens yet, or it was its own port that it reached
        return False
