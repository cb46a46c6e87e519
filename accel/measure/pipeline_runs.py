"""Running somebody's pipeline for a measurement: what its call takes, and with what it is accelerated meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from accel.api import accelerate
from accel.call_forms import accepts
from accel.device import device_of, synchronize
from accel.patch import undo_later
from accel.recipe import Recipe
from accel.session import bare


def check_seed(seed: object) -> None:
    """Raises ValueError, in one sentence, for what no generator of torch takes."""
    if type(seed) is not int or not -(2**63) <= seed < 2**63:
        raise ValueError(f"a seed must be a whole number from {-(2**63)} to {2**63 - 1}, not {seed!r}.")


@contextmanager
def attach_for_run(pipe: Any, recipe: Any) -> Iterator[Any]:
    """A session with `recipe` on `pipe`, restored on exit. For a function, with the clock around what it
    attached. A session that was attached before is suspended meanwhile.
    """
    with bare(pipe), ExitStack() as undo:
        if callable(recipe):
            undo.callback(recipe(pipe))
            recipe = Recipe()
        yield undo.enter_context(accelerate(pipe, recipe))


def without_progress_bars(pipe: Any) -> AbstractContextManager[None]:
    """Turns the pipeline's own progress bar off for the block, and leaves its attributes as they were."""
    if not hasattr(pipe, "set_progress_bar_config"):
        return nullcontext()
    return undo_later(pipe, lambda: pipe.set_progress_bar_config(disable=True))


def needs_prompt(pipe: Any, call_arguments: Mapping[str, Any]) -> bool:
    """Whether a prompt is part of the call: the pipeline takes one, and it is not among the arguments as embeddings."""
    return accepts(pipe, "prompt") and call_arguments.get("prompt_embeds") is None


def work_seconds(pipe: Any) -> float:
    """A clock of the work done for this pipeline: processor time of this process, or wall-clock time of its device when
    everything asked of that is done.
    """
    device = device_of(pipe)
    if device.type == "cpu":
        return time.process_time()
    synchronize(device)
    return time.perf_counter()
