"""Manifests that nobody wrote by hand: one sentence with the number of the line, whatever stands in it."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from accel.rendering import ManifestError, plan_for
from accel.rendering.manifest import MOST_JOBS, parse_settings
from tests.rendering.test_manifest import FEW, rows, written

DEEP = '{"a":' * 5000 + "1" + "}" * 5000
LESS_DEEP = '{"a":' * 70 + "1" + "}" * 70
MANY = "9" * 400

BAD = {
    f'{{"prompt": "a", "arguments": {DEEP}}}': "it is nested more than 64 levels deep.",
    f'{{"prompt": "a", "arguments": {LESS_DEEP}}}': "it is nested more than 64 levels deep.",
    f'{{"prompt": "a", "seed": {MANY}}}': "it holds a number of 400 digits; 40 is the limit.",
    f'{{"prompt": "a", "guidance": {"9" * 5000}}}': "it holds a number of 5000 digits; 40 is the limit.",
    '{"prompt": "a", "guidance": 1e999}': "guidance must be a number, not inf.",
    '{"prompt": "a", "arguments": {"strength": NaN}}': "arguments holds nan, which is no number.",
    '{"prompt": "a", "arguments": {"x": [{"y": -Infinity}]}}': "arguments holds -inf, which is no number.",
    '{"prompt": "a", "arguments": {"x": "\\ud800"}}': "arguments holds half of a surrogate pair",
    '{"prompt": "a", "arguments": {"\\ud800": 1}}': "arguments holds half of a surrogate pair",
    '{"prompt": "a", "size": 65537}': "size must be at most 65536 pixels wide and high, not 65537.",
    f'{{"prompt": "a", "size": "{MANY}x{MANY}"}}': 'size must be like 512 or "832x480"',
    '{"prompt": "a", "image": "~nouser/a.png"}': "image: Could not determine home directory.",
    f'{{"prompt": "a", "image": "{"a" * 3000}"}}': "image: there is no file",
    f'{{"prompt": "a", "model": "{"a" * 5000}"}}': "model must have at most 4096 characters, not 5000.",
    f'{{"prompt": "a", "model": "./{"a" * 3000}"}}': "model: there is no folder",
    '{"prompt": "a", "model": ["x"]}': "model must be text, not ['x'].",
    '{"prompt": "a", "fps": 1e-300}': "fps must be from 0.01 to 1000, not 1e-300.",
    '{"prompt": "a", "fps": 1e300}': "fps must be from 0.01 to 1000",
    '{"prompt": "a", "output": "{index:999999999d}"}': "fields take a plain format such as",
    '{"prompt": "a", "output": "{guidance:.999999999f}"}': "fields take a plain format such as",
    '{"prompt": "a", "output": "{seed:c}", "seed": 99999999999}': "fields take a plain format such as",
    '{"prompt": "a", "output": "{}{0}"}': "is not known",
    '{"prompt": "a", "recipe": {"name": ["x"]}}': "recipe: name must be a text of at most 200 characters, not ['x'].",
    f'{{"prompt": "a", "recipe": {{"name": "{"a" * 300}"}}}}': "recipe: name must be a text of at most 200 characters",
    '{"prompt": "a", "recipe": {"cache": {"method": "\\ud800"}}}': "recipe holds half of a surrogate pair",
    '{"prompt": "a", "grid": {"steps": [[]]}}': "steps must be a whole number",
    '{"prompt": "a", "grid": 3}': "grid must be an object",
    f'["{"a" * 5000}"]': 'a job is an object such as {"prompt": "a corgi"}, not [',
    '{"defaults": {"size": 99999999}}': "defaults: size must be at most 65536 pixels",
}


@pytest.mark.parametrize(("line", "sentence"), BAD.items(), ids=[line[:60] for line in BAD])
def test_each_is_one_short_sentence_with_its_number(line: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as found:
        plan_for(FEW, written(tmp_path, f'{{"prompt": "good"}}\n{line}\n'))
    assert {problem.line for problem in found.value.problems} == {2}
    assert sentence in str(found.value) and len(str(found.value)) < 1500
    str(found.value).encode()


def test_a_line_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="line 1: a line has at most 4194304 characters, not 5000014"):
        plan_for(FEW, written(tmp_path, '{"prompt": "' + "a" * 5_000_000 + '"}\n'))
    with pytest.raises(ManifestError, match="line 1: prompt must have at most 131072 characters, not 200000"):
        plan_for(FEW, [{"prompt": "a" * 200_000}])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "prompt\ngood\n" + "a" * 140_000 + "\n",
            "line 3: a cell has more than 131072 characters; a closing quote may",
        ),
        ('prompt\ngood\n"open\n' + "more\n" * 40_000, "line 3: a cell has more than 131072 characters"),
        (f"prompt,arguments\na,{DEEP}\n", "line 2: it is nested more than 64 levels deep."),
        (f"prompt,seed\na,{MANY}\n", "line 2: it holds a number of 400 digits"),
        (f"prompt,{'b' * 100_000}\na,1\n", "line 1: the column 'bbb"),
    ],
)
def test_tables(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as found:
        plan_for(FEW, written(tmp_path, text, "manifest.csv"))
    assert sentence in str(found.value) and len(str(found.value)) < 1500


def test_data_of_a_script_is_held_to_the_same() -> None:
    given: list[Any] = [
        {"prompt": "a", "arguments": {"x": object()}},
        {"prompt": "a", "arguments": {"x": {1: 2}}},
        {"prompt": "a", "guidance": 10**5000},
        {"prompt": "a", "recipe": {"cache": {"method": 10**5000}}},
        {"prompt": "a", "recipe": {"cache": object()}},
        {10**50: "a"},
    ]
    with pytest.raises(ManifestError) as found:
        plan_for(FEW, given)
    assert [problem.line for problem in found.value.problems] == [1, 2, 3, 4, 5, 6, 6]
    for wrong in (f"steps={MANY}", f"arguments={DEEP}"):
        with pytest.raises(ValueError, match=r"digits|levels deep"):
            parse_settings([wrong])


def test_repeats_count_among_the_jobs(tmp_path: Path) -> None:
    lines = [{"prompt": f"{number}", "repeat": 100_000} for number in range(20)]
    start = time.process_time()
    with pytest.raises(ManifestError, match=f"line 1: this makes more than {MOST_JOBS} jobs, repeats counted"):
        plan_for(FEW, [{"prompt": "a", "repeat": 100_000, "grid": {"steps": list(range(1, 1000))}}])
    assert time.process_time() - start < 10
    with pytest.raises(ManifestError, match="line 11: this makes more than"):
        plan_for(FEW, lines)


@pytest.mark.parametrize("name", ["pipe.jsonl", "folder.jsonl"])
def test_what_is_no_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ValueError, match="cannot be read"):
        plan_for(FEW, tmp_path / name)


def test_a_playlist_as_a_video_opens_nothing_else(tmp_path: Path) -> None:
    """FFmpeg would call the address, or read the file, that a playlist names."""
    (tmp_path / "a.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(ManifestError, match=r"a.mp4' (is broken|cannot be read)"):
        plan_for(FEW, written(tmp_path, rows({"prompt": "a", "video": "a.mp4"})))


def test_a_picture_starts_no_other_program(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ManifestError, match=r"a.png' cannot be read as a picture"):
        plan_for(FEW, written(tmp_path, rows({"prompt": "a", "image": "a.png"})))


@pytest.mark.parametrize("count", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_hundred_thousand_lines_are_checked_in_seconds(count: int, tmp_path: Path) -> None:
    """In less than ten on an idle core, and 300 MB; of as many bad ones twenty are shown."""
    prompts = [{"prompt": f"a red circle number {number}", "seed": number, "steps": 4} for number in range(count)]
    path = written(tmp_path, rows(*prompts))
    before, start = _megabytes(), time.process_time()
    plan = plan_for(FEW, path)
    seconds = time.process_time() - start
    assert len(plan.jobs) == count and seconds < 40 * count / 100_000, "a machine four times slower may run this"
    assert _megabytes() - before < 300 * count / 100_000 + 20
    bad = "".join(json.dumps(line | {"stepz": 1}) + "\n" for line in prompts)
    with pytest.raises(ManifestError) as found:
        plan_for(FEW, written(tmp_path, bad))
    told = str(found.value).split("\n")
    assert (
        told[0].startswith(f"{count} things are wrong") and len(told) == 22 and told[-1] == f"  and {count - 20} more."
    )


def _megabytes() -> float:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
