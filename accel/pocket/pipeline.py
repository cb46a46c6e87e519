"""The pocket video pipeline: diffusers' WanPipeline with the call defaults that fit a small model."""

from __future__ import annotations

from typing import Any

from diffusers import WanPipeline

from accel.pocket.text import MAX_TOKENS


class WanPocketPipeline(WanPipeline):  # type: ignore[misc]
    """A WanPipeline whose calls default to 17 frames of 64x64, 50 steps and guidance 5; everything else is inherited.

    Sides must be multiples of 8 and the number of frames 4k+1. The model has seen 64x64x17, 96x96x17 and 128x128x33.
    """

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int = 64,
        width: int = 64,
        num_frames: int = 17,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
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
