#!/usr/bin/env bash
# diffusers 0.42.1, a guider that stops before the end of a run (ClassifierFreeGuidance(stop=0.5)), in the modular LTX
# pipeline.
#
# The first call runs, the second with the same arguments raises. Guiders are told the step within the loop only, and
# keep that of the last run: asked before the next one how many conditions they need, they answer for its last step,
# where guidance is over. So the text step makes no negative embeddings, which the first steps need. With a guider that
# starts late instead, and so is active in the last step, the second call runs.
#
# Seen: stop 0.5: runs, ValueError | start 0.5: runs, runs
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import ClassifierFreeGuidance, FlowMatchEulerDiscreteScheduler, LTXVideoTransformer3DModel
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
pipe.set_progress_bar_config(disable=True)


def call() -> str:
    try:
        pipe(prompt="a dog", height=64, width=64, num_frames=9, num_inference_steps=4, output="latents")
    except Exception as error:
        return type(error).__name__
    return "runs"


found = []
for part in ("stop", "start"):
    pipe.update_components(guider=ClassifierFreeGuidance(guidance_scale=5.0, **{part: 0.5}))
    found.append(f"{part} 0.5: {call()}, {call()}")
print(" | ".join(found))
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "stop 0.5: runs, ValueError | start 0.5: runs, runs" ]
