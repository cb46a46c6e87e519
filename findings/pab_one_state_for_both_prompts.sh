#!/usr/bin/env bash
# diffusers 0.42.1, Pyramid Attention Broadcast (PyramidAttentionBroadcastConfig) on WanPipeline with guidance.
#
# The documentation enables it "on any pipeline". Its hook counts calls and keeps one output for each attention layer,
# and knows nothing of the `cache_context` by which pipelines tell calls for the prompt from calls for the negative one.
# Pipelines that give both in one batch (CogVideoX) are well; Wan calls the transformer twice a step. With a skip range
# of 2 the call for the negative prompt is then always the one that is skipped, and gets the attention of the prompt's
# call: nothing is saved for the prompt, the negative prompt changes nothing, and what comes out is the clip without
# guidance, with no error or warning. (The attention's timestep range is opened here; within a narrower one the same
# holds for the steps in it.)
#
# Seen:
#   Wan, plain: negative prompt matters: True, as without guidance: False
#   Wan, broadcast: negative prompt matters: False, as without guidance: True
#   CogVideoX, broadcast: negative prompt matters: True, as without guidance: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 ftfy==6.3.1 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    PyramidAttentionBroadcastConfig,
    WanPipeline,
    WanTransformer3DModel,
)


def wan() -> WanPipeline:
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=2,
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    return WanPipeline(None, None, vae, FlowMatchEulerDiscreteScheduler(), transformer.eval())


def cogvideox() -> CogVideoXPipeline:
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=2,
        text_embed_dim=16, num_layers=2, sample_width=2, sample_height=2, sample_frames=5, patch_size=2,
        max_text_seq_length=4,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), down_block_types=("CogVideoXDownBlock3D",) * 4, layers_per_block=1,
        up_block_types=("CogVideoXUpBlock3D",) * 4, latent_channels=4, norm_num_groups=2,
    )
    return CogVideoXPipeline(None, None, vae, transformer.eval(), CogVideoXDDIMScheduler())


def told(name: str, make, broadcast: bool) -> str:
    torch.manual_seed(0)
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    words = torch.randn(3, 1, 4, 16, generator=torch.Generator().manual_seed(1))

    def clip(negative: torch.Tensor, scale: float = 5.0) -> torch.Tensor:
        return pipe(
            prompt_embeds=words[0], negative_prompt_embeds=negative, guidance_scale=scale, height=16, width=16,
            num_frames=5, num_inference_steps=4, output_type="latent", generator=torch.Generator().manual_seed(2),
        ).frames

    unguided = clip(words[1], scale=1.0)
    if broadcast:
        pipe.transformer.enable_cache(PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(-1, 1001),
            cross_attention_block_skip_range=2, cross_attention_timestep_skip_range=(-1, 1001),
            current_timestep_callback=lambda: pipe.current_timestep,
        ))
    clips = clip(words[1]), clip(words[2])
    matters = not torch.equal(*clips)
    return f"{name}: negative prompt matters: {matters}, as without guidance: {torch.equal(clips[0], unguided)}"


print(told("Wan, plain", wan, broadcast=False))
print(told("Wan, broadcast", wan, broadcast=True))
print(told("CogVideoX, broadcast", cogvideox, broadcast=True))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "Wan, plain: negative prompt matters: True, as without guidance: False
Wan, broadcast: negative prompt matters: False, as without guidance: True
CogVideoX, broadcast: negative prompt matters: True, as without guidance: False" ]
