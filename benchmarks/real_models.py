"""Transformers of published models at their real widths, with random weights and a part of their blocks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    WanPipeline,
    WanTransformer3DModel,
)

from accel.attention.layout import TokenLayout


@dataclass(frozen=True)
class RealModel:
    """A model by its published configuration.

    blocks: its lists of blocks, by the argument of the configuration that says how many there are. layout: its tokens
    at the size that it is known for. inputs: the latents and the other arguments of a call, for so many tokens.
    """

    name: str
    pipeline: type[Any]
    transformer: type[Any]
    config: Mapping[str, Any]
    blocks: Mapping[str, tuple[str, int]]  # argument: path of the list, published length
    layout: TokenLayout
    inputs: Callable[[Any, TokenLayout], tuple[torch.Tensor, dict[str, Any]]]
    scheduler: Callable[[], Any] = field(default=FlowMatchEulerDiscreteScheduler)

    @property
    def depth(self) -> int:
        """All of its blocks."""
        return sum(length for _, length in self.blocks.values())

    def build(self, blocks: int, device: torch.device, dtype: torch.dtype) -> Any:
        """A pipeline without text encoders and autoencoder, with so many blocks of each list, on this device."""
        torch.manual_seed(0)
        count = {name: min(blocks, length) for name, (_, length) in self.blocks.items()}
        with torch.device(device):
            model = self.transformer(**self.config, **count).to(dtype).eval()
        for parameter in model.parameters():  # diffusers sets some to zero, and a model of zeros is no load
            if parameter.ndim < 2:
                continue
            parameter.data.normal_(0, 0.5 / math.sqrt(parameter[0].numel()))
        names = [name for name in inspect.signature(self.pipeline.__init__).parameters if name != "self"]
        given = {"transformer": model, "scheduler": self.scheduler()}
        required = {name: given.get(name) for name in names if name in given or _required(self.pipeline, name)}
        return self.pipeline(**required)

    def block_modules(self, model: Any) -> list[torch.nn.Module]:
        """The blocks that there are."""
        return [block for path, _ in self.blocks.values() for block in getattr(model, path)]

    def smaller(self, share: float) -> TokenLayout:
        """The layout with about this share of the tokens: as many frames, smaller pictures."""
        side = math.sqrt(share)
        height, width = (max(2 * round(size * side / 2), 2) for size in (self.layout.height, self.layout.width))
        return self.layout if share >= 1 else TokenLayout(self.layout.frames, height, width, self.layout.text)


def _required(kind: type[Any], name: str) -> bool:
    return inspect.signature(kind.__init__).parameters[name].default is inspect.Parameter.empty


def _noise(pipe: Any, *shape: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=draw).to(pipe.transformer.device, pipe.transformer.dtype)


def _wan(pipe: Any, layout: TokenLayout) -> tuple[torch.Tensor, dict[str, Any]]:
    latents = _noise(pipe, 1, 16, layout.frames, 2 * layout.height, 2 * layout.width)
    return latents, {"encoder_hidden_states": _noise(pipe, 1, 512, 4096)}


def _flux(pipe: Any, layout: TokenLayout) -> tuple[torch.Tensor, dict[str, Any]]:
    device, dtype = pipe.transformer.device, pipe.transformer.dtype
    places = torch.cartesian_prod(torch.arange(1), torch.arange(layout.height), torch.arange(layout.width))
    return _noise(pipe, 1, layout.video, 64), {
        "encoder_hidden_states": _noise(pipe, 1, layout.text, 4096),
        "pooled_projections": _noise(pipe, 1, 768),
        "guidance": torch.full((1,), 3.5, device=device),
        "txt_ids": torch.zeros(layout.text, 3, device=device, dtype=dtype),
        "img_ids": places.to(device, dtype),
    }


def _hunyuan(pipe: Any, layout: TokenLayout) -> tuple[torch.Tensor, dict[str, Any]]:
    device = pipe.transformer.device
    latents = _noise(pipe, 1, 16, layout.frames, 2 * layout.height, 2 * layout.width)
    return latents, {
        "encoder_hidden_states": _noise(pipe, 1, layout.text, 4096),
        "encoder_attention_mask": torch.ones(1, layout.text, dtype=torch.long, device=device),
        "pooled_projections": _noise(pipe, 1, 768),
        "guidance": torch.full((1,), 6000.0, device=device, dtype=pipe.transformer.dtype),
    }


def _cogvideox(pipe: Any, layout: TokenLayout) -> tuple[torch.Tensor, dict[str, Any]]:
    high, wide = 2 * layout.height, 2 * layout.width
    rotary = pipe._prepare_rotary_positional_embeddings(8 * high, 8 * wide, layout.frames, pipe.transformer.device)
    return _noise(pipe, 1, layout.frames, 16, high, wide), {
        "encoder_hidden_states": _noise(pipe, 1, layout.text, 4096),
        "image_rotary_emb": rotary,
    }


MODELS = {
    model.name: model
    for model in (
        RealModel(
            "Wan 2.1 1.3B, 480p", WanPipeline, WanTransformer3DModel,
            {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "qk_norm": "rms_norm_across_heads"},
            {"num_layers": ("blocks", 30)}, TokenLayout(21, 30, 52), _wan,
        ),
        RealModel(
            "FLUX.1, 1024 px", FluxPipeline, FluxTransformer2DModel, {"guidance_embeds": True},
            {"num_layers": ("transformer_blocks", 19), "num_single_layers": ("single_transformer_blocks", 38)},
            TokenLayout(1, 64, 64, text=512, text_first=True), _flux,
        ),
        RealModel(
            "HunyuanVideo, 720p", HunyuanVideoPipeline, HunyuanVideoTransformer3DModel, {},
            {"num_layers": ("transformer_blocks", 20), "num_single_layers": ("single_transformer_blocks", 40)},
            TokenLayout(33, 45, 80, text=256), _hunyuan,
        ),
        RealModel(
            "CogVideoX 5B, 480p", CogVideoXPipeline, CogVideoXTransformer3DModel,
            {"num_attention_heads": 48, "use_rotary_positional_embeddings": True, "sample_width": 90,
             "sample_height": 60},
            {"num_layers": ("transformer_blocks", 42)}, TokenLayout(13, 30, 45, text=226, text_first=True), _cogvideox,
            CogVideoXDDIMScheduler,
        ),
    )
}  # fmt: skip
