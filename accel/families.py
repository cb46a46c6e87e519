"""What is known of model families and cannot be asked of a model: one row each. Methods ask the anatomy, which asks
here.

Families that depart from the defaults in nothing have no row (Wan, SkyReels, Cosmos, Chrono-Edit and most others): the
defaults are what diffusers' models have in common. Read off diffusers 0.42.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# How the conditional and the unconditional output of one step are asked for: as the first step will show; the
# conditional one as the last or the first half of one batch; in calls that are not all combined into one update.
GuidanceCalls = Literal["conditional half last", "conditional half first", "to be seen", "more than two"]


@dataclass(frozen=True)
class HighResolutionFacts:
    """A U-Net that can be made to see larger pictures than those it was trained on (HiDiffusion, arXiv 2311.17528).

    down_blocks: the types of its down blocks, by which it is known. finest: beginnings of the paths of the
    self-attentions of the highest resolution. halved: the modules after which features are halved once more, until T1
    and until T2. early: up to this share of the steps the second of them does it in place of the first, if T2 is 0 and
    the U-Net is no inpainting one. few_steps: T1 of the one distilled for few steps, by the size of its latents.
    """

    down_blocks: tuple[str, ...]
    finest: tuple[str, ...]
    halved: tuple[str, str]
    early: float = 0.0
    few_steps: Mapping[float, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One family of models. `register` adds one; a row says what departs from the defaults.

    pipelines, denoisers: beginnings of class names. Of several that fit the longest counts.

    Of pipelines:
    guidance_calls: what must be known of guidance because the first step does not show it. Where a row says which half
    of a batch is conditional, guidance can be left out in the first step as well.
    negates_prediction: the pipeline negates what the denoiser returns, which predicts x0 - noise.

    Of denoisers:
    prompt_tokens: self-attention sees the prompt among the tokens of the latents, in front of them or behind; registers
    and padding count as prompt. None: the tokens of the latents are alone.
    own_token_order: tokens do not stand row by row, frame by frame.
    frames_apart: a video's frames are folded into the batch, so that each self-attention sees one of them.
    packed: rows, and columns, of latents that one packed token holds.
    text_first_blocks: beginnings of the class names of blocks that return (text, image) and not the image alone or
    first; for whatever denoiser uses them.
    unet_blocks: classes of the blocks of a U-Net that are lists of layers with one skip connection each.
    blocks, interleaved_blocks: where the repeated blocks are kept, and of them those that run in between the others, on
    tokens arranged otherwise.
    modules: what the modules of a block are, by their name in it. Attention that mixes text and image tokens counts as
    self-attention, whose input is the modulated one (TeaCache's signal); whether "attn2" is cross-attention is asked of
    the module where it knows.
    time_embedding, time_projection: modules whose output it is, by path; the first that exists is taken.
    """

    name: str
    pipelines: tuple[str, ...] = ()
    denoisers: tuple[str, ...] = ()

    guidance_calls: GuidanceCalls = "to be seen"
    negates_prediction: bool = False

    prompt_tokens: Literal["first", "last"] | None = None
    own_token_order: bool = False
    frames_apart: bool = False
    packed: int = 1
    text_first_blocks: tuple[str, ...] = ()
    unet_blocks: tuple[str, ...] = ()
    high_resolution: tuple[HighResolutionFacts, ...] = ()
    interleaved_blocks: tuple[str, ...] = ()
    blocks: tuple[str, ...] = (
        "blocks",
        "transformer_blocks",
        "single_transformer_blocks",
        "layers",
        "visual_transformer_blocks",
        "temporal_transformer_blocks",
        "joint_transformer_blocks",
        "double_stream_blocks",
        "single_stream_blocks",
    )
    modules: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "self_attention": ("attn1", "attn", "self_attn", "self_attention", "attention"),
            "cross_attention": ("attn2", "cross_attn", "cross_attention"),
            "feed_forward": (
                *("ff", "ffn", "mlp", "feed_forward", "img_mlp", "txt_mlp", "ff_t"),
                "ff_context",  # the text stream of Flux, SD3, HunyuanVideo, Mochi
                "ff_in",  # SVD, in front of the temporal attention
                "ff_i",  # HiDream
                "proj_mlp",  # the first half of the MLP in the single blocks of Flux and HunyuanVideo
            ),
        }
    )
    # Parts of a path that say that an attention below them runs along time.
    temporal: tuple[str, ...] = ("motion_modules", "temporal_transformer_blocks", "temp_attentions")
    time_embedding: tuple[str, ...] = (
        "condition_embedder.time_embedder",  # Wan
        "time_text_embed.timestep_embedder",  # Flux, SD3, HunyuanVideo, QwenImage
        "time_embedding",  # CogVideoX, U-Nets
        "time_embed.emb.timestep_embedder",  # LTX
        "time_embed.timestep_embedder",  # Mochi
        "adaln_single.emb.timestep_embedder",  # PixArt
        "t_embedder",  # HiDream, Z-Image
        "time_caption_embed.timestep_embedder",  # Lumina2
        "time_embed",
    )
    time_projection: tuple[str, ...] = ("condition_embedder.time_proj",)  # Wan: the six modulation rows of every block

    def __post_init__(self) -> None:
        for setting in ("pipelines", "denoisers", "text_first_blocks"):
            given: object = getattr(self, setting)
            if not (isinstance(given, tuple) and all(isinstance(one, str) and one for one in given)):
                raise TypeError(f"{setting} of a Family is a tuple of beginnings of class names, not {given!r}.")


def register(family: Family) -> None:
    """Adds a family, for the rest of this process; for pipelines that are accelerated from then on. The same row again
    (a notebook's cell run twice) changes nothing.

    Raises ValueError where there is one of this name, or one that claims the same beginning of a class name.
    """
    for known in FAMILIES.values():
        if known == family:
            return
        claimed = {*known.pipelines, *known.denoisers} & {*family.pipelines, *family.denoisers}
        if known.name == family.name or claimed:
            what = ", ".join(sorted(claimed)) or f"the name {family.name!r}"
            raise ValueError(f"The family {known.name!r} has {what} already: give yours a longer one.")
    FAMILIES[family.name] = family


def of_pipeline(kind: str) -> Family:
    """The family of a pipeline, by the name of its class; the defaults where no row is about it."""
    return _longest(kind, {beginning: row for row in FAMILIES.values() for beginning in row.pipelines})


def of_denoiser(kind: str) -> Family:
    """The family of a denoiser, by the name of its class; the defaults where no row is about it."""
    return _longest(kind, {beginning: row for row in FAMILIES.values() for beginning in row.denoisers})


def returns_text_first(block: str) -> bool:
    """Whether a block of this class returns (text, image)."""
    return any(block.startswith(row.text_first_blocks) for row in FAMILIES.values())


def _longest(kind: str, rows: Mapping[str, Family]) -> Family:
    return (
        rows[max(fits, key=len)] if (fits := [beginning for beginning in rows if kind.startswith(beginning)]) else ANY
    )


ANY = Family("any other")

_CROSSED_2D = ("CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D", "CrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D")
_PLAIN_2D = ("DownBlock2D", "ResnetDownsampleBlock2D", "UpBlock2D", "ResnetUpsampleBlock2D")  # Resnet...: Kandinsky 2
_SD = HighResolutionFacts(
    down_blocks=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    finest=("down_blocks.0.", "up_blocks.3."),
    halved=("down_blocks.0.downsamplers.0", "down_blocks.1.attentions.0"),
)
_SDXL = HighResolutionFacts(
    down_blocks=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    finest=("down_blocks.1.", "up_blocks.1."),
    halved=("down_blocks.1.attentions.0", "down_blocks.1.downsamplers.0"),
    early=8 / 50,
    few_steps={64: 0.5},  # SDXL-Turbo
)
_ROWS = (
    Family(
        "AnimateDiff", (), ("UNetMotionModel",),
        frames_apart=True,
        unet_blocks=("DownBlockMotion", "CrossAttnDownBlockMotion", "UpBlockMotion", "CrossAttnUpBlockMotion"),
    ),
    Family(
        "AuraFlow", (), ("AuraFlowTransformer2DModel",),
        prompt_tokens="first",
        text_first_blocks=("AuraFlowJointTransformerBlock",),
    ),
    Family(
        "Bria", (), ("BriaFiboTransformer2DModel", "BriaTransformer2DModel"),
        prompt_tokens="first",
        packed=2,
        text_first_blocks=("BriaFiboTransformerBlock", "BriaSingleTransformerBlock", "BriaTransformerBlock"),
    ),
    Family(
        "Chroma", (), ("ChromaTransformer2DModel",),
        prompt_tokens="first",
        packed=2,
        text_first_blocks=("ChromaTransformerBlock",),
    ),
    Family("CogVideoX", (), ("CogVideoXTransformer3DModel",), prompt_tokens="first"),
    Family("CogView", (), ("CogView3PlusTransformer2DModel", "CogView4Transformer2DModel"), prompt_tokens="first"),
    Family("ConsisID", (), ("ConsisIDTransformer3DModel",), prompt_tokens="first"),
    Family("Cosmos 3", text_first_blocks=("Cosmos3VLTextMoTDecoderLayer",)),
    Family("EasyAnimate", (), ("EasyAnimateTransformer3DModel",), prompt_tokens="first"),
    Family(
        "Flux", (), ("FluxTransformer2DModel",),
        prompt_tokens="first",
        packed=2,
        text_first_blocks=("FluxTransformerBlock", "FluxSingleTransformerBlock"),
    ),
    Family(
        "Flux 2", (), ("Flux2Transformer2DModel",),
        prompt_tokens="first",
        packed=2,
        text_first_blocks=("Flux2TransformerBlock",),
    ),
    Family("Flux 3", text_first_blocks=("Flux3SingleTransformerBlock",)),
    Family("HiDream", ("HiDream",), negates_prediction=True),
    Family("HunyuanImage", (), ("HunyuanImageTransformer2DModel",), prompt_tokens="last"),
    Family(
        "HunyuanVideo", (), ("HunyuanVideoTransformer3DModel", "HunyuanVideo15Transformer3DModel"),
        prompt_tokens="last",
    ),
    Family("I2VGen-XL", (), ("I2VGenXLUNet",), frames_apart=True),
    Family("JoyImage", (), ("JoyImageEdit",), own_token_order=True),
    Family("Kandinsky 5, 6", (), ("Kandinsky5", "Kandinsky6"), own_token_order=True),
    Family(
        "Latte", (), ("LatteTransformer3DModel",),
        frames_apart=True,
        interleaved_blocks=("temporal_transformer_blocks",),
    ),
    Family(
        "LongCat", (), ("LongCatImageTransformer2DModel",),
        prompt_tokens="first",
        packed=2,
        text_first_blocks=("LongCatImage",),
    ),
    # The scheduler is given some of the frames, arranged otherwise than those of the output.
    Family("LTX, image to video", ("LTXImageToVideo", "LTX2ImageToVideo"), guidance_calls="conditional half last"),
    Family("Lumina", ("Lumina",), negates_prediction=True),
    Family("Mochi", (), ("MochiTransformer3DModel",), prompt_tokens="last"),
    Family("MotifVideo", (), ("MotifVideoTransformer3DModel",), prompt_tokens="last"),
    Family("NucleusMoE", ("NucleusMoE",), negates_prediction=True),
    Family(
        "Ovis", (), ("OvisImageTransformer2DModel",), prompt_tokens="first", packed=2, text_first_blocks=("OvisImage",)
    ),
    # Each step has one call for each view, and an update for each.
    Family("Panorama", ("StableDiffusionPanorama",), guidance_calls="more than two"),
    Family(
        "QwenImage", (), ("QwenImageTransformer2DModel",),
        prompt_tokens="first",
        packed=2,
        text_first_blocks=("QwenImageTransformerBlock",),
    ),
    Family(
        "Stable Diffusion 1, 2, XL", (), ("UNet2DConditionModel",),
        unet_blocks=_PLAIN_2D + _CROSSED_2D,
        high_resolution=(_SD, _SDXL),
    ),
    Family(
        "Stable Diffusion 3", (), ("SD3Transformer2DModel",),
        prompt_tokens="last",
        text_first_blocks=("JointTransformerBlock",),
    ),
    Family(
        "Stable Video Diffusion", (), ("UNetSpatioTemporalConditionModel",),
        frames_apart=True,
        unet_blocks=(
            *("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
            *("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        ),
    ),
    Family("Text-to-video U-Nets", (), ("UNet3DConditionModel",), frames_apart=True),
    Family(
        "Z-Image", ("ZImage",), ("ZImageTransformer2DModel",),
        negates_prediction=True,
        prompt_tokens="last",
    ),
)  # fmt: skip
FAMILIES = {row.name: row for row in _ROWS}
