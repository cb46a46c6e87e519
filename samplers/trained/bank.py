"""Stored trajectories of one pipeline, all from the same noise: built once, saved, and searched by `ReDi`."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from accel.files import read_json, write_whole
from accel.parametrization import flow_time, scale_of
from accel.samplers.sampler import Sampler
from accel.samplers.solvers import Euler
from accel.samplers.trained.call_identity import SIZES, compared_arguments

STATES, FACTS = "states.safetensors", "bank.json"
SCHEMA = 1

CHUNK = 1 << 24  # numbers that are compared at a time


@dataclass(frozen=True)
class BankFacts:
    """What a bank belongs to. levels: the scheduler's noise levels, that of the end included. samples: how it scales
    them. shape: of the latents of one sample. seed: of the noise. solver: as plain data.
    """

    pipeline: str
    scheduler: str
    samples: str
    solver: Mapping[str, Any]
    levels: tuple[float, ...]
    shape: tuple[int, ...]
    seed: int
    arguments: Mapping[str, Any]


class Retrieved(NamedTuple):
    """What the bank has for a batch: latents to continue from (B, ...), how far they are, and whose they are mostly."""

    latents: torch.Tensor
    distances: list[float]
    prompts: list[str]


@dataclass(frozen=True, eq=False)
class TrajectoryBank:
    """Latents of many prompts after some steps of a run, for `ReDi` to look up and continue from.

    states: by the number of updates made, (prompts, *shape) on the host, in the dtype of the pipeline's latents. noise:
    what all of them started from, (1, *shape). Memory and disk: one latent for each prompt and kept state; files are
    mapped, so that what is never retrieved need not fit.
    """

    facts: BankFacts
    prompts: tuple[str, ...]
    noise: torch.Tensor
    states: Mapping[int, torch.Tensor]

    @classmethod
    def build(
        cls,
        pipe: Any,
        prompts: Sequence[str | Mapping[str, Any]],
        *,
        steps: int,
        key: int | Sequence[int],
        landing: int | Sequence[int],
        seed: int = 0,
        solver: Sampler | None = None,
        batch: int = 8,
        **options: Any,
    ) -> TrajectoryBank:
        """Runs the pipeline in full for every prompt, from the noise of `seed`, and keeps the latents after `key`
        and `landing` steps (several of each may be given, to choose from later).

        prompts: captions, or call arguments such as embeddings, which run one at a time. solver: makes the updates here
        and later (Euler). options: go to every call, and later calls must have the same: guidance scale, size, negative
        prompt. The pipeline is unaccelerated during the build and afterwards as it was, also if this is interrupted;
        nothing is written. Raises ValueError for steps that are not within the run, for a scheduler whose updates
        cannot be replaced, and for a pipeline that does not take its noise from `generator`.
        """
        from accel.samplers.trained.recording import record

        kept = sorted({*_numbers(key), *_numbers(landing)})
        if not prompts:
            raise ValueError("A bank needs at least one prompt.")
        if not kept or not 1 <= kept[0] < kept[-1] < steps:
            raise ValueError(f"key and landing must be steps from 1 to {steps - 1}, and key the smaller, not {kept}.")
        calls = [
            {"num_inference_steps": steps, **options, **asked} for asked in _batches(prompts, batch)
        ]  # a prompt's own arguments win
        facts, noise, states = record(pipe, calls, solver or Euler(), kept, seed)
        names = [one if isinstance(one, str) else f"prompt {number}" for number, one in enumerate(prompts)]
        return cls(facts, tuple(names), noise, states)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the bank to a folder, whole or not at all; another bank there is replaced.

        Raises ValueError for a folder that holds something else.
        """
        from safetensors.torch import save_file

        data = {"schema": SCHEMA, **asdict(self.facts), "prompts": self.prompts, "states": sorted(self.states)}
        tensors = {f"state {number}": state.contiguous() for number, state in self.states.items()}
        with _whole_folder(Path(folder)) as part:
            save_file({"noise": self.noise.contiguous(), **tensors}, part / STATES)
            write_whole(part / FACTS, json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> TrajectoryBank:
        """Reads a saved bank. Raises ValueError, in one sentence, for a folder without one or a damaged one."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        facts, prompts, kept = read_json(Path(folder) / FACTS, "trajectory bank", _parsed)
        try:
            tensors = load_file(Path(folder) / STATES)
            states = {number: tensors[f"state {number}"] for number in kept}
            noise = tensors["noise"]
        except (OSError, KeyError, SafetensorError) as error:
            raise ValueError(f"The trajectories in {os.fspath(folder)} cannot be read: {error}.") from None
        return cls(facts, prompts, noise, states)

    def differs(self, given: Mapping[str, Any]) -> str | None:
        """Why a call with these arguments does not run as the bank's did, in one clause; None if it may."""
        if given.get("latents") is not None:
            return "the call gives latents of its own"
        here = compared_arguments(given)
        for name, value in self.facts.arguments.items():
            unknown = name in SIZES and None in (value, here.get(name))
            if not unknown and here.get(name) != value:
                return f"{name} is {here.get(name)!r} in this call and {value!r} in the bank"
        return None

    def unlike(self, first: torch.Tensor, levels: Sequence[float]) -> str | None:
        """Why a run that starts from these latents (B, ...) at these noise levels is not like those of the bank."""
        if tuple(first.shape[1:]) != self.facts.shape:
            return f"latents of {tuple(first.shape[1:])}, where the bank has {self.facts.shape}"
        if len(levels) != len(self.facts.levels) or not all(map(_near, levels, self.facts.levels)):
            return "its noise levels are not those of the bank"
        noise = self.noise.to(first.device, torch.float32)
        return None if torch.allclose(first.float(), noise, 1e-2, 1e-2) else "it does not start from the bank's noise"

    def nearest(self, query: torch.Tensor, key: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The stored prompts whose latents after `key` steps are nearest to one sample's, and how far they are in L2:
        (count,) each, nearest first, by plain comparison with every one.
        """
        stored, wanted = self.states[key].flatten(1), query.flatten().cpu().float()
        rows = max(CHUNK // stored.shape[1], 1)
        squares = [(part.float() - wanted).square().sum(1) for part in stored.split(rows)]
        distances, order = torch.cat(squares).sqrt().sort(stable=True)
        return order[:count], distances[:count]

    def retrieve(self, latents: torch.Tensor, key: int, landing: int, neighbours: int) -> Retrieved:
        """For each sample of (B, *shape) after `key` steps: the nearest trajectory after `landing` steps, or the
        combination of the `neighbours` nearest whose latents at `key` come closest to it in least squares.

        Distances are what remains, root-mean-square, as a difference of clean latents: divided by the share of the
        clean sample in the latents after `key` steps, because from the same noise that is all that differs.
        """
        found = [self._one(sample, key, landing, neighbours) for sample in latents]
        samples, sigma = self.facts.samples, self.facts.levels[key]
        share = scale_of(sigma, samples) * (1.0 - flow_time(sigma, samples == "flow"))  # type: ignore[arg-type]
        unit = share * math.sqrt(latents[0].numel())
        states, distances, names = zip(*found, strict=True)
        return Retrieved(torch.stack(states), [distance / unit for distance in distances], list(names))

    def _one(self, sample: torch.Tensor, key: int, landing: int, neighbours: int) -> tuple[torch.Tensor, float, str]:
        order, distances = self.nearest(sample, key, neighbours)
        name, later = self.prompts[int(order[0])], self.states[landing][order]
        if neighbours == 1:
            return later[0], float(distances[0]), name
        known, wanted = self.states[key][order].flatten(1).double(), sample.flatten().cpu().double()
        weights = least_squares(known, wanted)
        remains = float((weights @ known - wanted).norm())
        return (weights @ later.flatten(1).double()).reshape(later[0].shape).to(later.dtype), remains, name


def least_squares(known: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The weights (k,) with which the rows of (k, D) come nearest to (D,); the smallest where several do."""
    weights: torch.Tensor = torch.linalg.lstsq(known.T, wanted[:, None], driver="gelsd").solution[:, 0]
    return weights


def _near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6)


def _numbers(steps: int | Sequence[int]) -> list[int]:
    return [steps] if isinstance(steps, int) else list(steps)


def _batches(prompts: Sequence[str | Mapping[str, Any]], size: int) -> Iterator[Mapping[str, Any]]:
    """The arguments of one call after another."""
    waiting: list[str] = []
    for prompt in prompts:
        if waiting and (not isinstance(prompt, str) or len(waiting) == size):
            yield {"prompt": waiting}
            waiting = []
        if isinstance(prompt, str):
            waiting.append(prompt)
        else:
            yield prompt
    if waiting:
        yield {"prompt": waiting}


def _parsed(data: Any) -> tuple[BankFacts, tuple[str, ...], list[int]]:
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"this is not a trajectory bank of schema {SCHEMA}; build it again.")
    try:
        named = {name: data[name] for name in BankFacts.__dataclass_fields__}
        facts = BankFacts(**named | {"levels": tuple(data["levels"]), "shape": tuple(data["shape"])})
        return facts, tuple(data["prompts"]), list(data["states"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"this trajectory bank is incomplete ({error}); build it again.") from None


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to that takes the place of `folder` at the end, and vanishes if writing fails."""
    if folder.exists() and not (folder / FACTS).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something else than a trajectory bank: give a new folder.")
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if folder.exists():
            folder.replace(old)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
