"""What every call of a measurement gets besides its seed: prompts, steps, and the other arguments, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from accel.call_forms import accepts, call_default
from accel.executed_steps import PARTS, fewest_steps
from accel.measure.pipeline_runs import needs_prompt


def prompts_of(pipe: Any, prompts: Iterable[str], call_arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The prompts, and one that is empty where the call takes none."""
    prompts = tuple(prompts) if isinstance(prompts, Iterable) else ()
    if not needs_prompt(pipe, call_arguments):
        if any(prompts):
            raise TypeError(f"{type(pipe).__name__} takes no prompt in this call: leave the prompts out.")
        return ("",)
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError('prompts must be one or more strings, such as prompts=["a corgi surfing"].')
    return prompts


def steps_of(pipe: Any, steps: int | None) -> int:
    """The number of inference steps, by default the pipeline's own. Raises ValueError for an impossible one."""
    count = steps if steps is not None else call_default(pipe, "num_inference_steps")
    if type(count) is not int or count < 1:
        raise ValueError(f"steps must be a whole number of at least 1, not {count!r}.")
    return count


def fewest_steps_of(pipe: Any, call_arguments: Mapping[str, Any]) -> int:
    """The least number of steps of which a call with these arguments takes one."""
    return fewest_steps({name: call_arguments.get(name, call_default(pipe, name)) for name in PARTS})


def call_arguments_of(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of every call besides prompt, steps and seed. Raises ValueError for those that it does not take."""
    from accel.rendering.inputs import read_inputs  # not before it is asked for: rendering measures, too

    if not isinstance(given, Mapping):
        raise TypeError(f'call_arguments must be a dictionary such as {{"guidance_scale": 5.0}}, not {given!r}.')
    reserved = sorted({"prompt", "num_inference_steps", "generator", "return_dict"} & set(given))
    if reserved:
        raise ValueError(f"call_arguments must not hold {', '.join(reserved)}; use prompts, steps and seeds instead.")
    unknown = sorted(name for name in given if not accepts(pipe, name))
    if unknown:
        raise ValueError(f"{type(pipe).__name__} takes no argument called {', '.join(unknown)}.")
    # Floats, so that rounding to 8 bits does not hide small differences.
    default = {"output_type": "np"} if accepts(pipe, "output_type") else {}
    return {**default, **read_inputs(given)}
