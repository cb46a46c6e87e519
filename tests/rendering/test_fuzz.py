"""Manifests, ledgers, recipes and settings that nobody would write: each is used, or refused in one sentence.

Dozens of inputs of each here, ten thousand with `--slow`. None may end in another error, take long, change what
comes out, or touch anything outside of the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import accel
from accel.method import Method
from accel.recipe import LEVERS
from accel.rendering import ManifestError, plan_for, settings_of
from accel.rendering.engine import DriverCallbacks
from accel.rendering.entries import FIELDS as ENTRY_FIELDS
from accel.rendering.entries import is_name
from accel.rendering.fields import FIELDS
from accel.rendering.filenames import file_stem
from accel.rendering.finishing import write_synced
from accel.rendering.jobs import JobGroup
from accel.rendering.ledger import RenderLedger
from accel.rendering.manifest import parse_settings
from accel.rendering.outcome import JobOutcome, WorkerSettings

MODEL = "pocket:few"
SECONDS = 5.0
"""For one input; on an idle core they take milliseconds."""

COUNTS = pytest.mark.parametrize("count", [15, pytest.param(10_000, marks=pytest.mark.slow)])

# Hypothesis takes a second to find the characters of some categories among all that there are.
ODD_CHARACTERS = "\ud800\udfff\0\t\n\r\x1b\x7f\x85\xad\u200b\u200d\u202e\ufeffAZÀΩЖ!\"#%&'*,./:;?@\\¿§…‼"
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(ODD_CHARACTERS, max_size=8),
    st.sampled_from(["", "~nouser/a", "../../outside/precious.png", "/etc/passwd", "a\0b", "\x1b[2J", "off", "fast"]),
    st.sampled_from(["{index:09999d}", "{", "{seed:c}", "{0}", "{slug}/{id}", "con", "a" * 5000, "x.json", MODEL]),
)
NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**63 - 1, 2**63, 10**39, 10**41, 10**400, -(10**400)]),
    st.floats(),
    st.sampled_from([1e308, 5e-324, math.nan, math.inf]),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


VALUES = st.one_of(PLAIN, st.integers(0, 90).map(nested))


def mostly(usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any], times: int = 6) -> st.SearchStrategy[Any]:
    """One in `times` is of the other kind; `|` would count every alternative inside of the two."""
    return st.integers(1, times).flatmap(lambda number: usual if number < times else rare)


def try_all(count: int, strategy: st.SearchStrategy[Any], body: Callable[[Any], None]) -> None:
    """Runs `body` on so many inputs, always the same ones."""

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(strategy)
    def run(value: Any) -> None:
        start = time.process_time()
        body(value)
        assert time.process_time() - start < SECONDS

    run()


def refused(error: Exception) -> None:
    """One sentence with what to do, which any terminal shows; and not an error of Python's own that happens to be a
    ValueError, such as one of a codec.
    """
    assert type(error) in (ValueError, ManifestError), repr(error)
    assert len(str(error)) < 20_000
    str(error).encode()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What lies beside the folder at hand, and must be as it was afterwards."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious.png").write_bytes(b"precious")
    yield folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"precious.png": b"precious"}
    assert {path.name for path in tmp_path.iterdir()} <= {"outside", "in"}


@pytest.fixture
def place(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder at hand. What is imported at first is, before anybody looks at the clock."""
    plan_for(MODEL, ["a corgi"])
    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.text(min_size=1, max_size=30).map(lambda text: text.replace("\0", " ")),
    "negative_prompt": st.text("".join(map(chr, range(32, 128))), max_size=10),
    "seed": st.integers(0, 2**62),
    "repeat": st.integers(1, 3),
    "steps": st.integers(1, 50),
    "size": st.sampled_from([64, "64x32", [32, 64]]),
    "frames": st.integers(1, 17),
    "guidance": st.floats(0, 20),
    "recipe": st.sampled_from(["off", "fast", {"cache": {"method": "FixedInterval"}}, {"name": "a/../b"}]),
    "output": st.sampled_from(
        ["{index}", "../{slug}"[3:], "{model}\\{slug}: <{seed:05d}>", "o0.mp4", "con", "x/{id}/."]
    ),
    "format": st.sampled_from(["png", "webp", "mp4"]),
    "fps": st.floats(0.01, 1000),
    "arguments": st.sampled_from([{}, {"max_sequence_length": 16}, {"num_videos_per_prompt": 1}]),
    "grid": st.fixed_dictionaries({}, optional={"steps": st.just([1, 2]), "seed": st.just([0, 2**40])}),
}
"""Values that a field may have."""


def lines() -> st.SearchStrategy[str]:
    """Lines that are right, or nearly: one or two fields are wrong, or new; and some that are anything."""
    chosen = st.lists(st.sampled_from(sorted(RIGHT)), max_size=3, unique=True)
    right = chosen.flatmap(lambda names: st.fixed_dictionaries({name: RIGHT[name] for name in ("prompt", *names)}))
    names = st.sampled_from([*FIELDS, "grid", "defaults", "arguments.strength"]) | TEXTS
    odd = st.dictionaries(names, VALUES | st.dictionaries(names, st.lists(VALUES, max_size=2), max_size=2), max_size=1)
    nearly = st.tuples(right, odd).map(lambda pair: pair[0] | pair[1])
    defaults = nearly.map(lambda fields: {"defaults": fields})
    whole = mostly(mostly(right, nearly, 2), defaults)
    return mostly(whole.map(json.dumps), mostly(VALUES.map(json.dumps), TEXTS, 2))


def check_plan(manifest: Any) -> None:
    """Refused, or jobs whose expanded manifest gives the same jobs again, under names inside of the folder."""
    try:
        plan = plan_for(MODEL, manifest)
    except ValueError as error:
        refused(error)
        return
    assert len({job.id for job in plan.jobs}) == len(plan.jobs) > 0
    for job in plan.jobs[:20]:
        assert is_name(f"{file_stem(job)}.png"), job.output
    again = plan_for(None, [json.loads(line) for line in plan.to_jsonl().split("\n")[:-1]][:20])
    assert [job.id for job in again.jobs] == [job.id for job in plan.jobs[:20]]


@COUNTS
def test_manifests(count: int, place: Path) -> None:
    path = place / "manifest.jsonl"

    def check(rows: Sequence[str]) -> None:
        path.write_bytes("\n".join(rows).encode(errors="replace"))
        check_plan(path)

    try_all(count, st.lists(lines(), min_size=1, max_size=3), check)


@COUNTS
def test_tables(count: int, place: Path) -> None:
    path = place / "manifest.csv"
    names = st.lists(st.sampled_from([*FIELDS, "arguments.strength"]), min_size=1, max_size=3, unique=True)
    cells = st.lists(st.one_of(TEXTS, VALUES.map(json.dumps), st.sampled_from(['"', "\r", ",", "\n"])), max_size=4)

    def check(given: tuple[list[str], list[list[str]], bool]) -> None:
        head, rows, quoted = given
        told = [["prompt", *head], *(["a corgi", *row] for row in rows)]
        shown = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' if quoted else cell for cell in row] for row in told]
        path.write_bytes("\n".join(",".join(row) for row in shown).encode(errors="replace"))
        check_plan(path)

    try_all(count, st.tuples(names, st.lists(cells, max_size=3), st.booleans()), check)


@COUNTS
def test_files_as_manifests(count: int, place: Path) -> None:
    """Pictures with settings inside, or what is left of them."""
    path = place / "picture.png"

    def check(given: tuple[str, int]) -> None:
        text, cut = given
        info = PngInfo()
        info.add_itxt("accel", text.encode(errors="replace").decode())
        Image.new("RGB", (4, 4)).save(path, pnginfo=info)
        path.write_bytes(path.read_bytes()[: -cut or None])
        try:
            assert isinstance(settings_of(path), dict)
        except ValueError as error:
            refused(error)
            return
        check_plan(path)

    whole = lines().map(lambda line: f'{{"line": {line}}}')
    try_all(count, st.tuples(whole | lines(), st.just(0) | st.integers(0, 60)), check)


@COUNTS
def test_settings_of_the_command_line(count: int, place: Path) -> None:
    names = st.sampled_from([*FIELDS, "arguments.strength", "arguments."]) | TEXTS
    values = TEXTS | VALUES.map(json.dumps)

    def check(given: tuple[str, str, bool]) -> None:
        name, value, several = given
        try:
            found = parse_settings([f"{name}={value}"], several=several)
            plan_for(MODEL, ["a corgi"], **{"grid" if several else "overrides": found})
        except ValueError as error:
            refused(error)

    try_all(count, st.tuples(names, values, st.booleans()), check)


def recipes() -> st.SearchStrategy[Any]:
    """Methods that there are, with one wrong parameter; and others."""

    plausible = st.integers(0, 12) | st.floats(0, 1) | st.lists(st.floats(0, 1), max_size=4)

    def of(kind: type[Method]) -> st.SearchStrategy[Any]:
        own = st.sampled_from([*kind.__dataclass_fields__, "threshold"])
        parameters = st.dictionaries(mostly(own, TEXTS), mostly(plausible, VALUES, 3), max_size=1)
        return parameters.map(lambda found: {"method": kind.__name__} | found)

    levers = [lever for lever in LEVERS if Method.registry.get(lever)]
    kinds = {lever: [of(kind) for kind in Method.registry[lever].values()] for lever in levers}
    made = st.fixed_dictionaries({}, optional={lever: st.one_of(*found) for lever, found in kinds.items()})
    odd = st.dictionaries(st.sampled_from(["name", "evidence", "schema", *LEVERS]) | TEXTS, VALUES, max_size=1)
    nearly = st.tuples(made, odd).map(lambda pair: pair[0] | pair[1])
    return mostly(mostly(made, nearly, 3), VALUES)


@COUNTS
def test_recipes(count: int, place: Path) -> None:
    path = place / "recipe.json"

    def check(data: Any) -> None:
        path.write_text(json.dumps(data))
        try:
            recipe = accel.Recipe.load(path)
        except ValueError as error:
            refused(error)
            return
        recipe.save(path)
        assert accel.Recipe.load(path) == recipe
        assert isinstance(recipe.label, str)
        check_plan([{"prompt": "a corgi", "recipe": data}])

    try_all(count, recipes(), check)


class Scribe:
    """An engine that writes a job's name in place of its picture."""

    def run(self, groups: Sequence[JobGroup], settings: WorkerSettings, desk: DriverCallbacks) -> None:
        for job in (job for group in groups for job in group.open):
            data, part = _content(job.id), f"{job.id}-{secrets.token_hex(4)}.part"
            write_synced(settings.parts / part, data)
            sha256 = hashlib.sha256(data).hexdigest()
            desk.commit(JobOutcome(job.id, "ok", part=part, suffix=".png", bytes=len(data), sha256=sha256))


def _content(job_id: str) -> bytes:
    return f"the picture of {job_id}".encode()


def write(out: Path) -> Any:
    return accel.render(MODEL, ["one", "two"], out, engine=Scribe(), progress_bar=False)


@COUNTS
def test_ledgers(count: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in a ledger, the next run ends with all files, of the right content, and the one after it has nothing
    to do.
    """
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # this machine does not lose its power meanwhile
    write(place / "whole")
    rows = (place / "whole" / "ledger.jsonl").read_text().splitlines()
    (place / "template").mkdir()
    shutil.copytree(place / "whole" / ".accel", place / "template" / ".accel")
    own = [name for name in ENTRY_FIELDS if name not in ("id", "status")]
    entries = [json.loads(row) for row in rows]
    files = [entry["file"] for entry in entries]
    names = st.sampled_from([*own, "id", "status"]) | TEXTS
    values = VALUES | st.sampled_from(
        [*files, "../outside/precious.png", "parts/x.part", "ok", "failed", entries[0]["id"]]
    )
    changed = st.dictionaries(names, values, max_size=2)
    forged = st.tuples(st.sampled_from(entries), changed).map(lambda pair: json.dumps(pair[0] | pair[1]))
    torn = st.sampled_from(rows).map(lambda row: row[:40])
    line = mostly(forged, mostly(mostly(torn, VALUES.map(json.dumps), 2), TEXTS, 3))
    out = place / "out"

    def check(given: tuple[list[str], list[str]]) -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(place / "template", out)
        for name, found in zip(("ledger.jsonl", "ledger-1-of-2.jsonl"), given, strict=True):
            (out / name).write_bytes("\n".join(found).encode(errors="replace"))
        assert write(out).complete
        again = write(out)
        assert (again.before, again.rendered) == (2, 0)
        ledger = RenderLedger(out)
        for entry in entries:
            kept = ledger.entries[entry["id"]]
            assert is_name(kept.file) and (out / kept.file).read_bytes() == _content(entry["id"])
        links = re.findall(r'(?:href|src)="([^"]*)"', (out / "index.html").read_text())
        assert all(link == "jobs.jsonl" or is_name(unquote(link)) for link in links)

    try_all(count, st.tuples(st.lists(line, max_size=3), st.lists(line, max_size=1)), check)
