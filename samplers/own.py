"""The schedulers of diffusers whose own update is one of our solvers, so that other levers know it as weights."""

from __future__ import annotations

from typing import Any

from accel.samplers.method import update_of
from accel.samplers.solvers import DPMSolver, UniPC
from accel.update import Update, known


def _unipc(scheduler: Any) -> Update | None:
    config = scheduler.config
    plain = config.solver_type == "bh2" and config.predict_x0 and config.lower_order_final
    if not plain or config.thresholding or config.disable_corrector or config.solver_order > 3:
        return None
    return update_of(UniPC(config.solver_order))


def _dpm_solver(scheduler: Any) -> Update | None:
    config = scheduler.config
    plain = config.algorithm_type == "dpmsolver++" and config.solver_type == "midpoint" and not config.thresholding
    # Ends that are not of order 1 and orders that diffusers counts otherwise are left out.
    if not plain or config.solver_order > 2 or config.final_sigmas_type != "zero":
        return None
    return update_of(DPMSolver(config.solver_order))


known.update({"UniPCMultistepScheduler": _unipc, "DPMSolverMultistepScheduler": _dpm_solver})
