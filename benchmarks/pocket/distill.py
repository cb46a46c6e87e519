"""Distils the pocket video model to four steps without guidance: `python -m benchmarks.pocket.distill --out DIR`.

Phased trajectory distillation (the phases are those of PCM, arXiv 2405.18407; the targets on the teacher's trajectories
those of TDD, arXiv 2409.01347). The schedule is cut into four phases. The guided teacher runs from noise, and the
student, which has its weights at first, learns the average velocity from any point of a trajectory to the end of the
phase that the point lies in: (x_t - x_s) / (t - s). One Euler step then crosses a phase. The trajectory from a point is
one curve, so the target has no spread that could blur, and no discriminator or second network is needed.

Half of the trajectories begin where the student itself arrives after one to three phases: what it gets wrong there it
learns to make good in the phases that follow, as the teacher would.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler, WanTransformer3DModel

from accel.call_forms import call_default
from accel.pocket import load
from accel.pocket.pipeline import WanPocketPipeline, write_sibling
from accel.pocket.scenes import captions
from accel.pocket.text import embed
from accel.samplers.solvers import PseudoCorrector
from benchmarks.pocket.training import SHIFT, Learner, begin, in_16_bits, parser_of, proceed, shifted

PHASES = 4
PARTS = 4  # steps of the teacher in a phase
LEVELS: list[float] = shifted(torch.linspace(1, 0, PHASES * PARTS + 1)).tolist()
BATCH = 24
FIRST = 6  # batches of trajectories before old ones are used again
USES = 2  # how often a point of a trajectory is used, on average, before there are new ones

Points = tuple[torch.Tensor, str]  # the points of one phase (PARTS + 1, C, T, H, W), and their caption


class Distillation:
    """Teacher, student and a pool of trajectories; `step` trains on one batch."""

    def __init__(self, teacher: WanPocketPipeline, rate: float, pool: int, seed: int, device: str = "cpu") -> None:
        self.teacher = teacher.to(device)
        teacher.transformer.requires_grad_(False)
        self.student = copy.deepcopy(teacher.transformer).requires_grad_(True)
        self.learner = Learner(self.student, rate)
        self.pool: list[deque[Points]] = [deque(maxlen=pool) for _ in range(PHASES)]
        self._rng, self._device = np.random.default_rng(seed), device
        self._made, self._used = 0, 0
        self._guidance: float = call_default(teacher, "guidance_scale")

    def step(self, index: int, progress: float) -> float:
        """One update; a new batch of trajectories comes first where the pool is small or its points have been used."""
        if self._made < FIRST:
            self.add(BATCH)
        elif self._used > USES * self._made * PHASES * PARTS:
            self.add(BATCH, begin=max(int(self._rng.integers(-2, PHASES)), 0))
        self._used += 1
        return self.update(*self.batch(BATCH), progress)

    def update(
        self, points: torch.Tensor, sigma: torch.Tensor, target: torch.Tensor, words: torch.Tensor, progress: float
    ) -> float:
        with in_16_bits(self._device):
            predicted = self.student(points, sigma * 1000, words, return_dict=False)[0]
        return self.learner.update((predicted.float() - target).square().mean(), progress)

    def add(self, count: int, begin: int = 0) -> None:
        """Trajectories for random captions, from the phase `begin` on; the student comes that far by itself."""
        every = captions()
        chosen = [str(every[index]) for index in self._rng.integers(len(every), size=count)]
        transformer = self.teacher.transformer.config
        x = torch.randn(count, transformer.in_channels, 5, 8, 8, device=self._device)
        words = self.words(chosen)
        for phase in range(begin):
            now, following = LEVELS[phase * PARTS], LEVELS[(phase + 1) * PARTS]
            x = x + (following - now) * self._velocity(self.student, x, now, words)
        points = self.trajectory(x, words, begin * PARTS)
        for phase in range(begin, PHASES):
            part = points[(phase - begin) * PARTS :][: PARTS + 1]
            self.pool[phase].extend((part[:, place], caption) for place, caption in enumerate(chosen))
        self._made += 1

    def trajectory(self, x: torch.Tensor, words: torch.Tensor, begin: int = 0) -> torch.Tensor:
        """Points (levels, B, C, T, H, W) where the guided teacher comes by at LEVELS[begin:]."""
        solver, points = PseudoCorrector(), [x]
        answers: list[torch.Tensor] = []
        unguided = torch.cat([words, self.words([""]).expand_as(words)])
        for index in range(begin, len(LEVELS) - 1):
            velocity = self._velocity(self.teacher.transformer, x.repeat(2, 1, 1, 1, 1), LEVELS[index], unguided)
            conditional, unconditional = velocity.chunk(2)
            answers = [*answers[-1:], unconditional + self._guidance * (conditional - unconditional)]
            times = LEVELS[max(index - 1, begin) : index + 1]
            update = solver.weights(times, LEVELS[index + 1], len(LEVELS) - 1 - index)
            x = update.keep * x + sum(w * answer for w, answer in zip(update.outputs, answers, strict=True))
            points.append(x)
        return torch.stack(points)

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Points, their noise levels, target velocities and words, the phases equally often. Half of the points are the
        beginnings of phases, where four steps ask the model, the others anywhere on the trajectories."""
        rows = []
        for place in range(count):
            phase = place % PHASES
            points, caption = self.pool[phase][int(self._rng.integers(len(self.pool[phase])))]
            # Between two points of a trajectory it is all but straight. The very end of a phase has no velocity.
            position = float(self._rng.uniform(0, PARTS - 0.05)) if self._rng.uniform() < 0.5 else 0.0
            part, share = int(position), position % 1
            levels = LEVELS[phase * PARTS :]
            point = torch.lerp(points[part], points[part + 1], share)
            level = levels[part] + share * (levels[part + 1] - levels[part])
            rows.append((point, level, (point - points[-1]) / (level - levels[PARTS]), caption))
        x, sigma, target, chosen = zip(*rows, strict=True)
        return torch.stack(x), torch.tensor(sigma, device=self._device), torch.stack(target), self.words(chosen)

    @torch.no_grad()
    def words(self, chosen: Sequence[str]) -> torch.Tensor:
        return embed(self.teacher.tokenizer, self.teacher.text_encoder, chosen)

    @torch.no_grad()
    def _velocity(
        self, model: WanTransformer3DModel, x: torch.Tensor, level: float, words: torch.Tensor
    ) -> torch.Tensor:
        with in_16_bits(self._device):
            times = torch.full((len(x),), level * 1000, device=self._device)
            velocity: torch.Tensor = model(x, times, words, return_dict=False)[0]
        return velocity.float()

    def start_from(self, folder: Path) -> None:
        """Takes the weights of an exported student, of a teacher that has been trained on since."""
        denoiser = WanTransformer3DModel.from_pretrained(folder / "transformer").state_dict()
        self.learner.begin_with(denoiser=denoiser)

    def state(self) -> dict[str, Any]:
        """The trajectories are not kept: a resumed run makes new ones."""
        return self.learner.state()

    def load(self, state: Mapping[str, Any]) -> None:
        self.learner.load(state)

    def export(self, folder: Path) -> None:
        """Writes the averaged weights and the schedule; the other components are the teacher's."""
        write_sibling(
            folder, self.learner.averaged["denoiser"], make_scheduler(), num_inference_steps=PHASES, guidance_scale=1.0
        )


def make_scheduler() -> UniPCMultistepScheduler:
    """Euler steps between the ends of the phases: Wan's own scheduler at order 1.

    The teacher's FlowMatchEulerDiscreteScheduler puts its last step at almost no noise, which is a quarter of four.
    """
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=SHIFT,
        solver_order=1,
        disable_corrector=list(range(50)),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("Distil the pocket video model to four steps.", minutes=40.0, rate=1e-3)
    parser.add_argument("--pool", type=int, default=2000, help="trajectories kept in memory, for each phase")
    parser.add_argument("--start", help="folder of an exported student to go on from, such as accel/pocket/few")
    options = parser.parse_args(arguments)
    out = begin(options)
    run = Distillation(load("video"), options.rate, options.pool, options.seed, options.device)
    if options.start and not (out / "checkpoint.pt").exists():
        run.start_from(Path(options.start))
    if options.compile:
        run.student.compile_repeated_blocks()
        run.teacher.transformer.compile_repeated_blocks()
    proceed(run, out, options)


if __name__ == "__main__":
    main()
