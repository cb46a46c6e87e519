#!/usr/bin/env bash
# diffusers 0.42.1, ClassifierFreeZeroStarGuidance(guidance_rescale=0.7), all other settings at their defaults, in the
# modular LTX pipeline.
#
# The guider answers with zeros in the first step (zero_init_steps=1), and rescaling then divides the standard deviation
# of the conditional prediction by that of the zeros. Infinity times zero is NaN, so every element of the first step is,
# and so is the whole clip. Nothing warns. Any guidance_rescale above 0 does it, and documentation gives both parameters
# as parts of the one guider. Without the steps of zeros, or without rescaling, the clip is finite.
#
# Seen: share of the clip that is finite
#   rescale 0.0, zero_init_steps 1: 1.0
#   rescale 0.7, zero_init_steps 1: 0.0
#   rescale 0.7, zero_init_steps 0: 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import ClassifierFreeZeroStarGuidance, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
from diffusers.modular_pipelines.ltx import LTXAutoBlocks
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

torch.manual_seed(0)
words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "dog": 3}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
text = T5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
blocks = LTXAutoBlocks()
blocks.sub_blocks.pop("decode")
pipe = blocks.init_pipeline()
pipe.update_components(
    tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>"),
    text_encoder=T5EncoderModel(text).eval(),
    transformer=LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        caption_channels=16, num_layers=1,
    ).eval(),
    scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
)
for rescale, zeros in ((0.0, 1), (0.7, 1), (0.7, 0)):
    pipe.update_components(
        guider=ClassifierFreeZeroStarGuidance(guidance_rescale=rescale, zero_init_steps=zeros)
    )
    latents = pipe(prompt="a dog", height=64, width=64, num_frames=9, num_inference_steps=4, output="latents")
    print(f"rescale {rescale}, zero_init_steps {zeros}: {latents.isfinite().float().mean().item()}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "rescale 0.0, zero_init_steps 1: 1.0
rescale 0.7, zero_init_steps 1: 0.0
rescale 0.7, zero_init_steps 0: 1.0" ]
