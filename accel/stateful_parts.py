"""Parts that keep a run in themselves, when another begins: a scheduler must be free, a guider forgets the last one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from accel.components import guiders_of, schedulers_of
from accel.ownership import owned_elsewhere
from accel.patch import replace_attribute


def check_free(components: Mapping[str, Any]) -> None:
    """Raises RuntimeError where a scheduler that keeps its run in itself is in the middle of another."""
    for name, scheduler in schedulers_of(components):
        if "timesteps" in getattr(scheduler, "__dict__", {}) and owned_elsewhere(scheduler):
            raise RuntimeError(
                f"The {name} is in the middle of a run in another thread or task, and both would be wrong: give each "
                f"a pipeline of its own, type(pipe)(**{{**pipe.components, {name!r}: copy.deepcopy(pipe.{name})}}), "
                "and accelerate that."
            )


@contextmanager
def unused_guiders(components: Mapping[str, Any]) -> Iterator[None]:
    """Guiders as if they had guided no run yet, for the duration of the block.

    diffusers leaves the end of the last run in a guider, and one that had stopped by then asks the next call for no
    negative prompt, which it needs again at the first step.
    """
    with ExitStack() as put_back:
        for guider in guiders_of(components):
            for counted in ("_step", "_num_inference_steps"):
                put_back.enter_context(replace_attribute(guider, counted, None))
        yield
