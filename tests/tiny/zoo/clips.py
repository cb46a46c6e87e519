"""Transformers that make video."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan, ClassifierFreeGuidance, FlowMatchEulerDiscreteScheduler, HeliosScheduler

from tests.tiny.case import Ask
from tests.tiny.image import POOLED, TEXT, image_vae
from tests.tiny.zoo.case import Case, pil
from tests.tiny.zoo.parts import make

SIXTEEN: dict[str, Any] = {"vae": partial(image_vae, 16)}
# With its own 1/3 the covariance of Helios' noise is singular, and only some machines round it to one with a root.
FACTORED = 0.33
TWO_IN_ONE = {"transformer": {"in_channels": 32, "out_channels": 16}}
WAN_PICTURE = {"transformer": {"in_channels": 36}}
TWO_TEXTS = {"leave_out": ("prompt", "negative_prompt")}
WAN_VAE = {"vae": lambda: make(AutoencoderKLWan, {})}
PLAIN_GUIDER = {
    "guider": lambda: ClassifierFreeGuidance(guidance_scale=3.0),
    "scheduler": FlowMatchEulerDiscreteScheduler,
}


def smaller(pipe: Any) -> None:
    """It makes pictures of a million pixels and of nothing less."""
    pipe.resolutions = [(64, 64)]


def kandinsky5(ask: Ask) -> dict[str, Any]:
    lengths = torch.arange(ask.batch + 1, dtype=torch.int32) * 8
    given = {
        "prompt_embeds_qwen": ask.words(8, TEXT),
        "prompt_embeds_clip": ask.words(POOLED),
        "prompt_cu_seqlens": lengths,
    }
    if ask.guidance:
        given |= {
            "negative_prompt_embeds_qwen": ask.negative_words(8, TEXT),
            "negative_prompt_embeds_clip": ask.negative_words(POOLED),
            "negative_prompt_cu_seqlens": lengths,
        }
    return given


CASES = (
    Case("AllegroPipeline"),
    Case("AnyFlowPipeline", leave_out=("video",)),
    Case("AnyFlowFARPipeline", leave_out=("video",)),
    Case("ChronoEditPipeline"),
    Case("CogVideoXPipeline"),
    Case("CogVideoXImageToVideoPipeline", TWO_IN_ONE, alone="one picture a call"),
    Case("CogVideoXVideoToVideoPipeline", rows=True),
    Case("CogVideoXFunControlPipeline", TWO_IN_ONE, alone="one picture a call"),
    Case("ConsisIDPipeline", alone="one picture a call"),
    Case("EasyAnimatePipeline"),
    Case(
        "HeliosPipeline",
        {"scheduler": lambda: HeliosScheduler(stages=1, stage_range=[0, 1])},
        leave_out=("image", "video"),
    ),
    Case(
        "HeliosPyramidPipeline", {"scheduler": partial(HeliosScheduler, gamma=FACTORED)}, leave_out=("image", "video")
    ),
    Case("HunyuanVideoPipeline"),
    Case(
        "HunyuanVideoImageToVideoPipeline",
        {"transformer": {"in_channels": 33, "out_channels": 16, "image_condition_type": "latent_concat"}},
        rows=True,
    ),
    Case("HunyuanSkyreelsImageToVideoPipeline", TWO_IN_ONE, alone="one picture a call"),
    Case("HunyuanVideoFramepackPipeline", alone="one picture a call"),
    Case("HunyuanVideo15Pipeline"),
    Case("HunyuanVideo15ImageToVideoPipeline", {"transformer": {"image_embed_dim": 16}}),
    Case("Kandinsky5T2VPipeline", {}, kandinsky5, **TWO_TEXTS),
    Case("Kandinsky5I2VPipeline", {"transformer": {"visual_cond": True}}, kandinsky5, **TWO_TEXTS),
    Case("Kandinsky5T2IPipeline", SIXTEEN, kandinsky5, after=smaller, **TWO_TEXTS),
    Case(
        "Kandinsky5I2IPipeline",
        SIXTEEN | {"transformer": {"visual_cond": True}},
        kandinsky5,
        rows=True,
        after=smaller,
        **TWO_TEXTS,
    ),
    Case("Kandinsky6TI2VAPipeline", {}, {"sample_audio": False}, leave_out=("image",)),
    Case("LattePipeline"),
    Case("LTXPipeline"),
    Case("LTXImageToVideoPipeline", alone="one picture a call"),
    Case("LTXConditionPipeline"),
    Case("LTXI2VLongMultiPromptPipeline", alone="several prompts are several parts of one clip"),
    Case("LTX2Pipeline", size=(32, 32), frames=5),
    Case("LTX2ImageToVideoPipeline", alone="one picture a call", size=(32, 32), frames=5),
    Case("LTX2ConditionPipeline", size=(32, 32), frames=5),
    Case("LTX2InContextPipeline", size=(32, 32), frames=5),
    Case("LTX2HDRPipeline", size=(32, 32), frames=5),
    Case("LTX2DFRPipeline", {"transformer": {"use_keyframes_abs_pos_embedding": True}}, size=(32, 32), frames=5),
    Case("LucyEditPipeline", {"transformer": {"in_channels": 32, "out_channels": 16}}, alone="one clip a call"),
    Case("MochiPipeline"),
    Case("MotifVideoPipeline", PLAIN_GUIDER),
    Case("SanaVideoPipeline", WAN_VAE),
    Case("SanaImageToVideoPipeline", WAN_VAE),
    Case("SkyReelsV2Pipeline"),
    Case("SkyReelsV2ImageToVideoPipeline", {"transformer": {"in_channels": 36, "image_dim": 16}}),
    Case("SkyReelsV2DiffusionForcingPipeline"),
    Case("SkyReelsV2DiffusionForcingImageToVideoPipeline"),
    Case(
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        {},
        {"overlap_history": 5, "base_num_frames": 9, "num_frames": 17},
    ),
    Case("WanPipeline", {"transformer": {}}),
    Case("WanImageToVideoPipeline", WAN_PICTURE),
    Case("WanVideoToVideoPipeline"),
    Case("WanVACEPipeline", {"transformer": {}}, {"mask": [pil(7, 64, 64)] * 9}, alone="one clip of conditions a call"),
)
