"""A stock pipeline that takes the prompts of a judge as text, where the stock one wants embeddings or class labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import DiffusionPipeline

from benchmarks.judges.family import Family
from benchmarks.judges.language import Words


def prompted(
    pipe: DiffusionPipeline, family: Family, words: Words, guidance: float, defaults: Mapping[str, Any]
) -> DiffusionPipeline:
    """Gives the pipeline a class of the same name that turns text into conditions; all else is inherited.

    guidance, defaults: what a call takes where it says nothing else.
    """
    stock = type(pipe)

    def __call__(
        self: Any,
        prompt: str | list[str],
        num_inference_steps: int = 50,
        guidance_scale: float = guidance,
        *,
        output_type: str = "np",
        **options: Any,
    ) -> Any:
        """The stock call. `prompt` is one of the judge's prompts, or several, and all else goes on as it is."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        conditions = family.conditions(words.to(self.device), prompts, guidance_scale)
        arguments = {**defaults, **options, **conditions, "output_type": output_type}
        return stock.__call__(self, num_inference_steps=num_inference_steps, **arguments)

    pipe.__class__ = type(stock.__name__, (stock,), {"__call__": __call__, "__module__": stock.__module__})
    pipe.set_progress_bar_config(disable=True)
    return pipe
