"""How long the phases of a pipeline call take by the clock on the wall: in front of denoising, denoising, behind it."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class CallPhases:
    """When a pipeline call began, when its denoiser was first called, and when the last step was done; 0: not yet.

    Plain fields, which `PipelineCall` sets: in each step functions cost.
    """

    started: float = 0.0
    first_call: float = 0.0
    last_step: float = 0.0

    def seconds(self, end: float) -> dict[str, float]:
        """Of each phase of a call that has ended then."""
        last = max(self.last_step, self.first_call)
        return {
            "total": end - self.started,
            "before": self.first_call - self.started,
            "denoise": last - self.first_call,
            "after": end - last,
        }


def finish_device_work() -> None:
    """In front of a look at the clock: kernels that were only launched have not run yet."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
