"""What a scheduler is: what it takes its model to predict, how its samples are scaled, whether its updates are linear,
and how it can be told noise levels. All of it is asked of copies; what cannot be asked is in
`accel.known_schedulers`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch

from accel import known_schedulers
from accel.parametrization import Prediction, Samples, output_shares, prediction_in, shares
from accel.scheduler_state import state_of
from accel.timetable import Timetable
from accel.update import FRESH, Deep, LinearUpdates, Unknown, config_of, copy_scheduler

# How `set_timesteps` is told: "shifted" takes sigmas and shifts them, "with end" takes them as they are with the end of
# the run, "timesteps" takes training timesteps.
TimestepInput = Literal["shifted", "with end", "timesteps"]

KEPT = 64  # answers kept for equal schedulers
STEPS = 10  # of the timetable on which a scheduler is asked before any run


@dataclass(frozen=True)
class SchedulerAnatomy:
    """One scheduler under its present settings.

    uncorrectable, irreplaceable: why forecasts cannot be corrected under its updates, and why no other update can stand
    in for its own: a clause, or "" where they can. random: whether its updates add noise. depth: outputs that an update
    uses, as far as that is known.
    """

    kind: str
    prediction: Prediction
    samples: Samples | None
    told: TimestepInput | None
    uncorrectable: str
    irreplaceable: str
    random: bool
    depth: int
    leveled: bool  # whether it says at which noise levels its steps are
    twice: bool  # whether it evaluates some of them twice (Heun)
    exchangeable: Mapping[str, tuple[str, ...]]


_asked: dict[object, SchedulerAnatomy] = {}  # by class and complete state: the answer is a function of these


def scheduler_anatomy(scheduler: Any) -> SchedulerAnatomy:
    """Asks a copy of a scheduler, on a timetable of its own choice: 5 to 50 ms, for equal ones once in a process.

    Two are equal if they are with that timetable: what the last run has left in them counts for nothing.
    The scheduler is not touched.
    """
    rehearsed = with_timetable(scheduler)
    state = state_of(rehearsed)
    if state is None:  # somebody's, that holds what cannot be compared
        return _ask(rehearsed)
    if state not in _asked:
        _asked[state] = _ask(rehearsed)
        if len(_asked) > KEPT:
            del _asked[next(iter(_asked))]
    return _asked[state]


def _ask(rehearsed: Any) -> SchedulerAnatomy:
    table = Timetable(rehearsed)
    samples = samples_of(table)
    prediction = _prediction(table, samples)
    updates, unknown = _updates(table, prediction)
    if unknown is None and prediction != "unknown" and _fresh(table, prediction):
        unknown = Unknown(FRESH)
    return SchedulerAnatomy(
        kind=type(rehearsed).__name__,
        prediction=prediction,
        samples=samples,
        told=_told(rehearsed, table),
        uncorrectable=str(unknown or ""),
        irreplaceable=_irreplaceable(table, samples, prediction, updates, unknown),
        random=updates is not None and updates.random,
        depth=0 if updates is None else updates.depth,
        leveled=table.told,
        twice=any(now == then for now, then in pairwise(table.sigmas)),
        exchangeable=exchangeable(rehearsed, prediction),
    )


def prediction_of(scheduler: Any) -> Prediction:
    """What the scheduler takes its model to predict."""
    table = Timetable(with_timetable(scheduler))
    return _prediction(table, samples_of(table))


def with_timetable(scheduler: Any) -> Any:
    """A copy with a timetable of STEPS steps; with the one that it has, if it wants what only its pipeline knows.

    A scheduler of one training step has no levels of its own and takes them from its pipeline (ACE-Step).
    """
    levels = np.linspace(1.0, 1.0 / STEPS, STEPS).tolist()
    for count, extra in ((STEPS, {}), (STEPS, {"mu": 1.0}), (None, {"sigmas": levels})):
        other = copy_scheduler(scheduler)
        try:
            other.set_timesteps(count, **extra)
            if len({float(timestep) for timestep in other.timesteps}) > 1:
                return other
        except Exception:  # whatever somebody's scheduler raises
            continue
    return copy_scheduler(scheduler)


def samples_of(table: Timetable) -> Samples | None:
    """How samples are scaled, by what the scheduler makes of a clean sample and noise; None if it does not say."""
    if config_of(table.scheduler).get("invert_sigmas"):  # its own noising counts the other way round
        return "flow"
    scheduler = copy_scheduler(table.scheduler)  # some keep a count of calls
    noised = getattr(scheduler, "add_noise", None) or getattr(scheduler, "scale_noise", None)
    middle = len(table.timesteps) // 2
    if noised is None or not table.timesteps:
        return "flow" if table.flow and hasattr(table.scheduler, "sigmas") else None
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    timestep = torch.as_tensor(table.scheduler.timesteps)[middle : middle + 1]
    try:
        parts = zip((one, zero), (zero, one), strict=True)
        signal, noise = (float(_noised(noised, part, timestep, other)) for part, other in parts)
    except Exception:  # whatever somebody's scheduler raises
        return None
    known: dict[Samples, float] = {
        "flow": abs(signal + noise - 1.0),
        "preserving": abs(signal**2 + noise**2 - 1.0),
        "exploding": abs(signal - 1.0) + (noise < 1e-3),
    }
    nearest = min(known, key=lambda name: known[name])
    return nearest if known[nearest] < 0.02 else None


def _noised(noised: Any, clean: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> Any:
    """`add_noise(sample, noise, timesteps)` and `scale_noise(sample, timestep, noise)` order their arguments each in a
    way of its own."""
    names = {"original_samples": clean, "sample": clean, "noise": noise, "timesteps": timestep, "timestep": timestep}
    return noised(**{name: value for name, value in names.items() if name in inspect.signature(noised).parameters})


def levels_reached(table: Timetable, prediction: Prediction, samples: Samples) -> list[float]:
    """The noise level that each step leads to, as the updates make it of a picture and a noise that never change.

    It may be another than the next entry of the timetable: DDIM goes to `t - 1000 // n`.
    """
    clean: list[tuple[float, float]] = [(1.0, 0.0)] * len(table.sigmas)
    for of, outputs in ((None, [output_shares(sigma, prediction) for sigma in table.sigmas]), (prediction, clean)):
        try:
            updates = table.updates(of)
        except Unknown:
            continue
        levels = []
        for position, (sigma, following) in enumerate(pairwise(table.whole)):
            step, start = updates.at(position) or (1.0, []), shares(sigma, samples)
            level = _led_to(*step, start, outputs[: position + 1], samples)
            levels.append(following if math.isclose(level, following, rel_tol=1e-4, abs_tol=1e-5) else level)
        return levels
    return list(table.whole[1:])


def _led_to(
    keep: float,
    shares: Sequence[float],
    start: tuple[float, float],
    outputs: Sequence[tuple[float, float]],
    samples: Samples,
) -> float:
    known = outputs[-len(shares) :] if shares else []
    signal, noise = (
        keep * start[part] + sum(share * output[part] for share, output in zip(shares, known, strict=True))
        for part in (0, 1)
    )
    return noise if samples == "flow" else noise / signal if signal else math.inf


def exchangeable(scheduler: Any, prediction: str) -> dict[str, tuple[str, ...]]:
    """The scheduler classes of diffusers that can replace this one for the same model, and the spacings that they may
    have.
    """
    config, alphas = config_of(scheduler), getattr(scheduler, "alphas_cumprod", None)
    if "flow" in prediction or not isinstance(alphas, torch.Tensor):
        return {}
    if any(config.get(setting) not in (None, usual) for setting, usual in known_schedulers.PLAIN_SETTINGS.items()):
        return {}
    found = known_schedulers.known_scheduler(scheduler).exchanges
    if float(alphas[-1]) > known_schedulers.PURE_NOISE:
        return {other: tuple(known_schedulers.SPACINGS) for other in found}
    able = (other for other in found if known_schedulers.KNOWN[other].pure_noise)
    return {other: known_schedulers.PURE_NOISE_SPACINGS for other in able}


def _prediction(table: Timetable, samples: Samples | None) -> Prediction:
    """Read off the first update of a run that begins in the middle, which is of order 1 under every solver: from where
    it leads, what the output must have been; else what the scheduler declares."""
    declared: Prediction = "flow" if table.flow and hasattr(table.scheduler, "sigmas") else "unknown"
    said = config_of(table.scheduler).get("prediction_type")
    if not table.flow and table.told and said in ("epsilon", "v_prediction", "sample"):
        declared = said
    falling = [position for position, (now, then) in enumerate(pairwise(table.whole)) if then < now]
    if samples is None or not falling:
        return declared
    middle = falling[len(falling) // 2]
    try:
        keep, share = table.updates(first=middle).influence[0, :2]
    except Deep as deep:
        keep, share = deep.influence[0, :2]
    except Unknown:
        return declared
    if not share:
        return declared
    before, after = (shares(table.whole[position], samples) for position in (middle, middle + 1))
    clean, noise = ((after[part] - keep * before[part]) / share for part in (0, 1))
    found = prediction_in(clean, noise, table.whole[middle], table.flow)
    return declared if found == "unknown" else found


def _updates(table: Timetable, prediction: Prediction) -> tuple[LinearUpdates | None, Unknown | None]:
    """The updates, in terms of the outputs or else of the clean estimates; or why there is no such map."""
    refused: Unknown | None = None
    for of in (None, prediction):
        try:
            if of != "unknown":
                return table.updates(of), None
        except Unknown as unknown:
            refused = refused or unknown.untraced()
    return None, refused


def _fresh(table: Timetable, prediction: Prediction) -> bool:
    try:
        return table.updates(prediction).fresh
    except Unknown:
        return False


def _irreplaceable(
    table: Timetable,
    samples: Samples | None,
    prediction: Prediction,
    updates: LinearUpdates | None,
    unknown: Unknown | None,
) -> str:
    if unknown is not None and not isinstance(unknown, Deep):
        return str(unknown)
    if updates is not None and updates.random:
        return "its updates are random"
    if samples is None or prediction == "unknown":
        return "it does not say how its samples are noised"
    if any(later >= sooner for sooner, later in pairwise(table.sigmas)):
        return "its noise levels do not fall from step to step"
    return ""


def _told(scheduler: Any, table: Timetable) -> TimestepInput | None:
    """The way of telling in which one noise level that is moved moves, and no other does."""
    middle = len(table.timesteps) // 2
    if not 0 < middle < len(table.timesteps) - 1:
        return None
    end = table.whole[-1]
    ways: dict[TimestepInput, tuple[str, list[float], list[float]]] = {
        "with end": ("sigmas", table.sigmas, [end]),
        "shifted": ("sigmas", table.sigmas, []),
        "timesteps": ("timesteps", [int(timestep) for timestep in table.timesteps], []),
    }
    if table.flow or not hasattr(scheduler, "alphas_cumprod"):
        del ways["timesteps"]  # which training timestep has which level is not known
    for told, (name, values, rest) in ways.items():
        moved = [*values[:middle], (values[middle - 1] + values[middle]) / 2, *values[middle + 1 :]]
        moved = [int(value) for value in moved] if told == "timesteps" else moved
        plain, other = (_heard(scheduler, told, name, [*some, *rest]) for some in (values, moved))
        if len(plain) == len(other) == len(values):
            apart = [not math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in zip(plain, other, strict=True)]
            if apart[middle] and sum(apart) == 1:
                return told
    return None


def _heard(scheduler: Any, told: TimestepInput, name: str, values: Sequence[float]) -> list[float]:
    """The noise levels that a copy of the scheduler makes of these; none where it does not take them."""
    other, count = copy_scheduler(scheduler), len(values) if told == "shifted" else None
    known = inspect.signature(other.set_timesteps).parameters
    if name not in known:
        return []
    extra = {"mu": 1.0} if "mu" in known and config_of(other).get("use_dynamic_shifting") else {}
    given = np.array(values) if told == "shifted" else list(values)
    try:
        other.set_timesteps(**{"num_inference_steps": count, name: given, **extra})
        return Timetable(other).sigmas
    except Exception:  # whatever somebody's scheduler raises
        return []
