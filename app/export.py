"""Settings as something to paste elsewhere: a Python program, or a shell command."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from accel import presets
from accel.app.limits import Limits
from accel.files import last_name
from accel.loading import POCKET
from accel.method import Method
from accel.recipe import Recipe
from accel.rendering.pipeline_arguments import CALL_NAMES, call_name, class_of, files_of

if TYPE_CHECKING:
    from accel.app.settings import StudioSettings


def as_python(settings: StudioSettings) -> str:
    """A program that makes the accelerated clip, the very same pixels, with pictures and weights beside it."""
    imports = {"accel.loading": {"load_pipeline"}}
    job, kind = settings.job(), _class(settings.model)
    given = {call_name(name, kind): value for name in CALL_NAMES if (value := getattr(job, name)) is not None}
    values = {name: repr(value) for name, value in given.items()}
    values |= {name: f"load_image({last_name(given[name])!r})" for name in files_of(job, kind)}
    if settings.pictures:
        imports["accel.rendering.inputs"] = {"load_image"}
    accelerate = _accelerate(settings.recipe, imports)
    lines = ["import torch", "", "import accel"]
    lines += [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(imports.items())]
    lines += ["", f"pipe = load_pipeline({settings.model!r})", *_weights(settings), *accelerate, "output = pipe("]
    lines += [f"    {name}={value}," for name, value in values.items()]
    lines += [f'    generator=torch.Generator("cpu").manual_seed({settings.seed}),', ")"]
    if accelerate:
        lines.append("print(session.report())")
    return "\n".join(lines) + "\n"


def _class(model: str) -> type | None:
    """The class of a pipeline whose folder is here, for what its call names its pictures."""
    return class_of(model) if model.startswith(POCKET) or Limits.is_file(model) else None


def _weights(settings: StudioSettings) -> Iterator[str]:
    for lora in settings.loras:
        yield f'pipe.load_lora_weights({last_name(lora["weights"])!r}, adapter_name="style")'
        yield f'pipe.set_adapters(["style"], [{lora["scale"]!r}])'


def as_command(settings: StudioSettings) -> str:
    """One line for a shell: `accel compare` where it can say all this, else `accel render` with its manifest.

    A recipe that is no preset goes into a file first, whose name is in the line.
    """
    if not _comparable(settings):
        line = json.dumps(settings.line())
        return f"{_written(line, 'job.jsonl')} && accel render job.jsonl --metrics --out renders"
    preset = _preset(settings.recipe)
    first = [] if preset else [_written(json.dumps(settings.recipe.to_dict()), "recipe.json")]
    words = ["accel", "compare", settings.model, "--recipes", preset or "recipe.json"]
    words += ["--prompts", settings.prompt, "--seeds", str(settings.seed), "--steps", str(settings.steps)]
    if settings.width is not None:
        words += ["--size", f"{settings.width}x{settings.height}"]
    if settings.frames is not None:
        words += ["--frames", str(settings.frames)]
    if settings.guidance is not None:
        words += ["--guidance", repr(settings.guidance)]
    return " && ".join([*first, shlex.join(words)])


def _comparable(settings: StudioSettings) -> bool:
    """Whether `accel compare` takes all this. It knows no negative prompt, and asks the pocket model for captions."""
    half_a_size = (settings.width is None) != (settings.height is None)
    dashes = settings.prompt.startswith("-") or settings.model.startswith("-")
    conditioned = settings.lora or settings.strength is not None or settings.pictures
    if conditioned or settings.negative or half_a_size or dashes or not settings.recipe.methods():
        return False
    if not settings.model.startswith(POCKET):
        return bool(settings.prompt)
    from accel.pocket.scenes import Caption

    try:
        Caption.parse(settings.prompt)
    except ValueError:
        return False
    return True


def _written(text: str, name: str) -> str:
    return f"printf '%s\\n' {shlex.quote(text)} > {name}"


def _preset(recipe: Recipe) -> str | None:
    """The preset that does the same."""
    return next((name for name, preset in presets.PRESETS.items() if preset.recipe == recipe), None)


def _accelerate(recipe: Recipe, imports: dict[str, set[str]]) -> list[str]:
    preset = _preset(recipe)
    if preset:
        return [f'session = accel.accelerate(pipe, "{preset}")']
    methods = recipe.methods()
    if not methods:
        return []
    lines = [f"    {lever}={_expression(method, imports)}," for lever, method in methods.items()]
    return ["recipe = accel.Recipe(", *lines, ")", "session = accel.accelerate(pipe, recipe)"]


def _expression(value: Any, imports: dict[str, set[str]]) -> str:
    """A value as Python writes it; of a method, the parameters that are not at their defaults."""
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    if not isinstance(value, Method):
        return repr(value)
    kind = type(value)
    ours = kind.__module__.startswith("accel.")
    if not ours:
        imports.setdefault(kind.__module__, set()).add(kind.__name__)
    changed = [
        f"{each.name}={_expression(getattr(value, each.name), imports)}"
        for each in dataclasses.fields(value)
        if getattr(value, each.name) != each.default
    ]
    name = f"accel.{kind.__name__}" if ours else kind.__name__
    return f"{name}({', '.join(changed)})"
