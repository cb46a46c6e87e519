"""What a comparison starts from besides words: pictures that a visitor uploads, and LoRA weights of this server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accel.app.limits import Limits
from accel.app.settings import PICTURES, StudioSettings
from accel.app.uploads import uploaded
from accel.rendering.inputs import FILES, check_input, load_input
from accel.rendering.jobs import Job
from accel.rendering.lora import lora_weights
from accel.rendering.pipeline_arguments import arguments_of, call_name, files_of, named_parameters, plain_class

FIELDS = (*PICTURES, "strength", "lora")
"""The fields of the settings that only some pipelines take."""


def inputs_of(kind: type | None) -> tuple[str, ...]:
    """Which of `FIELDS` pipelines of this class take; none of a class that is not known."""
    if kind is None:
        return ()
    taken = named_parameters(kind)[0]
    named = {name: call_name(name, kind) for name in (*PICTURES, "strength")}
    found = [name for name, argument in named.items() if argument in taken]
    if named["control_image"] == "image" and "control_image" in found:
        found.remove("image")  # the one picture that it takes is the control
    return (*found, *(("lora",) if hasattr(kind, "load_lora_weights") else ()))


def lacks_picture(pipe: Any, settings: StudioSettings) -> bool:
    """Whether the pipeline takes a picture that these settings do not have, so that a run may be refused."""
    taken = {*inputs_of(plain_class(pipe))} & {*PICTURES} - {"ip_adapter_image"}
    return not taken <= {*settings.pictures}


def check_inputs(settings: StudioSettings, folder: Path, limits: Limits) -> StudioSettings:
    """These settings, if all pictures are uploads in this folder, and the LoRA weights lie where this server may read.

    Raises ValueError, in one sentence, otherwise, and for a file that is broken.
    """
    for name, path in settings.pictures.items():
        try:
            check_input(uploaded(path, folder), FILES[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    for lora in settings.loras:
        limits.check_file(lora["weights"])
        check_input(Path(lora["weights"]), "lora")
    return settings


@contextmanager
def call_with_inputs(pipe: Any, job: Job) -> Iterator[dict[str, Any]]:
    """What a call is given, with its pictures read, and its LoRA weights on the pipeline for the block."""
    kind = plain_class(pipe)
    given = arguments_of(job, kind)
    given |= {name: load_input(given[name], what) for name, what in files_of(job, kind).items()}
    with lora_weights(pipe, job.lora):
        yield given
