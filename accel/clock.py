"""The one source of truth for run, step, sigma and stream.

It listens to the scheduler instance (`set_timesteps`, `step`) and to the denoiser calls, and to nothing else: neither
callbacks (many pipelines ignore them) nor call parity (guidance that is off or cut off would mix the streams).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from accel.streams import Streams


@dataclass(frozen=True)
class Moment:
    """Where in which run a denoiser call stands."""

    run: int  # counts set_timesteps
    step: int  # rounds of denoiser calls since the run began, from 0
    position: int  # index into the scheduler's timetable; starts above 0 for image-to-image
    total: int  # length of that timetable
    sigma: float  # noise level now: 1..0 for flow matching, noise-to-signal ratio otherwise
    timestep: float = 0.0  # the training timestep of that noise level, 1000..0 whatever the scheduler's own scale
    sigmas: tuple[float, ...] = field(default=(), repr=False)  # of the whole timetable and, last, of its end
    first: int = 0  # the position at which the run began
    until: int | None = None  # the position at which it ends, where that is before the timetable does
    mixed: bool = False  # the tokens of one call are at several noise levels on the move

    @property
    def end(self) -> int:
        """The position behind the last step that is executed."""
        return self.total if self.until is None else self.until

    @property
    def steps(self) -> int:
        """How many steps the run takes."""
        return self.end - self.first

    @property
    def left(self) -> int:
        """How many of them are left, this one included."""
        return self.end - self.position

    @property
    def next_sigma(self) -> float:
        """The noise level that this step leads to."""
        return self.sigmas[self.position + 1] if self.position + 1 < len(self.sigmas) else 0.0

    @property
    def last(self) -> bool:
        return self.left <= 1


class Arrival(NamedTuple):
    """What the clock tells a denoiser call. content: see `Streams.find`."""

    moment: Moment
    stream: str
    leader: bool  # the first call of this step at this denoiser: it decides, the others follow
    content: int


class Timetable:
    """The sigmas of one run, read once from whatever the scheduler offers."""

    def __init__(self, scheduler: Any) -> None:
        timesteps = torch.as_tensor(scheduler.timesteps).flatten().tolist()
        self.timesteps: list[float] = timesteps
        sigmas, end = getattr(scheduler, "sigmas", None), 0.0
        if sigmas is not None and len(sigmas) >= len(timesteps):
            known = torch.as_tensor(sigmas).flatten().tolist()
            self.sigmas: list[float] = known[: len(timesteps)]
            end = known[len(timesteps)] if len(known) > len(timesteps) else end
            between = getattr(scheduler, "sigmas_interpol", None)  # KDPM2's second stages are evaluated there
            if between is not None:
                self.sigmas[1::2] = torch.as_tensor(between).flatten().tolist()[1 : len(timesteps) : 2]
            if scheduler.config.get("invert_sigmas"):  # Mochi counts from clean to noise
                self.sigmas, end = [1.0 - sigma for sigma in self.sigmas], 1.0 - end
        elif hasattr(scheduler, "alphas_cumprod"):
            self.sigmas = [_noise_to_signal(scheduler.alphas_cumprod, timestep) for timestep in timesteps]
            end = 0.0 if scheduler.config.get("set_alpha_to_one") else _noise_to_signal(scheduler.alphas_cumprod, 0)
        else:  # without any table, the time left is the best monotone stand-in
            self.sigmas = [1.0 - index / len(timesteps) for index in range(len(timesteps))]
        self.whole = (*self.sigmas, end)
        self.training = _training_timesteps(scheduler, self.sigmas)

    def index_of(self, timestep: Any) -> int:
        """The entry that a denoiser's timestep argument stands for: some models get t/1000 or 1 - t/1000."""
        if timestep is None or not self.timesteps:
            return 0
        value = float(torch.as_tensor(timestep).float().max())
        for offset, scale in ((0.0, 1.0), (0.0, 0.001), (1.0, -0.001)):
            for index, known in enumerate(self.timesteps):
                if math.isclose(offset + scale * known, value, rel_tol=1e-4, abs_tol=1e-6):
                    return index
        return 0


class Clock:
    """Tells each denoiser call its moment and its stream. One per session; emptied when a pipeline call ends."""

    def __init__(self) -> None:
        self.run = 0
        self.clear()

    def clear(self) -> None:
        """Forgets the run: nothing of an interrupted call may reach the next one."""
        self.context: dict[str, str | None] = {}
        self.copies = 0  # steps that the pipeline has made without its scheduler
        self._scheduler: Any = None
        self._timetable: Timetable | None = None
        self._restart()

    def _restart(self) -> None:
        self._step, self._stepped, self._begin, self._first = 0, False, 0, 0
        self._until: int | None = None
        self._called: dict[str, list[str]] = {}
        self._streams: dict[str, Streams] = {}
        self._told: dict[str, torch.Tensor] = {}  # by denoiser, the timestep argument of this step's first call
        self._heard, self._mixed = False, False  # whether the scheduler has been heard to step in this run

    def begin_run(self, scheduler: Any) -> None:
        """`scheduler.set_timesteps` has been called."""
        self.run += 1
        self._scheduler, self._timetable = scheduler, None
        self._restart()

    def step_done(self, scheduler: Any) -> None:
        """`scheduler.step` has been called; the next denoiser call opens a new step.

        Several updates between two evaluations (Cosmos) are one step, and each evaluation of a multi-stage solver
        (Heun, PNDM) is a step of its own, because that is how often the denoiser's answer is used.
        """
        self._scheduler, self._stepped, self._heard = scheduler, True, True

    def arrive(
        self, denoiser: str, conditioning: torch.Tensor | None, timestep: Any, planned: int | None = None
    ) -> Arrival:
        """A denoiser is called. planned: how many steps the pipeline says that it takes."""
        told = torch.as_tensor(0.0 if timestep is None else timestep).detach()
        if self._stepped or self._stepped_unheard(denoiser, told):
            self._step, self._stepped = self._step + 1, False
            self._called, self._told = {}, {}
        self._told.setdefault(denoiser, told)
        called = self._called.setdefault(denoiser, [])
        leader = not called
        streams = self._streams.setdefault(denoiser, Streams())
        stream, content = streams.find(self.context.get(denoiser), conditioning, len(called), self._step)
        # The same conditioning twice in one step (tiles, perturbed guidance) is a stream of its own.
        repeats = called.count(stream)
        called.append(stream)
        name = stream if not repeats else f"{stream} ({repeats + 1})"
        return Arrival(self._moment(timestep, planned), name, leader, content)

    def _stepped_unheard(self, denoiser: str, told: torch.Tensor) -> bool:
        """Whether the timestep tells that a step was made without the scheduler: some pipelines step copies of it.

        Asked only until the scheduler is heard, because it costs a host sync. Where the timestep rises another run
        begins. Moving tokens are at one noise level, but for frames that are denoised one after the other.
        """
        before = self._told.get(denoiser)
        if self._heard or before is None or (before.shape == told.shape and torch.equal(before, told)):
            return False
        self.copies += 1
        if bool(told.max() > before.max()):
            self.run += 1
            self._restart()
            return False
        moving = told[told != before] if told.shape == before.shape else told.flatten()
        self._mixed = bool(moving.amin() < moving.amax())
        return True

    def _moment(self, timestep: Any, planned: int | None) -> Moment:
        if self._timetable is None:
            self._timetable = Timetable(self._scheduler) if self._scheduler is not None else None
        table = self._timetable
        if table is None:
            return Moment(self.run, self._step, self._step, 0, 0.0)
        total = len(table.timesteps)
        position = min(self._position(table, timestep), total - 1)
        if self._step == 0:
            self._first = position
            self._until = min(position + planned, total) if planned else None
        return Moment(
            self.run, self._step, position, total, table.sigmas[position], table.training[position], table.whole,
            self._first, self._until, self._mixed,
        )  # fmt: skip

    def _position(self, table: Timetable, timestep: Any) -> int:
        index = getattr(self._scheduler, "_step_index", None)
        if index is not None:
            return int(index)
        if self._step == 0:
            begin = getattr(self._scheduler, "_begin_index", None)
            self._begin = int(begin) if begin is not None else table.index_of(timestep)
        return self._begin + self._step


def _training_timesteps(scheduler: Any, sigmas: list[float]) -> list[float]:
    """Where the sigmas stand on the scale of 0..1000 on which papers give windows of timesteps.

    A flow's timestep is 1000 sigma. Otherwise it is the training step with the nearest noise-to-signal ratio, because
    schedulers may pass their models something else (SVD: a logarithm of sigma).
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or scheduler.config.get("use_flow_sigmas"):
        flow = all(sigma <= 1.0 + 1e-3 for sigma in sigmas)
        return [1000.0 * (sigma if flow else sigma / (1.0 + sigma)) for sigma in sigmas]
    alphas = torch.as_tensor(alphas).double().cpu().clamp_min(1e-12)
    known = ((1.0 - alphas) / alphas).sqrt().log()
    wanted = torch.tensor(sigmas, dtype=torch.float64).clamp_min(1e-12).log()
    nearest: list[int] = (wanted[:, None] - known[None, :]).abs().argmin(1).tolist()
    return [1000.0 * index / len(known) for index in nearest]


def _noise_to_signal(alphas_cumprod: torch.Tensor, timestep: float) -> float:
    alpha = float(alphas_cumprod[min(max(int(timestep), 0), len(alphas_cumprod) - 1)])
    return math.sqrt((1 - alpha) / max(alpha, 1e-12))
