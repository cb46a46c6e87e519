"""Everything that decides what a comparison shows, as plain data: what the page's controls hold."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accel import presets
from accel.app.limits import Limits
from accel.caching.calibration import published
from accel.files import last_name
from accel.method import Method
from accel.recipe import Recipe
from accel.rendering.fields import MEDIA
from accel.rendering.jobs import DIGITS, Job, digest
from accel.rendering.lora import parse_lora
from accel.rendering.outcome import installed_versions

_MOST_SEED = 2**63 - 1
_OPTIONAL = ("width", "height", "frames", "guidance", "strength")
PICTURES = ("image", "mask_image", "control_image", "ip_adapter_image")
"""The fields that name an upload."""
_OF_FILES = ("format", "fps", "output")  # fields of a manifest's line that say what its file is like
_LARGEST_JSON = 2**20
_LONGEST_NAME = 200


def _default_recipe() -> Recipe:
    return presets.resolve(presets.DEFAULT)


@dataclass(frozen=True)
class StudioSettings:
    """One comparison: a prompt and its call on a model, and the recipe that is compared with no recipe.

    width, height, frames, guidance and strength that are None are left to the pipeline. image, mask_image,
    control_image and ip_adapter_image are paths of uploads, lora is that of weights, with ":0.8" for another scale than
    1; "" for none. Construction checks nothing, so that a page can hold what was typed; `check` does, and
    `accel.app.inputs.check_inputs` looks at files.
    """

    model: str = "pocket:video"
    prompt: str = ""
    negative: str = ""
    seed: int = 0
    steps: int = 50
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    guidance: float | None = None
    recipe: Recipe = field(default_factory=_default_recipe)
    image: str = ""
    mask_image: str = ""
    control_image: str = ""
    ip_adapter_image: str = ""
    strength: float | None = None
    lora: str = ""

    def check(self, limits: Limits) -> StudioSettings:
        """These settings, if they are within the limits. Raises ValueError, in one sentence, otherwise."""
        self.with_sizes(limits)
        limits.check_model(self.model)
        limits.check_whole("seed", self.seed, 0, _MOST_SEED)
        limits.check_whole("steps", self.steps, 1, limits.steps)
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                limits.check_whole(name, getattr(self, name), limits.least_size, limits.size)
        if self.frames is not None:
            limits.check_whole("frames", self.frames, 1, limits.frames)
        if self.guidance is not None:
            limits.check_number("guidance", self.guidance, 0.0, limits.guidance)
        if self.strength is not None:
            limits.check_number("strength", self.strength, 0.0, 1.0)
        limits.check_voxels(self.width or 1, self.height or 1, self.frames)  # once the model is known, its own sizes
        for name in self._names():
            limits.check_name(name)
        return self

    def with_sizes(self, limits: Limits) -> StudioSettings:
        """These settings, if nothing in them is too long, whatever it means. Raises ValueError otherwise."""
        for name in ("model", "prompt", "negative", "lora", *PICTURES):
            _check_text(name, getattr(self, name), limits.prompt)
        if not isinstance(self.recipe, Recipe):
            raise ValueError(f"recipe must be a Recipe, not {type(self.recipe).__name__}.")
        if len(self.recipe.to_json()) > limits.recipe:
            raise ValueError(f"the recipe is larger than the {limits.recipe} characters that this server takes.")
        _check_text("the recipe's name", self.recipe.name, _LONGEST_NAME)
        return self

    @property
    def models_to_load(self) -> list[str]:
        """What is read to run this: the model, and what the recipe's methods name."""
        return [self.model, *filter(None, self._names())]

    def _names(self) -> Iterator[str]:
        """All text in the recipe's methods that is not one of our own words: what it names may be loaded."""
        for method in self.recipe.methods().values():
            yield from _names_of(method)

    @property
    def pictures(self) -> dict[str, str]:
        """The uploads that are given, by field."""
        return {name: getattr(self, name) for name in PICTURES if getattr(self, name)}

    @property
    def loras(self) -> list[dict[str, Any]]:
        """The LoRA weights, as a line of a manifest has them."""
        return [parse_lora(self.lora)] if self.lora else []

    @property
    def unaccelerated(self) -> StudioSettings:
        """The same request with no recipe."""
        return replace(self, recipe=Recipe(name="off"))

    def baseline_key(self) -> str:
        """Equal for settings that differ in the recipe alone, on the same versions of accel, torch and diffusers."""
        versions = {name: installed_versions()[name] for name in ("accel", "diffusers", "torch")}
        return digest({"settings": self.to_dict() | {"recipe": None}, "versions": versions})[:DIGITS]

    def key(self) -> str:
        """Names these settings. The name of the recipe does not take part, only what it does."""
        methods = {lever: method.to_dict() for lever, method in self.recipe.methods().items()}
        return digest({"baseline": self.baseline_key(), "recipe": methods})[:DIGITS]

    def job(self, fps: float | None = None) -> Job:
        """The accelerated side as a job of `accel render`. fps: of a video; None leaves it to the renderer."""
        sized = {name: getattr(self, name) for name in _OPTIONAL}
        pictures: dict[str, Any] = {name: getattr(self, name) or None for name in PICTURES}
        return Job(
            self.model,
            self.prompt,
            self.negative or None,
            self.seed,
            self.steps,
            recipe=self.recipe.to_dict(),
            fps=fps,
            lora=self.loras,
            **sized,
            **pictures,
        )

    def line(self) -> dict[str, Any]:
        """The accelerated side as a line of a manifest, with its pictures and weights beside it."""
        return self.job().with_paths(last_name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads, in strict JSON: an infinite bound of a method is the word "inf"."""
        data = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return data | {"recipe": _mapped(self.recipe.to_dict(), lambda value: "inf" if value == math.inf else value)}

    @classmethod
    def from_dict(cls, data: object) -> StudioSettings:
        """Raises ValueError, naming the field, for what is no settings. Ranges are the business of `check`.

        The recipe may be a preset's name, "off", or a recipe's plain data, but no file's name.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"settings are an object with the fields of a comparison, not {type(data).__name__}.")
        known = {each.name for each in dataclasses.fields(cls)}
        unknown = sorted(str(name) for name in data if name not in known)
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a field of settings; they are {', '.join(sorted(known))}.")
        given = dict(data)
        try:
            _mapped(data, _check_size)
            if "recipe" in given:
                given["recipe"] = _recipe(given["recipe"])
        except RecursionError:
            raise ValueError("the recipe is nested too deeply.") from None
        return cls(**given)

    def as_python(self) -> str:
        """A program that makes the accelerated clip."""
        from accel.app.export import as_python

        return as_python(self)

    def as_command(self) -> str:
        """A line for a shell that repeats the comparison."""
        from accel.app.export import as_command

        return as_command(self)


def embedded(path: str | os.PathLike[str]) -> StudioSettings:
    """The settings inside a picture, video or sound that the app or `accel render` has made, or in a .json file.

    Raises ValueError for a file that cannot be read, that holds no settings, or that needs what the app does not have
    (videos to start from, further arguments). Of the pictures that a file was made from it names the last part alone.
    """
    source = Path(path)
    if source.suffix.lower() in MEDIA:
        from accel.rendering.encoding import settings_of

        return _from_line(settings_of(source), source.name)
    if source.suffix.lower() != ".json":
        raise ValueError(f"{source.name!r} holds no settings; give a {', '.join(MEDIA)} or .json file made by accel.")
    try:
        if source.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"{source.name!r} is too large to be settings.")
        data = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{source.name!r} cannot be read.") from None
    except (json.JSONDecodeError, RecursionError):
        raise ValueError(f"{source.name!r} is not JSON.") from None
    if isinstance(data, Mapping) and isinstance(data.get("line"), Mapping):
        return _from_line(data["line"], source.name)
    return StudioSettings.from_dict(data)


def _from_line(line: Mapping[str, Any], name: str) -> StudioSettings:
    """The settings in a line of a manifest."""
    given = {key: value for key, value in line.items() if key not in _OF_FILES}
    given["negative"] = given.pop("negative_prompt", None) or ""
    if given.get("lora"):
        given["lora"] = _lora_text(given["lora"], name)
    missing = sorted(set(given) - {each.name for each in dataclasses.fields(StudioSettings)})
    if missing:
        raise ValueError(f"{name!r} was made with {', '.join(missing)}, which the app has no field for.")
    return StudioSettings.from_dict({"prompt": ""} | given)


def _lora_text(loras: Any, name: str) -> str:
    """The field for the weights that a file was made with."""
    match loras:
        case [{"weights": str(weights), "scale": int() | float() as scale}]:
            return f"{weights}:{scale:g}"
    raise ValueError(f"{name!r} was made with several LoRA weights; the app has a field for one.")


def _recipe(data: object) -> Recipe:
    if isinstance(data, Recipe):
        return data
    if isinstance(data, str):
        return Recipe(name="off") if data == "off" else _preset(data)
    return Recipe.from_dict(_mapped(data, lambda value: math.inf if value == "inf" else value))


def _mapped(data: Any, change: Callable[[Any], Any]) -> Any:
    """Plain data with every value in it changed."""
    if isinstance(data, Mapping):
        return {name: _mapped(value, change) for name, value in data.items()}
    return [_mapped(value, change) for value in data] if isinstance(data, (list, tuple)) else change(data)


def _check_size(value: Any) -> None:
    """Raises ValueError for a number that the way to a browser breaks at."""
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise ValueError(f"settings hold numbers of 64 bits, and not one of {len(str(abs(value)))} digits.")


def _preset(name: str) -> Recipe:
    if name not in presets.PRESETS:
        raise ValueError(f"there is no preset {name!r}; the presets are off, {', '.join(presets.PRESETS)}.")
    return presets.resolve(name)


def _check_text(name: str, value: object, most: int) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {value!r}.")
    if len(value) > most:
        raise ValueError(f"{name} has {len(value)} characters; this server takes at most {most}.")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} holds a character that is none (NUL or half of a pair).")


def _names_of(method: Method) -> Iterator[str]:
    """Some methods read a folder or a model that their parameter names (a refiner, a second denoiser)."""
    for parameter in dataclasses.fields(method):
        value = getattr(method, parameter.name)
        if isinstance(value, Method):
            yield from _names_of(value)
        elif isinstance(value, str) and value not in published.names() and not _choices(parameter):
            yield value


def _choices(parameter: dataclasses.Field[Any]) -> tuple[str, ...]:
    found: tuple[str, ...] = parameter.metadata["setting"].choices if "setting" in parameter.metadata else ()
    return found
