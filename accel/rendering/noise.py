"""Whether jobs that share a call of the pipeline get the noise that each would get alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch

from accel.components import components_of, schedulers_of
from accel.method import Method
from accel.rendering.pipeline_arguments import parameters_of, plain_class

STEPS = 4


def batches_repeat_singles(pipe: Any, methods: Iterable[Method] = ()) -> bool:
    """Whether a call for several jobs gives what calls for each of them give, except for the last bits.

    A pipeline draws the noise of each job from the job's own generator where it takes any. Its schedulers are asked
    (`noise_is_per_job`), those included that the `methods` of a recipe put in their place.
    """
    taken = parameters_of(plain_class(pipe))
    if taken is not None and "generator" not in taken:
        return False
    components = components_of(pipe)
    groups = [components, *(method.swapped_components(components) for method in methods)]
    return all(noise_is_per_job(scheduler) for parts in groups for _, scheduler in schedulers_of(parts))


def noise_is_per_job(scheduler: Any) -> bool:
    """Whether two equal samples with generators of one seed stay equal through a run of a scheduler like this one.

    They do where it adds no noise, and where it takes each sample's noise from the sample's own generator; they do not
    where it draws for the batch as a whole, from a generator of its own or the global one (DPMSolverSDE). The answer is
    False as well for one that cannot be asked. The scheduler itself is not touched, nor the global random state.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return _equal_samples_stay_equal(_fresh(scheduler))
    except Exception:  # one that needs more than a timetable and a sample, or is no scheduler of diffusers
        return False


def _fresh(scheduler: Any) -> Any:
    """Another one with the same settings. A copy would carry along what is attached to this one."""
    found = plain_class(scheduler).from_config(scheduler.config)  # type: ignore[attr-defined]
    options = {"mu": 1.0} if found.config.get("use_dynamic_shifting") else {}
    found.set_timesteps(STEPS, **options)
    return found


def _equal_samples_stay_equal(scheduler: Any) -> bool:
    sample = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    takes = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": [torch.Generator().manual_seed(0) for _ in range(2)]} if takes else {}
    for timestep in scheduler.timesteps:
        answer = sample / 2
        if hasattr(scheduler, "scale_model_input"):
            answer = scheduler.scale_model_input(answer, timestep)
        sample = scheduler.step(answer, timestep, sample, **options).prev_sample
    return torch.equal(sample[0], sample[1])
