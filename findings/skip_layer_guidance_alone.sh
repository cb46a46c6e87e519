#!/usr/bin/env bash
# diffusers 0.42.1, SkipLayerGuidance(guidance_scale=1.0, ...) in the modular LTX pipeline: skip-layer guidance without
# classifier-free guidance, as one would use it on a distilled model.
#
# No layer is skipped. With two predictions a step the guider gives the second the negative prompt, where the one with
# layers left out should have the prompt, and leaves layers out in a third prediction only, which there is not. What is
# called guidance by a weakened model is therefore classifier-free guidance by the negative prompt, at the scale of the
# skip-layer guidance, to the bit, whatever the layers. A guidance scale that is a little off 1 gives what was asked
# for. PerturbedAttentionGuidance and SmoothedEnergyGuidance count their predictions the same way.
#
# Seen:
#   scale 1, without layer 0: is classifier-free guidance: True
#   scale 1, without layers 1 and 2: is classifier-free guidance: True
#   scale 1.0001, without layers 1 and 2: is classifier-free guidance: False
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
    SkipLayerGuidance,
)
from diffusers.hooks import LayerSkipConfig
from diffusers.modular_pipelines.ltx import LTXAutoBlocks
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel


def latents(guider) -> torch.Tensor:
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
    size = {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 3, "output": "latents"}
    return pipe(prompt="a dog", generator=torch.Generator().manual_seed(0), **size)


def skipping(layers: list[int], scale: float) -> SkipLayerGuidance:
    return SkipLayerGuidance(
        guidance_scale=scale, skip_layer_guidance_scale=2.8, skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0, skip_layer_config=LayerSkipConfig(indices=layers, fqn="transformer_blocks"),
    )


# skip-layer guidance leaves out the first of the three steps
right = latents(ClassifierFreeGuidance(guidance_scale=2.8, start=0.34))
for scale, layers in ((1, [0]), (1, [1, 2]), (1.0001, [1, 2])):
    name = f"layer{'s' if len(layers) > 1 else ''} {' and '.join(map(str, layers))}"
    found = torch.equal(latents(skipping(layers, scale)), right)
    print(f"scale {scale}, without {name}: is classifier-free guidance: {found}")
PYTHON
) || { cat "$work/log" >&2; exit 1; }
echo "$seen"
[ "$seen" = "scale 1, without layer 0: is classifier-free guidance: True
scale 1, without layers 1 and 2: is classifier-free guidance: True
scale 1.0001, without layers 1 and 2: is classifier-free guidance: False" ]
