"""What a server lets its users ask for: sizes, counts, memory, and which files and models they may name."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from accel.loading import POCKET

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Limits:
    """Safe for a laptop; a server with a large device raises them.

    Sizes are in pixels, memory in bytes. `roots` are the folders below which models and other files may lie; there are
    none by default. `hub` allows model ids of the Hugging Face hub, whose code is never run.
    """

    steps: int = 1000
    least_size: int = 8
    size: int = 2048
    frames: int = 257
    voxels: int = 2048 * 2048 * 33  # width x height x frames of one film
    prompt: int = 4000
    guidance: float = 100.0
    queue: int = 16
    queue_of_one: int = 4
    sweep: int = 36
    baseline_bytes: int = 2**30
    history_bytes: int = 2**30
    models: int = 1
    minutes: float = 60.0
    hub: bool = True
    roots: tuple[Path, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "roots", tuple(Path(root).resolve() for root in self.roots))

    def check_model(self, model: str) -> None:
        """Raises ValueError, in one sentence, for a model that may not be loaded here or cannot be known."""
        if not model.strip():
            raise ValueError("no model is given; pocket:video is one that is always there.")
        if model.startswith(POCKET):
            from accel.pocket import MODELS

            if model.removeprefix(POCKET) not in MODELS:
                known = ", ".join(f"{POCKET}{name}" for name in MODELS)
                raise ValueError(f"there is no pocket model {model!r}; choose one of {known}.")
        elif self.is_file(model):
            self.check_file(model)
            if not (Path(model) / "model_index.json").is_file():
                raise ValueError(f"the folder {model!r} holds no diffusers pipeline (no model_index.json).")
        elif not _HUB_ID.fullmatch(model):
            raise ValueError(f"{model!r} is no model; give pocket:video, a folder, or an id such as Wan-AI/Wan2.1.")
        elif not self.hub:
            raise ValueError(f"this server loads no models of the hub; put {model!r} into a folder that it may read.")

    def check_file(self, path: str) -> None:
        """Raises ValueError for a path that lies outside of the allowed folders, whether it exists or not."""
        from accel.pocket import folder

        place = Path(path).resolve()
        if not any(place.is_relative_to(root) for root in (*self.roots, folder("refiner"))):
            allowed = ", ".join(map(str, self.roots)) or "none"
            raise ValueError(f"this server may not read {path!r}; the folders that it may read are: {allowed}.")

    def check_name(self, name: str) -> None:
        """Raises ValueError for the name of a model or folder, in a method's parameter, that may not be read here."""
        if self.is_file(name):
            self.check_file(name)
        elif "/" in name and not self.hub:
            raise ValueError(f"this server loads nothing of the hub, such as {name!r}.")

    @staticmethod
    def is_file(text: str) -> bool:
        """Whether a name means a place on this machine: it looks like a path, or it is there."""
        if "\0" in text or len(text) > 4096:
            raise ValueError("a name must be of less than 4096 characters and hold no NUL character.")
        return text.startswith((".", "/", "~", "\\")) or Path(text).is_absolute() or Path(text).exists()

    def check_whole(self, name: str, value: object, least: int, most: int) -> None:
        """Raises ValueError for anything but a whole number in a range (inclusive)."""
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}.")

    def check_number(self, name: str, value: object, least: float, most: float) -> None:
        """Raises ValueError for anything but a finite number in a range (inclusive)."""
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not right or not least <= value <= most:  # type: ignore[operator]
            raise ValueError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}.")
