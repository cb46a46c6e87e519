"""From the fields of a job to the arguments of its pipeline's call, and what that call takes."""

from __future__ import annotations

import inspect
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from accel.files import read_json
from accel.plain_data import quote
from accel.rendering.fields import suggestion
from accel.rendering.inputs import FILES
from accel.rendering.jobs import Job

NEEDED = inspect.Parameter.empty
"""Stands for the default of an argument that has none."""

CALL_NAMES = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "height": "height",
    "width": "width",
    "frames": "num_frames",
    "strength": "strength",
    **{name: name for name in FILES},
}
"""By field of a line, what most pipelines call it."""

OTHER_NAMES = {"mask_image": "mask", "control_image": "image"}
"""What those call it that have no argument of the usual name, such as ControlNet where no other image is taken."""
_CONTROLS = ("controlnet", "adapter")  # components that a control image is for


def arguments_of(job: Job, kind: type | None = None) -> dict[str, Any]:
    """Everything that the job passes to a call of this class, but for noise and what the renderer decides. Files stay
    paths."""
    named = {call_name(name, kind): getattr(job, name) for name in CALL_NAMES if getattr(job, name) is not None}
    return named | dict(job.arguments)


def call_name(field: str, kind: type | None) -> str:
    """What pipelines of this class call a field of a line."""
    usual, other = CALL_NAMES[field], OTHER_NAMES.get(field)
    taken = named_parameters(kind)[0] if kind is not None else {}
    if other is None or kind is None or usual in taken or other not in taken:
        return usual
    controlled = any(part in inspect.signature(kind).parameters for part in _CONTROLS)
    return usual if field == "control_image" and not controlled else other


def files_of(job: Job, kind: type | None) -> dict[str, str]:
    """By argument of the call, whether its path is of an "image" or a "video"."""
    return {call_name(name, kind): what for name, what in FILES.items() if getattr(job, name) is not None}


def wrong_arguments(job: Job, kind: type) -> list[str]:
    """One sentence for each field that pipelines of this class cannot take, and for each that they must have."""
    parameters, open_ended = named_parameters(kind)
    if open_ended and not any(name in parameters for name in CALL_NAMES.values()):
        return []
    fields = {call_name(name, kind): name for name in CALL_NAMES if name not in OTHER_NAMES}
    fields |= {call_name(name, kind): name for name in OTHER_NAMES if getattr(job, name) is not None}
    given = arguments_of(job, kind)
    problems = []
    if job.image is not None and job.control_image is not None and call_name("control_image", kind) == "image":
        return [f"image and control_image are both given, but {kind.__name__} takes one image, the control; keep one."]
    for name in given:
        if name in parameters or (open_ended and name not in FILES):
            continue  # what is not named may be passed on, but a file would be passed over
        if name in fields:
            problems.append(f"{fields[name]} is given, but {kind.__name__} takes no {name!r}; leave it out.")
        else:
            known = sorted(parameters)
            problems.append(f"arguments: {kind.__name__} takes no {quote(name)}; {suggestion(name, known)}")
    missing = [name for name in fields if parameters.get(name) is NEEDED and name not in given]
    problems += [f"{fields[name]} is missing; {kind.__name__} cannot do without it." for name in missing]
    return problems


def refused_sizes(job: Job, kind: type) -> list[str]:
    """What pipelines of this class say to the job's sizes, as far as they say it without weights: their own check is
    asked, on an object that holds nothing. Where it needs what is not there, nothing is known.
    """
    check, defaults = getattr(kind, "check_inputs", None), parameters_of(kind) or {}
    if check is None or (job.width is None and job.height is None):
        return []
    given = {name: None if default is NEEDED else default for name, default in defaults.items()}
    given |= arguments_of(job, kind)
    given |= {"height": job.height or job.width, "width": job.width or job.height}
    try:
        check(object.__new__(kind), **{name: given.get(name) for name in list(inspect.signature(check).parameters)[1:]})
    except ValueError as refusal:
        said = str(refusal)
        return [f"{kind.__name__} refuses the size: {said}"] if "height" in said and "width" in said else []
    except Exception:  # what it needs is not there
        return []
    return []


def plain_class(pipe: Any) -> type:
    """The pipeline's own class, below the private one that a session gives it."""
    return next(kind for kind in type(pipe).__mro__ if "_accel_session" not in vars(kind))


def parameters_of(kind: type) -> dict[str, Any] | None:
    """The names that `pipe(...)` takes, with their defaults or NEEDED. None where that cannot be known.

    A call that passes on what it does not name takes what the call above it takes.
    """
    found, open_ended = named_parameters(kind)
    return None if open_ended else found


@lru_cache(maxsize=256)
def named_parameters(kind: type) -> tuple[dict[str, Any], bool]:
    """The names that calls of this class and of those above it have, with their defaults or NEEDED, and whether the
    last of these calls takes any others, too."""
    found: dict[str, Any] = {}
    for base in kind.__mro__:
        call = vars(base).get("__call__")
        if call is None:
            continue
        open_ended = False
        for parameter in list(inspect.signature(call).parameters.values())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                open_ended = True
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                found.setdefault(parameter.name, parameter.default)
        if not open_ended:
            return found, False
    return found, True


def class_of(model: str) -> type | None:
    """The class of the pipeline called `model`, without loading any weights; None where only loading would tell."""
    from accel.loading import POCKET

    if model.startswith(POCKET):
        from accel.pocket import MODELS, pipeline_class

        name = model.removeprefix(POCKET)
        return pipeline_class(name) if name in MODELS else None
    index = Path(model) / "model_index.json"
    if not os.path.isfile(index):
        return None
    import diffusers

    try:
        kind = getattr(diffusers, read_json(index, "model", dict)["_class_name"], None)
    except (ValueError, KeyError, TypeError):
        return None
    return kind if isinstance(kind, type) else None


def missing_model(model: str) -> str:
    """Why this model can never load, as far as that is known beforehand; "" otherwise."""
    from accel.loading import POCKET

    if model.startswith(POCKET):
        from accel.pocket import MODELS

        name = model.removeprefix(POCKET)
        return "" if name in MODELS else f"there is no pocket model {quote(name)}; choose one of: {', '.join(MODELS)}."
    folder = Path(model)
    looks_local = model.startswith((".", "/", "~")) or folder.is_absolute() or model.count("/") > 1
    there = os.path.isdir(folder)
    if looks_local and not there:
        return f"there is no folder {quote(model)}."
    if there and not os.path.isfile(folder / "model_index.json"):
        return f"the folder {quote(model)} holds no diffusers pipeline (no model_index.json)."
    return ""
