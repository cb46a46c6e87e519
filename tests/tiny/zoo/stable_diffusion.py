"""Stable Diffusion 1 and 2, and what is made of its U-Net."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DDIMParallelScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from diffusers.pipelines.deprecated.paint_by_example.image_encoder import PaintByExampleImageEncoder
from transformers import CLIPVisionConfig, SpeechT5HifiGan, SpeechT5HifiGanConfig

from tests.tiny.case import Ask
from tests.tiny.image import BETAS, POOLED, TEXT
from tests.tiny.inputs import embeddings, picture
from tests.tiny.weights import randomise
from tests.tiny.zoo.case import Case, pil
from tests.tiny.zoo.parts import make
from tests.tiny.zoo.sizes import SIZES
from tests.tiny.zoo.stand_ins import Tokenizer, text_encoder

ARRAYS = {"output_type": "np"}
NINE = {"unet": {"in_channels": 9}}
EIGHT = {"unet": {"in_channels": 8}}
POOLED_TEXT = {"width": POOLED}
PRIOR = {"prior_text_encoder": POOLED_TEXT, "prior_tokenizer": Tokenizer}
BY_PICTURE = {"image_encoder": {"projection": POOLED}}
UNCLIP = {"unet": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * POOLED}}
VERSATILE = {"text_encoder": {"pooled": TEXT}}
MONO = {"in_channels": 1, "out_channels": 1}
SOUND = {
    "cross_attention_dim": (16, 32),
    "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": POOLED,
    "class_embeddings_concat": True,
}
# Text2Video-Zero moves the latents between two steps of so many.
ZERO = {"video_length": 3, "t0": 4, "t1": 6, "num_inference_steps": 8}


def ddim() -> DDIMScheduler:
    return DDIMScheduler(**SIZES["DDIMScheduler"])


def sde() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++", solver_order=2)


def vocoder() -> torch.nn.Module:
    config = SpeechT5HifiGanConfig(
        model_in_dim=64,
        sampling_rate=16_000,
        upsample_initial_channel=8,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
    )
    return randomise(SpeechT5HifiGan(config))


def example_encoder() -> torch.nn.Module:
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=16
    )
    return randomise(PaintByExampleImageEncoder(config, proj_size=TEXT))


def steered(ask: Ask) -> dict[str, Any]:
    """Embeddings of the wanted and the unwanted thing, of which this pipeline makes a direction."""
    return {"source_embeds": ask.words(8, TEXT), "target_embeds": ask.negative_words(8, TEXT)}


def boxed(ask: Ask) -> dict[str, Any]:
    return {
        "gligen_phrases": ["a thing"],
        "gligen_boxes": [[0.1, 0.1, 0.6, 0.6]],
        "gligen_scheduled_sampling_beta": 1.0,
    }


def sounding(ask: Ask) -> dict[str, Any]:
    given = {"prompt_embeds": ask.words(POOLED), "audio_length_in_s": 0.1, "output_type": "latent"}
    return given | ({"negative_prompt_embeds": ask.negative_words(POOLED)} if ask.guidance else {})


def redrawn(pipe: Any) -> None:
    """diffusers makes its U-Net of another one and leaves what that has not as it was drawn, by chance."""
    randomise(pipe.unet)


def inverted(pipe: Any) -> None:
    """It edits the picture that it was told to invert."""
    pipe.invert(image=pil(3, 64, 64), num_inversion_steps=8, skip=0.0, generator=torch.Generator().manual_seed(0))


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
    Case("StableDiffusionAdapterPipeline", rows=True),
    Case("StableDiffusionInstructPix2PixPipeline", EIGHT),
    Case(
        "StableDiffusionDepth2ImgPipeline",
        {"unet": {"in_channels": 5}, "depth_estimator": None, "feature_extractor": None},
        {"depth_map": picture(1, 64, 64)[0, :1]},
    ),
    Case("StableDiffusionImageVariationPipeline", rows=True),
    Case(
        "StableDiffusionLatentUpscalePipeline",
        {
            "unet": {"in_channels": 8, "out_channels": 5, "time_cond_proj_dim": 128 + POOLED},
            "scheduler": lambda: EulerDiscreteScheduler(**BETAS),
        },
        lambda ask: {"image": ask.words(4, 8, 8)},
    ),
    Case(
        "StableDiffusionUpscalePipeline",
        {"unet": {"in_channels": 7, "num_class_embeds": 1000}},
        size=(16, 16),
        rows=True,
    ),
    Case("StableUnCLIPPipeline", UNCLIP | PRIOR, words=True),
    Case("StableUnCLIPImg2ImgPipeline", UNCLIP | BY_PICTURE, rows=True),
    Case("LatentConsistencyModelPipeline", {"unet": {"time_cond_proj_dim": 32}}),
    Case("LatentConsistencyModelImg2ImgPipeline", {"unet": {"time_cond_proj_dim": 32}}),
    Case(
        "CycleDiffusionPipeline",
        {},
        {"source_prompt": "a picture of something else", "eta": 1.0},
        alone="a prompt has a source",
    ),
    Case("SemanticStableDiffusionPipeline"),
    Case(
        "StableDiffusionAttendAndExcitePipeline",
        {},
        {"token_indices": [2], "attn_res": (8, 8), "max_iter_to_alter": 4},
        words=True,
        alone="one prompt a call",
    ),
    Case(
        "StableDiffusionDiffEditPipeline",
        {},
        {
            "image_latents": embeddings(1, 1, 8, 4, 8, 8),
            "num_inference_steps": 8,  # one for each of these
            "inpaint_strength": 1.0,
            "mask_image": pil(7, 8, 8).convert("L"),
        },
        alone="one inverted picture a call",
    ),
    Case(
        "StableDiffusionGLIGENPipeline",
        {"unet": {"attention_type": "gated"}, "text_encoder": {"pooled": TEXT}},
        boxed,
        words=True,
    ),
    Case(
        "StableDiffusionGLIGENTextImagePipeline",
        {"unet": {"attention_type": "gated-text-image"}, "text_encoder": {"pooled": TEXT}},
        boxed,
        words=True,
    ),
    Case("StableDiffusionInpaintPipelineLegacy"),
    Case("StableDiffusionLDM3DPipeline", {"vae": {"in_channels": 6, "out_channels": 6}}, ARRAYS),
    Case("StableDiffusionModelEditingPipeline", {"scheduler": ddim}),
    Case("StableDiffusionPanoramaPipeline"),
    Case("StableDiffusionParadigmsPipeline", {"scheduler": lambda: DDIMParallelScheduler(**SIZES["DDIMScheduler"])}),
    Case("StableDiffusionPipelineSafe", {}, ARRAYS),
    Case(
        "StableDiffusionPix2PixZeroPipeline",
        {"caption_generator": None, "caption_processor": None, "inverse_scheduler": None},
        steered,
    ),
    Case("StableDiffusionSAGPipeline"),
    Case(
        "StableDiffusionControlNetXSPipeline",
        {"unet": {"layers_per_block": 2}, "controlnet": {"use_linear_projection": False}},
    ),
    Case(
        "PaintByExamplePipeline",
        NINE | {"image_encoder": example_encoder},
        {"example_image": pil(5, 32, 32)},
        alone="one example a call",
    ),
    Case("PIAPipeline", {"unet": {"in_channels": 9}}, frames=4, alone="one picture a call", after=redrawn),
    Case("AltDiffusionPipeline"),
    Case("AltDiffusionImg2ImgPipeline", rows=True),
    Case(
        "LEditsPPPipelineStableDiffusion",
        {"scheduler": sde},
        {"editing_prompt": "a hat", "use_intersect_mask": False},
        words=True,
        alone="one inverted picture a call",
        after=inverted,
    ),
    Case(
        "MarigoldDepthPipeline",
        EIGHT | {"text_encoder": text_encoder, "tokenizer": Tokenizer},
        {"processing_resolution": 64, "output_type": "np"},
        alone="one generator a call",
    ),
    Case(
        "MarigoldNormalsPipeline",
        EIGHT | {"text_encoder": text_encoder, "tokenizer": Tokenizer},
        {"processing_resolution": 64, "output_type": "np"},
        alone="one generator a call",
    ),
    Case(
        "MarigoldIntrinsicsPipeline",
        {
            "unet": {"in_channels": 12, "out_channels": 8},
            "target_properties": lambda: {"target_names": ["albedo", "material"]},
        },
        {"processing_resolution": 64, "output_type": "np"},
        alone="one generator a call",
    ),
    Case("LDMTextToImagePipeline", {"bert": text_encoder, "unet": lambda: make(UNet2DConditionModel, {})}, ARRAYS),
    Case("AudioLDMPipeline", {"unet": SOUND, "vocoder": vocoder, "text_encoder": text_encoder, "vae": MONO}, sounding),
    Case("MusicLDMPipeline", {"unet": SOUND, "vocoder": vocoder, "text_encoder": text_encoder, "vae": MONO}, sounding),
    Case("TextToVideoZeroPipeline", {}, ZERO, words=True, alone="one clip a call"),
    Case("TextToVideoSDPipeline", frames=4),
    Case("VideoToVideoSDPipeline", frames=4, alone="one clip a call"),
    Case("I2VGenXLPipeline", frames=4, alone="one picture a call"),
    Case("AnimateDiffPipeline", frames=4),
    Case("AnimateDiffControlNetPipeline", frames=4, alone="one clip of conditions a call"),
    Case("AnimateDiffPAGPipeline", frames=4),
    Case("AnimateDiffSparseControlNetPipeline", frames=4),
    Case("AnimateDiffVideoToVideoPipeline", rows=True, frames=4),
    Case("AnimateDiffVideoToVideoControlNetPipeline", frames=4, alone="one clip of conditions a call"),
    Case("DreamLitePipeline", alone="one prompt a call"),
    Case("DreamLiteMobilePipeline", alone="one prompt a call"),
    Case("VersatileDiffusionTextToImagePipeline", VERSATILE),
    Case("VersatileDiffusionImageVariationPipeline", VERSATILE, leave_out=("negative_prompt",), rows=True),
)
