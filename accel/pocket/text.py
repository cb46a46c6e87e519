"""The pocket model's tokenizer and text encoder: a word-level vocabulary and a two-layer T5 encoder."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from accel.pocket.scenes import captions

MAX_TOKENS = 16


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the words of the caption grammar, closing each prompt with an end token."""
    words = sorted({word for caption in captions() for word in re.findall(r"\w+", str(caption))})
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
    )


def make_text_encoder(vocabulary: int, width: int = 64) -> UMT5EncoderModel:
    """An untrained T5 encoder of two layers; it is trained together with the denoiser."""
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=32,
        num_heads=2,
        d_ff=2 * width,
        num_layers=2,
        relative_attention_num_buckets=16,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config)


def embed(tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, prompts: Sequence[str]) -> torch.Tensor:
    """What WanPipeline makes of prompts: embeddings (B, MAX_TOKENS, D) with exact zeros behind the end token."""
    tokens = tokenizer(list(prompts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    tokens = tokens.to(encoder.device)
    hidden: torch.Tensor = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    padded: torch.Tensor = hidden * tokens.attention_mask[..., None]
    return padded
