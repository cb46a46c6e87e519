"""What a scheduler makes of the denoiser's outputs in one run: asked of a copy of it, never looked up.

Solvers act on each number of a sample alike, so one walk of the scheduler's own `step` over its timetable, with a
sample of N + 1 numbers, yields the whole linear map: number 0 starts at one and meets outputs of zero, number j + 1
starts at zero and meets an output of one in step j alone. What it holds after step k is what that output is worth then.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
# (what is taken for the output, the network's input, the position in the timetable) -> what the scheduler is given.
Given = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
# What stands around `step`: (scheduler, arguments by name, result) -> result.
Around = Callable[[Any, Mapping[str, Any], Any], Any]

MOST = 5  # outputs that an update may use; each costs two latents to correct

# What every pipeline hands to `step`, and what changes no update.
PLAIN = ("model_output", "timestep", "sample", "generator", "return_dict")

FRESH = "each of its updates starts from fresh noise"

# Schedulers compute in float32: an old output's share is forgotten if it is below this, relative to the whole.
FORGOTTEN = 2e-6


class Unknown(Exception):
    """The updates are no linear map of a few outputs; the message is one clause that says what they are."""

    def untraced(self) -> Unknown:
        """The same without the frames that it came through: where it is kept, they and their sessions would be too."""
        return copy.copy(self)


class Deep(Unknown):
    """They are linear, but use more outputs than can be kept; `influence` and `random` as in `LinearUpdates`."""

    def __init__(self, influence: Array, random: bool = False) -> None:
        super().__init__(f"its updates use more than {MOST} outputs")
        self.influence, self.random = influence, random

    def __reduce__(self) -> tuple[type[Deep], tuple[Array, bool]]:
        return type(self), (self.influence, self.random)


@dataclass(frozen=True, eq=False)
class LinearUpdates:
    """The updates of a run: x' = keep x + shares of the last `depth` outputs, from position `first` of the timetable.

    influence: (steps, steps + 1); row k is the sample after step k, as multiples of the sample at the start (column 0)
    and of each output (column j + 1). Noise that is added besides is not in it.
    """

    first: int
    depth: int
    influence: Array
    random: bool = False  # noise is added besides

    def at(self, position: int) -> tuple[float, list[float]] | None:
        """keep, and the shares of the last outputs, oldest first; None outside of the run."""
        step = position - self.first
        return self._steps[step] if 0 <= step < len(self._steps) else None

    @cached_property
    def _steps(self) -> list[tuple[float, list[float]]]:
        """The same for all steps: of a run that asks for each of them."""
        return [self._at(step) for step in range(len(self.influence))]

    def _at(self, step: int) -> tuple[float, list[float]]:
        keep, rest, old = _step(self.influence, step, self.depth)
        # What is left of a float32 scheduler's rounding must not look like a debt.
        least = FORGOTTEN * float(np.linalg.norm(self.influence[step]))
        before = np.linalg.norm(self.influence[step - 1]) if step else 1.0
        kept = keep if abs(keep) * before > least else 0.0
        return kept, [float(share) if abs(share) > least else 0.0 for share in rest[old : step + 2]]

    @cached_property
    def fresh(self) -> bool:
        """Whether nothing of the sample outlasts a step, which is noised anew (consistency models)."""
        kept = [_step(self.influence, step, self.depth)[0] for step in range(len(self.influence))]
        return self.random and max(map(abs, kept)) < 0.1

    @cached_property
    def added(self) -> tuple[float, ...]:
        """What one unit of each output adds in its step, in coordinates in which the updates of all steps add up: the
        sample divided by what is left of the one at the start. 0 where nothing is left."""
        kept, found = 1.0, []
        for keep, shares in self._steps:
            kept *= keep
            found.append(shares[-1] / kept if kept else 0.0)
        return tuple(found)


def measure_updates(
    scheduler: Any,
    first: int = 0,
    arguments: Mapping[str, Any] | None = None,
    given: Given | None = None,
    around: Around | None = None,
) -> LinearUpdates:
    """The updates of this scheduler from position `first` of its present timetable. It is not touched.

    arguments: what else the pipeline hands to `step`, by name. given: what the scheduler is given for an output of
    which the map shall tell; by default the output itself. The scheduler's tables must be on the CPU (`on_cpu`). 1 to
    60 ms for up to 50 steps; nothing is drawn from the global random state.
    Raises Unknown where the updates are not linear, Deep where they use more than MOST outputs.
    """
    walk = _Walk(scheduler, first, dict(arguments or {}), given, around)
    influence, random = walk.influence()
    for depth in range(1, MOST + 1):
        if all(_forgets(influence, step, depth) for step in range(len(influence))):
            return LinearUpdates(first, depth, influence, random)
    raise Deep(influence, random)


def config_of(scheduler: Any) -> Mapping[str, Any]:
    """Its settings: schedulers of diffusers keep a mapping, those of others also an object, or none."""
    config = getattr(scheduler, "config", None)
    return config if isinstance(config, Mapping) else getattr(config, "__dict__", {})


def copy_scheduler(scheduler: Any, known: Mapping[int, Any] | None = None) -> Any:
    """A deep copy, which may be asked anything. What cannot be copied (locks, open files) is shared with it.

    A function that somebody has put over a method of this object is not, because it leads to the scheduler itself.
    known: what stands in for parts, by their id.
    """
    try:
        other = copy.deepcopy(scheduler, dict(known or {}))
    except Exception:  # whatever somebody's scheduler holds
        other = copy.copy(scheduler)
        memo = {**(known or {}), id(scheduler): other}
        for name, value in vars(scheduler).items():
            with suppress(Exception):
                setattr(other, name, copy.deepcopy(value, memo))
    for name, value in tuple(vars(other).items()):
        if callable(value) and hasattr(type(other), name) and getattr(value, "__self__", None) is not other:
            delattr(other, name)
            if name == "step":
                other.step = _replaced
    return other


def _replaced(*_: Any, **__: Any) -> Any:
    raise Unknown("its step has been replaced by a function, which cannot be tried on a copy")


def handed_on(scheduler: Any) -> list[str]:
    """The names of what else `step` takes and a pipeline may hand on, such as `eta`."""
    return [name for name in inspect.signature(scheduler.step).parameters if name not in PLAIN]


@dataclass
class _Walk:
    """The scheduler's own step over the rest of its timetable."""

    scheduler: Any
    first: int
    arguments: dict[str, Any]
    given: Given | None
    around: Around | None

    def influence(self) -> tuple[Array, bool]:
        """The map, and whether the updates have noise. Noise is added to what the outputs make of the sample, so a
        second walk without outputs, which meets the same noise, tells it apart; it is made where a number that starts
        at zero and meets outputs of zero does not stay there."""
        count = len(getattr(self.scheduler, "timesteps", ())) - self.first
        if count < 1:
            raise Unknown("it has no timetable of its own")
        # One number more meets random outputs: it does not arrive where the map says where something (clipping,
        # thresholding) is not linear.
        random = 3.0 * torch.randn(count + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        outputs = torch.cat([torch.eye(count + 1, dtype=torch.float64), torch.stack([random, 0.0 * random], 1)], dim=1)
        samples = self._made_of(outputs)
        noisy = bool(samples[:, -1].any())
        if noisy:
            samples = samples - self._made_of(torch.zeros_like(outputs))
        influence: Array = samples[:, : count + 1].numpy()
        size = 10.0 * np.linalg.norm(influence, axis=1) + 1e-12
        if not bool(torch.isfinite(samples).all()):
            raise Unknown("its updates do not stay finite")
        if not bool((np.abs(influence @ random.numpy() - samples[:, -2].numpy()) <= 1e-4 * size).all()):
            raise Unknown("its updates are not linear")
        return influence, noisy

    def _made_of(self, outputs: torch.Tensor) -> torch.Tensor:
        """The samples after each step of these outputs, the first of which is the sample at the start: (steps, N)."""
        scheduler, sample, samples = copy_scheduler(self.scheduler), outputs[0].view(1, -1, 1, 1), []
        if self.first and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(self.first)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # `torch.manual_seed` would seed every GPU's generator too
            for step, timestep in enumerate(list(scheduler.timesteps[self.first :])):
                sample = self._step(scheduler, outputs[step + 1].view_as(sample), timestep, sample, self.first + step)
                samples.append(sample.flatten())
        return torch.stack(samples)

    def _step(
        self, scheduler: Any, output: torch.Tensor, timestep: Any, sample: torch.Tensor, position: int
    ) -> torch.Tensor:
        try:
            scale = getattr(scheduler, "scale_model_input", None)
            scaled = sample if scale is None else scale(sample, timestep)
            output = output if self.given is None else self.given(output, scaled, position)
            result = scheduler.step(output, timestep, sample, return_dict=False, **self.arguments)
            if self.around is not None:
                known = {"model_output": output, "timestep": timestep, "sample": sample, **self.arguments}
                result = self.around(scheduler, known, result)
            updated: torch.Tensor = result[0].double().view_as(sample)
        except Unknown:
            raise
        except Exception as error:  # whatever somebody's scheduler raises: it wants what only its own pipeline has
            raise Unknown("its step does not take an output, a timestep and a sample alone") from error
        return updated


def on_cpu(scheduler: Any) -> Any:
    """A copy whose tables are on the CPU, where asking costs no launches: one host sync."""
    tables = (value for value in vars(scheduler).values() if isinstance(value, torch.Tensor))
    return copy_scheduler(scheduler, {id(table): table.detach().cpu().clone() for table in tables})


def _forgets(influence: Array, step: int, depth: int) -> bool:
    _, rest, old = _step(influence, step, depth)
    return bool(np.linalg.norm(rest[:old]) <= FORGOTTEN * np.linalg.norm(influence[step]))


def _step(influence: Array, step: int, depth: int) -> tuple[float, Array, int]:
    """What a step keeps of the sample before it, what it adds to that, and the first column that is not old: of the
    last `depth` outputs. The old ones act through the sample alone, so all of them tell what is kept."""
    before = influence[step - 1] if step else np.eye(1, influence.shape[1])[0]
    old = max(step - depth + 2, 1)
    size = before[:old] @ before[:old]
    keep = float(before[:old] @ influence[step, :old] / size) if size else 0.0
    return keep, influence[step] - keep * before, old
