"""Tiny video transformers."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)

from tests.tiny.case import Ask, TinyPipeline, quiet
from tests.tiny.inputs import mask, picture
from tests.tiny.weights import randomise

TEXT = 24
"""Width of the prompt embeddings of every tiny video pipeline."""


def wan_transformer(seed: int = 0, in_channels: int = 16, layers: int = 2) -> WanTransformer3DModel:
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=in_channels,
        text_dim=TEXT,
        freq_dim=32,
        ffn_dim=64,
        num_layers=layers,
    )
    return randomise(model, seed)


def wan_vae() -> AutoencoderKLWan:
    return randomise(AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1))


def wan_scheduler() -> UniPCMultistepScheduler:
    """The scheduler that Wan is published with."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def build_wan() -> DiffusionPipeline:
    return quiet(WanPipeline(None, None, wan_vae(), wan_scheduler(), wan_transformer()))


def build_wan_two_experts() -> DiffusionPipeline:
    """Wan 2.2: with the shift of 5 the boundary is crossed near the middle of an eight-step run."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    experts = {"transformer": wan_transformer(), "transformer_2": wan_transformer(seed=1)}
    return quiet(WanPipeline(None, None, wan_vae(), scheduler, **experts, boundary_ratio=0.875))


def build_wan_token_timesteps() -> DiffusionPipeline:
    """Wan 2.2 5B: the denoiser is given a timestep for every token, `(batch, tokens)`."""
    return quiet(WanPipeline(None, None, wan_vae(), wan_scheduler(), wan_transformer(), expand_timesteps=True))


def build_wan_i2v() -> DiffusionPipeline:
    """Wan 2.2 image to video: no image encoder; the picture enters as 20 more latent channels."""
    return quiet(
        WanImageToVideoPipeline(None, None, wan_vae(), wan_scheduler(), transformer=wan_transformer(in_channels=36))
    )


def wan_arguments(ask: Ask) -> dict[str, Any]:
    arguments: dict[str, Any] = ask.extent((64, 64), (48, 80))
    arguments |= {
        "num_frames": 9 if ask.size == "default" else 5,
        "guidance_scale": 3.0 if ask.guidance else 1.0,
    }
    arguments["prompt_embeds"] = ask.words(8, TEXT)
    if ask.guidance:
        arguments["negative_prompt_embeds"] = ask.negative_words(8, TEXT)
    return arguments


def wan_i2v_arguments(ask: Ask) -> dict[str, Any]:
    arguments = wan_arguments(ask)
    return arguments | {"image": picture(0, arguments["height"], arguments["width"])}


def build_ltx() -> DiffusionPipeline:
    transformer = LTXVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=3,
        caption_channels=TEXT,
    )
    vae = AutoencoderKLLTXVideo(
        latent_channels=16,
        block_out_channels=(4, 4, 4, 4),
        decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    return quiet(LTXPipeline(scheduler, randomise(vae), None, None, randomise(transformer)))


def ltx_arguments(ask: Ask) -> dict[str, Any]:
    return ask.extent((128, 128), (96, 160)) | masked_arguments(ask)


def mochi_arguments(ask: Ask) -> dict[str, Any]:
    return ask.extent((64, 64), (48, 80)) | masked_arguments(ask)


def masked_arguments(ask: Ask) -> dict[str, Any]:
    """Padded prompts whose masks differ between the positive and the negative one."""
    arguments: dict[str, Any] = {"num_frames": 17 if ask.size == "default" else 9}
    arguments |= {"prompt_embeds": ask.words(8, TEXT), "prompt_attention_mask": mask(ask.batch, 8, padding=1)}
    arguments["guidance_scale"] = 3.0 if ask.guidance else 1.0
    if ask.guidance:
        arguments["negative_prompt_embeds"] = ask.negative_words(8, TEXT)
        arguments["negative_prompt_attention_mask"] = mask(ask.batch, 8, padding=4)
    return arguments


def build_mochi() -> DiffusionPipeline:
    transformer = MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        pooled_projection_dim=16,
        text_embed_dim=TEXT,
        time_embed_dim=16,
        max_sequence_length=8,
    )
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return quiet(MochiPipeline(scheduler, randomise(vae), None, None, randomise(transformer)))


def build_hunyuan_video() -> DiffusionPipeline:
    transformer = HunyuanVideoTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=TEXT,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    vae = AutoencoderKLHunyuanVideo(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return quiet(HunyuanVideoPipeline(None, None, randomise(transformer), randomise(vae), scheduler, None, None))


def hunyuan_video_arguments(ask: Ask) -> dict[str, Any]:
    arguments: dict[str, Any] = ask.extent((64, 64), (48, 80))
    return arguments | {
        "num_frames": 9 if ask.size == "default" else 5,
        "guidance_scale": 6.0 if ask.guidance else 1.0,
        "prompt_embeds": ask.words(8, TEXT),
        "pooled_prompt_embeds": ask.words(16),
        "prompt_attention_mask": mask(ask.batch, 8, 2),
    }


def build_cogvideox() -> DiffusionPipeline:
    """CogVideoX-2B: fixed positions, and DDIM."""
    return _cogvideox(CogVideoXDDIMScheduler, use_rotary_positional_embeddings=False)


def build_cogvideox_dpm() -> DiffusionPipeline:
    """CogVideoX-5B: rotary positions and a stochastic solver whose `step` has a signature of its own."""
    return _cogvideox(CogVideoXDPMScheduler, use_rotary_positional_embeddings=True)


def _cogvideox(scheduler: type, **options: Any) -> DiffusionPipeline:
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        time_embed_dim=16,
        text_embed_dim=TEXT,
        num_layers=3,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=8,
        **options,
    )
    vae = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    settings = {
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    return quiet(CogVideoXPipeline(None, None, randomise(vae), randomise(transformer), scheduler(**settings)))


VIDEO = (
    TinyPipeline("wan", build_wan, wan_arguments, "two calls", video=True),
    TinyPipeline("wan_two_experts", build_wan_two_experts, wan_arguments, "two calls", video=True),
    TinyPipeline("wan_token_timesteps", build_wan_token_timesteps, wan_arguments, "two calls", video=True),
    TinyPipeline("wan_i2v", build_wan_i2v, wan_i2v_arguments, "two calls", video=True),
    TinyPipeline("ltx", build_ltx, ltx_arguments, "batched", video=True),
    TinyPipeline("mochi", build_mochi, mochi_arguments, "batched", video=True),
    TinyPipeline("hunyuan_video", build_hunyuan_video, hunyuan_video_arguments, "embedded", video=True),
    TinyPipeline("cogvideox", build_cogvideox, wan_arguments, "batched", video=True),
    TinyPipeline("cogvideox_dpm", build_cogvideox_dpm, wan_arguments, "batched", video=True),
)
