"""Facts about model families, as data. Methods ask the anatomy, which asks here."""

from __future__ import annotations

from typing import Any

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

# Denoisers whose self-attention sees the prompt among the tokens of the latents: in front of them or behind. Read off
# diffusers 0.42.1; registers and padding count as prompt. In all others the tokens of the latents are alone.
PROMPT_TOKENS = {
    "AuraFlowTransformer2DModel": "first",
    "BriaFiboTransformer2DModel": "first",
    "BriaTransformer2DModel": "first",
    "ChromaTransformer2DModel": "first",
    "CogVideoXTransformer3DModel": "first",
    "CogView3PlusTransformer2DModel": "first",
    "CogView4Transformer2DModel": "first",
    "ConsisIDTransformer3DModel": "first",
    "EasyAnimateTransformer3DModel": "first",
    "Flux2Transformer2DModel": "first",
    "FluxTransformer2DModel": "first",
    "HunyuanImageTransformer2DModel": "last",
    "HunyuanVideo15Transformer3DModel": "last",
    "HunyuanVideoTransformer3DModel": "last",
    "LongCatImageTransformer2DModel": "first",
    "MochiTransformer3DModel": "last",
    "MotifVideoTransformer3DModel": "last",
    "OvisImageTransformer2DModel": "first",
    "QwenImageTransformer2DModel": "first",
    "SD3Transformer2DModel": "last",
    "ZImageTransformer2DModel": "last",
}

# Arguments that put pictures among the tokens (Z-Image Omni), where no table says.
PICTURES_AMONG_TOKENS = ("siglip_feats",)

# Denoisers whose tokens stand in an order of their own, by the beginning of the class name.
OTHER_TOKEN_ORDER = ("JoyImageEdit", "Kandinsky5", "Kandinsky6")

# Denoisers of videos that fold the frames into the batch: each self-attention sees one of them.
FRAMES_APART = (
    "I2VGenXLUNet",
    "LatteTransformer3DModel",
    "UNet3DConditionModel",
    "UNetMotionModel",
    "UNetSpatioTemporalConditionModel",
)

# The part of a U-Net that runs last, though it is made before the middle.
RUNS_LAST = "up_blocks."

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

# U-Nets that can be made to see larger pictures than those they were trained on (HiDiffusion, arXiv 2311.17528), by the
# types of their down blocks. finest: beginnings of the paths of the self-attentions of the highest resolution. halved:
# the modules after which features are halved once more, until T1 and until T2. early: up to this share of the steps the
# second of them does it in place of the first, if T2 is 0 and the U-Net is no inpainting one. T1 and T2 by how many
# times the training size the smaller side is, at least; few_steps: T1 of the one distilled for few steps, which was
# trained on latents of this size.
HIGH_RESOLUTION: dict[tuple[str, ...], dict[str, Any]] = {
    ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"): {  # SD 1.5, 2.1
        "finest": ("down_blocks.0.", "up_blocks.3."),
        "halved": ("down_blocks.0.downsamplers.0", "down_blocks.1.attentions.0"),
        "early": 0.0,
        "few_steps": {},
    },
    ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"): {  # SDXL
        "finest": ("down_blocks.1.", "up_blocks.1."),
        "halved": ("down_blocks.1.attentions.0", "down_blocks.1.downsamplers.0"),
        "early": 8 / 50,
        "few_steps": {64: 0.5},  # SDXL-Turbo
    },
}
HIGH_RESOLUTION_UNETS = ("UNet2DConditionModel",)
SWITCHES = {4: (0.7, 0.3), 0: (0.4, 0.0)}
CONTROLLED_T1 = 0.5  # with a ControlNet, SDXL below 4 times
INPAINTING_CHANNELS = 9

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

# Arguments of `step` that ask for another update: noise added, the estimate clipped, noise levels for each token.
OTHER_UPDATES = ("eta", "s_churn", "use_clipped_model_output", "variance_noise", "per_token_timesteps")

# Schedulers that can be told the same noise level twice: a step that goes nowhere divides by nothing in them.
REPEATED_LEVELS = ("FlowMatchEulerDiscreteScheduler",)

# Which schedulers of diffusers may stand in for which, for models that predict noise, v or the sample: those that solve
# the same equation from the same configuration, one evaluation per step. That others run proves nothing: an Euler
# scheduler runs on flow models and gives noise. Flows are not in it (their schedulers differ in the end of the run, the
# sign and the rounding of timesteps), nor models distilled for a scheduler (LCM, TCD, EDM's and SVD's noise levels).
_SOLVERS = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
)
_ALIKE = (
    *_SOLVERS,
    "DDPMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
)
EXCHANGES: dict[str, tuple[str, ...]] = {name: _SOLVERS for name in _ALIKE}
EXCHANGES["CogVideoXDDIMScheduler"] = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")

# Schedulers whose noise levels are not what the settings of their configuration say, so that the others are given the
# levels themselves (as `trained_betas`): CogVideoX's shift of the signal-to-noise ratio.
OWN_NOISE_TABLE = ("CogVideoXDDIMScheduler",)

# Models that were trained to start from pure noise, by the share of signal (squared) at their last training timestep:
# the schedulers that know such models, and the spacings that they can have. In sigma, which is infinite there, half of
# a run would be spent on the first timestep.
PURE_NOISE = 1e-4
PURE_NOISE_SOLVERS = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
)
PURE_NOISE_SPACINGS = ("leading", "linspace", "trailing")

# Settings that must have these values (or not be there) for a scheduler to be exchanged: others say that the estimate
# is changed on the way or that the model is not told training timesteps.
PLAIN_SETTINGS: dict[str, object] = {
    "thresholding": False,
    "timestep_type": "discrete",
    "sigma_min": None,
    "sigma_max": None,
    "use_flow_sigmas": False,
}

# What must be set on the one that comes in, because its own default is another scheduler's trap (DDIM clips to pixels).
EXCHANGE_SETTINGS: dict[str, dict[str, object]] = {
    "DDIMScheduler": {"clip_sample": False},
    "DPMSolverMultistepScheduler": {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"},
    "DPMSolverSinglestepScheduler": {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"},
    "UniPCMultistepScheduler": {"solver_type": "bh2"},
    "DEISMultistepScheduler": {"algorithm_type": "deis", "solver_type": "logrho"},
}

# The settings of diffusers' schedulers by which noise levels are spaced.
SPACINGS: dict[str, dict[str, object]] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "lu": {"use_lu_lambdas": True},
    "leading": {"timestep_spacing": "leading"},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
}

# The settings of a denoiser that say how deep it is, with those of a refiner, which is one block of it; the settings
# that say how many channels go in and come out; the last layer.
REFINER_DEPTH = {"num_layers": 1, "num_single_layers": 0}
INPUT_CHANNELS, OUTPUT_CHANNELS = "in_channels", "out_channels"
OUTPUT_PROJECTION = ("proj_out", "norm_out.linear_2", "final_layer.linear")

# Learned guidance: the scale is an input of the model and there is no unconditional pass to drop.
EMBEDDED_GUIDANCE_FLAG = "guidance_embeds"

# What two denoisers must have in common for one to answer in place of the other, and under which names configurations
# keep it; the first name present is taken.
INTERFACE = {
    "input channels": ("in_channels",),
    "output channels": ("out_channels", "in_channels"),
    "width of the prompt's embeddings": (
        "caption_channels",  # in front of cross_attention_dim, which then is the model's own width (PixArt, LTX, Sana)
        "encoder_hid_dim",
        "text_dim",
        "joint_attention_dim",
        "text_embed_dim",
        "cap_feat_dim",
        "cross_attention_dim",
    ),
    "kind of added conditions": ("addition_embed_type",),
    "guidance scale as an input": (EMBEDDED_GUIDANCE_FLAG,),
}

# Pipelines that negate what the denoiser returns: it predicts x0 - noise. By the beginning of the class name.
NEGATES_PREDICTION = ("ZImage", "Lumina", "HiDream", "NucleusMoE")

# Pipelines that ask for both passes of classifier-free guidance in one batched call, by the beginning of the class
# name: what must be known before a run. During one it is seen at the first step (`accel.samplers.guidance.passes`).
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
    "LuminaPipeline",
    "LuminaText2Img",
    "ZImage",
)
# Those of them that put the conditional half first; all others put it last.
CONDITIONAL_HALF_FIRST = ("LuminaPipeline", "LuminaText2Img", "ZImage")
# Parts of a class name that say that the batch is not two halves: perturbed attention and editing batch three passes,
# panoramas and LTX-2 combine several calls.
OTHER_BATCHES = ("PAG", "InstructPix2Pix", "LTX2", "Panorama", "DiffEdit", "Safe")

# What pipelines and guiders name their two calls (`cache_context`).
CONDITIONAL_CALLS = ("cond", "pred_cond")
UNCONDITIONAL_CALLS = ("uncond", "pred_uncond")

# Arguments with one row for each token or frame and none for a sample, whose number may happen to be that of the batch.
POSITIONS = ("image_rotary_emb", "img_ids", "txt_ids")
