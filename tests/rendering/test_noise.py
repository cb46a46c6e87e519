"""Jobs share a call only where a batch gives what single calls give: asked of every scheduler that diffusers has."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

import accel
from accel.rendering.noise import batches_repeat_singles, noise_is_per_job
from tests.rendering.studio import ledger_lines, worded
from tests.rendering.test_render import pixels, render, still

SCHEDULERS = [
    kind
    for name in dir(diffusers)
    if name.endswith("Scheduler") and isinstance(kind := getattr(diffusers, name), type) and kind is not SchedulerMixin
]
SETTINGS: list[dict[str, Any]] = [{}, {"stochastic_sampling": True}, {"algorithm_type": "sde-dpmsolver++"}]


def ran(scheduler: Any, samples: torch.Tensor, seeds: list[int]) -> torch.Tensor:
    """A run as in a pipeline, with a model that answers with a part of its input, in the worker's random state."""
    scheduler.set_timesteps(6)
    torch.manual_seed(seeds[0])
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    takes = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generators if len(seeds) > 1 else generators[0]} if takes else {}
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(samples, timestep) if hasattr(scheduler, "scale_model_input") else samples
        samples = scheduler.step(0.3 * torch.sin(scaled), timestep, samples, **options).prev_sample
    return samples


@pytest.mark.part(25)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", SCHEDULERS, ids=lambda kind: kind.__name__)
def test_where_jobs_may_share_a_call_each_gets_what_it_gets_alone(kind: Any, settings: dict[str, Any]) -> None:
    if not set(settings) <= set(inspect.signature(kind.__init__).parameters):
        pytest.skip("it has no such setting")
    try:
        scheduler = kind(**settings)
    except (ImportError, TypeError, ValueError, NotImplementedError) as error:
        pytest.skip(str(error))
    before, steps = torch.get_rng_state(), getattr(scheduler, "num_inference_steps", None)
    shared = noise_is_per_job(scheduler)
    assert torch.equal(torch.get_rng_state(), before)
    assert getattr(scheduler, "num_inference_steps", None) == steps, "it was asked on another one"
    if not shared:
        return
    samples = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    together = ran(kind(**settings), samples, [5, 6, 7])
    alone = [ran(kind(**settings), samples[number : number + 1], [5 + number]) for number in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_most_schedulers_can_be_asked() -> None:
    """Those that cannot are for tokens or audio, need another package, or want more than a sample."""
    known = ("DDIM", "DDPM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "UniPCMultistep", "HeunDiscrete")
    known += ("DPMSolverMultistep", "FlowMatchEulerDiscrete", "LCM", "KDPM2AncestralDiscrete", "LMSDiscrete")
    kinds = {kind.__name__: kind for kind in SCHEDULERS}
    assert all(noise_is_per_job(kinds[f"{name}Scheduler"]()) for name in known)


class OwnNoise(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Adds noise from nobody's generator, as DPMSolverSDE does."""

    def step(self, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        found = super().step(*args, **kwargs, return_dict=False)[0]
        found = found + 0.1 * torch.randn_like(found)
        return SimpleNamespace(prev_sample=found) if return_dict else (found,)


class NoGenerator:
    def __call__(self, prompt: str) -> None: ...


def test_a_batch_under_noise_of_its_own_is_rendered_one_by_one(tmp_path: Path) -> None:
    lines = [still(f"prompt {number}", seed=number) for number in range(3)]
    for number, kind in enumerate((OwnNoise, FlowMatchEulerDiscreteScheduler)):
        pictures = []
        for batch in (1, 3):
            pipe = worded()
            pipe.scheduler = kind.from_config(pipe.scheduler.config)
            out = tmp_path / f"{number}-{batch}"
            summary = render(pipe, lines, out, batch=batch)
            assert summary.complete, str(summary)
            assert [len(call) if isinstance(call, list) else 1 for call in pipe.calls] == (
                [1, 1, 1] if batch == 1 or kind is OwnNoise else [3]
            )
            entries = sorted(ledger_lines(out), key=lambda entry: entry["index"])
            pictures.append(np.stack([pixels(out / entry["file"]) for entry in entries]).astype(int))
        assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_what_a_recipe_puts_in_place_of_the_scheduler_is_asked_too() -> None:
    pipe = worded()
    assert batches_repeat_singles(pipe)

    class Swapping(accel.FixedInterval, abstract=True):  # type: ignore[misc]
        def swapped_components(self, components: Any) -> dict[str, Any]:
            return {"scheduler": OwnNoise.from_config(components["scheduler"].config)}

    assert not batches_repeat_singles(pipe, [Swapping()])
    assert noise_is_per_job(DDPMScheduler()) and noise_is_per_job(EulerAncestralDiscreteScheduler())
