"""A setting of every technique under which it acts on the tiny pipelines, as a recipe and by name."""

from __future__ import annotations

from typing import Any

from accel import CoarseToFine, Recipe, ShiftedWindows
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
from accel.caching import (
    FORA,
    PAB,
    AdaCache,
    Align,
    DBCache,
    DeepCache,
    DiCache,
    EasyCache,
    Extrapolate,
    FirstBlockCache,
    FixedInterval,
    LastOutput,
    LastResidual,
    MagCache,
    OptimalSchedule,
    PlannedDeepCache,
    SeaCache,
    SmoothCache,
    StaticSchedule,
    TeaCache,
    TGate,
)
from accel.precision import BFloat16, Int8, Int8Weights
from accel.samplers import (
    LCM,
    TCD,
    TDD,
    AdamsBashforth,
    AdaptiveGuidance,
    DiffusersScheduler,
    DPMSolver,
    Euler,
    GuidanceDelta,
    GuidanceInterval,
    Karras,
    PseudoCorrector,
    Shift,
    UniPC,
)
from tests.accel.test_contract_reuse import flat_errors

SOON: dict[str, Any] = {"warmup": 1, "final": 1, "min_steps": 1}
NOW: dict[str, Any] = {"warmup": 0.0, "dense_layers": 0, "min_tokens": 0}

# Their decisions are known before the run, or made from what a GPU computes and keeps.
STATIC: dict[str, Recipe] = {
    "every third": Recipe(cache=FixedInterval(3, **SOON)),
    "every third, last output": Recipe(cache=FixedInterval(3, predictor=LastOutput(), **SOON)),
    "every third, last residual": Recipe(cache=FixedInterval(3, predictor=LastResidual(), **SOON)),
    "every third, x0": Recipe(cache=FixedInterval(3, predictor=Extrapolate(2, space="x0"), **SOON)),
    "every third, aligned": Recipe(cache=FixedInterval(3, predictor=Align(), **SOON)),
    "planned": Recipe(cache=OptimalSchedule(0.5, min_steps=1)),
    "listed": Recipe(cache=StaticSchedule((1.0, 0.8, 0.4), **SOON)),
    "magnitudes": Recipe(cache=MagCache(0.5, retention=0.0, ratios=(1.0, 0.98, 0.95, 0.9), **SOON)),
    "FORA": Recipe(cache=FORA(3, **SOON)),
    "PAB": Recipe(cache=PAB(3, 2, 3, (-1.0, 1001.0), **SOON)),
    "SmoothCache": Recipe(cache=SmoothCache(0.5, flat_errors(0.1), **SOON)),
    "DeepCache": Recipe(cache=DeepCache(3, min_steps=1)),
    "DeepCache, planned": Recipe(cache=PlannedDeepCache(0.5, min_steps=1)),
    "interval of guidance": Recipe(guidance=GuidanceInterval(0.3, 0.9)),
    "difference carried": Recipe(guidance=GuidanceDelta()),
    "difference carried, planned": Recipe(guidance=GuidanceDelta(), cache=OptimalSchedule(0.5, min_steps=1)),
    "Euler": Recipe(sampler=Euler()),
    "Euler, shifted": Recipe(sampler=Euler(sigmas=Shift(2.0))),
    "Euler, Karras": Recipe(sampler=Euler(sigmas=Karras())),
    "pseudo-corrector": Recipe(sampler=PseudoCorrector()),
    "Adams-Bashforth": Recipe(sampler=AdamsBashforth(3)),
    "DPM-Solver": Recipe(sampler=DPMSolver()),
    "UniPC": Recipe(sampler=UniPC()),
    "LCM": Recipe(sampler=LCM()),
    "TCD": Recipe(sampler=TCD()),
    "TDD": Recipe(sampler=TDD()),
    "scheduler": Recipe(sampler=DiffusersScheduler()),
    "tiles": Recipe(attention=SlidingTile(0.5, **NOW)),
    "pooled keys": Recipe(attention=PooledKeys(**NOW)),
    "radial": Recipe(attention=Radial(**NOW)),
    "tiles and residual": Recipe(attention=WindowResidual(SlidingTile(0.3), refresh=2, min_tokens=0, dense_layers=0)),
    "HiDiffusion": Recipe(attention=HiDiffusion(min_tokens=0)),
    "attention in bfloat16": Recipe(attention=LowPrecision(min_tokens=0)),
    "layers in bfloat16": Recipe(precision=BFloat16(min_tokens=2)),
    "layers in 8 bits": Recipe(precision=Int8(min_tokens=2)),
    "weights in 8 bits": Recipe(precision=Int8Weights(min_tokens=2, memory="beside")),
    "coarse to fine": Recipe(resolution=CoarseToFine(0.7)),
    "windows": Recipe(resolution=ShiftedWindows(4)),
    "four levers": Recipe(
        cache=OptimalSchedule(0.5, min_steps=1), guidance=GuidanceDelta(), sampler=UniPC(),
        attention=SlidingTile(0.5, **NOW),
    ),
}  # fmt: skip

# They go by a number that is read off a tensor.
ADAPTIVE: dict[str, Recipe] = {
    "planned, guarded": Recipe(cache=OptimalSchedule(0.3, guard=0.2, min_steps=1)),
    "EasyCache": Recipe(cache=EasyCache(0.3, **SOON)),
    "SeaCache": Recipe(cache=SeaCache(0.5, **SOON)),
    "TeaCache": Recipe(cache=TeaCache(0.3, coefficients=(1.0, 0.0), **SOON)),
    "FirstBlockCache": Recipe(cache=FirstBlockCache(0.3, **SOON)),
    "DBCache": Recipe(cache=DBCache(0.3, first=1, **SOON)),
    "DiCache": Recipe(cache=DiCache(0.3, retention=0.0, **SOON)),
    "DiCache, delta_minus": Recipe(cache=DiCache(0.3, mode="delta_minus", retention=0.0, **SOON)),
    "AdaCache": Recipe(cache=AdaCache((0.1, 4, 0.5, 2), **SOON)),
    "TGate": Recipe(cache=TGate(0.5, 2, warmup=1, min_steps=1)),
    "agreement": Recipe(guidance=AdaptiveGuidance(0.5)),
    "agreement, paper": Recipe(guidance=AdaptiveGuidance(0.5, rest="conditional")),
    "agreement, planned": Recipe(guidance=AdaptiveGuidance(0.5), cache=OptimalSchedule(0.5, min_steps=1)),
}

# They plan from what the layers see: what a plan is packed into has a size that depends on it.
ONLINE: dict[str, Recipe] = {
    "spatial and temporal": Recipe(attention=SparseVideoGen(0.5, block=4, **NOW)),
    "top blocks": Recipe(attention=TopKBlocks(0.5, block=4, **NOW)),
    "merged tokens": Recipe(attention=TokenMerging(**NOW)),
}

# lever -> technique -> why it is not among them.
ELSEWHERE: dict[str, dict[str, str]] = {
    "cache": {"FittedSchedule": "sums of latent size like the forecasts of OptimalSchedule; needs a measurement"},
    "attention": {
        "SageAttention": "its kernels are of an extension for GPUs; tests/attention/methods/test_sage.py",
        "DenseBackend": "torch's own back ends; needs what was measured on a device",
    },
    "precision": {
        "Float32": "acts on the CPU alone",
        "Float8": "needs a GPU that multiplies in 8 bits; tests/precision/test_float8.py",
        "LayerFormats": "the formats of the others, layer by layer",
    },
    "guidance": {"LinearAG": "an update of latent size like that of GuidanceDelta; needs a calibration"},
    "sampler": {
        "SchedulerSolver": "no update of its own",
        "ModelSwitch": "another denoiser, called in the same way",
        "FlowTurbo": "needs a trained refiner",
        "ReDi": "needs a bank of trajectories",
    },
}
