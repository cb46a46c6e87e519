"""Two jobs at once, a stage apart: what overlaps, what never does, and that nobody can tell from the files."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel

import accel
from accel.rendering import RenderInterrupted, RenderSummary
from accel.rendering.jobs import Job
from accel.rendering.lanes import Lanes
from accel.rendering.stages import OverlapError, Place, Stages
from tests.accel.residue import traces
from tests.rendering.studio import Worded, check_exactly_once, direct, ledger_lines, worded
from tests.rendering.test_render import pixels, render, still
from tests.tiny.case import as_tensor, call_of
from tests.tiny.zoo import ZOO

SECONDS = 60  # for what happens at once if it happens at all


def overlapped(pipe: Any, manifest: Any, out: Path, **options: Any) -> RenderSummary:
    return render(pipe, manifest, out, overlap=True, **options)


def prompts(folder: Path) -> list[str]:
    """In the order in which they were told of."""
    return [entry["line"]["prompt"] for entry in ledger_lines(folder)]


def contents(folder: Path) -> dict[str, str]:
    return {entry["id"]: entry["sha256"] for entry in ledger_lines(folder)}


def in_turn(folder: Path) -> list[str]:
    return [entry.get("in_turn", "") for entry in ledger_lines(folder)]


class Watch:
    """Counts who is in the denoiser and who in the decoder, and can make either wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most: dict[str, int] = {}
        self._now: dict[str, set[int]] = {"denoiser": set(), "decoder": set()}
        self.begun: dict[str, threading.Event] = {}
        self.before_decoding: Callable[[str], object] = lambda prompt: None
        self.before_denoising: Callable[[str], object] = lambda prompt: None
        self._prompts = threading.local()
        called = Worded.__call__

        def call(pipe: Worded, prompt: Any = None, **options: Any) -> Any:
            self._prompts.value = prompt
            return called(pipe, prompt, **options)

        monkeypatch.setattr(Worded, "__call__", call)
        self._surround(monkeypatch, WanTransformer3DModel, "forward", "denoiser")
        self._surround(monkeypatch, AutoencoderKLWan, "decode", "decoder")

    def event(self, name: str) -> threading.Event:
        return self.begun.setdefault(name, threading.Event())

    def _surround(self, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, part: str) -> None:
        inner = getattr(kind, name)

        def around(module: Any, *args: Any, **kwargs: Any) -> Any:
            prompt = getattr(self._prompts, "value", "")
            self._now[part].add(threading.get_ident())
            self.most[part] = max(self.most.get(part, 0), len(self._now[part]))
            try:
                self.event(f"{part} {prompt}").set()
                (self.before_decoding if part == "decoder" else self.before_denoising)(prompt)
                return inner(module, *args, **kwargs)
            finally:
                self._now[part].discard(threading.get_ident())

        monkeypatch.setattr(kind, name, around)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_a_job_is_decoded_while_the_next_is_denoised(watch: Watch, tmp_path: Path) -> None:
    """The first decoder waits until the second job denoises; in the plain order it would wait in vain."""
    met = []

    def wait(prompt: str) -> None:
        if prompt == "one":
            met.append(watch.event("denoiser two").wait(SECONDS))

    watch.before_decoding = wait
    summary = overlapped(worded(), ["one", "two", "three"], tmp_path)
    assert met == [True] and summary.complete and not summary.notes
    assert prompts(tmp_path) == ["one", "two", "three"]


def test_denoiser_and_decoder_serve_one_job_at_a_time(watch: Watch, tmp_path: Path) -> None:
    """Also where the decoder is the slower one, so that the next job stands in front of it."""
    ahead = []

    def wait(prompt: str) -> None:
        if prompt == "one":
            watch.event("denoiser two").wait(SECONDS)
            ahead.append(watch.event("denoiser three").wait(0.1) or watch.event("decoder two").wait(0.1))

    watch.before_decoding = wait
    overlapped(worded(), ["one", "two", "three", "four"], tmp_path)
    assert ahead == [False], "one job in front of the decoder, and one in it, at most"
    assert watch.most == {"denoiser": 1, "decoder": 1}


MIXED = [
    {"prompt": f"prompt {number % 3}", "seed": number, "frames": (1, 5)[number % 2], "steps": 2 + number % 2, **more}
    for number, more in enumerate(
        [{}, {"recipe": {"cache": {"method": "FixedInterval"}}}, {"size": 32}, {"recipe": "fast"}, {"recipe": "off"}]
    )
]


def test_a_mixed_manifest_has_the_bytes_and_the_order_of_the_plain_loop(tmp_path: Path) -> None:
    render(worded(), MIXED, tmp_path / "plain")
    assert overlapped(worded(), MIXED, tmp_path / "overlap").complete
    assert contents(tmp_path / "overlap") == contents(tmp_path / "plain")
    assert list(contents(tmp_path / "overlap")) == list(contents(tmp_path / "plain"))
    assert set(in_turn(tmp_path / "overlap")) == {""}
    check_exactly_once(tmp_path / "overlap", len(MIXED))


def test_pixels_are_those_of_plain_calls(tmp_path: Path) -> None:
    overlapped(worded(), [still("one", repeat=2), still("two", seed=7)], tmp_path)
    for entry in ledger_lines(tmp_path):
        line = entry["line"]
        expected = direct(worded(), line["prompt"], line["seed"], num_frames=1)[0]
        np.testing.assert_array_equal(pixels(tmp_path / entry["file"]), expected)


def test_pipeline_session_threads_and_random_numbers_are_as_they_were(tmp_path: Path) -> None:
    pipe = worded()
    session = accel.accelerate(pipe, cache=accel.FixedInterval(2))
    threads, numbers = torch.get_num_threads(), torch.get_rng_state()
    overlapped(pipe, MIXED[:4], tmp_path)
    assert session.pipe is pipe and torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), numbers)
    accel.restore(pipe)
    assert traces(pipe) == []
    assert not [name for name in ("decode", "encode", "forward") if name in vars(pipe.vae) | vars(pipe.transformer)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("accel-lane")]


def test_texts_are_encoded_once_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, embed = [], Worded._get_word_prompt_embeds

    def counted(pipe: Worded, prompt: Any) -> torch.Tensor:
        encoded.append(prompt)
        return embed(pipe, prompt)

    monkeypatch.setattr(Worded, "_get_word_prompt_embeds", counted)
    overlapped(worded(), [{"prompt": "one", "repeat": 4}, "two"], tmp_path)
    assert sorted(encoded) == [[""], ["one"], ["two"]]


# Failures


@pytest.mark.part(1)
@pytest.mark.parametrize("stage", ["before", "denoiser", "decoder"])
def test_a_job_that_fails_fails_alone_and_in_its_place(stage: str, watch: Watch, tmp_path: Path) -> None:
    def fail(prompt: str) -> None:
        if prompt == "bad":
            raise RuntimeError("it does not want to")

    if stage != "before":
        setattr(watch, "before_denoising" if stage == "denoiser" else "before_decoding", fail)
    bad = "poison" if stage == "before" else "bad"
    summary = overlapped(worded(), ["one", bad, "two", "three"], tmp_path)
    assert (summary.rendered, summary.failed) == (3, 1)
    assert prompts(tmp_path) == ["one", bad, "two", "three"]
    render(worded(), ["one", "two", "three"], tmp_path / "plain")
    assert contents(tmp_path / "plain").items() <= contents_of_good(tmp_path).items()


def contents_of_good(folder: Path) -> dict[str, str]:
    return {entry["id"]: entry["sha256"] for entry in ledger_lines(folder) if entry["status"] == "ok"}


def test_what_fails_beside_another_job_is_tried_alone(watch: Watch, tmp_path: Path) -> None:
    """Memory, for one, may suffice for one and not for two. From then on there is one at a time."""
    tried = []

    def fail(prompt: str) -> None:
        tried.append(prompt)
        if tried == ["one"]:
            watch.event("denoiser two").wait(SECONDS)
            raise torch.OutOfMemoryError("out of memory")

    watch.before_decoding = fail
    summary = overlapped(worded(), ["one", "two", "three"], tmp_path)
    assert summary.complete and prompts(tmp_path) == ["one", "two", "three"]
    assert summary.notes == ("jobs are rendered one after the other: memory did not suffice for two.",)
    check_exactly_once(tmp_path, 3)


def test_ctrl_c_finishes_the_jobs_at_hand(watch: Watch, tmp_path: Path) -> None:
    def interrupt(prompt: str) -> None:
        if prompt == "two":
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            watch.before_denoising = lambda prompt: None

    watch.before_denoising = interrupt
    handler = signal.getsignal(signal.SIGINT)
    lines = ["one", "two", "three", "four"]
    with pytest.raises(RenderInterrupted, match=r"2 of 4 jobs are in .* run the same command again"):
        overlapped(worded(), lines, tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler and prompts(tmp_path) == ["one", "two"]
    assert overlapped(worded(), lines, tmp_path).before == 2
    check_exactly_once(tmp_path, 4)


def test_ctrl_c_twice_stops_at_once_in_both(watch: Watch, tmp_path: Path) -> None:
    pipe, lines, ended = worded(), ["one", "two", "three"], threading.Event()

    def wait(prompt: str) -> None:
        if prompt == "one":
            while not ended.wait(0.01):  # a slow decoder, in Python
                pass

    def interrupt(prompt: str) -> None:
        if prompt == "two":
            for _ in range(2):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                ended.wait(0.2)
            while not ended.wait(0.01):
                pass

    watch.before_decoding, watch.before_denoising = wait, interrupt
    try:
        with pytest.raises(RenderInterrupted, match=r"0 of 3 jobs"):
            overlapped(pipe, lines, tmp_path)
    finally:
        ended.set()
    assert traces(pipe) == [] and ledger_lines(tmp_path) == []
    watch.before_decoding = watch.before_denoising = lambda prompt: None
    assert overlapped(pipe, lines, tmp_path).complete
    check_exactly_once(tmp_path, 3)


# Where it is not safe


class Picky(Worded):
    """A pipeline with a habit that two jobs at once would trip over."""

    habit = ""

    def __call__(self, prompt: Any = None, **options: Any) -> Any:
        before = self.transformer.blocks[0].__dict__.get("mood")
        if self.habit == "changes":
            self.transformer.blocks[0].mood = prompt
        output = super().__call__(prompt=prompt, **options)
        if self.habit == "changes":
            assert self.transformer.blocks[0].mood == prompt
            self.transformer.blocks[0].mood = before
        if self.habit == "draws":
            output.frames[:] = torch.rand(()).item()
        if self.habit == "returns":
            output = super().__call__(prompt=f"{prompt} again", **options)
        return output


def picky(habit: str) -> Picky:
    pipe = Picky(**worded().components)
    vars(pipe).update(calls=[], encoded=[], habit=habit)
    return pipe


@pytest.mark.part(1)
@pytest.mark.parametrize(
    ("habit", "why"),
    [
        ("changes", "the pipeline changes its model until the end of a call"),
        ("draws", "the pipeline draws from torch's global generator"),
        ("returns", "the pipeline denoises again after it has decoded"),
    ],
)
def test_habits_that_jobs_would_trip_over_are_noticed_and_cost_no_byte(habit: str, why: str, tmp_path: Path) -> None:
    lines = [still(f"prompt {number}", seed=number) for number in range(4)]
    render(picky(habit), lines, tmp_path / "plain")
    summary = overlapped(picky(habit), lines, tmp_path / "overlap")
    assert contents(tmp_path / "overlap") == contents(tmp_path / "plain")
    assert summary.notes == (f"jobs are rendered one after the other: {why}.",)
    assert in_turn(tmp_path / "overlap")[1:] == [why] * 3


@contextmanager
def autocast(_: Any) -> Iterator[None]:
    with torch.autocast("cpu"):
        yield


@contextmanager
def compiled(pipe: Any) -> Iterator[None]:
    pipe.transformer.compile(backend="eager")
    yield


@contextmanager
def offloaded(pipe: Any) -> Iterator[None]:
    from accelerate import cpu_offload_with_hook

    cpu_offload_with_hook(pipe.transformer, torch.device("cpu"))
    yield


@contextmanager
def undecoded(pipe: Any) -> Iterator[None]:
    vars(pipe.vae)["decode"] = None
    yield


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (autocast, "it was called under a mode of torch"),
        (compiled, "the transformer is compiled"),
        (offloaded, "the transformer is offloaded"),
        (undecoded, "the pipeline has no decoder that is known"),
    ],
)
def test_a_pipeline_that_cannot_says_why(state: Any, why: str) -> None:
    from accel.rendering.beside import why_in_turn

    pipe = worded()
    with state(pipe):
        assert why in why_in_turn(pipe)
    assert why_in_turn(worded()) == ""


def test_jobs_that_are_no_plain_call_are_alone(tmp_path: Path) -> None:
    summary = overlapped(worded(), [still("one"), still("two")], tmp_path / "metrics", metrics=True)
    assert summary.complete and "each is rendered twice" in str(summary)
    lines = [still("one"), still("one", draft=True, steps=4), still("two")]
    render(worded(), lines, tmp_path / "plain")
    assert overlapped(worded(), lines, tmp_path / "overlap").complete
    assert contents(tmp_path / "overlap") == contents(tmp_path / "plain")


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ZOO)
def test_two_calls_of_any_pipeline_a_stage_apart_give_what_each_gives_alone(name: str) -> None:
    pipe, made = ZOO[name].build(), {}

    def call(pipe: Any, number: int, place: Place) -> torch.Tensor:
        given = call_of(pipe, ZOO[name], number, 4, prompt=number)
        given |= {"output_type": "np"} if "output_type" in given else {}
        with place, place.seeded(number, torch.device("cpu")):
            return as_tensor(pipe(**given))

    def work(lane: Any, number: int, turn: Any) -> None:
        try:
            made[number] = call(lane.pipe, number, turn.place(alone=False))
        except OverlapError:
            made[number] = call(lane.pipe, number, turn.place(alone=True))

    try:
        expected = [call(pipe, number, Place()) for number in range(3)]
    except Exception as error:  # the zoo is made for latents
        pytest.skip(f"it cannot decode when it is so small: {error}")
    if not torch.equal(call(pipe, 0, Place()), expected[0]):
        pytest.skip("it never gives the same twice, or no numbers")
    lanes = Lanes(pipe, overlap=True)
    try:
        for number in range(3):
            lane = lanes.lane_for(Job("", recipe={}))
            lanes.begin(lane, partial(work, lane, number))
        lanes.drain()
    finally:
        lanes.close()
    assert all(torch.equal(made[number], one) for number, one in enumerate(expected))
    assert torch.equal(call(pipe, 1, Place()), expected[1])


def test_an_autoencoder_does_not_encode_while_it_decodes(watch: Watch, tmp_path: Path) -> None:
    """Wan's keeps what it is at in itself."""
    pipe, order = worded(), []
    stages, decoding = Stages(pipe.components), threading.Event()
    latents = torch.zeros(1, pipe.vae.config.z_dim, 1, 2, 2)
    clip = torch.zeros(1, 3, 1, 16, 16)

    def wait(_: str) -> None:
        decoding.set()
        encoding.wait(0.2)
        order.append("decoded")

    encoding = threading.Event()
    watch.before_decoding = wait

    @torch.no_grad()
    def first() -> None:
        with Place(stages, alone=False) as place, place.seeded(0, torch.device("cpu")):
            pipe.vae.decode(latents)

    @torch.no_grad()
    def second() -> None:
        decoding.wait(SECONDS)
        with Place(stages, alone=False) as place, place.seeded(1, torch.device("cpu")):
            pipe.vae.encode(clip)
            encoding.set()
            order.append("encoded")

    threads = [threading.Thread(target=act) for act in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    stages.close()
    assert order == ["decoded", "encoded"]
