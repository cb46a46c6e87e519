"""The pocket video pipeline: diffusers' WanPipeline with the call defaults that fit a small model."""

from __future__ import annotations

import copy
import functools
import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
from diffusers import SchedulerMixin, WanPipeline, WanTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from accel.pocket.autoencoder import PatchAutoencoder
from accel.pocket.text import MAX_TOKENS

VIDEO = Path(__file__).parent / "video"
INDEX = "model_index.json"


class WanPocketPipeline(WanPipeline):  # type: ignore[misc]
    """A WanPipeline whose calls default to 17 frames of 64x64, 50 steps and guidance 4; everything else is inherited.

    A folder may name other numbers of steps and guidance as the defaults of its model. Sides must be multiples of 16
    and the number of frames 4k+1. "video" has seen 64x64x17, 96x96x17 and 128x128x33, its siblings the first of these.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: UMT5EncoderModel,
        vae: PatchAutoencoder,
        scheduler: SchedulerMixin,
        transformer: WanTransformer3DModel | None = None,
        transformer_2: WanTransformer3DModel | None = None,
        boundary_ratio: float | None = None,
        expand_timesteps: bool = False,
    ) -> None:
        # The signature is what diffusers checks components against: here the autoencoder is the linear one.
        super().__init__(
            tokenizer, text_encoder, vae, scheduler, transformer, transformer_2, boundary_ratio, expand_timesteps
        )

    @classmethod
    def from_folder(cls, folder: Path) -> WanPocketPipeline:
        """Loads the model that a training script wrote to a folder, quietly: it takes a quarter of a second.

        The folder of a sibling holds what is its own: the denoiser, perhaps a schedule, and in its index the defaults
        of a call. Everything else is that of the packaged "video".
        """
        if not (folder / INDEX).is_file():
            raise FileNotFoundError(
                f"there is no model in {folder}; train one with python -m benchmarks.pocket.train_video --out {folder}"
            )
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        kind = calling_with(cls, index.get("call_defaults", {}))
        with no_progress_bars():
            if "vae" in index:
                pipe: WanPocketPipeline = kind.from_pretrained(folder, local_files_only=True)
                return pipe
            own = {
                name: getattr(diffusers, index[name][1]).from_pretrained(folder / name, local_files_only=True)
                for name in ("scheduler", "transformer")
                if name in index
            }
            sibling: WanPocketPipeline = kind.from_pretrained(VIDEO, local_files_only=True, **own)
            return sibling

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int = 64,
        width: int = 64,
        num_frames: int = 17,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        *,
        output_type: str | None = "np",
        max_sequence_length: int = MAX_TOKENS,
        **options: Any,
    ) -> Any:
        """Generates clips; `.frames` of the result is (prompts, frames, height, width, 3) in [0, 1].

        `options` are the other arguments of WanPipeline, such as `generator`, `latents` and `callback_on_step_end`.
        """
        return super().__call__(
            prompt=prompt,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            output_type=output_type,
            max_sequence_length=max_sequence_length,
            **options,
        )

    def to_json_string(self) -> str:
        """The index that `save_pretrained` writes. It names classes that diffusers finds again in every version."""
        index = json.loads(super().to_json_string())
        tokenizer = ["transformers", "PreTrainedTokenizerFast"]  # transformers 5 calls it by another name
        return json.dumps(index | {"_class_name": "WanPipeline", "tokenizer": tokenizer}, indent=2) + "\n"


def calling_with(kind: type[WanPocketPipeline], defaults: Mapping[str, Any]) -> type[WanPocketPipeline]:
    """The same class with other defaults of its call, visible in the signature, where tools look for them."""
    if not defaults:
        return kind
    signature = inspect.signature(kind.__call__)

    @functools.wraps(kind.__call__)
    def __call__(self: Any, *args: Any, **options: Any) -> Any:
        given = signature.bind_partial(self, *args, **options).arguments
        options |= {name: value for name, value in defaults.items() if name not in given}
        return kind.__call__(self, *args, **options)

    changed = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]
    __call__.__signature__ = signature.replace(parameters=changed)  # type: ignore[attr-defined]
    names = {"__call__": __call__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names)


def write_sibling(folder: Path, denoiser: WanTransformer3DModel, scheduler: Any = None, **call_defaults: float) -> None:
    """Writes what `from_folder` needs of a sibling of "video": its denoiser in float16, its schedule, its defaults."""
    index: dict[str, Any] = {"_class_name": "WanPipeline", "call_defaults": call_defaults}
    parts = {"transformer": copy.deepcopy(denoiser).half()} | ({} if scheduler is None else {"scheduler": scheduler})
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = ["diffusers", type(part).__name__]
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@contextmanager
def no_progress_bars() -> Iterator[None]:
    libraries = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()
