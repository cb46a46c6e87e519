"""Stable Diffusion 1 and 2, and what is made of its U-Net."""

from __future__ import annotations

from typing import Any

import torch

from tests.tiny.case import Ask
from tests.tiny.image import POOLED, TEXT
from tests.tiny.inputs import embeddings
from tests.tiny.zoo.case import Case, pil

NINE = {"unet": {"in_channels": 9}}
EIGHT = {"unet": {"in_channels": 8}}


def steered(ask: Ask) -> dict[str, Any]:
    """Embeddings of the wanted and the unwanted thing, of which this pipeline makes a direction."""
    return {"source_embeds": ask.words(8, TEXT), "target_embeds": ask.negative_words(8, TEXT)}


def boxed(ask: Ask) -> dict[str, Any]:
    return {"gligen_phrases": ["a thing"], "gligen_boxes": [[0.1, 0.1, 0.6, 0.6]], "gligen_scheduled_sampling_beta": 1.0}


CASES = (
    Case("StableDiffusionPipeline"),
    Case("StableDiffusionImg2ImgPipeline"),
    Case("StableDiffusionInpaintPipeline"),
    Case("StableDiffusionControlNetPipeline"),
    Case("StableDiffusionControlNetImg2ImgPipeline"),
    Case("StableDiffusionControlNetInpaintPipeline"),
    Case("StableDiffusionPAGPipeline"),
    Case("StableDiffusionPAGImg2ImgPipeline"),
    Case("StableDiffusionPAGInpaintPipeline"),
    Case("StableDiffusionControlNetPAGPipeline"),
    Case("StableDiffusionControlNetPAGInpaintPipeline"),
    Case("StableDiffusionAdapterPipeline"),
    Case("StableDiffusionInstructPix2PixPipeline", EIGHT),
    Case("StableDiffusionDepth2ImgPipeline", {"unet": {"in_channels": 5}, "depth_estimator": None, "feature_extractor": None}, {"depth_map": torch.rand(1, 64, 64)}),
    Case("StableDiffusionImageVariationPipeline", ),
    Case("StableDiffusionLatentUpscalePipeline", ),
    Case("StableDiffusionUpscalePipeline", {"unet": {"in_channels": 7, "num_class_embeds": 1000}}),
    Case("StableUnCLIPPipeline", ),
    Case("StableUnCLIPImg2ImgPipeline", ),
    Case("LatentConsistencyModelPipeline"),
    Case("LatentConsistencyModelImg2ImgPipeline"),
    Case("CycleDiffusionPipeline"),
    Case("SemanticStableDiffusionPipeline"),
    Case("StableDiffusionAttendAndExcitePipeline", {}, {"token_indices": [2]}, words=True),
    Case("StableDiffusionDiffEditPipeline"),
    Case("StableDiffusionGLIGENPipeline", {}, boxed, words=True),
    Case("StableDiffusionGLIGENTextImagePipeline", {}, boxed, words=True),
    Case("StableDiffusionInpaintPipelineLegacy"),
    Case("StableDiffusionLDM3DPipeline"),
    Case("StableDiffusionModelEditingPipeline"),
    Case("StableDiffusionPanoramaPipeline"),
    Case("StableDiffusionParadigmsPipeline"),
    Case("StableDiffusionPipelineSafe"),
    Case("StableDiffusionPix2PixZeroPipeline", {}, steered),
    Case("StableDiffusionSAGPipeline"),
    Case("StableDiffusionControlNetXSPipeline"),
    Case("PaintByExamplePipeline", NINE),
    Case("PIAPipeline", {"unet": {"in_channels": 9}}),
    Case("AltDiffusionPipeline"),
    Case("AltDiffusionImg2ImgPipeline"),
    Case("LEditsPPPipelineStableDiffusion"),
    Case("MarigoldDepthPipeline", EIGHT),
    Case("MarigoldNormalsPipeline", EIGHT),
    Case("MarigoldIntrinsicsPipeline", EIGHT),
    Case("LDMTextToImagePipeline"),
    Case("AudioLDMPipeline"),
    Case("MusicLDMPipeline"),
    Case("UniDiffuserPipeline"),
    Case("BlipDiffusionPipeline"),
    Case("BlipDiffusionControlNetPipeline"),
    Case("TextToVideoZeroPipeline"),
    Case("TextToVideoSDPipeline"),
    Case("VideoToVideoSDPipeline"),
    Case("I2VGenXLPipeline"),
    Case("AnimateDiffPipeline"),
    Case("AnimateDiffControlNetPipeline"),
    Case("AnimateDiffPAGPipeline"),
    Case("AnimateDiffSparseControlNetPipeline"),
    Case("AnimateDiffVideoToVideoPipeline"),
    Case("AnimateDiffVideoToVideoControlNetPipeline"),
    Case("StableVideoDiffusionPipeline"),
    Case("DreamLitePipeline"),
    Case("DreamLiteMobilePipeline"),
    Case("VersatileDiffusionTextToImagePipeline"),
    Case("VersatileDiffusionImageVariationPipeline"),
    Case("VersatileDiffusionDualGuidedPipeline"),
    Case("VersatileDiffusionPipeline"),
)
