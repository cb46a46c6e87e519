"""Calibration: one recorder, run without any caching, yields the constants that TeaCache and MagCache need."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from accel.anatomy import Anatomy, submodule
from accel.caching.magcache import MagCache
from accel.caching.signal import relative_distance
from accel.caching.teacache import SIGNALS, TeaCache
from accel.calls import Call, Outcome, Proceed, noise_part, tensors
from accel.lever import Lever
from accel.method import Method
from accel.patch import listening, session_of
from accel.recipe import Recipe
from accel.report import CallRecord, LeverReport
from accel.session import Session


@dataclass(frozen=True)
class Row:
    """One denoiser call compared with the same stream's call one step earlier.

    signals: relative change of each TeaCache signal; output: relative change of the denoiser's output; ratio: norm of
    the residual (output - input) over that of the step before, mean over tokens.
    """

    run: int
    denoiser: str
    stream: str
    leader: bool
    position: int
    total: int
    sigma: float
    signals: dict[str, float]
    output: float
    ratio: float


@dataclass(frozen=True)
class Recording:
    """What `record` measured. Belongs to the model, scheduler, sigma range and guidance that it was made with."""

    rows: tuple[Row, ...]

    def teacache(self, threshold: float = 0.15, signal: str = "modulated_input", degree: int = 4) -> TeaCache:
        """TeaCache with a polynomial fitted by least squares, from signal change to output change.

        The first computed steps, where both move fast, take part as well; `fit_quality` says how well it fits.
        """
        x, y = self._pairs(signal)
        coefficients = tuple(float(value) for value in np.polyfit(x, y, degree))
        return TeaCache(
            threshold,
            coefficients=coefficients,
            signal=signal,
            fitted_range=(float(x.min()), float(x.max())),
        )

    def fit_quality(self, signal: str = "modulated_input", degree: int = 4) -> float:
        """Share of the variance of the output's change that the polynomial explains (R squared)."""
        x, y = self._pairs(signal)
        residual = y - np.polyval(np.polyfit(x, y, degree), x)
        return float(1.0 - residual.var() / max(float(y.var()), 1e-30))

    def magcache(self, threshold: float = 0.12, most: int = 4, retention: float = 0.2) -> MagCache:
        """MagCache with the mean ratio of each step over all runs, first entry 1."""
        total = max(row.total for row in self.rows)
        steps: list[list[float]] = [[] for _ in range(total)]
        for row in self._leaders():
            steps[row.position].append(row.ratio)
        ratios = tuple(sum(values) / len(values) if values else 1.0 for values in steps)
        return MagCache(threshold, most, retention, ratios=ratios)

    def _leaders(self) -> list[Row]:
        return [row for row in self.rows if row.leader]

    def _pairs(self, signal: str) -> tuple[Any, Any]:
        if signal not in SIGNALS:
            raise ValueError(f"The signal must be one of {', '.join(SIGNALS)}, not {signal!r}.")
        rows = [row for row in self._leaders() if math.isfinite(row.signals.get(signal, math.nan))]
        if not rows:
            raise ValueError(f"The recording has no {signal.replace('_', ' ')}: this model has no such module.")
        return np.array([row.signals[signal] for row in rows]), np.array([row.output for row in rows])


def record(
    pipe: Any,
    prompts: Sequence[str],
    *,
    generate: Callable[[Any, str, int], object] | None = None,
    **arguments: Any,
) -> Recording:
    """Runs the pipeline once for each prompt, unaccelerated, and records what its denoisers do.

    `arguments` go to every pipeline call (steps, size, guidance: use those of production, the constants belong to
    them); `generate(pipe, prompt, index)` replaces the call altogether. An attached session is put back afterwards.
    One prompt is enough for MagCache; 10 and more make a stable polynomial.
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError('record wants a list of at least one prompt, such as ["a corgi surfing"].')
    attached = session_of(pipe)
    previous = attached.recipe if attached is not None else None
    if attached is not None:
        attached.restore()
    method = _Record()
    with Session(pipe, Recipe(cache=method, name="recording")):
        for index, prompt in enumerate(prompts):
            if generate is not None:
                generate(pipe, prompt, index)
            else:
                pipe(prompt, **{"generator": torch.Generator().manual_seed(index), **arguments})
    if previous is not None:
        Session(pipe, previous)
    if not method.rows:
        raise ValueError("Nothing was recorded: the runs had fewer than two steps.")
    return Recording(tuple(method.rows))


@dataclass(frozen=True)
class _Record(Method, lever="cache", abstract=True):
    """The recorder in the place of a cache; `rows` fills during the runs."""

    rows: list[Row] = field(default_factory=list)

    def build(self, anatomy: Anatomy) -> Lever:
        return _Recorder(self, anatomy)


class _Recorder(Lever):
    """Computes every call and compares it with the same stream's last one."""

    def __init__(self, method: _Record, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self.reset()

    def reset(self) -> None:
        self._last: dict[tuple[str, str], tuple[dict[str, torch.Tensor], list[torch.Tensor], torch.Tensor]] = {}

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        heard: dict[str, torch.Tensor] = {}
        part = self.anatomy.denoisers[call.denoiser]
        with ExitStack() as stack:
            for name, side in SIGNALS.items():
                path = getattr(part, name)
                module = submodule(getattr(call.module, "_orig_mod", call.module), path) if path else None
                if module is not None:
                    stack.enter_context(listening(module, side, _keeper(heard, name)))
            outcome = proceed(call)
        self._compare(call, heard, tensors(outcome.output))
        return outcome

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        return LeverReport("cache", "recording", engaged=False, reason=f"{len(self.method.rows)} calls recorded")

    def _compare(self, call: Call, heard: dict[str, torch.Tensor], outputs: list[torch.Tensor]) -> None:
        outputs = [output.detach().clone() for output in outputs]
        norms = _residual_norms(call, outputs)
        last = self._last.get((call.denoiser, call.stream))
        self._last[call.denoiser, call.stream] = (heard, outputs, norms)
        if last is None or last[2].shape != norms.shape:
            return
        moment = call.moment
        self.method.rows.append(
            Row(
                run=moment.run,
                denoiser=call.denoiser,
                stream=call.stream,
                leader=call.leader,
                position=moment.position,
                total=moment.total,
                sigma=moment.sigma,
                signals={name: relative_distance([heard[name]], [last[0][name]]) for name in heard},
                output=relative_distance(outputs, last[1]),
                ratio=float((norms / last[2].clamp_min(1e-8)).mean()),
            )
        )


def _keeper(heard: dict[str, torch.Tensor], name: str) -> Callable[[torch.Tensor], None]:
    def keep(value: torch.Tensor) -> None:
        heard.setdefault(name, value.detach().clone())

    return keep


def _residual_norms(call: Call, outputs: list[torch.Tensor]) -> torch.Tensor:
    """Norm over the channels of output - input, for every token. Channels: last axis of (B, N, C), else 1."""
    base = noise_part(call.latents[0], outputs[0])
    residual = outputs[0].float() - (0 if base is None else base.float())
    norms: torch.Tensor = residual.norm(dim=-1 if residual.ndim == 3 else 1)
    return norms
