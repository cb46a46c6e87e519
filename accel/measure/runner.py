"""How variants are measured against each other: interleaved, in one process, on the same prompts and
seeds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from accel.call_forms import call_default
from accel.device import device_of, peak, reset_peak, synchronize
from accel.executed_steps import PARTS
from accel.measure.call_arguments import fewest_steps_of
from accel.measure.clip_store import OutputStore
from accel.measure.energy import EnergyMeter
from accel.measure.measurements import BASELINE, Measurements, Quality, Sample, Variant, Verifier
from accel.measure.metrics import flicker
from accel.measure.output import Metric, PipelineOutput, fidelity, output_of
from accel.measure.perceptual import lpips_metric
from accel.measure.pipeline_runs import attach_for_run, needs_prompt
from accel.measure.steadiness import BLOCK, thumbnail, warping_error

WARMUP_STEPS = 4


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
        check_judges({"verify": verify, **(metrics or {})})
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
        self._device = device_of(pipe)

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
        with attach_for_run(self.pipe, contestant.recipe), self._explained(contestant):
            output, *_ = self._call(self.prompts[0], self.seeds[0], min(steps, contestant.steps))
        if contestant.kind == "baseline":
            try:
                output_of(output, self.pipe)
            except (TypeError, ValueError) as error:
                raise type(error)(f"The output of {type(self.pipe).__name__} cannot be compared: {error}") from error

    @contextmanager
    def _explained(self, contestant: Variant) -> Iterator[None]:
        """Says so where a count of fewer steps fails because the call takes none of them, which no error tells."""
        try:
            yield
        except Exception as error:
            least = fewest_steps_of(self.pipe, self.call_arguments)
            if contestant.kind != "fewer_steps" or contestant.steps >= least:
                raise
            raise ValueError(
                f"Of {contestant.steps} steps this call takes none, because it begins late or ends early "
                f"({', '.join(PARTS)}): ask for {least} or more in fewer_steps."
            ) from error

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
            reset_peak(self._device)
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
            peak_bytes=peak(self._device),
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
            synchronize(self._device)
            start, cpu_start = time.perf_counter(), time.process_time()
            output = self.pipe(**arguments)
            synchronize(self._device)
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


def check_judges(functions: Mapping[str, Any]) -> None:
    """Raises TypeError, before anything runs, for what cannot be asked about frames; None is nobody."""
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function that judges frames, not {function!r}.")


def _steadiness(output: PipelineOutput) -> dict[str, Any]:
    """Measures of a clip by itself, where it is one."""
    if output.frames is None or len(output.frames) < 2 or min(output.frames.shape[1:3]) < BLOCK:
        return {}
    return {"flicker": flicker(output.frames), "warping_error": warping_error(output.frames)}
