"""Every attention method on real pipelines of every kind: it acts or says why not, and is undone to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import accel
from accel.attention import (
    HiDiffusion,
    LowPrecision,
    PooledKeys,
    Radial,
    SlidingTile,
    SparseVideoGen,
    TokenMerging,
    TopKBlocks,
    WindowResidual,
)
from accel.method import Method
from tests.accel.witness import pipeline, plain
from tests.attention.methods.quantised import Emulated
from tests.tiny import TINY, run
from tests.tiny.kinds import crossed

NOW: dict[str, Any] = {"warmup": 0.0, "dense_layers": 0, "min_tokens": 0}
METHODS: dict[str, Method] = {
    "tiles": SlidingTile(0.5, **NOW),
    "radial": Radial(**NOW),
    "spatial and temporal": SparseVideoGen(0.5, block=4, **NOW),
    "top blocks": TopKBlocks(0.5, block=4, **NOW),
    "window and residual": WindowResidual(SlidingTile(0.3), refresh=2, **NOW),
    "pooled keys": PooledKeys(near=(1, 2, 2), **NOW),
    "fewer bits": LowPrecision(min_tokens=0),
    "emulated": Emulated(),
    "merged tokens": TokenMerging(**NOW),
    "windows": HiDiffusion(**NOW),
}
PIPELINES = (
    "wan",
    "wan_two_experts",
    "ltx",
    "hunyuan_video",
    "cogvideox",
    "mochi",
    "animatediff",
    "flux",
    "sd3",
    "sdxl",
)


@pytest.mark.part(2)
@crossed("method", METHODS, PIPELINES, kinds=("wan", "flux", "sdxl"))
def test_it_acts_or_says_why_not_and_is_undone_to_the_bit(name: str, method: str) -> None:
    pipe = pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(attention=METHODS[method])) as session:
        output = run(pipe, TINY[name])
        again = run(pipe, TINY[name])
    report = session.report().levers[0]
    assert torch.isfinite(output).all()
    assert torch.equal(output, again)
    assert report.reason
    if not report.engaged:
        assert torch.equal(output, plain(name))
    assert torch.equal(run(pipe, TINY[name]), plain(name))
