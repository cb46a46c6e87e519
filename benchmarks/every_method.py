"""What every method does at its defaults, as the page docs/every-method.md: `python -m benchmarks.every_method`.

Two judges (`benchmarks.judges`) on which nothing was tuned: waves, a video transformer that predicts a flow, and
photos, a U-Net that predicts v. A cache or guidance is compared with the same clip unaccelerated; a sampler or noise
levels, in 20 steps, with 200 plain ones, because they do not stay near the pipeline's own output. Samplers for few
steps run on the pocket model `few`, whose clips a program reads. Runs are kept in OUT; the same command goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import accel
from accel.cli import run as run_command
from accel.journal import Journal
from accel.measure.metrics import Clip, psnr
from accel.measure.pareto import IDENTICAL
from accel.method import Method
from accel.recipe import Recipe
from accel.terminal import one_line
from benchmarks.command import command_of
from benchmarks.judges import JUDGES
from benchmarks.site.method_pages import kinds

PAGE = Path(__file__).parents[1] / "docs" / "every-method.md"
MODELS, OWN = ("waves", "photos"), "its own scheduler"
STEPS, FEW, MANY = 50, 20, 200
LEVELS, LEVELS_BY = "Noise levels", {"photos": "euler"}
"""DDIM chooses its levels itself."""
DISTILLED = ("LCM", "TCD", "TDD")
PROMPTS = 24  # of the distilled model
ELSEWHERE = ("LowPrecision", "FlowTurbo", "FittedSchedule")
"""What needs instructions, weights or a measurement of its own; its page has other tables."""
MADE: Mapping[str, Method] = {"StaticSchedule": accel.StaticSchedule(sigmas=tuple(np.linspace(1.0, 0.0, 17).tolist()))}
"""Settings of methods that have no defaults, made by hand."""


@dataclass(frozen=True)
class Found:
    """What a method did on a model: dB in the mean and of the worst clip, and of as many plain steps. share: of the
    calls that were computed, or of clips that show their prompt. why: nothing was done, and for what reason.
    """

    model: str
    method: str
    share: float = 0.0
    mean: float = 0.0
    worst: float = 0.0
    fewer: float = 0.0
    why: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.method

    def __str__(self) -> str:
        if self.why:
            return "–"
        share = f"{self.share:.0%}: " if self.share < 1.0 else ""
        fewer = f", {self.fewer:.1f}" if self.fewer < IDENTICAL else ""
        return f"{share}{self.mean:.1f} ({self.worst:.1f}){fewer}"


class Model:
    """A judge, at its higher guidance scale. scheduler: None is its own."""

    def __init__(self, name: str, prompts: int, scheduler: str | None = None) -> None:
        self.name, self._judge, self._prompts = name, JUDGES[name], range(prompts)
        self.pipe: Any = self._judge.load(scheduler)
        self.pipe.set_progress_bar_config(disable=True)
        self._plain: dict[tuple[int, int], Clip] = {}

    def beside(self, method: str, recipe: Recipe, steps: int, reference: int) -> Found:
        """A recipe in so many steps, against so many plain ones."""
        shares, ours, fewer = [], [], []
        try:
            with accel.accelerate(self.pipe, recipe) as session:
                for prompt in self._prompts:
                    clip = self._clip(prompt, steps)
                    report = session.report()
                    if not report.levers[0].engaged:
                        return Found(self.name, method, why=one_line(report.levers[0].reason))
                    shares.append(sum(call.part for call in report.calls) / len(report.calls))
                    with session.suspended():
                        ours.append(psnr(clip, self._many(prompt, reference)))
                        fewer.append(psnr(self._many(prompt, round(shares[-1] * steps)), self._many(prompt, reference)))
        except ValueError as error:
            return Found(self.name, method, why=one_line(error))
        share, mean, beside = (float(np.mean(each)) for each in (shares, ours, fewer))
        return Found(self.name, method, share, mean, float(min(ours)), beside)

    def _many(self, prompt: int, steps: int) -> Clip:
        if (prompt, steps) not in self._plain:
            self._plain[prompt, steps] = self._clip(prompt, steps)
        return self._plain[prompt, steps]

    def _clip(self, prompt: int, steps: int) -> Clip:
        return self._judge.clip(self.pipe, prompt, steps, self._judge.guidance_scales[1])


Run = Callable[[Model], Found]


def methods(lever: str) -> dict[str, Method]:
    """Those of a lever that can be had without an argument."""
    found = {name: next(iter(kind.for_comparison()), None) for name, kind in kinds(lever).items()}
    return {name: MADE.get(name, each) for name, each in found.items() if each is not None and name not in ELSEWHERE}


def runs() -> Iterator[tuple[str, str, Run]]:
    """Section, method, and how it is run."""

    def run(name: str, recipe: Recipe, steps: int = STEPS, reference: int = STEPS) -> Run:
        return partial(Model.beside, method=name, recipe=recipe, steps=steps, reference=reference)

    for name, method in methods("cache").items():
        yield "Caches", name, run(name, Recipe(cache=method))
    for name, method in methods("predictor").items():
        yield "Predictors", name, run(name, Recipe(cache=accel.FixedInterval(3, predictor=method)))
    for name, method in methods("guidance").items():
        yield "Guidance", name, run(name, Recipe(guidance=method))
    for name, method in methods("attention").items():
        yield "Attention", name, run(name, Recipe(attention=_however_short(method)))
    for name, method in methods("sampler").items():
        if name not in DISTILLED:
            yield "Samplers", name, run(name, Recipe(sampler=method), FEW, MANY)
    for name, method in methods("sigmas").items():
        yield LEVELS, name, run(name, Recipe(sampler=accel.SchedulerSolver(sigmas=method)), FEW, MANY)


def _however_short(method: Method) -> Method:
    """The same for clips in which it would stay off."""
    changed: Any = method
    if "min_tokens" in {field.name for field in fields(method)}:
        changed = replace(changed, min_tokens=0)
    found: Method = changed
    return found


def distilled() -> Iterator[Found]:
    """The share of the clips of `few`, in four steps, that show their prompt: its own scheduler, and each sampler."""
    pipe = accel.pocket.load("few")
    pipe.set_progress_bar_config(disable=True)
    known = methods("sampler")
    for name in (OWN, *DISTILLED):
        right = []
        with accel.accelerate(pipe, Recipe(sampler=known.get(name))) as session:
            for seed, prompt in enumerate(accel.pocket.prompts(PROMPTS, seed=41)):
                frames = pipe(prompt, generator=torch.Generator().manual_seed(seed), output_type="np").frames[0]
                right.append(accel.pocket.verify(frames, prompt).correct)
                print(name, prompt, right[-1], *(each.reason for each in session.report().levers), flush=True)
        yield Found("few", name, float(np.mean(right)))


HEAD = (
    "# Every method at its defaults",
    "Written by `python -m benchmarks.every_method`: two small trained models that nothing was tuned on "
    "([judges](../benchmarks/judges/)), waves (Wan, flow, UniPC) and photos (Stable Diffusion's U-Net, v, DDIM), at "
    "their higher guidance scale, {prompts} prompts each. So it says how a method stands among the others here, not "
    "what it gives at its best or on a large model: [numbers](numbers.md) and [what holds](holds.md) turn the dials. "
    "Seconds are not shown, because on models this small they say nothing.",
    "A cell holds the share of the denoiser's calls that were computed, where it is not all; the mean PSNR in dB, with "
    "that of the worst clip in brackets; and behind the comma the mean of *plain steps*, as many as that share is. "
    "What acts inside of the denoiser (AdaCache, FORA, PAB, TGate, attention) computes a part of every call.",
)
ALIKE = f"{STEPS} steps, against the same clip unaccelerated"
TOLD = {
    "Caches": f"{ALIKE}. `StaticSchedule` has 17 even levels of a flow, which is what waves is and photos is not.",
    "Predictors": f"{ALIKE}, with `FixedInterval(3)` as the cache, which computes every third step.",
    "Guidance": f"{ALIKE}.",
    "Attention": f"{ALIKE}, with `min_tokens=0`, because sparse attention stays off in clips as small as these.",
    "Samplers": f"In {FEW} steps, against {MANY} plain ones; behind the comma the pipeline's own scheduler in {FEW}.",
    LEVELS: "The same, the pipeline's own update (`SchedulerSolver`) at other levels; photos under Euler.",
    "Samplers of distilled models": f"Clips of the pocket model `few` that show their prompt, in 4 steps, of {PROMPTS}",
}


def page_of(found: Mapping[Any, Found], prompts: int) -> str:
    """The page, from all that was found."""
    *sections, few = TOLD
    parts = [line.format(prompts=prompts) for line in HEAD]
    for section in sections:
        rows = [_row([found[model, name] for model in MODELS], name) for part, name, _ in runs() if part == section]
        parts += [f"## {section}", TOLD[section], _table((*MODELS, "why not"), rows)]
    own = f"; with its own scheduler {found['few', OWN].share:.0%}."
    rows = [f"| `{name}()` | {found['few', name].share:.0%} |" for name in DISTILLED]
    return "\n\n".join([*parts, f"## {few}", TOLD[few] + own, _table(("right",), rows)]) + "\n"


def _table(columns: Sequence[str], rows: Sequence[str]) -> str:
    return "\n".join([f"| | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|", *rows])


def _row(found: list[Found], name: str) -> str:
    why = "; ".join(dict.fromkeys(each.why for each in found if each.why)).replace("|", "/")
    return f"| `{name}()` | {' | '.join(map(str, found))} | {why} |"


def measure(options: argparse.Namespace) -> None:
    """Runs every method on both models and writes the page."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kept: Journal[Found] = Journal(options.out / "every_method.jsonl", {"prompts": options.prompts}, Found)
    for model in MODELS:
        own, other = Model(model, options.prompts), Model(model, options.prompts, LEVELS_BY.get(model))
        for section, name, run in runs():
            found = kept.once((model, name), lambda: run(other if section == LEVELS else own))  # noqa: B023
            print(model, name, found, found.why, flush=True)
    if ("few", DISTILLED[-1]) not in kept:
        for each in distilled():
            kept.add(each)
    PAGE.write_text(page_of(kept, options.prompts), encoding="utf-8")


if __name__ == "__main__":
    parser = command_of("benchmarks.every_method", measure)
    parser.add_argument("--prompts", type=int, default=3, help="of each model (3)")
    parser.add_argument("--out", type=Path, default=Path("out/every-method"), help="where runs are kept")
    sys.exit(run_command(parser.parse_args()))
