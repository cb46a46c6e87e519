"""Files that people keep and pass on: written whole, read within bounds."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

import accel
from accel.caching import Calibration
from accel.files import last_name, lines_of, open_file, read_json, replace_file, write_whole
from accel.recipe import MOST_BYTES, MOST_VALUES


def test_what_fails_on_the_way_changes_nothing(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "file", "first")

    class Failure(Exception):
        pass

    with pytest.raises(Failure), replace_file(tmp_path / "a" / "file") as file:
        file.write("second")
        raise Failure
    assert {path.name: path.read_text() for path in (tmp_path / "a").iterdir()} == {"file": "first"}


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content first, then the name, then the folder's list of names."""
    order: list[str] = []
    sync, rename = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        order.append("folder" if Path(f"/proc/self/fd/{handle}").resolve().is_dir() else "content")
        sync(handle)

    def replace(path: Path, target: Path) -> Path:
        order.append("name")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_whole(tmp_path / "file", "text")
    assert order == ["content", "name", "folder"]


def test_many_may_write_one_file_at_once(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                write_whole(tmp_path / "file", str(number) * 10_000)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = (tmp_path / "file").read_text()
    assert errors == [] and text == text[0] * 10_000
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_links_are_replaced_or_refused_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError):
        open_file(tmp_path / "link", "ab")
    write_whole(tmp_path / "link", "ours")
    assert (tmp_path / "precious").read_text() == "precious" and (tmp_path / "link").read_text() == "ours"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 100_000, "it is nested more than 64 levels deep"),
        ("[" * 80 + "]" * 80, "it is nested more than 64 levels deep"),
        ("1" * 5000, "it holds a number of 5000 digits; 40 is the limit"),
        ("{", "is not JSON: Expecting property name enclosed in double quotes in line 1, column 2"),
        (" " * 2000, "it is larger than"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_json(tmp_path / "file.json", "test", dict, 1000 if text.isspace() else 10**6)


@pytest.mark.parametrize("kind", [accel.Recipe, Calibration])
def test_what_is_no_file_is_not_waited_for(kind: type[accel.Recipe], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, Path("a\0b")):
        with pytest.raises(ValueError, match=r"cannot be read|There is no"):
            kind.load(path)


def test_recipes_have_a_size(tmp_path: Path) -> None:
    cases = {
        json.dumps({"evidence": {"text": "a" * MOST_BYTES}}): "it is larger than 4 MiB",
        json.dumps({"evidence": {"numbers": [0] * MOST_VALUES}}): f"holds more than {MOST_VALUES} values",
        json.dumps({"cache": {"method": "StaticSchedule", "steps": [0] * MOST_VALUES}}): "holds more than",
        json.dumps({"name": "a" * 1000}): "name must be a text of at most 200 characters",
        '{"evidence": {"text": "\\ud800"}}': "half of a surrogate pair",
    }
    for text, sentence in cases.items():
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(ValueError, match=sentence) as found:
            accel.Recipe.load(tmp_path / "recipe.json")
        assert len(str(found.value)) < 500


def test_a_folder_has_no_lines(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        lines_of(tmp_path)


def test_folders_of_this_machine_are_nobodys_business() -> None:
    told = {"/home/me/wan": "wan", "~/wan/": "wan", "C:\\models\\wan": "wan", "\\\\server\\wan": "wan"}
    kept = ["Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "pocket:video", "models/wan", "./wan", ""]
    assert {path: last_name(path) for path in told} == told
    assert [last_name(name) for name in kept] == kept
