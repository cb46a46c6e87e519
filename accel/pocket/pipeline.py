"""The pocket video pipeline: diffusers' WanPipeline with the call defaults that fit a small model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from accel.pocket.autoencoder import PatchAutoencoder
from accel.pocket.text import MAX_TOKENS


class WanPocketPipeline(WanPipeline):  # type: ignore[misc]
    """A WanPipeline whose calls default to 17 frames of 64x64, 50 steps and guidance 6; everything else is inherited.

    Sides must be multiples of 16 and the number of frames 4k+1. The model has seen 64x64x17, 96x96x17 and 128x128x33.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_encoder: UMT5EncoderModel,
        vae: PatchAutoencoder,
        scheduler: FlowMatchEulerDiscreteScheduler,
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
        """Loads the pipeline that `accel.pocket.train` wrote to a folder, quietly: it takes a quarter of a second."""
        if not (folder / "model_index.json").is_file():
            raise FileNotFoundError(
                f"there is no model in {folder}; train one with python -m accel.pocket.train --out {folder}"
            )
        with _no_progress_bars():
            pipe: WanPocketPipeline = cls.from_pretrained(folder, local_files_only=True)
        return pipe

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int = 64,
        width: int = 64,
        num_frames: int = 17,
        num_inference_steps: int = 50,
        guidance_scale: float = 6.0,
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


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    libraries = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in libraries:
            library.enable_progress_bar()
