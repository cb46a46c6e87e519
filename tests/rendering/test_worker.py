from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel.rendering import finishing
from accel.rendering import worker as worker_module
from accel.rendering.jobs import Job, JobGroup
from accel.rendering.outcome import WorkerSettings
from accel.rendering.worker_loop import Event, work_loop
from accel.rendering.writer import Writer
from accel.text_cache import Answers, TextCache
from tests.rendering.studio import Worded, check_exactly_once, ledger_lines, worded
from tests.rendering.test_render import pixels, render, still


def test_a_file_is_written_while_the_next_job_is_denoised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer of a job's file waits until the next call of the pipeline has begun; if both took turns, it would wait
    in vain.
    """
    begun = {"one": threading.Event(), "two": threading.Event()}
    original, encode = Worded.__call__, finishing.encode
    waited: dict[str, bool] = {}

    def call(self: Worded, prompt: Any = None, **options: Any) -> Any:
        begun[prompt].set()
        return original(self, prompt, **options)

    def slow(job: Any, clip: Any, **options: Any) -> Any:
        if job.prompt == "one":
            waited["one"] = begun["two"].wait(timeout=60)
        return encode(job, clip, **options)

    monkeypatch.setattr(Worded, "__call__", call)
    monkeypatch.setattr(finishing, "encode", slow)
    render(worded(), ["one", "two"], tmp_path)
    assert waited == {"one": True}


def test_a_slow_disk_bounds_the_memory_of_what_waits() -> None:
    gate, writer, done = threading.Event(), Writer(waiting=1), []
    writer.put(gate.wait)

    def feed() -> None:
        for number in range(5):
            writer.put(lambda number=number: done.append(number))  # type: ignore[misc]

    feeder = threading.Thread(target=feed)
    feeder.start()
    feeder.join(timeout=0.2)
    assert feeder.is_alive(), "the one who puts must wait"
    gate.set()
    feeder.join(timeout=60)
    writer.close()
    assert done == [0, 1, 2, 3, 4]


def test_an_error_of_the_writer_reaches_the_one_who_waits() -> None:
    writer = Writer()
    writer.put(lambda: [][1])
    with pytest.raises(IndexError):
        writer.close()


@pytest.mark.part(2)
@pytest.mark.parametrize(("overlap", "kind"), [(False, "output"), (True, "output"), (True, "broken")])
def test_an_error_of_the_last_piece_is_told_while_a_worker_waits_for_another(
    overlap: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would send another one before the last has ended."""

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(finishing, "write_synced", full)
    monkeypatch.setattr(worker_module, "device_answers", lambda device: False)
    piece = JobGroup((Job("tiny", "poison" if kind == "broken" else "one", width=16, height=16, frames=1, steps=2),))
    told, pieces, heard = threading.Event(), iter([piece]), []

    def receive() -> JobGroup | None:
        piece = next(pieces, None)
        assert piece is not None or told.wait(60), "it would wait for ever"
        return piece

    def send(event: Event) -> None:
        heard.append(event.kind)
        if event.kind == kind:
            told.set()

    work_loop(WorkerSettings(tmp_path, overlap=overlap), receive, send, load=lambda model, **_: worded())
    assert kind in heard


def test_batches_agree_with_single_jobs_up_to_rounding(tmp_path: Path) -> None:
    lines = [still(f"prompt {number}", seed=number, negative_prompt=f"no {number}") for number in range(5)]
    render(worded(), lines, tmp_path / "single")
    pipe = worded()
    render(pipe, lines, tmp_path / "batch", batch=2)
    assert [len(call) for call in pipe.calls if isinstance(call, list)] == [2, 2] and len(pipe.calls) == 3
    check_exactly_once(tmp_path / "batch", 5)
    singles = {entry["id"]: entry for entry in ledger_lines(tmp_path / "single")}
    for entry in ledger_lines(tmp_path / "batch"):
        one = pixels(tmp_path / "single" / singles[entry["id"]]["file"]).astype(int)
        assert np.abs(pixels(tmp_path / "batch" / entry["file"]) - one).max() <= 1


def test_of_a_batch_only_the_poisoned_job_fails(tmp_path: Path) -> None:
    summary = render(worded(), ["one", "two", "poison", "three"], tmp_path, batch=4)
    assert (summary.rendered, summary.failed) == (3, 1)
    assert [entry["line"]["prompt"] for entry in ledger_lines(tmp_path) if entry["status"] == "failed"] == ["poison"]


class Tight(Worded):
    """A pipeline on a device with memory for so many jobs, or for one with a decoder in tiles."""

    room = 1
    tiles_fit = True

    def __call__(self, prompt: Any = None, **options: Any) -> Any:
        count = len(prompt) if isinstance(prompt, list) else 1
        if count > self.room and not (count == 1 and self.tiles_fit and self.vae.use_tiling):
            self.calls.append(f"{count} too many")
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().__call__(prompt=prompt, **options)


def tight(**limits: Any) -> Tight:
    pipe = Tight(**worded().components)
    vars(pipe).update(calls=[], encoded=[], **limits)
    return pipe


def test_too_little_memory_halves_the_batch(tmp_path: Path) -> None:
    pipe = tight(room=2)
    assert render(pipe, [still("a", repeat=6)], tmp_path, batch=6).rendered == 6
    assert pipe.calls[:2] == ["6 too many", "3 too many"] and "4 too many" not in pipe.calls
    check_exactly_once(tmp_path, 6)


def test_then_it_decodes_in_tiles_and_says_so(tmp_path: Path) -> None:
    pipe = tight(room=0)
    assert render(pipe, [still("a", repeat=2)], tmp_path).rendered == 2
    assert pipe.calls.count("1 too many") == 1, "the second job begins in tiles"
    assert all("decoded in tiles" in entry["notes"][0] for entry in ledger_lines(tmp_path))
    assert not pipe.vae.use_tiling


def test_then_it_is_the_failure_of_the_job(tmp_path: Path) -> None:
    pipe = tight(room=0, tiles_fit=False)
    summary = render(pipe, ["a", "b"], tmp_path)
    assert summary.failed == 2
    assert ledger_lines(tmp_path)[0]["error"]["type"] == "OutOfMemoryError"


def test_a_device_that_broke_leaves_the_jobs_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "device_answers", lambda device: False)
    summary = render(worded(), ["one", "poison", "two"], tmp_path)
    assert (summary.rendered, summary.failed, summary.left) == (1, 0, 2)
    assert "the device broke down during the job of line 2" in str(summary)


def test_an_output_that_is_no_picture_fails_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Worded.__call__

    def broken(self: Worded, prompt: Any = None, **options: Any) -> Any:
        output = original(self, prompt, **options)
        if prompt == "nan":
            output.frames[:] = np.nan
        return output

    monkeypatch.setattr(Worded, "__call__", broken)
    summary = render(worded(), ["one", "nan", "two"], tmp_path)
    assert (summary.rendered, summary.failed) == (2, 1)
    assert "NaN" in str(summary)


def test_the_memo_answers_with_copies_and_only_what_is_certain() -> None:
    pipe = worded()
    before = set(vars(pipe))
    guidance = [1.0]
    memo = TextCache(pipe, context=lambda: guidance[0])
    first, _ = pipe.encode_prompt("a", negative_prompt="b")
    first.zero_()
    again, negative = pipe.encode_prompt("a", negative_prompt="b")
    assert again.abs().sum() > 0 and pipe.encoded == ["a", "b"]
    pipe.encode_prompt("b")
    assert pipe.encoded == ["a", "b", ""], "below encode_prompt, a text is known whatever it was for"
    pipe.encode_prompt("a", negative_prompt="b", prompt_embeds=torch.zeros(1))
    guidance[0] = 3.0
    pipe.encode_prompt("a", negative_prompt="b")
    assert torch.equal(again, pipe.encode_prompt("a", negative_prompt="b")[0])
    assert pipe.encoded == ["a", "b", "", "a", "b"]
    memo.detach()
    assert set(vars(pipe)) == before
    assert torch.equal(worded().encode_prompt("a", negative_prompt="b")[1], negative)


def test_the_memo_keeps_nothing_that_was_drawn_and_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(self: Worded, prompt: Any) -> torch.Tensor:
        self.encoded.append(prompt)
        return torch.randn(2)

    pipe = worded()
    small = TextCache(pipe, Answers(most_bytes=900))
    for text in ("a", "b", "c", "a"):
        pipe._get_word_prompt_embeds(prompt=text)  # 384 bytes each: two fit
    assert pipe.encoded == ["a", "b", "c", "a"]
    pipe._get_word_prompt_embeds(prompt="c")
    assert pipe.encoded == ["a", "b", "c", "a"]
    small.detach()

    monkeypatch.setattr(Worded, "_get_word_prompt_embeds", drawn)
    pipe = worded()
    memo = TextCache(pipe)
    assert not torch.equal(pipe._get_word_prompt_embeds(prompt="a"), pipe._get_word_prompt_embeds(prompt="a"))
    memo.detach()


def test_pictures_to_start_from_reach_the_pipeline(tmp_path: Path) -> None:
    from PIL import Image

    from tests.tiny import TINY

    class FromPicture(type(TINY["flux_img2img"].build())):  # type: ignore[misc]
        """Flux from picture to picture, whose prompt becomes embeddings without a text encoder."""

        def encode_prompt(self, prompt: Any = None, **_: Any) -> Any:
            words = torch.Generator().manual_seed(len(prompt))
            shape = (1, 8, 24)
            return torch.randn(shape, generator=words), torch.randn(1, 16, generator=words), torch.zeros(8, 3)

    pipe = FromPicture(**TINY["flux_img2img"].build().components)
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (128, 128), colour).save(tmp_path / f"{name}.png")
    lines = [{"prompt": "a", "image": str(tmp_path / f"{name}.png"), "size": 128} for name in ("red", "blue")]
    settings = {"steps": 2, "arguments": {"strength": 0.5}}
    summary = accel.render(pipe, lines, tmp_path / "out", overrides=settings, progress_bar=False)
    assert summary.complete, str(summary)
    first, second = ledger_lines(tmp_path / "out")
    assert first["line"]["image"] == "red.png", "where it lies is not told"
    red, blue = (pixels(tmp_path / "out" / entry["file"]).astype(int) for entry in (first, second))
    assert red.shape == (128, 128, 3) and np.abs(red - blue).mean() > 0.5
