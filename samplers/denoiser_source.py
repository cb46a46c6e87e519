"""Denoisers used in place of a pipeline's own: where one is kept, what it is, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from accel import conventions
from accel.anatomy import DenoiserAnatomy, anatomy_of, clean_from_prediction
from accel.loading import POCKET
from accel.parametrization import Prediction
from accel.schedulers import scheduler_anatomy


@dataclass(frozen=True)
class DenoiserSource:
    """A denoiser on disk or on the hub, and what is known about it without its weights.

    prediction: what it predicts, where a scheduler is kept beside it.
    """

    model: str
    folder: str
    component: str | None  # its name in the pipeline that is kept there; None for a folder with the denoiser alone
    kind: Any
    config: Mapping[str, Any]
    prediction: Prediction | None

    def anatomy(self) -> DenoiserAnatomy:
        """What it consists of, from its configuration: takes no memory for weights and reads none."""
        from accelerate import init_empty_weights

        with init_empty_weights():
            return anatomy_of(self.kind.from_config(self.config))

    def load(self, dtype: torch.dtype) -> torch.nn.Module:
        """The denoiser on the CPU, ready to be called."""
        try:
            module: torch.nn.Module = self.kind.from_pretrained(
                self.folder, subfolder=self.component, torch_dtype=dtype, use_safetensors=True
            )
        except Exception as error:  # hub, network, file and configuration errors have no common base
            raise ValueError(f"{self.model!r} cannot be loaded: {_first_line(error)}.") from None
        return module.eval()


def resolve(model: str) -> DenoiserSource:
    """The denoiser of a pocket model ("pocket:small"), or of a diffusers model or pipeline, by folder or hub id.

    Reads the configuration alone. Raises ValueError, in one sentence, for what is not there or is not a denoiser.
    """
    import diffusers

    folder = _pocket_folder(model.removeprefix(POCKET)) if model.startswith(POCKET) else model
    index, part = _index(folder), None
    if index is not None:
        part = next((name for name in conventions.DENOISERS if (index.get(name) or [None])[0]), None)
        if part is None:
            raise ValueError(
                f"The pipeline in {model!r} has no denoiser (looked for {', '.join(conventions.DENOISERS)})."
            )
    try:
        config = diffusers.UNet2DConditionModel.load_config(folder, subfolder=part)
    except Exception as error:
        raise ValueError(
            f"There is no denoiser in {model!r} ({_first_line(error)}): give a diffusers model, a pipeline's folder or "
            f"hub id, or a pocket model such as pocket:small."
        ) from None
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None:
        raise ValueError(f"{model!r} holds a {config.get('_class_name')}, which diffusers does not have: load it.")
    return DenoiserSource(model, folder, part, kind, config, _prediction(folder, index))


def mismatch(own: DenoiserAnatomy, other: DenoiserAnatomy) -> str | None:
    """Why `other` cannot take the calls of `own`, in one clause; None if nothing speaks against it."""
    if not own.config or not other.config:
        return None
    for what, names in conventions.INTERFACE.items():
        mine, its = (_first(part.config, names) for part in (own, other))
        if mine != its:
            return f"its {what}: {its}, where the pipeline's {own.kind} has {mine}"
    return None


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    value = next((config[name] for name in names if config.get(name)), None)
    return tuple(value) if isinstance(value, list) else value


def _index(folder: str) -> Mapping[str, Any] | None:
    """The index of the pipeline that is kept there; None where there is none."""
    from diffusers import DiffusionPipeline

    try:
        index: Mapping[str, Any] = DiffusionPipeline.load_config(folder)
    except (OSError, ValueError):
        return None
    return index


def _prediction(folder: str, index: Mapping[str, Any] | None) -> Prediction | None:
    import diffusers

    named = (index or {}).get("scheduler") or [None, None]
    kind = getattr(diffusers, str(named[1]), None)
    if index is None or kind is None:
        return None
    scheduler = kind.from_pretrained(folder, subfolder="scheduler")
    return clean_from_prediction(scheduler_anatomy(scheduler).prediction, str(index.get("_class_name")))


def _pocket_folder(name: str) -> str:
    from accel import pocket

    folder = pocket.folder(name)
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"there is no pocket model {name!r} in {folder}: reinstall the package.")
    return str(folder)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
