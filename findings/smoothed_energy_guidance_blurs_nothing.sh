#!/usr/bin/env bash
# diffusers 0.42.1, SmoothedEnergyGuidance in the modular LTX pipeline.
#
# The guider blurs the attention's queries in its third prediction of a step. It knows which one that is by a count of
# the predictions, and of all guiders it alone does not count. So nothing is ever blurred: the third prediction is the
# conditional one once more, its difference from that is zero, and what comes out is classifier-free guidance to the
# bit, whatever the scale, the blur or the layers, for half as many evaluations again. It also raises nothing for layers
# that the model does not have.
#
# Seen: in 3 steps, and whether the latents are those of classifier-free guidance
#   classifier-free guidance: 6 evaluations
#   seg_guidance_scale 3, layer 0: 8 evaluations, the same: True
#   seg_guidance_scale 30, layers 0, 1, 2: 8 evaluations, the same: True
#   seg_guidance_scale 3, layer 100: 8 evaluations, the same: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check torch==2.13.0
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
    diffusers==0.42.1 transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
seen=$(HF_HUB_OFFLINE=1 "$work/venv/bin/python" - 2>"$work/log" <<'PYTHON'
import torch
from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    LTXVideoTransformer3DModel,
    SmoothedEnergyGuidance,
)
from diffusers.hooks import SmoothedEnergyGuidanceConfig
from diffusers.modular_pipelines.ltx import LTXAutoBlocks
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel


def run(guider) -> tuple[torch.Tensor, int]:
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
        guider=guider,
    )
    calls = []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    size = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 3, "output": "latents"}
    return pipe(prompt="a dog", generator=torch.Generator().manual_seed(0), **size), len(calls)


right, evaluations = run(ClassifierFreeGuidance(guidance_scale=5.0))
print(f"classifier-free guidance: {evaluations} evaluations")
for scale, layers in ((3, [0]), (30, [0, 1, 2]), (3, [100])):
    config = SmoothedEnergyGuidanceConfig(indices=layers, fqn="transformer_blocks")
    guider = SmoothedEnergyGuidance(guidance_scale=5.0, seg_guidance_scale=scale, seg_guidance_config=config)
    latents, evaluations = run(guider)
    name = f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
    same = torch.equal(latents, right)
    print(f"seg_guidance_scale {scale}, {name}: {evaluations} evaluations, the same: {same}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "classifier-free guidance: 6 evaluations
seg_guidance_scale 3, layer 0: 8 evaluations, the same: True
seg_guidance_scale 30, layers 0, 1, 2: 8 evaluations, the same: True
seg_guidance_scale 3, layer 100: 8 evaluations, the same: True" ]
