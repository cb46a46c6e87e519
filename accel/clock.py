"""The one source of truth for run, step, sigma and stream.

It listens to the scheduler instance (`set_timesteps`, `step`) and to the denoiser calls, and to nothing else: neither
callbacks (many pipelines ignore them) nor call parity (guidance that is off or cut off would mix the streams).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from accel.spaces import output_from_clean
from accel.update import Around, Given, Unknown, Updates, asked, on_cpu


@dataclass(frozen=True)
class Moment:
    """Where in which run a denoiser call stands."""

    run: int  # counts set_timesteps
    step: int  # rounds of denoiser calls since the run began, from 0
    position: int  # index into the scheduler's timetable; starts above 0 for image-to-image
    total: int  # length of that timetable
    sigma: float  # noise level now: 1..0 for flow matching, noise-to-signal ratio otherwise
    timestep: float = 0.0  # the training timestep of that noise level, 1000..0 whatever the scheduler's own scale
    table: Timetable | None = field(default=None, repr=False, compare=False)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels of the whole timetable and, last, of its end."""
        return self.table.whole if self.table is not None else ()

    @property
    def time(self) -> float:
        """The coordinate in which predictions are smooth, 1..0: a flow's time, also where levels are ratios."""
        return self.table.time_of(self.sigma) if self.table is not None else self.sigma

    @property
    def next_sigma(self) -> float:
        """The noise level that this step leads to."""
        return self.sigmas[self.position + 1] if self.position + 1 < len(self.sigmas) else 0.0

    @property
    def last(self) -> bool:
        return self.position >= self.total - 1


class Timetable:
    """The noise levels of one run, read once from whatever the scheduler offers, and what its updates make of outputs.

    Made before the first step: `updates` asks a copy of the scheduler as it was then.
    """

    def __init__(self, scheduler: Any, known: dict[object, Updates | Unknown] | None = None) -> None:
        self.scheduler = on_cpu(scheduler)
        self._known = {} if known is None else known
        timesteps = torch.as_tensor(self.scheduler.timesteps).flatten().tolist()
        self.timesteps: list[float] = timesteps
        sigmas, end = getattr(self.scheduler, "sigmas", None), 0.0
        config = scheduler.config
        if sigmas is not None and len(sigmas) >= len(timesteps):
            # EDM's levels are noise over a signal of this size.
            signal = config.get("sigma_data") or 1.0
            known_sigmas = (torch.as_tensor(sigmas).flatten() / signal).tolist()
            self.sigmas: list[float] = known_sigmas[: len(timesteps)]
            end = known_sigmas[len(timesteps)] if len(known_sigmas) > len(timesteps) else end
            between = getattr(self.scheduler, "sigmas_interpol", None)  # KDPM2's second stages are evaluated there
            if between is not None:
                self.sigmas[1::2] = torch.as_tensor(between).flatten().tolist()[1 : len(timesteps) : 2]
            if config.get("invert_sigmas"):  # Mochi counts from clean to noise
                self.sigmas, end = [1.0 - sigma for sigma in self.sigmas], 1.0 - end
        elif hasattr(self.scheduler, "alphas_cumprod"):
            self.sigmas = [_noise_to_signal(self.scheduler.alphas_cumprod, timestep) for timestep in timesteps]
            end = 0.0 if config.get("set_alpha_to_one") else _noise_to_signal(self.scheduler.alphas_cumprod, 0)
        else:  # without any table, the time left is the best monotone stand-in
            self.sigmas = [1.0 - index / len(timesteps) for index in range(len(timesteps))]
        self.whole = (*self.sigmas, end)
        declared = config.get("prediction_type")
        says_flow = config.get("use_flow_sigmas") or declared in (None, "flow_prediction")
        # Whether levels are a flow's times, 1..0, and not noise over signal.
        self.flow = bool(says_flow) and all(sigma <= 1.0 + 1e-3 for sigma in self.whole)
        self.training = _training_timesteps(self.scheduler, self.sigmas)

    def time_of(self, sigma: float) -> float:
        """The flow time of a noise level as this timetable counts it."""
        return sigma if self.flow else sigma / (1.0 + sigma)

    def updates(
        self,
        prediction: str | None = None,
        first: int = 0,
        arguments: Mapping[str, Any] | None = None,
        around: Callable[[Timetable], Around | None] | None = None,
    ) -> Updates:
        """What the updates make of the outputs or, given what the outputs are, of the clean estimates that they imply.

        around: makes what stands around `step`. Raises Unknown where they are no linear map.
        """
        key = (prediction, first, repr(arguments), self.whole, tuple(self.timesteps), repr(self.scheduler.config))
        if key not in self._known:
            given = None if prediction is None else self._given_clean(prediction)
            try:
                self._known[key] = asked(self.scheduler, first, arguments, given, around(self) if around else None)
            except Unknown as reason:
                self._known[key] = reason
        found = self._known[key]
        if isinstance(found, Unknown):
            raise found
        return found

    def _given_clean(self, prediction: str) -> Given:
        def given(clean: torch.Tensor, latents: torch.Tensor, position: int) -> torch.Tensor:
            return output_from_clean(clean, latents, self.sigmas[position], prediction)

        return given

    def index_of(self, timestep: Any) -> int:
        """The first entry that a denoiser's timestep argument may stand for: some models get t/1000 or 1 - t/1000, and
        with 1000 noise levels down to one thousandth the same number is the first of one scale and the last of another.
        """
        if timestep is None or not self.timesteps:
            return 0
        value = float(torch.as_tensor(timestep).float().max())
        for scales in ([(0.0, 1.0), (0.0, 0.001)], [(1.0, -0.001)]):
            for index, known in enumerate(self.timesteps):
                if any(math.isclose(a + b * known, value, rel_tol=1e-4, abs_tol=1e-6) for a, b in scales):
                    return index
        return 0


class Clock:
    """Tells each denoiser call its moment and its stream. One per session; emptied when a pipeline call ends."""

    def __init__(self) -> None:
        self.run = 0
        self._known: dict[object, Updates | Unknown] = {}  # what schedulers said about runs like this one
        self.clear()

    def clear(self) -> None:
        """Forgets the run: nothing of an interrupted call may reach the next one."""
        self.context: dict[str, str | None] = {}
        self._scheduler: Any = None
        self.scheduler = ""  # its name in the pipeline
        self.timetable: Timetable | None = None
        self._restart()

    def _restart(self) -> None:
        self._step, self._stepped, self._begin, self._first = 0, False, 0, -1
        self._called: dict[str, list[str]] = {}
        # Conditioning tensors are kept alive while they are keys: a freed address may come back as another stream.
        self._streams: dict[str, list[tuple[torch.Tensor, float, str]]] = {}

    def begin_run(self, scheduler: Any, name: str = "scheduler") -> None:
        """`set_timesteps` of the scheduler with that name in the pipeline has been called."""
        self.run += 1
        self._scheduler, self.scheduler, self.timetable = scheduler, name, None
        self._restart()

    def step_done(self, scheduler: Any) -> None:
        """`scheduler.step` has been called; the next denoiser call opens a new step.

        Several updates between two evaluations (Cosmos) are one step, and each evaluation of a multi-stage solver
        (Heun, PNDM) is a step of its own, because that is how often the denoiser's answer is used.
        """
        self._scheduler, self._stepped = scheduler, True

    def arrive(self, denoiser: str, conditioning: torch.Tensor | None, timestep: Any) -> tuple[Moment, str, bool]:
        """A denoiser is called: its moment, its stream, and whether it leads (decides for) this step."""
        if self._stepped:
            self._step, self._stepped = self._step + 1, False
            self._called = {}
        called = self._called.setdefault(denoiser, [])
        leader = not called
        stream = self._stream(denoiser, conditioning, order=len(called))
        # The same conditioning twice in one step (tiles, perturbed guidance) is a stream of its own.
        repeats = called.count(stream)
        called.append(stream)
        return self._moment(timestep), stream if not repeats else f"{stream} ({repeats + 1})", leader

    def _moment(self, timestep: Any) -> Moment:
        if self.timetable is None:
            self.timetable = Timetable(self._scheduler, self._known) if self._scheduler is not None else None
        table = self.timetable
        if table is None:
            return Moment(self.run, self._step, self._step, 0, 0.0)
        position = min(max(self._position(table, timestep), 0), len(table.timesteps) - 1)
        self._first = position if self._first < 0 else self._first
        total, sigma, timestep = len(table.timesteps), table.sigmas[position], table.training[position]
        return Moment(self.run, self._step, position, total, sigma, timestep, table)

    def updates(
        self,
        prediction: str | None,
        arguments: Mapping[str, Any] | None = None,
        around: Callable[[Timetable], Around | None] | None = None,
    ) -> Updates:
        """What the updates make of outputs, or of the clean estimates of such outputs: see `Timetable.updates`."""
        if self.timetable is None:
            raise Unknown("there is no scheduler to ask")
        return self.timetable.updates(prediction, max(self._first, 0), arguments, around)

    def _position(self, table: Timetable, timestep: Any) -> int:
        index = getattr(self._scheduler, "_step_index", None)
        if index is not None:
            return int(index)
        if self._step == 0:
            begin = getattr(self._scheduler, "_begin_index", None)
            self._begin = int(begin) if begin is not None else table.index_of(timestep)
        return self._begin + self._step

    def _stream(self, denoiser: str, conditioning: torch.Tensor | None, order: int) -> str:
        """Named by the pipeline's cache_context, else by the identity of the conditioning, else by order."""
        named = self.context.get(denoiser)
        if named is not None:
            return named
        by_order = f"pass {order + 1}"
        if conditioning is None:
            return by_order
        known = self._streams.setdefault(denoiser, [])
        for tensor, _, stream in known:
            if tensor is conditioning or _same_memory(tensor, conditioning):
                return stream
        # Some pipelines rebuild their embeddings in every step: equal content is the same stream.
        content = float(conditioning.detach().float().abs().sum()) + float(conditioning.detach().float().sum()) * 1e3
        for tensor, known_content, stream in known:
            if tensor.shape == conditioning.shape and known_content == content:
                return stream
        stream = by_order if all(name != by_order for *_, name in known) else f"pass {len(known) + 1}"
        known.append((conditioning, content, stream))
        return stream


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


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
