"""U-Nets, ControlNets and adapters."""

from __future__ import annotations

from typing import Any

from tests.tiny.image import POOLED, TEXT
from tests.tiny.unet import SHAPE
from tests.tiny.zoo.sizes.common import CONTROL_HINT, EIGHT, LAYERS

UNETS: dict[str, dict[str, Any]] = {
    "UNet2DConditionModel": {
        **SHAPE,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
    },
    "ControlNetModel": {
        **{name: value for name, value in SHAPE.items() if name != "sample_size"},
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "attention_head_dim": 2,
        **CONTROL_HINT,
    },
    "ControlNetUnionModel": {
        **{name: value for name, value in SHAPE.items() if name != "sample_size"},
        "attention_head_dim": 2,
        "num_trans_channel": 16,
        "num_trans_head": 2,
        "num_proj_channel": 16,
        **CONTROL_HINT,
    },
    "ControlNetXSAdapter": {
        "conditioning_embedding_out_channels": EIGHT,
        "num_attention_heads": 2,
        "block_out_channels": (8, 16),
        "base_block_out_channels": (16, 32),
        "cross_attention_dim": TEXT,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "max_norm_num_groups": 8,
        "sample_size": 16,
    },
    "CLIPImageProjection": {"hidden_size": TEXT},
    "UNet2DModel": {
        "sample_size": 16,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    },
    "UNetMotionModel": {
        **SHAPE,
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
        "num_attention_heads": 2,
        "motion_num_attention_heads": 2,
    },
    "UNet3DConditionModel": {
        **SHAPE,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "attention_head_dim": 4,
    },
    "I2VGenXLUNet": {
        **SHAPE,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "attention_head_dim": 4,
    },
    "MotionAdapter": {
        "block_out_channels": (16, 32),
        "motion_layers_per_block": 1,
        "motion_num_attention_heads": 2,
        "motion_norm_num_groups": 8,
        "motion_mid_block_layers_per_block": 1,
    },
    "SparseControlNetModel": {
        **{name: value for name, value in SHAPE.items() if name != "sample_size"},
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "attention_head_dim": 2,
        "conditioning_channels": 4,
        "use_simplified_condition_embedding": True,
        "motion_num_attention_heads": 2,
    },
    "T2IAdapter": {"channels": [16, 32], "num_res_blocks": 1, "downscale_factor": 8, "adapter_type": "light_adapter"},
    "Kandinsky3UNet": {
        "time_embedding_dim": 16,
        "groups": 2,
        "attention_head_dim": 4,
        "layers_per_block": 3,
        "block_out_channels": (32, 64),
        "cross_attention_dim": 32,
        "encoder_hid_dim": TEXT,
    },
    "DreamLiteUNetModel": {
        **SHAPE,
        "down_block_types": ("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        "up_block_types": ("DreamLiteCrossAttnUpBlock2D", "DreamLiteUpBlock2D"),
        "attention_head_dim": 8,
    },
    "UNetSpatioTemporalConditionModel": {
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "block_out_channels": (32, 64),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
        "layers_per_block": 1,
        "cross_attention_dim": TEXT,
        "num_attention_heads": 2,
        "num_frames": 3,
    },
    "PriorTransformer": {
        **LAYERS,
        "embedding_dim": POOLED,
        "num_embeddings": 32,
        "additional_embeddings": 4,
    },
}
