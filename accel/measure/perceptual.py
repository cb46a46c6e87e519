"""Learned measures that other packages bring: LPIPS where it is installed, and who measures CLIP and VBench."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from accel.measure.metrics import Clip

MISSING = {
    "lpips": "LPIPS was not measured: pip install lpips, whose weights are downloaded when it is first used.",
    "clip": "CLIP was not measured: pass a verifier that asks a CLIP model of yours, with verify=... or metrics=...",
    "vbench": "VBench was not measured: it is a program of its own, for the clips that the comparison has written.",
}


def lpips_metric() -> Callable[[Clip, Clip], float] | None:
    """LPIPS (Zhang et al. 2018, AlexNet) of two clips, the mean over frames: 0 for the same, about 0.7 for others. None
    where the package `lpips` is not installed, or its weights cannot be had.
    """
    if find_spec("lpips") is None:
        return None
    import lpips
    import torch

    try:
        network: Any = lpips.LPIPS(net="alex", verbose=False).eval()
    except OSError:  # no network, and no weights kept
        return None

    def distance(candidate: Clip, reference: Clip) -> float:
        ours, theirs = (torch.from_numpy(np.moveaxis(clip, -1, 1).copy()) * 2 - 1 for clip in (candidate, reference))
        with torch.no_grad():
            return float(np.mean([float(network(a[None], b[None])) for a, b in zip(ours, theirs, strict=True)]))

    return distance


def missing(measured_lpips: bool) -> list[str]:
    """A sentence for each learned measure that is not in the table."""
    return [said for name, said in MISSING.items() if not (name == "lpips" and measured_lpips)]
