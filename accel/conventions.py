"""How diffusers names components, arguments and settings, whatever the family (`accel.families`)."""

from __future__ import annotations

# Pipeline components that are called once (or more) per denoising step and return the prediction.
DENOISERS = (
    *("transformer", "transformer_2", "transformer_3", "unet", "prior", "decoder", "dit"),
    "prior_prior",  # pipelines that call two others (Kandinsky, Stable Cascade)
    "image_unet",  # Versatile Diffusion
    "unconditional_transformer",  # Ideogram 4, whose guidance has a model of its own
    *("super_res_first", "super_res_last"),  # unCLIP
    "diffusion_decoder",  # LTX 2.5
)

# Pipeline components that are called in front of the denoiser in each step, and whose outputs it is given.
ADAPTERS = ("controlnet",)

# What blocks call the image or video tokens among their arguments; the first name present is taken.
IMAGE_TOKENS = ("hidden_states", "visual_embed", "vis", "gen_seq", "x")

# Arguments that put pictures among the tokens (Z-Image Omni), where no table says.
PICTURES_AMONG_TOKENS = ("siglip_feats",)

# Arguments with one row for each token or frame and none for a sample, whose number may happen to be that of the batch.
POSITIONS = ("image_rotary_emb", "img_ids", "txt_ids")

# Arguments with the batch along their second axis: embeddings from all layers of a text encoder (HiDream).
BATCH_SECOND = ("encoder_hidden_states_llama3",)

# The part of a U-Net that runs last, though it is made before the middle; and what a layer of its blocks consists of,
# in the order in which it runs.
RUNS_LAST = "up_blocks."
UNET_LAYER = ("resnets", "attentions", "motion_modules")

# What pipelines and guiders name their two calls (`cache_context`).
CONDITIONAL_CALLS = ("cond", "pred_cond")
UNCONDITIONAL_CALLS = ("uncond", "pred_uncond")

# What pipelines say of themselves whose attention takes a batch apart by the place of its passes (diffusers' PAG).
PERTURBS_BY_PLACE = "do_perturbed_attention_guidance"

# Learned guidance: the scale is an input of the model and there is no unconditional pass to drop.
EMBEDDED_GUIDANCE_FLAG = "guidance_embeds"
EMBEDDED_GUIDANCE = (EMBEDDED_GUIDANCE_FLAG, "time_cond_proj_dim")  # the second of consistency models

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

# The settings of a denoiser that say how deep it is, with those of a refiner, which is one block of it; the settings
# that say how many channels go in and come out; the last layer.
REFINER_DEPTH = {"num_layers": 1, "num_single_layers": 0}
INPUT_CHANNELS, OUTPUT_CHANNELS = "in_channels", "out_channels"
OUTPUT_PROJECTION = ("proj_out", "norm_out.linear_2", "final_layer.linear")

# What schedulers call their updates; those of ScoreSdeVe are a prediction and corrections of it.
STEPS = ("step", "step_pred")
