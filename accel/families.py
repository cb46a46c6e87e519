"""Facts about model families, as data. Methods ask the anatomy, which asks here."""

from __future__ import annotations

# Pipeline components that are called once (or more) per denoising step and return the prediction.
DENOISERS = ("transformer", "transformer_2", "transformer_3", "unet", "prior", "decoder", "dit")

# Where denoisers keep their repeated blocks.
BLOCKS = (
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

# The self-attention of a block: what it receives is the modulated input (TeaCache's signal).
SELF_ATTENTION = ("attn1", "attn", "self_attn", "self_attention", "attention")

# Modules whose output is the time embedding, by the path under the denoiser; the first that exists is taken.
TIME_EMBEDDING = (
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
TIME_PROJECTION = ("condition_embedder.time_proj",)  # Wan: the six modulation rows of every block

# Learned guidance: the scale is an input of the model and there is no unconditional pass to drop.
EMBEDDED_GUIDANCE_FLAG = "guidance_embeds"

# Pipelines that negate what the denoiser returns: it predicts x0 - noise. By the beginning of the class name.
NEGATES_PREDICTION = ("ZImage", "Lumina", "HiDream", "NucleusMoE")

# How the pipelines ask for classifier-free guidance, by the beginning of the pipeline's class name.
TWO_CALLS = (
    "Wan",
    "QwenImage",
    "CogView4",
    "Cosmos",
    "SkyReels",
    "Flux",
    "HunyuanVideo",
    "Ovis",
    "LongCat",
    "Chroma",
)
ONE_BATCHED_CALL = (
    "StableDiffusion",
    "StableVideoDiffusion",
    "AnimateDiff",
    "LTX",
    "CogVideoX",
    "Mochi",
    "PixArt",
    "Sana",
    "Latte",
    "Allegro",
    "Kolors",
    "HunyuanDiT",
    "AuraFlow",
)
