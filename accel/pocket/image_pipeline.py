"""The pocket image pipeline: diffusers' StableDiffusionPipeline with the call defaults that fit a small model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from accel.pocket.autoencoder import PicturePatchAutoencoder
from accel.pocket.pipeline import INDEX, no_progress_bars


class StableDiffusionPocketPipeline(StableDiffusionPipeline):  # type: ignore[misc]
    """A StableDiffusionPipeline whose calls default to one picture of 64x64, 50 steps and guidance 6; everything else
    is inherited. Sides must be multiples of 8. It has seen pictures of 64x64 alone.
    """

    def __init__(
        self,
        vae: PicturePatchAutoencoder,
        text_encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerFast,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        safety_checker: None = None,
        feature_extractor: None = None,
        image_encoder: None = None,
        requires_safety_checker: bool = False,
    ) -> None:
        # The signature is what diffusers checks components against: here the autoencoder is the linear one, the text
        # encoder is not CLIP's, and coloured shapes need no safety checker.
        super().__init__(
            vae,
            text_encoder,
            tokenizer,
            unet,
            scheduler,
            safety_checker,
            feature_extractor,
            image_encoder,
            requires_safety_checker,
        )

    @classmethod
    def from_folder(cls, folder: Path) -> StableDiffusionPocketPipeline:
        """Loads the model that `python -m benchmarks.pocket.train_image` wrote to a folder, quietly."""
        if not (folder / INDEX).is_file():
            raise FileNotFoundError(
                f"there is no model in {folder}; train one with python -m benchmarks.pocket.train_image --out {folder}"
            )
        with no_progress_bars():
            pipe: StableDiffusionPocketPipeline = cls.from_pretrained(folder, local_files_only=True)
        return pipe

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        height: int = 64,
        width: int = 64,
        num_inference_steps: int = 50,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float = 6.0,
        negative_prompt: str | list[str] | None = None,
        *,
        output_type: str | None = "np",
        **options: Any,
    ) -> Any:
        """Generates pictures; `.images` of the result is (prompts, height, width, 3) in [0, 1].

        `options` are the other arguments of StableDiffusionPipeline, such as `generator`, `latents` and `eta`.
        """
        return super().__call__(
            prompt=prompt,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            timesteps=timesteps,
            sigmas=sigmas,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            output_type=output_type,
            **options,
        )

    def to_json_string(self) -> str:
        """The index that `save_pretrained` writes. It names classes that diffusers finds again in every version."""
        index = json.loads(super().to_json_string())
        tokenizer = ["transformers", "PreTrainedTokenizerFast"]  # transformers 5 calls it by another name
        return json.dumps(index | {"_class_name": "StableDiffusionPipeline", "tokenizer": tokenizer}, indent=2) + "\n"
