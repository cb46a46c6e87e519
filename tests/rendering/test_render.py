from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import accel
from accel.rendering import Busy, OutputError, RenderInterrupted, RenderSummary, finishing, settings_of
from accel.rendering import folder as folder_module
from accel.rendering import ledger as ledger_module
from accel.rendering.lock import lock_folder
from tests.accel.residue import traces
from tests.rendering.studio import SMALL, Worded, check_exactly_once, direct, ledger_lines, media_files, worded


def render(pipe: Any, manifest: Any, out: Path, **options: Any) -> RenderSummary:
    """`accel.render` of small jobs, without a progress bar."""
    return accel.render(pipe, manifest, out, defaults=SMALL, progress_bar=False, **options)


def still(prompt: str, **more: Any) -> dict[str, Any]:
    """A line that becomes a PNG, whose pixels can be compared."""
    return {"prompt": prompt, "frames": 1, **more}


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


def test_a_batch_is_what_single_calls_give_bit_for_bit(tmp_path: Path) -> None:
    pipe = worded()
    summary = render(pipe, [still("one", repeat=2), still("two", seed=7)], tmp_path)
    assert (summary.total, summary.rendered, summary.complete) == (3, 3, True)
    check_exactly_once(tmp_path, 3)
    for entry in ledger_lines(tmp_path):
        line = entry["line"]
        expected = direct(worded(), line["prompt"], line["seed"], num_frames=1)[0]
        np.testing.assert_array_equal(pixels(tmp_path / entry["file"]), expected)


def test_the_ledger_says_what_happened(tmp_path: Path) -> None:
    render(worded(), [still("one"), still("poison")], tmp_path, recipe=accel.Recipe(cache=accel.FixedInterval(2)))
    good, bad = ledger_lines(tmp_path)
    assert good["status"] == "ok" and good["file"].endswith(".png") and good["attempt"] == 1
    assert {"before", "denoise", "after", "total", "load", "write"} == set(good["seconds"])
    assert good["report"]["levers"][0]["lever"] == "cache" and good["report"]["steps"] == 2
    assert (good["width"], good["height"], good["frames"]) == (16, 16, 1)
    assert (
        {"torch", "diffusers", "accel", "python"} <= set(good["versions"])
        and good["machine"]
        and good["device"] == "cpu"
    )
    assert bad["status"] == "failed" and bad["from_line"] == 2
    assert bad["error"] == {"type": "RuntimeError", "message": "the prompt is poisoned"}


def test_sizes_that_the_pipeline_changed_are_told(tmp_path: Path) -> None:
    summary = render(worded(), [{"prompt": "one", "frames": 7}], tmp_path)
    assert "note: line 1: The pipeline made 5 frames, not 7." in str(summary)
    assert ledger_lines(tmp_path)[-1]["changes"] == ["The pipeline made 5 frames, not 7."]


def test_a_second_run_renders_nothing_and_more_lines_only_themselves(tmp_path: Path) -> None:
    pipe = worded()
    render(pipe, ["one", "two"], tmp_path)
    again = render(pipe, ["one", "two"], tmp_path)
    assert (again.before, again.rendered, len(pipe.calls)) == (2, 0, 2)
    more = render(pipe, ["three", "one"], tmp_path)
    assert (more.before, more.rendered, pipe.calls) == (1, 1, ["one", "two", "three"])
    check_exactly_once(tmp_path, 3)
    (tmp_path / media_files(tmp_path)[0]).unlink()
    assert render(pipe, ["one", "two", "three"], tmp_path).rendered == 1, "a file that is gone is rendered again"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda data: b"garbage",
    "cut off": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "as many zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_is_not_what_was_rendered_is_kept_and_named_until_it_is_deleted(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    pipe, lines = worded(), [still("one"), still("two")]
    render(pipe, lines, tmp_path)
    file = tmp_path / media_files(tmp_path)[0]
    whole = file.read_bytes()
    later(file)
    assert "damaged" not in str(render(pipe, lines, tmp_path)), "the time of a file alone says nothing"

    file.write_bytes(damage(whole))
    later(file)
    again = render(pipe, lines, tmp_path)
    assert (again.before, again.rendered, file.read_bytes()) == (2, 0, damage(whole))
    told = f"note: {file.name}: changed or damaged since rendered, and kept as found; delete what is to be rendered"
    assert told in str(again)

    file.unlink()
    assert render(pipe, lines, tmp_path).rendered == 1 and file.read_bytes() == whole
    assert "damaged" not in str(render(pipe, lines, tmp_path))


def later(file: Path) -> None:
    """As if it was written a minute from now: some clocks of files are coarse."""
    os.utime(file, (time.time() + 60,) * 2)


def test_a_ledger_that_says_little_is_believed(tmp_path: Path) -> None:
    render(worded(), [still("one")], tmp_path)
    entry = ledger_lines(tmp_path)[0]
    for without in ({"bytes", "sha256"}, {"time"}, {"bytes", "sha256", "time"}):
        line = {name: value for name, value in entry.items() if name not in without}
        (tmp_path / "ledger.jsonl").write_text(json.dumps(line | ({} if "time" in without else {"time": "noon"})))
        again = render(worded(), [still("one")], tmp_path)
        assert again.before == 1 and again.notes == ()


def test_a_poisoned_line_fails_alone_and_is_tried_again_on_request_only(tmp_path: Path) -> None:
    pipe = worded()
    first = render(pipe, ["one", "poison", "two"], tmp_path)
    assert (first.rendered, first.failed, first.left) == (2, 1, 0) and not first.complete
    assert "line 2: RuntimeError: the prompt is poisoned" in str(first) and "--retry-failed" in str(first)
    second = render(pipe, ["one", "poison", "two"], tmp_path)
    assert (second.before, second.given_up, len(pipe.calls)) == (2, 1, 3)
    third = render(pipe, ["one", "poison", "two"], tmp_path, retry_failed=True)
    assert (third.failed, len(pipe.calls)) == (1, 4)
    assert [entry["attempt"] for entry in ledger_lines(tmp_path) if entry["status"] == "failed"] == [1, 2]


def test_shards_fill_one_folder_together(tmp_path: Path) -> None:
    lines = [{"prompt": "one", "repeat": 9}]
    counts = [render(worded(), lines, tmp_path, shard=f"{number}/3").rendered for number in (1, 2, 3)]
    assert sum(counts) == 9
    check_exactly_once(tmp_path, 9)
    assert render(worded(), lines, tmp_path).before == 9


def test_settings_come_back_from_files_and_render_the_same(tmp_path: Path) -> None:
    pipe = worded()
    line = still("ein Käfer 🐞", negative_prompt="blur", seed=4, recipe={"cache": {"method": "FixedInterval"}})
    render(pipe, [line], tmp_path / "first")
    file = tmp_path / "first" / media_files(tmp_path / "first")[0]
    assert settings_of(file)["recipe"]["cache"]["method"] == "FixedInterval"
    accel.render(pipe, file, tmp_path / "second", progress_bar=False)
    again = tmp_path / "second" / media_files(tmp_path / "second")[0]
    assert file.read_bytes() == again.read_bytes()
    jobs = (tmp_path / "first" / "jobs.jsonl").read_text()
    accel.render(pipe, [json.loads(jobs)], tmp_path / "third", progress_bar=False)
    assert media_files(tmp_path / "third") == media_files(tmp_path / "first")


def test_the_pipeline_comes_back_as_it_was(tmp_path: Path) -> None:
    pipe = worded()
    before = direct(pipe, "one")
    render(pipe, [still("one", recipe="fast"), still("two", recipe="off"), "poison"], tmp_path / "a")
    assert traces(pipe) == [] and type(pipe) is Worded
    np.testing.assert_array_equal(direct(pipe, "one"), before)

    session = accel.accelerate(pipe, cache=accel.FixedInterval(2))
    render(pipe, [still("one")], tmp_path / "b")
    assert session.pipe is pipe, "lines without a recipe render with the session that is there"
    assert ledger_lines(tmp_path / "b")[0]["report"]["recipe"] == session.recipe.label
    render(pipe, [still("one", recipe="off")], tmp_path / "b")
    assert len(media_files(tmp_path / "b")) == 2
    np.testing.assert_array_equal(direct(pipe, "one"), direct(pipe, "one"))
    accel.restore(pipe)
    np.testing.assert_array_equal(direct(pipe, "one"), before)


def test_a_text_is_encoded_once(tmp_path: Path) -> None:
    pipe = worded()
    render(pipe, [{"prompt": "one", "repeat": 3}, "two", {"prompt": "one", "steps": 3, "seed": 9}], tmp_path)
    assert len(pipe.calls) == 5
    assert sorted(pipe.encoded) == ["", "one", "two"]


def test_metrics_hold_a_job_against_itself_unaccelerated(tmp_path: Path) -> None:
    recipe = {"cache": {"method": "FixedInterval", "interval": 4}}
    render(worded(), [still("one", steps=16, recipe=recipe), still("one", recipe="off")], tmp_path, metrics=True)
    by_recipe = {str(entry["line"]["recipe"]): entry["metrics"] for entry in ledger_lines(tmp_path)}
    assert by_recipe.pop("off")["psnr"] >= 100
    (accelerated,) = by_recipe.values()
    assert 0 < accelerated["psnr"] < 100 and 0 < accelerated["ssim"] <= 1


def test_two_renders_at_once_are_refused(tmp_path: Path) -> None:
    pipe = worded()
    render(pipe, ["one"], tmp_path)
    with lock_folder(tmp_path / ".accel", None), pytest.raises(Busy, match="is rendering into"):
        render(pipe, ["two"], tmp_path)
    assert pipe.calls == ["one"]


def test_ctrl_c_finishes_the_job_at_hand_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    pipe = worded()
    original = Worded.__call__

    def interrupted(self: Worded, prompt: Any = None, **options: Any) -> Any:
        if prompt == "two":
            signal.raise_signal(signal.SIGINT)
        return original(self, prompt, **options)

    monkeypatch.setattr(Worded, "__call__", interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(RenderInterrupted, match=r"2 of 4 jobs are in .* run the same command again") as found:
        render(pipe, ["one", "two", "three", "four"], tmp_path)
    assert (found.value.summary.rendered, found.value.summary.left) == (2, 2)
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.setattr(Worded, "__call__", original)
    assert render(pipe, ["one", "two", "three", "four"], tmp_path).before == 2
    check_exactly_once(tmp_path, 4)


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.part(1)
@pytest.mark.parametrize(
    ("module", "name"), [(finishing, "write_synced"), (ledger_module.os, "fsync"), (folder_module.os, "link")]
)
def test_a_full_disk_stops_the_render_and_nothing_is_lost(
    module: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"prompt": "one", "repeat": 6}]
    render(worded(), lines[:1], tmp_path, overrides={"repeat": 2})
    with monkeypatch.context() as patched:
        patched.setattr(module, name, full)
        if name == "link":
            patched.setattr(os, "rename", full)
        with pytest.raises(OutputError, match="is full; free some space and run the same command again"):
            render(worded(), lines, tmp_path)
    assert render(worded(), lines, tmp_path).complete
    check_exactly_once(tmp_path, 6)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    pipe = worded()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; choose a folder"):
        render(pipe, ["one"], tmp_path / "file")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", closed)
        with pytest.raises(OutputError, match=r"cannot be written \(read-only file system\); choose another folder"):
            render(pipe, ["one"], tmp_path / "new")
    assert pipe.calls == []


@pytest.mark.part(1)
@pytest.mark.parametrize("suffix", [".png", ".PNG", ""])
def test_an_output_name_may_have_the_suffix_of_its_file(suffix: str, tmp_path: Path) -> None:
    render(worded(), [still("one", output=f"a/o0{suffix}"), {"prompt": "one", "output": "o1.mp4"}], tmp_path)
    assert media_files(tmp_path) == ["a/o0.png", "o1.mp4"]


def test_files_of_others_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "one.png").write_text("not ours")
    render(worded(), [still("one"), still("one", seed=1)], tmp_path / "ours", output="{slug}")
    assert (tmp_path / "ours" / "one.png").read_text() == "not ours"
    assert sorted(entry["file"] for entry in ledger_lines(tmp_path / "ours")) == ["one-2.png", "one-3.png"]

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "jobs.jsonl").write_text("not ours")
    with pytest.raises(ValueError, match=r"holds jobs.jsonl of somebody else"):
        render(worded(), ["one"], tmp_path / "theirs")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["jobs.jsonl"]


def test_nothing_is_written_outside_of_the_folder(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    outside.mkdir()
    hostile = ["../outside/a", "/etc/passwd", "a/../../outside", "..\\..\\b", "con\0"[:3], "‮"]
    render(worded(), [still(text) for text in hostile], out, output="{slug}/{slug}-{id:.8}")
    check_exactly_once(out, len(hostile))
    (out / "away").symlink_to(outside)
    with pytest.raises(OutputError, match="is outside of"):
        render(worded(), [still("one")], out, output="away/{slug}")
    assert list(outside.iterdir()) == []


def test_what_is_wrong_is_told_before_anything_runs_or_is_written(tmp_path: Path) -> None:
    pipe = worded()
    with pytest.raises(ValueError, match=r"2 things are wrong with the list; nothing was rendered"):
        render(pipe, ["one", {"prompt": "a", "stepz": 1}, {"prompt": "a", "arguments": {"nothing": 1}}], tmp_path / "a")
    with pytest.raises(ValueError, match="batch must be a whole number"):
        render(pipe, ["one"], tmp_path / "a", batch=0)
    with pytest.raises(ValueError, match="asks for the model 'other', but a pipeline was given"):
        render(pipe, [{"prompt": "one", "model": "other"}], tmp_path / "a")
    assert pipe.calls == [] and not (tmp_path / "a").exists()


def test_a_model_that_cannot_be_loaded_leaves_its_jobs_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model: str, **_: Any) -> Any:
        if model == "far/away":
            raise ValueError("'far/away' cannot be loaded (no network).")
        return worded()

    monkeypatch.setattr("accel.loading.load_pipeline", load)
    lines = [{"prompt": "one", "model": "far/away"}, {"prompt": "two", "model": "near/by"}]
    summary = render(None, lines, tmp_path)
    assert (summary.rendered, summary.left, summary.failed) == (1, 1, 0)
    assert "the model 'far/away' cannot be loaded" in str(summary) and "go on with the open jobs" in str(summary)
    monkeypatch.setattr("accel.loading.load_pipeline", lambda model, **_: worded())
    assert render(None, lines, tmp_path).complete


def test_the_page_shows_every_file_and_failure_and_escapes_prompts(tmp_path: Path) -> None:
    summary = render(worded(), [still("<script>alert(1)</script>"), still("poison & co"), "a video"], tmp_path)
    assert summary.page == tmp_path / "index.html"
    page = summary.page.read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script>alert(1)" not in page
    assert "poison &amp; co" in page and "the prompt is poisoned" in page
    assert page.count("<video ") == 1 and page.count("<img ") == 1
    assert all(name in page for name in media_files(tmp_path))
