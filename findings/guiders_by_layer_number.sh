#!/usr/bin/env bash
# diffusers 0.42.1, SkipLayerGuidance and AutoGuidance that are given layers by number, in the modular LTX pipeline.
#
# `skip_layer_guidance_layers=[7, 8, 9]` is what the documentation recommends for Stable Diffusion 3.5, and AutoGuidance
# has `auto_guidance_layers` for the same. Both make one LayerSkipConfig for each number and pass the number where that
# takes a list, so that the first step in which a layer is to be left out raises TypeError. It does so half a run in, as
# the guider alone is built without complaint. Given a LayerSkipConfig of their own, both run.
#
# Seen:
#   SkipLayerGuidance: by number: TypeError, by configuration: runs
#   AutoGuidance: by number: TypeError, by configuration: runs
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import AutoGuidance, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel, SkipLayerGuidance
from diffusers.hooks import LayerSkipConfig
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
        caption_channels=16, num_layers=3,
    ).eval(),
    scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
)


def call(guider) -> str:
    pipe.update_components(guider=guider)
    try:
        pipe(prompt="a dog", height=64, width=64, num_frames=9, num_inference_steps=3, output="latents")
    except Exception as error:
        return type(error).__name__
    return "runs"


named = LayerSkipConfig(indices=[1], fqn="transformer_blocks")
guiders = {
    "SkipLayerGuidance": (
        SkipLayerGuidance(skip_layer_guidance_layers=[1], skip_layer_guidance_stop=1.0),
        SkipLayerGuidance(skip_layer_config=named, skip_layer_guidance_stop=1.0),
    ),
    "AutoGuidance": (AutoGuidance(auto_guidance_layers=[1], dropout=1.0), AutoGuidance(auto_guidance_config=named)),
}
for name, (number, configuration) in guiders.items():
    print(f"{name}: by number: {call(number)}, by configuration: {call(configuration)}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "SkipLayerGuidance: by number: TypeError, by configuration: runs
AutoGuidance: by number: TypeError, by configuration: runs" ]
