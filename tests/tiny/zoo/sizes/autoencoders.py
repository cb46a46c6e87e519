"""Autoencoders of pictures and clips."""

from __future__ import annotations

from typing import Any

from tests.tiny.zoo.sizes.common import EIGHT, FOUR

AUTOENCODERS: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": FOUR,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "scaling_factor": 1.5,
        "shift_factor": 0.1,
    },
    "AutoencoderTiny": {
        "encoder_block_out_channels": FOUR,
        "decoder_block_out_channels": FOUR,
        "num_encoder_blocks": (1, 1, 1, 1),
        "num_decoder_blocks": (1, 1, 1, 1),
    },
    "AutoencoderKLWan": {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    "AutoencoderKLQwenImage": {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    "AutoencoderKLQwenImage21": {
        "base_dim": 4,
        "decoder_base_dim": 4,
        "z_dim": 16,
        "dim_mult": [1] * 5,
        "num_res_blocks": 1,
    },
    "AutoencoderKLAllegro": {"block_out_channels": EIGHT, "layers_per_block": 1, "norm_num_groups": 2},
    "AutoencoderKLCogVideoX": {"block_out_channels": EIGHT, "layers_per_block": 1, "norm_num_groups": 4},
    "AutoencoderKLCosmos": {
        "latent_channels": 16,
        "encoder_block_out_channels": (8, 8, 8, 8),
        "decode_block_out_channels": (8, 8, 8, 8),
        "num_layers": 1,
        "attention_resolutions": (8,),
        "resolution": 64,
    },
    "AutoencoderKLFlux2": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": FOUR,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "AutoencoderKLMagvit": {
        "latent_channels": 4,
        "block_out_channels": EIGHT,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "spatial_group_norm": False,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4,
        "layers_per_block": (1,) * 5,
    },
    "AutoencoderKLHunyuanVideo": {"block_out_channels": EIGHT, "layers_per_block": 1, "norm_num_groups": 4},
    "AutoencoderKLLTXVideo": {
        "latent_channels": 16,
        "block_out_channels": FOUR,
        "decoder_block_out_channels": FOUR,
        "layers_per_block": (1,) * 5,
        "decoder_layers_per_block": (1,) * 5,
    },
    "AutoencoderDC": {
        "latent_channels": 8,
        "attention_head_dim": 4,
        "encoder_block_out_channels": (8,) * 6,
        "decoder_block_out_channels": (8,) * 6,
        "encoder_layers_per_block": (1,) * 6,
        "decoder_layers_per_block": (1,) * 6,
        "encoder_qkv_multiscales": ((),) * 6,
        "decoder_qkv_multiscales": ((),) * 6,
    },
    "AutoencoderKLTemporalDecoder": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "block_out_channels": (32,) * 4,
        "layers_per_block": 1,
    },
    "VQModel": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (32,) * 4,
        "latent_channels": 4,
        "num_vq_embeddings": 12,
        "norm_num_groups": 8,
        "vq_embed_dim": 4,
        "norm_type": "spatial",
    },
}
