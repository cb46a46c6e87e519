"""How variants are measured against each other: interleaved, in one process, on the same prompts and
seeds.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from accel.api import accelerate
from accel.measure.clip_store import ClipStore, OutputStore
from accel.measure.energy import EnergyMeter
from accel.measure.metrics import Clip, flicker
from accel.measure.output import Metric, PipelineOutput, fidelity, output_of
from accel.measure.perceptual import lpips_metric
from accel.measure.steadiness import BLOCK, thumbnail, warping_error
from accel.patch import undo_later
from accel.recipe import Recipe
from accel.session import bare

Kind = Literal["baseline", "recipe", "other", "fewer_steps"]
Verifier = Callable[[Any, str], Any]  # of frames, or of a sound's samples where there are none
BASELINE = "unaccelerated"
CANDIDATES: tuple[Kind, ...] = ("recipe", "other")  # those whose speed and quality are the question
WARMUP_STEPS = 4


@dataclass(frozen=True)
class Variant:
    """One way to run the pipeline.

    `recipe` is what :func:`accel.accelerate` takes (preset name, Recipe, path), or a function that takes the
    pipeline, accelerates it in a way of its own and returns a function that undoes this (for comparing with
    other libraries).
    """

    label: str
    kind: Kind
    steps: int
    recipe: Any


@dataclass(frozen=True)
class Quality:
    """One output against the unaccelerated one of the same prompt and seed. None where a metric does not apply:
    the first four are of frames, the three of sound are `snr`, `si_sdr` and `stft_distance`. `flicker` and
    `warping_error` are its own, and those of an unaccelerated output are known too.
    """

    psnr: float | None = None
    ssim: float | None = None
    flicker_difference: float | None = None
    frame_difference_psnr: float | None = None
    correct: bool | None = None
    matches: dict[str, bool] = field(default_factory=dict)
    others: dict[str, float] = field(default_factory=dict)
    snr: float | None = None
    si_sdr: float | None = None
    stft_distance: float | None = None
    flicker: float | None = None
    warping_error: float | None = None
    lpips: float | None = None

    @property
    def decibels(self) -> float | None:
        """PSNR of frames, or SNR of a sound where there are none."""
        return self.psnr if self.psnr is not None else self.snr


def check_seed(seed: object) -> None:
    """Raises ValueError, in one sentence, for what no generator of torch takes."""
    if type(seed) is not int or not -(2**63) <= seed < 2**63:
        raise ValueError(f"a seed must be a whole number from {-(2**63)} to {2**63 - 1}, not {seed!r}.")


@dataclass(frozen=True)
class Sample:
    """One measured call of the pipeline.

    Times are wall-clock seconds, but for `cpu_seconds`, the processor time of this process (all threads): on a busy
    machine it tells how much of a wall-clock time was waiting. `batch` numbers the interleaved batches.
    """

    label: str
    batch: int
    prompt: int
    seed: int
    repeat: int
    seconds: float
    cpu_seconds: float
    before: float
    denoise: float
    after: float
    computed: int
    predicted: int
    dropped: int
    extra_bytes: int
    peak_bytes: int | None
    quality: Quality | None = None
    joules: float | None = None


@dataclass
class Measurements:
    """Everything measured so far: samples, and for each variant what its first run looked like."""

    samples: list[Sample] = field(default_factory=list)
    timelines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    levers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    recipes: dict[str, Any] = field(default_factory=dict)
    clips: ClipStore = field(default_factory=ClipStore)
    sounds: ClipStore = field(default_factory=ClipStore)
    size: dict[str, Any] = field(default_factory=lambda: PipelineOutput().size)
    digests: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    thumbnails: dict[tuple[str, int], list[Clip]] = field(default_factory=dict)
    teraflops: dict[str, float] = field(default_factory=dict)

    @property
    def is_repeatable(self) -> bool | None:
        """Whether the unaccelerated pipeline gave the same bits each time; None while nothing ran twice."""
        runs = sum(1 for sample in self.samples if sample.label == BASELINE)
        return None if runs <= len(self.digests) else all(len(found) == 1 for found in self.digests.values())


class Runner:
    """Measures variants on one pipeline and records the results in a ledger.

    The pipeline's own progress bar is off meanwhile. Whatever happens inside, each call gives the pipeline back as it
    was, accelerated or not.
    """

    def __init__(
        self,
        pipe: Any,
        prompts: Sequence[str],
        seeds: Sequence[int],
        call_arguments: Mapping[str, Any],
        verify: Verifier | None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        self.pipe = pipe
        self.prompts = tuple(prompts)
        self.seeds = tuple(seeds)
        self.call_arguments = dict(call_arguments)
        self.verify = verify
        self.metrics = dict(metrics or {})
        self.ledger = Measurements()
        self.energy = EnergyMeter()
        self._lpips = lpips_metric()
        self._batches = 0

    def check(self, contestant: Variant) -> None:
        """Attaches the recipe and takes it off again, so that a wrong one is found before anything runs."""
        with attach_for_run(self.pipe, contestant.recipe):
            pass

    def warm_up(self, contestant: Variant) -> None:
        """One short call that is not measured: allocators, kernels and lazily built tables.

        Raises ValueError or TypeError where the pipeline's own output is nothing that can be compared.
        """
        strength = self.call_arguments.get("strength", call_default(self.pipe, "strength")) or 1.0
        steps = math.ceil(WARMUP_STEPS / strength)  # from an image on, only this share of the steps is taken
        with attach_for_run(self.pipe, contestant.recipe):
            output, *_ = self._call(self.prompts[0], self.seeds[0], min(steps, contestant.steps))
        if contestant.kind == "baseline":
            try:
                output_of(output, self.pipe)
            except (TypeError, ValueError) as error:
                raise type(error)(f"The output of {type(self.pipe).__name__} cannot be compared: {error}") from error

    def count_flops(self, contestant: Variant) -> None:
        """One whole run of the first prompt and seed, in which torch's products are counted; slower, so not timed."""
        from torch.utils.flop_counter import FlopCounterMode

        with attach_for_run(self.pipe, contestant.recipe), FlopCounterMode(display=False) as counted:
            self._call(self.prompts[0], self.seeds[0], contestant.steps)
        self.ledger.teraflops[contestant.label] = counted.get_total_flops() / 1e12

    def measure(
        self, contestants: Sequence[Variant], repeats: int, tick: Callable[[str], None] = lambda text: None
    ) -> None:
        """Runs every variant on every prompt and seed, `repeats` times, in rotating order.

        `contestants` must include the baseline: the quality of all others is measured against its clip.
        """
        batch, self._batches = self._batches, self._batches + 1
        turn = 0
        for prompt in range(len(self.prompts)):
            for seed in self.seeds:
                reference: PipelineOutput | None = None
                for repeat in range(repeats):
                    order = [*contestants[turn % len(contestants) :], *contestants[: turn % len(contestants)]]
                    turn += 1
                    samples, made = list[Sample](), OutputStore()
                    for contestant in order:
                        tick(f"{contestant.label}, prompt {prompt + 1} of {len(self.prompts)}, seed {seed}")
                        sample, output = self._sample(contestant, batch, prompt, seed, repeat)
                        made.put((contestant.label, prompt), output)
                        samples.append(sample)
                    if reference is None:
                        reference = made.get((BASELINE, prompt)).copied()
                    self._record(samples, made, reference)

    def _sample(
        self, contestant: Variant, batch: int, prompt: int, seed: int, repeat: int
    ) -> tuple[Sample, PipelineOutput]:
        with attach_for_run(self.pipe, contestant.recipe) as session:
            _reset_peak(self.pipe)
            self.energy.start()
            output, seconds, cpu_seconds = self._call(self.prompts[prompt], seed, contestant.steps)
            joules = self.energy.stop()
            report = session.report()
            self._remember(contestant.label, session, report)
        actions = [call.action for call in report.calls]
        phases = report.seconds or {"before": 0.0, "denoise": seconds, "after": 0.0}
        sample = Sample(
            label=contestant.label,
            batch=batch,
            prompt=prompt,
            seed=seed,
            repeat=repeat,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            before=phases["before"],
            denoise=phases["denoise"],
            after=phases["after"],
            computed=actions.count("computed"),
            predicted=actions.count("predicted"),
            dropped=actions.count("dropped"),
            extra_bytes=sum(lever.extra_bytes for lever in report.levers),
            peak_bytes=_peak(self.pipe),
            joules=joules,
        )
        return sample, output_of(output, self.pipe)

    def _call(self, prompt: str, seed: int, steps: int) -> tuple[Any, float, float]:
        import torch

        arguments = {**self.call_arguments, "num_inference_steps": steps}
        if needs_prompt(self.pipe, self.call_arguments):
            arguments["prompt"] = prompt
        arguments["generator"] = torch.Generator("cpu").manual_seed(seed)
        # Some pipelines draw from the global state too, whatever generator they are given.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            _synchronize(self.pipe)
            start, cpu_start = time.perf_counter(), time.process_time()
            output = self.pipe(**arguments)
            _synchronize(self.pipe)
            return output, time.perf_counter() - start, time.process_time() - cpu_start

    def _remember(self, label: str, session: Any, report: Any) -> None:
        if label in self.ledger.timelines:
            return
        data = report.to_dict()
        self.ledger.timelines[label] = list(data["calls"])
        self.ledger.levers[label] = list(data["levers"])
        self.ledger.notes[label] = list(data["notes"])
        self.ledger.recipes[label] = session.recipe.to_dict()

    def _record(self, samples: Sequence[Sample], made: OutputStore, reference: PipelineOutput) -> None:
        """Judges the outputs of a round, one after the other, when all have run: judging takes time from nobody's
        run."""
        for sample in samples:
            output = made.pop((sample.label, sample.prompt))
            if sample.label == BASELINE:
                self.ledger.digests.setdefault((sample.prompt, sample.seed), set()).add(output.digest)
            is_first = sample.repeat == 0 and not (sample.label == BASELINE and sample.batch > 0)
            quality = self._judge(sample, output, reference) if is_first else None
            if is_first and output.frames is not None:
                kept = self.ledger.thumbnails.setdefault((sample.label, sample.prompt), [])
                kept.append(thumbnail(output.frames))
            if is_first and sample.seed == self.seeds[0]:
                self._keep((sample.label, sample.prompt), output)
            self.ledger.samples.append(replace(sample, quality=quality))

    def _keep(self, key: tuple[str, int], output: PipelineOutput) -> None:
        """What the page shows."""
        self.ledger.clips[key] = output.pixels
        if output.sound is not None:
            self.ledger.sounds[key] = output.sound.samples
        self.ledger.size = output.size

    def _judge(self, sample: Sample, output: PipelineOutput, reference: PipelineOutput) -> Quality:
        verdict = self.verify(output.main, self.prompts[sample.prompt]) if self.verify else None
        correct = bool(verdict.correct) if verdict is not None else None
        matches = {name: bool(value) for name, value in verdict.matches.items()} if verdict is not None else {}
        own = {**_steadiness(output), "correct": correct, "matches": matches}
        if sample.label == BASELINE:
            return Quality(**own)
        others = {name: float(metric(output.main, reference.main)) for name, metric in self.metrics.items()}
        if self._lpips is not None and output.frames is not None and reference.frames is not None:
            own["lpips"] = self._lpips(output.frames, reference.frames)
        return Quality(**{**fidelity(output, reference), **own}, others=others)


def _steadiness(output: PipelineOutput) -> dict[str, Any]:
    """Measures of a clip by itself, where it is one."""
    if output.frames is None or len(output.frames) < 2 or min(output.frames.shape[1:3]) < BLOCK:
        return {}
    return {"flicker": flicker(output.frames), "warping_error": warping_error(output.frames)}


@contextmanager
def attach_for_run(pipe: Any, recipe: Any) -> Iterator[Any]:
    """A session with `recipe` on `pipe`, restored on exit. For a function, with the clock around what it
    attached. A session that was attached before is suspended meanwhile.
    """
    with bare(pipe), ExitStack() as undo:
        if callable(recipe):
            undo.callback(recipe(pipe))
            recipe = Recipe()
        yield undo.enter_context(accelerate(pipe, recipe))


def without_progress_bars(pipe: Any) -> AbstractContextManager[None]:
    """Turns the pipeline's own progress bar off for the block, and leaves its attributes as they were."""
    if not hasattr(pipe, "set_progress_bar_config"):
        return nullcontext()
    return undo_later(pipe, lambda: pipe.set_progress_bar_config(disable=True))


def call_default(pipe: Any, name: str) -> Any:
    """The default of an argument of the pipeline's call, None where it has no such argument or no default."""
    parameter = inspect.signature(pipe.__call__).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def accepts(pipe: Any, name: str) -> bool:
    """Whether the pipeline's call takes an argument called `name`."""
    parameters = inspect.signature(pipe.__call__).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def needs_prompt(pipe: Any, call_arguments: Mapping[str, Any]) -> bool:
    """Whether a prompt is part of the call: the pipeline takes one, and it is not among the arguments as embeddings."""
    return accepts(pipe, "prompt") and call_arguments.get("prompt_embeds") is None


def work_seconds(pipe: Any) -> float:
    """A clock of the work done for this pipeline: processor time of this process, or wall-clock time of its device when
    everything asked of that is done.
    """
    if _accelerator(pipe) is None:
        return time.process_time()
    _synchronize(pipe)
    return time.perf_counter()


def _accelerator(pipe: Any) -> Any:
    """torch.cuda, torch.xpu, torch.mps … for the pipeline's device, None on the CPU."""
    import torch

    device = getattr(pipe, "_execution_device", None) or getattr(pipe, "device", None)
    kind = getattr(device, "type", "cpu")
    return None if kind in ("cpu", "meta") else getattr(torch, kind, None)


def _synchronize(pipe: Any) -> None:
    if (module := _accelerator(pipe)) is not None:
        module.synchronize()


def _reset_peak(pipe: Any) -> None:
    module = _accelerator(pipe)
    if module is not None and hasattr(module, "reset_peak_memory_stats"):
        module.reset_peak_memory_stats()


def _peak(pipe: Any) -> int | None:
    module = _accelerator(pipe)
    return int(module.max_memory_allocated()) if hasattr(module, "max_memory_allocated") else None
