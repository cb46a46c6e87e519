"""Text to image and its relatives, transformers."""

from __future__ import annotations

from tests.tiny.zoo.case import Case

CASES = (
    Case("AuraFlowPipeline"),
    Case("CogView3PlusPipeline"),
    Case("CogView4Pipeline"),
    Case("StableDiffusionPipeline"),
    Case("StableDiffusionImg2ImgPipeline"),
    Case("WanPipeline"),
)
