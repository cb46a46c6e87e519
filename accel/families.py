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

# Lists whose blocks run in between the blocks of another list, on tokens arranged otherwise (Latte).
INTERLEAVED_BLOCKS = ("temporal_transformer_blocks",)

# What blocks call the image or video tokens among their arguments; the first name present is taken.
IMAGE_TOKENS = ("hidden_states", "visual_embed", "vis", "gen_seq", "x")

# Blocks that return (text, image), by the beginning of the class name; all others return the image alone or first.
TEXT_FIRST_BLOCKS = (
    "AuraFlowJointTransformerBlock",
    "BriaFiboTransformerBlock",
    "BriaSingleTransformerBlock",
    "BriaTransformerBlock",
    "ChromaTransformerBlock",
    "Cosmos3VLTextMoTDecoderLayer",
    "Flux2TransformerBlock",
    "Flux3SingleTransformerBlock",
    "FluxSingleTransformerBlock",
    "FluxTransformerBlock",
    "JointTransformerBlock",  # SD3
    "LongCatImage",
    "OvisImage",
    "QwenImageTransformerBlock",
)

# The self-attention of a block: what it receives is the modulated input (TeaCache's signal).
SELF_ATTENTION = ("attn1", "attn", "self_attn", "self_attention", "attention")

# What the modules of a repeated block are, by their name in the block. Attention that mixes text and image tokens
# counts as self-attention; whether "attn2" is cross-attention is asked of the module where it knows.
MODULES = {
    "self_attention": SELF_ATTENTION,
    "cross_attention": ("attn2", "cross_attn", "cross_attention"),
    "feed_forward": (
        "ff",
        "ffn",
        "mlp",
        "feed_forward",
        "ff_context",  # the text stream of Flux, SD3, HunyuanVideo, Mochi
        "img_mlp",
        "txt_mlp",
        "ff_in",  # SVD, in front of the temporal attention
        "ff_i",  # HiDream
        "ff_t",
        "proj_mlp",  # the first half of the MLP in the single blocks of Flux and HunyuanVideo
    ),
}

# Parts of a path that say that an attention below them runs along time.
TEMPORAL = ("motion_modules", "temporal_transformer_blocks", "temp_attentions")

# Modules of a cross-attention that see nothing but the prompt, and those in front of all cross-attentions.
PROMPT_PROJECTIONS = (
    "norm_cross",
    "to_k",
    "to_v",
    "to_kv",  # Wan, fused
    "norm_k",
    "add_k_proj",
    "add_v_proj",
    "to_added_kv",
    "norm_added_k",
    "to_k_ip",  # IP-Adapter
    "to_v_ip",
)
PROMPT_EMBEDDERS = (
    "condition_embedder.text_embedder",  # Wan
    "condition_embedder.image_embedder",
    "caption_projection",  # PixArt, LTX, Sana, Latte, Allegro
    "caption_norm",  # Sana
    "text_embedder",  # HunyuanDiT
)

# U-Nets whose blocks are lists of layers with one skip connection each.
UNETS = ("UNet2DConditionModel", "UNetMotionModel", "UNetSpatioTemporalConditionModel")
UNET_BLOCKS = (
    "DownBlock2D",
    "CrossAttnDownBlock2D",
    "ResnetDownsampleBlock2D",  # Kandinsky 2
    "SimpleCrossAttnDownBlock2D",
    "DownBlockMotion",
    "CrossAttnDownBlockMotion",
    "DownBlockSpatioTemporal",
    "CrossAttnDownBlockSpatioTemporal",
    "UpBlock2D",
    "CrossAttnUpBlock2D",
    "ResnetUpsampleBlock2D",
    "SimpleCrossAttnUpBlock2D",
    "UpBlockMotion",
    "CrossAttnUpBlockMotion",
    "UpBlockSpatioTemporal",
    "CrossAttnUpBlockSpatioTemporal",
)
# What a layer of such a block consists of, in the order in which it runs.
UNET_LAYER = ("resnets", "attentions", "motion_modules")

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

# Schedulers whose step is linear in the output, x + (next sigma - sigma) y in noise level, unless one of these
# settings is on.
EULER_STEPS = {
    "FlowMatchEulerDiscreteScheduler": ("stochastic_sampling",),
    "EulerDiscreteScheduler": (),
    "DDIMScheduler": ("clip_sample", "thresholding"),
    "CogVideoXDDIMScheduler": (),  # has the settings of DDIM and ignores them
}

# Schedulers whose step is one deterministic update along the flow: how their samples are scaled ("flow", "preserving"
# unit variance, or "exploding": x0 + sigma noise; with flow sigmas all are flows), and the settings with values under
# which the step is something else.
DETERMINISTIC_STEPS: dict[str, tuple[str, dict[str, tuple[object, ...]]]] = {
    "FlowMatchEulerDiscreteScheduler": ("flow", {"stochastic_sampling": (True,)}),
    "EulerDiscreteScheduler": ("exploding", {}),
    "DDIMScheduler": ("preserving", {"clip_sample": (True,), "thresholding": (True,)}),
    "CogVideoXDDIMScheduler": ("preserving", {}),  # its step never clips, whatever its settings say
    "UniPCMultistepScheduler": ("preserving", {"thresholding": (True,)}),
    "DPMSolverMultistepScheduler": (
        "preserving",
        {
            "thresholding": (True,),
            "algorithm_type": ("sde-dpmsolver", "sde-dpmsolver++"),
            "variance_type": ("learned", "learned_range"),
        },
    ),
}

# Arguments of `step` that ask for another update: noise added, the estimate clipped, noise levels for each token.
OTHER_UPDATES = ("eta", "s_churn", "use_clipped_model_output", "variance_noise", "per_token_timesteps")

# How `set_timesteps` can be told noise levels: sigmas, which are "shifted", sigmas "with end", or training "timesteps";
# the settings under which it cannot, and those without which it cannot.
NOISE_LEVELS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "FlowMatchEulerDiscreteScheduler": (
        "shifted",
        ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
        (),
    ),
    "UniPCMultistepScheduler": (
        "shifted",
        ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
        ("use_flow_sigmas",),
    ),
    "EulerDiscreteScheduler": ("with end", (), ()),
    "DPMSolverMultistepScheduler": (
        "timesteps",
        ("use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas"),
        (),
    ),
}

# Learned guidance: the scale is an input of the model and there is no unconditional pass to drop.
EMBEDDED_GUIDANCE_FLAG = "guidance_embeds"

# Pipelines that negate what the denoiser returns: it predicts x0 - noise. By the beginning of the class name.
NEGATES_PREDICTION = ("ZImage", "Lumina", "HiDream", "NucleusMoE")

# How the pipelines ask for classifier-free guidance, by the beginning of the pipeline's class name. In all of these the
# conditional call comes first. Left out on purpose: ACE-Step (unconditional first), GLM-Image (three calls).
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
    "ChronoEdit",
    "Kandinsky5",
    "Lucy",
    "Lumina2",
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
    "Lumina",
    "ZImage",
)
# Those of them that put the conditional half first; all others put it last.
CONDITIONAL_HALF_FIRST = ("Lumina", "ZImage")
# Parts of a class name that say that the batch is not two halves: perturbed attention and editing batch three passes,
# panoramas and LTX-2 combine several calls.
OTHER_BATCHES = ("PAG", "InstructPix2Pix", "LTX2", "Panorama", "DiffEdit", "Safe")

# What two-call pipelines name their calls (`cache_context`), and what the clock calls them where they do not.
CONDITIONAL_CALLS = ("cond", "pred_cond", "pass 1")
UNCONDITIONAL_CALLS = ("uncond", "pred_uncond", "pass 2")

# Arguments that no batch is part of, even where their first size happens to be that of the batch.
WITHOUT_BATCH = (
    "image_rotary_emb",
    "img_ids",
    "txt_ids",
    "img_shapes",
    "rope_interpolation_scale",
    "num_frames",
    "height",
    "width",
)
