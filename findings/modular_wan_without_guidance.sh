#!/usr/bin/env bash
# diffusers 0.42.1, the modular Wan pipeline (WanBlocks) with guidance switched off, as distilled checkpoints are run.
#
# With a guider of guidance scale 1, or one that is disabled, every call that is given a prompt as text raises
# UnboundLocalError: the text encoder's step returns negative embeddings that it has not made. The WanPipeline that is
# not modular runs with guidance_scale=1. With a guider that guides, the same modular pipeline runs.
#
# Seen: scale 5: runs | scale 1: UnboundLocalError | disabled: UnboundLocalError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6 ftfy==6.3.1
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import ClassifierFreeGuidance, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.modular_pipelines import WanBlocks
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

torch.manual_seed(0)
words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "cat": 3}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
text = UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
blocks = WanBlocks()
blocks.sub_blocks.pop("decode")
pipe = blocks.init_pipeline()
pipe.update_components(
    tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>"),
    text_encoder=UMT5EncoderModel(text).eval(),
    transformer=WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=1
    ).eval(),
    scheduler=FlowMatchEulerDiscreteScheduler(),
)
pipe.set_progress_bar_config(disable=True)


def call(guider: ClassifierFreeGuidance) -> str:
    pipe.update_components(guider=guider)
    try:
        pipe(prompt="a cat", height=32, width=32, num_frames=5, num_inference_steps=2, output="latents")
    except Exception as error:
        return type(error).__name__
    return "runs"


guiders = {
    "scale 5": ClassifierFreeGuidance(guidance_scale=5.0),
    "scale 1": ClassifierFreeGuidance(guidance_scale=1.0),
    "disabled": ClassifierFreeGuidance(guidance_scale=5.0, enabled=False),
}
print(" | ".join(f"{name}: {call(guider)}" for name, guider in guiders.items()))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "scale 5: runs | scale 1: UnboundLocalError | disabled: UnboundLocalError" ]
