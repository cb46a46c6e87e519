"""A plugin of pytest: diffusers' tests get tiny tokenizers and text encoders without asking the hub."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

CLASSES = ("AutoTokenizer", "T5Tokenizer", "T5TokenizerFast", "CLIPTokenizer", "GemmaTokenizer", "Qwen2Tokenizer")
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def pytest_configure() -> None:
    for name in CLASSES:
        getattr(transformers, name).from_pretrained = classmethod(_tokenizer)
    transformers.T5EncoderModel.from_pretrained = classmethod(_t5)


def _tokenizer(*_: Any, **__: Any) -> Any:
    """A token for each byte."""
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    named = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=77, **named)


def _t5(cls: Any, *_: Any, **__: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=1024, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return cls(config).eval()
