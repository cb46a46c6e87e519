"""What a server lets its users ask for: sizes, counts, memory, and which files and models they may name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from accel.loading import POCKET

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATIENCE = 10.0  # seconds for the hub to answer
_LITERAL = re.compile(r"[\w./: -]{0,200}")  # what no library takes for more than a name, such as a pattern


@dataclass(frozen=True)
class Limits:
    """Safe for a laptop; a server with a large device raises them.

    Sizes are in pixels, memory in bytes. `roots` are the folders below which models and other files may lie; there are
    none by default. `hub` allows model ids of the Hugging Face hub, whose code is never run; `hub_models` only these.
    """

    steps: int = 200
    least_size: int = 8
    size: int = 2048
    frames: int = 257
    voxels: int = 2**26  # width x height x frames of one video
    unknown_size: int = 1024  # pixels along a side that nobody has given, where the model does not tell either
    seconds: float = 900.0  # that a run may be predicted to take, and may take; a model's loading apart
    unheard_seconds: float = 30.0  # after which a run to whose answers nobody listens is dropped
    prompt: int = 4000
    recipe: int = 2**18  # characters of a recipe as JSON, with its tables and its evidence
    guidance: float = 100.0
    queue: int = 16
    queue_of_one: int = 4
    queue_of_address: int = 8
    sweep: int = 36
    seeds: int = 32  # that are looked at together
    baseline_bytes: int = 2**30
    history_bytes: int = 2**30
    upload_bytes: int = 64 * 2**20
    uploads_bytes: int = 2**29  # of all uploads together
    votes_bytes: int = 16 * 2**20
    models: int = 1
    minutes: float = 15.0
    hub: bool = True
    hub_models: tuple[str, ...] = ()
    hub_bytes: int = 64 * 10**9  # of one model
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
        else:
            self._check_hub(model)

    def check_download(self, model: str) -> None:
        """Raises ValueError for a model of the hub that is larger than this server downloads. Asks the hub."""
        if model.startswith(POCKET) or self.is_file(model):
            return
        from huggingface_hub import HfApi

        try:
            files = HfApi().model_info(model, files_metadata=True, timeout=_PATIENCE).siblings or []
        except Exception:  # without the hub nothing can be downloaded, and what is here already has been once
            return
        size = sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors"))
        if size > self.hub_bytes:
            raise ValueError(
                f"{model!r} has {size / 1e9:.0f} GB; this server loads at most {self.hub_bytes / 1e9:.0f}."
            )

    def check_file(self, path: str) -> None:
        """Raises ValueError for a path that lies outside of the allowed folders, whether it exists or not."""
        from accel.pocket import folder

        place = Path(path).resolve()
        if not any(place.is_relative_to(root) for root in (*self.roots, folder("refiner"))):
            allowed = ", ".join(map(str, self.roots)) or "none"
            raise ValueError(f"this server may not read {path!r}; the folders that it may read are: {allowed}.")

    def check_name(self, name: str) -> None:
        """Raises ValueError for the name of a model or folder, in a method's parameter, that may not be read here.

        Any name may mean a model of the hub: the oldest ones have no owner and no slash.
        """
        if self.is_file(name):
            self.check_file(name)
            return
        self.check_literal(name)
        if name and not name.startswith(POCKET):
            self._check_hub(name)

    @staticmethod
    def check_literal(text: str) -> None:
        """Raises ValueError for text that a library could take for more than a name, such as a regular expression."""
        if not _LITERAL.fullmatch(text):
            raise ValueError(f"{text[:80]!r} is no name: letters, digits and . _ - : / alone, and at most 200 of them.")

    def check_voxels(self, width: int | None, height: int | None, frames: int | None) -> None:
        """Raises ValueError for a video of more pixels than this server makes. None: as large as can be expected."""
        asked = (width or self.unknown_size) * (height or self.unknown_size) * (frames or 1)
        if asked > self.voxels:
            raise ValueError(
                f"width x height x frames is {asked}, more than this server allows ({self.voxels}): make one of them "
                f"smaller, or raise it with --max-voxels."
            )

    def _check_hub(self, model: str) -> None:
        if self.hub_models and model not in self.hub_models:
            raise ValueError(f"this server loads {', '.join(self.hub_models)} of the hub, and not {model!r}.")
        if not self.hub:
            raise ValueError(f"this server loads no models of the hub; put {model!r} into a folder that it may read.")

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
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not right or not least <= value <= most:  # type: ignore[operator]
            raise ValueError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}.")
