"""What each of two processes does in test_parallel.py: the same pipelines with the same caches, one rank of two.

A module of its own, because a started process imports where its work is written down, and this needs no pytest.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig

import accel
from accel import AdaCache, DiCache, FirstBlockCache, FixedInterval, SeaCache, TeaCache
from accel.caching import parallel
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, run
from tests.tiny.video import wan_transformer

RANKS = 2
PROBED = {
    "first block": FirstBlockCache(0.33, min_steps=1),
    "tea": TeaCache(0.3, coefficients=(1.0, 0.0), min_steps=1),
    "di": DiCache(0.3, retention=0.0, warmup=2, min_steps=1),
}
WHOLE = {"sea": SeaCache(0.3, min_steps=1), "static": FixedInterval(2, min_steps=1)}
MODULES = {"ada": AdaCache((0.135, 3.0, 0.4, 2.0), min_steps=1)}
SHARED = {"wan": {**WHOLE, **PROBED, **MODULES}, "flux": {label: PROBED[label] for label in ("first block", "tea")}}
"""What runs on which pipeline. Flux, whose calls have one stream and its latents in a row, only with what probes it."""
GUIDED = ("first block", "ada")
"""What runs with guidance, whose second stream follows the first. The others have the first alone: half of the work."""
TOYS = {
    "tea": TeaCache(0.25, coefficients=(1.0, 0.0)),
    "not a number": TeaCache(0.25, coefficients=(1.0, 0.0), clamp=0),
    "sea": SeaCache(0.3),
    "static": FixedInterval(3),
}


class Watch:
    """Counts accel's reductions and keeps what was measured here and what was agreed on."""

    def __init__(self) -> None:
        self._reduce, self._largest = dist.all_reduce, parallel.largest
        dist.all_reduce, parallel.largest = self._counted, self._kept
        self.begin()

    def begin(self) -> None:
        self.reductions, self.measured = 0, []

    def _counted(self, *args: Any, **kwargs: Any) -> Any:
        self.reductions += 1
        return self._reduce(*args, **kwargs)

    def _kept(self, call: Any, distance: float | None) -> float | None:
        agreed = self._largest(call, distance)
        self.measured.append((call.context.step, distance, agreed))
        return agreed


def work(rank: int, folder: Path) -> None:
    """Runs everything as this rank and leaves the results in the folder."""
    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and a machine without accelerators has 0
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS,
        timeout=datetime.timedelta(seconds=600),
    )  # fmt: skip
    watch, results = Watch(), {}
    toys(rank, watch, results)
    for name in SHARED:
        shared(name, watch, results)
    accelerated_before(watch, results)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def toys(rank: int, watch: Watch, results: dict[Any, Any]) -> None:
    """A denoiser that shows each rank something else, first as if the ranks had nothing to do with each other."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,))
    config = SimpleNamespace(context_parallel_config=SimpleNamespace(_flattened_mesh=mesh))
    for name, cache in TOYS.items():
        for place in ("apart", "together"):
            lost = rank == 1 and name == "not a number"
            pipe = ToyPipeline(
                lambda latents, sigma: latents * (1.0 + rank),
                lambda sigma, lost=lost: math.nan if lost and sigma < 0.5 else math.exp((1.0 + rank) * sigma),
            )
            if place == "together":
                pipe.transformer._parallel_config = config
            results[place, name] = accelerated(pipe, cache, watch, pipe)


def shared(name: str, watch: Watch, results: dict[Any, Any]) -> None:
    """A real transformer under diffusers' context parallelism."""
    pipe = TINY[name].build()
    if name == "wan":
        pipe.transformer = wan_transformer(layers=3)  # with fewer both halves of its tokens move alike
    calls = {label: tiny_call(name, pipe, guidance=label in GUIDED) for label in SHARED[name]}
    call = tiny_call(name, pipe)
    plain = call()
    for label, cache in SHARED[name].items():
        if label in WHOLE:
            results["alone", name, label] = accelerated(pipe, cache, watch, calls[label])
    pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=RANKS))
    before = call()
    for label, cache in SHARED[name].items():
        results[name, label] = accelerated(pipe, cache, watch, calls[label])
    results["plain", name] = plain, before, call()


def accelerated_before(watch: Watch, results: dict[Any, Any]) -> None:
    """The split is put on top of accel's layer, so that the cache's latents are a part of them too."""
    for label in ("sea", "first block"):
        pipe = TINY["flux"].build()
        session = accel.accelerate(pipe, cache={**WHOLE, **PROBED}[label])
        pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=RANKS))
        watch.begin()
        results["before", label] = outcome(tiny_call("flux", pipe)(), session, watch)


def tiny_call(name: str, pipe: Any, guidance: bool = False) -> Callable[[], torch.Tensor]:
    return lambda: run(pipe, TINY[name], guidance=guidance)


def accelerated(pipe: Any, cache: Any, watch: Watch, call: Callable[[], torch.Tensor]) -> dict[str, Any]:
    watch.begin()
    with accel.accelerate(pipe, cache=cache) as session:
        return outcome(call(), session, watch)


def outcome(output: torch.Tensor, session: Any, watch: Watch) -> dict[str, Any]:
    report = session.report()
    return {
        "output": output,
        "timeline": report.timeline(),
        "reasons": [record.reason for record in report.calls],
        "reductions": watch.reductions,
        "measured": watch.measured,
    }
