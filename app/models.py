"""The models in memory: loaded when first asked for, and the one that was idle the longest makes room for the next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from accel.app.limits import Limits
from accel.app.preview import LatentPreview
from accel.app.settings import StudioSettings
from accel.call_forms import call_default
from accel.components import components_of, denoisers_of
from accel.loading import POCKET, load_pipeline
from accel.rendering.memory import free_memory
from accel.rendering.pipeline_arguments import class_of, plain_class

Loader = Callable[..., Any]
"""Called as `load(model, dtype=..., device=...)`, returns a pipeline."""


Size = tuple[int | None, int | None, int | None]
"""(width, height, frames) that a pipeline takes where none are given; None where it does not tell."""


@dataclass
class LoadedModel:
    """A loaded model, what has warmed up on it, and how its latents look as colours."""

    model: str
    pipe: Any
    warm: set[tuple[object, ...]] = field(default_factory=set)
    preview: LatentPreview = field(default_factory=LatentPreview)


class ModelPool:
    """Holds at most `limits.models` pipelines. To be used by the one thread that runs jobs; `names` by any.

    dtype and device are as in `accel.loading.load_pipeline`; `load` replaces that function. Code that comes with a
    model is never run.
    """

    def __init__(
        self, limits: Limits, *, dtype: str | None = None, device: str | None = None, load: Loader = load_pipeline
    ) -> None:
        self._limits, self._dtype, self._device, self._load = limits, dtype, device, load
        self._held: OrderedDict[str, LoadedModel] = OrderedDict()
        self._sizes: dict[str, Size] = {}  # of all that were ever loaded
        self._admitted: set[str] = set()  # of which the hub need not be asked again
        self._lock = threading.Lock()

    def has(self, model: str) -> bool:
        """Whether the model is in memory."""
        with self._lock:
            return model in self._held

    def class_of(self, model: str) -> type | None:
        """The class of its pipeline; None of a model that is neither loaded nor a folder."""
        with self._lock:
            held = self._held.get(model)
        return class_of(model) if held is None else plain_class(held.pipe)

    def get(self, model: str) -> LoadedModel:
        """The model, loaded if need be. Raises ValueError, in one sentence, for one that cannot or may not be."""
        self._limits.check_model(model)
        self._check_downloads([model])
        with self._lock:
            if model in self._held:
                self._held.move_to_end(model)
                return self._held[model]
        self._make_room()
        held = LoadedModel(model, self._load(model, dtype=self._dtype, device=self._device))
        with self._lock:
            self._held[model] = held
            self._sizes[model] = size_of(held.pipe)
        return held

    def check_fits(self, settings: StudioSettings) -> StudioSettings:
        """These settings, if with the model's own sizes in place of what they leave open they are within the limits.

        Raises ValueError otherwise. Of a model that was never loaded, nothing can be said yet.
        """
        with self._lock:
            own = self._sizes.get(settings.model)
        if own is not None:
            asked = (settings.width, settings.height, settings.frames)
            self._limits.check_voxels(*(given or usual for given, usual in zip(asked, own, strict=True)))
        return settings

    def admit(self, settings: StudioSettings) -> StudioSettings:
        """The same of a run that is about to begin: what its recipe loads is not too large to download either."""
        self._check_downloads(settings.models_to_load)
        return self.check_fits(settings)

    def _check_downloads(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._admitted:
                self._limits.check_download(name)
                self._admitted.add(name)

    def names(self) -> list[str]:
        """Models to choose from: the pocket models, those in memory, and the pipelines in the allowed folders."""
        from accel.pocket import MODELS, folder

        pocket = [f"{POCKET}{name}" for name in MODELS if (folder(name) / "model_index.json").is_file()]
        with self._lock:
            held = list(self._held)
        found = [str(index.parent) for root in self._limits.roots for index in sorted(root.glob("*/model_index.json"))]
        return list(dict.fromkeys([*pocket, *held, *found]))

    def clear(self) -> None:
        """Lets go of all models."""
        with self._lock:
            self._held.clear()
        free_memory()

    def _make_room(self) -> None:
        dropped = False
        with self._lock:
            while len(self._held) >= max(1, self._limits.models):
                self._held.popitem(last=False)
                dropped = True
        if dropped:
            free_memory()


def check_prompt(model: str, prompt: str) -> None:
    """Raises ValueError, in the command line's words, for a prompt that a pocket model does not understand."""
    if model.startswith(POCKET):
        from accel.pocket.scenes import Caption

        Caption.parse(prompt)


def verifier_of(model: str) -> Callable[..., Any]:
    """What reads off a model's clips whether they show their prompt. Raises ValueError where nobody can."""
    if not model.startswith(POCKET):
        raise ValueError("the best seed can be told for pocket models alone; for others, choose among drafts.")
    from accel.pocket import verify

    return verify


def size_of(pipe: Any) -> Size:
    """What a pipeline makes by itself: from its call's defaults, else from what its models were trained on."""
    config = next((getattr(part, "config", {}) for _, part in denoisers_of(components_of(pipe))), {})
    trained = getattr(pipe, "default_sample_size", None) or config.get("sample_size")
    scale = getattr(pipe, "vae_scale_factor_spatial", None) or getattr(pipe, "vae_scale_factor", 1)
    height, width = trained if isinstance(trained, (list, tuple)) else (trained, trained)
    height, width = config.get("sample_height", height), config.get("sample_width", width)
    sides = {"width": width and width * scale, "height": height and height * scale}
    usual = [call_default(pipe, name) or getattr(pipe, f"default_{name}", side) for name, side in sides.items()]
    return usual[0], usual[1], call_default(pipe, "num_frames") or config.get("sample_frames")
