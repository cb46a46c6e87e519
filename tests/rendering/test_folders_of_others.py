"""Output folders that somebody else made: whatever they hold, nothing outside of them is read, moved or removed."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest

import accel
from accel.rendering.entries import entry_of, is_name, is_part
from accel.rendering.folder import OutputFolder
from accel.rendering.jobs import Shard
from accel.rendering.ledger import RenderLedger
from accel.rendering.machine import machine
from tests.rendering.studio import SMALL, Worded, check_exactly_once, ledger_lines, media_files, worded
from tests.rendering.test_render import render, still


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody else with a file in it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious.png").write_bytes(b"precious")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder in which one job was rendered."""
    render(worded(), [still("one")], tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.part(3)
@pytest.mark.parametrize(
    "name", [".accel", ".accel/parts", ".accel/parts-1-of-2", ".accel/lock.json", ".accel/guard", ".accel/parts/a.part"]
)
def test_links_in_place_of_our_own_files_are_refused(name: str, out: Path, outside: Path, tmp_path: Path) -> None:
    place = out / name
    if place.exists():
        place.rename(tmp_path / "moved")
    place.symlink_to(outside / "precious.png" if place.suffix in (".json", ".part") else outside)
    with pytest.raises(ValueError, match="is a link or no file, and accel makes none there; delete it"):
        render(worded(), [still("one"), still("two")], out)
    assert tree(outside) == {"precious.png": b"precious"}


def test_a_ledger_that_is_a_link_or_a_pipe_is_refused(out: Path, outside: Path) -> None:
    (out / "ledger-1-of-2.jsonl").symlink_to(outside / "new.jsonl")
    with pytest.raises(ValueError, match="is a link or no file"):
        render(worded(), [still("one")], out)
    with pytest.raises(ValueError, match="is no ledger of ours"):
        RenderLedger(out)
    (out / "ledger-1-of-2.jsonl").unlink()
    os.mkfifo(out / "ledger-1-of-2.jsonl")
    with pytest.raises(ValueError, match="is a link or no file"):
        render(worded(), [still("one")], out)
    assert tree(outside) == {"precious.png": b"precious"}


def test_books_that_are_links_are_replaced_and_not_followed(out: Path, outside: Path) -> None:
    for name in ("index.html", "jobs.jsonl"):
        (out / name).unlink()
        (out / name).symlink_to(outside / "precious.png")
    render(worded(), [still("one")], out)
    assert not (out / "index.html").is_symlink() and not (out / "jobs.jsonl").is_symlink()
    assert tree(outside) == {"precious.png": b"precious"}


def forged(out: Path, **changes: Any) -> None:
    """Writes the ledger's last line again, alone, with some fields changed."""
    entry = ledger_lines(out)[-1]
    (out / "ledger.jsonl").write_text(json.dumps(entry | changes) + "\n")


@pytest.mark.part(2)
@pytest.mark.parametrize("file", ["../outside/precious.png", "{outside}/precious.png", "away/precious.png"])
def test_a_line_that_names_a_file_elsewhere_is_not_believed(file: str, out: Path, outside: Path) -> None:
    """Not as done, not in the page, and no part is moved there."""
    (out / "away").symlink_to(outside)
    name = file.format(outside=outside)
    data = b"forged"
    (out / ".accel" / "parts" / "0123-1.part").write_bytes(data)
    forged(out, file=name, part="parts/0123-1.part", sha256=hashlib.sha256(data).hexdigest())
    summary = render(worded(), [still("one")], out)
    assert summary.rendered == 1 and "precious" not in (out / "index.html").read_text()
    assert tree(outside) == {"precious.png": b"precious"}


def test_a_part_elsewhere_is_not_moved_in(out: Path, outside: Path) -> None:
    secret = hashlib.sha256(b"precious").hexdigest()
    for part in ("../../outside/precious.png", str(outside / "precious.png")):
        forged(out, file="mine.png", part=part, sha256=secret)
        render(worded(), [still("one")], out)
        assert not (out / "mine.png").exists() and tree(outside) == {"precious.png": b"precious"}


def test_a_file_that_became_a_link_is_rendered_again_beside_it(out: Path, outside: Path) -> None:
    (name,) = media_files(out)
    (out / name).unlink()
    (out / name).symlink_to(outside / "precious.png")
    assert render(worded(), [still("one")], out).rendered == 1
    assert tree(outside) == {"precious.png": b"precious"} and len(media_files(out)) == 2


GOOD: dict[str, Any] = {"id": "0123456789abcdef", "status": "ok", "file": "a/b.png", "part": "parts/0123-1.part"}

ODD: list[dict[str, Any]] = [
    {"line": [1]},
    {"line": {"prompt": 1}},
    {"line": {"recipe": {"name": []}}},
    {"line": {"arguments": [1]}},
    {"attempt": "abc"},
    {"attempt": True},
    {"attempt": -1},
    {"attempt": 1e300},
    {"id": []},
    {"id": ""},
    {"id": "../a"},
    {"status": []},
    {"status": "done"},
    {"file": None},
    {"file": "/etc/passwd.png"},
    {"file": "//example.com/a.png"},
    {"file": "a/../../b.png"},
    {"file": ".accel/lock.png"},
    {"file": "a\\..\\b.png"},
    {"file": "a\x1b[31m.png"},
    {"file": "ledger.jsonl"},
    {"part": "parts/../../a.part"},
    {"part": "/etc/passwd"},
    {"part": {}},
    {"seconds": {"total": "1"}},
    {"seconds": [1]},
    {"metrics": {"psnr": None}},
    {"error": {"type": {}}},
    {"error": "text"},
    {"notes": [1]},
    {"sha256": 1},
    {"report": []},
    {"time": 3},
    {"versions": {"torch": []}},
    {"from_line": "<b>"},
]


@pytest.mark.parametrize("odd", ODD, ids=map(str, ODD))
def test_a_line_with_a_field_of_another_type_counts_as_torn(odd: dict[str, Any], tmp_path: Path) -> None:
    assert entry_of(json.dumps(GOOD).encode()) == GOOD
    for base in (GOOD, {"id": "0123456789abcdef", "status": "failed"}):
        if base | odd == odd | {"id": "x", "status": "failed"}:
            continue
        (tmp_path / "ledger.jsonl").write_text(json.dumps(base | odd) + "\n")
        assert (RenderLedger(tmp_path).entries, RenderLedger(tmp_path).torn) == ({}, 1)


RAW = {
    "deep": b'{"id": "a", "status": "failed", "report": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    "deeper than ours": b'{"id": "a", "status": "failed", "report": ' + b'{"a":' * 80 + b"1" + b"}" * 81,
    "surrogate": b'{"id": "a", "status": "failed", "line": {"prompt": "\\ud800"}}',
    "digits": b'{"id": "a", "status": "failed", "attempt": ' + b"9" * 5000 + b"}",
    "long": b'{"id": "a", "status": "failed", "device": "' + b"a" * 9_000_000 + b'"}',
    "bytes": b'{"id": "a", "status": "failed", "device": "\xff"}',
}


@pytest.mark.part(3)
@pytest.mark.parametrize("line", RAW.values(), ids=RAW)
def test_lines_that_end_other_readers_count_as_torn(line: bytes, out: Path) -> None:
    with open(out / "ledger.jsonl", "ab") as file:
        file.write(line + b"\n")
    ledger = RenderLedger(out)
    assert (ledger.torn, len(ledger.entries)) == (1, 1)
    summary = render(worded(), [still("one"), still("two")], out)
    assert (summary.before, summary.rendered) == (1, 1) and "1 torn lines" in str(summary)
    check = [entry_of(row) for row in (out / "ledger.jsonl").read_bytes().splitlines()]
    assert sum(entry is not None for entry in check) == 2


def test_names_of_our_own_making_are_believed() -> None:
    names = ["00000-a-corgi-0123abcd.png", "videos/007- -best-/_con.mp4", "日本語-2.webp", "नमस्ते.png", "a b.png"]
    assert all(map(is_name, names)) and is_part("parts-1-of-2/0123456789abcdef-00ff.part")


def test_the_page_leads_nowhere_else(out: Path) -> None:
    forged(out, file="//example.com/a.png")
    render(worded(), [still("one")], out)
    assert "example.com" not in (out / "index.html").read_text()


def test_nothing_tells_where_on_which_machine_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the files nor the books nor a lock that was left: folders are passed on."""
    monkeypatch.setattr(socket, "gethostname", lambda: "host-of-somebody")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    machine.cache_clear()
    out = tmp_path / "home" / "out"

    def call(self: Worded, prompt: Any = None, **options: Any) -> Any:
        if prompt == "unreadable":
            raise OSError(f"{tmp_path}/home/weights cannot be read")
        assert any(b"pid" in data for data in tree(out / ".accel").values()), "the lock is held now"
        check()
        return super(Worded, self).__call__(prompt, **options)

    def check() -> None:
        for name, data in tree(out).items():
            assert b"home" not in data and str(tmp_path).encode() not in data, name
            assert b"host-of-somebody" not in data, name

    monkeypatch.setattr(Worded, "__call__", call)
    render(worded(), [still("one"), still("unreadable"), "a video"], out)
    check()
    machine.cache_clear()


def claim(out: str, number: int, at_once: Any) -> None:
    at_once.wait()
    OutputFolder(Path(out), Shard(number, 8))


def test_shards_that_start_at_once_do_not_stumble_over_each_other(tmp_path: Path) -> None:
    """Three of sixty starts of eight shards failed, when all wrote the same temporary file."""
    context = multiprocessing.get_context("fork")
    at_once = context.Barrier(8)
    shards = [context.Process(target=claim, args=(str(tmp_path), number, at_once)) for number in range(1, 9)]
    for shard in shards:
        shard.start()
    for shard in shards:
        shard.join()
    assert [shard.exitcode for shard in shards] == [0] * 8
    own = {path.name for path in (tmp_path / ".accel").iterdir()}
    assert own == {"folder.json"} | {f"parts-{number}-of-8" for number in range(1, 9)}


def test_a_folder_that_another_shard_has_begun_meanwhile_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the looks at the mark and at the books, the other shard writes both."""
    looked = Path.is_file

    def is_file(path: Path) -> bool:
        found = looked(path)
        if path.name == "folder.json" and not found:
            monkeypatch.setattr(Path, "is_file", looked)
            accel.render(worded(), [still("one", repeat=4)], tmp_path, defaults=SMALL, shard="1/2", progress_bar=False)
        return found

    monkeypatch.setattr(Path, "is_file", is_file)
    accel.render(worded(), [still("one", repeat=4)], tmp_path, defaults=SMALL, shard="2/2", progress_bar=False)
    check_exactly_once(tmp_path, 4)
