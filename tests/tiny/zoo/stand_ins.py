"""As much of a tokenizer, a text encoder and an image encoder as a pipeline asks for, offline.

Pipelines that take prompts as embeddings get these and have no text encoder. What is here is for the others.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from transformers import (
    BatchEncoding,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
)
from transformers.utils import ModelOutput

from tests.tiny.image import POOLED, TEXT
from tests.tiny.weights import randomise

VOCABULARY = 1000
LONGEST = 32


class Tokenizer:
    """Makes a number of each word. It serves as a processor of chats as well: a conversation is its own text."""

    model_max_length = LONGEST
    pad_token_id, bos_token_id, eos_token_id, unk_token_id = 0, 1, 2, 3
    pad_token, bos_token, eos_token = "<pad>", "<s>", "</s>"
    padding_side = "right"
    added_tokens_encoder: ClassVar[dict[str, int]] = {}

    @property
    def tokenizer(self) -> Tokenizer:
        return self

    def __len__(self) -> int:
        return VOCABULARY

    def __call__(self, text: Any = None, *_: Any, **options: Any) -> BatchEncoding:
        texts = [text] if isinstance(text, str) else [_flat(one) for one in text]
        rows = [self.encode(one) for one in texts]
        padded = options.get("padding") == "max_length"
        wanted = options.get("max_length") if padded else None
        length = wanted or max(len(row) for row in rows)
        if options.get("truncation") or padded:
            rows = [row[:length] for row in rows]
        if options.get("return_tensors") is None:
            return BatchEncoding({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
        ids = torch.tensor([row + [self.pad_token_id] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return BatchEncoding({"input_ids": ids, "attention_mask": mask, "length": mask.sum(1), "position_ids": ids})

    def encode(self, text: str, **_: Any) -> list[int]:
        words = [4 + zlib.crc32(word.encode()) % (VOCABULARY - 4) for word in text.split()]
        return [self.bos_token_id, *words, self.eos_token_id]

    def apply_chat_template(self, messages: Any, *_: Any, tokenize: bool = False, **options: Any) -> Any:
        several = bool(messages) and isinstance(messages[0], list)
        texts = [_flat(one) for one in messages] if several else _flat(messages)
        return self(texts, **options) if tokenize else texts

    def pad(self, rows: Any, **options: Any) -> BatchEncoding:
        given = rows["input_ids"]
        length = options.get("max_length") or max(len(row) for row in given)
        ids = torch.tensor([list(row) + [0] * (length - len(row)) for row in given])
        return BatchEncoding({"input_ids": ids, "attention_mask": (ids > 0).long()})

    def tokenize(self, text: str) -> list[str]:
        return text.split()

    def decode(self, *_: Any, **__: Any) -> str:
        return ""

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        return [""] * len(rows)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return [3] * len(tokens) if isinstance(tokens, list) else 3

    def maybe_convert_prompt(self, prompt: Any, *_: Any) -> Any:
        return prompt


def _flat(part: Any) -> str:
    """The words of a text or of a conversation, whatever it is nested in."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        return " ".join(_flat(one) for key, one in part.items() if key in ("content", "text"))
    return " ".join(_flat(one) for one in part) if isinstance(part, (list, tuple)) else ""


@dataclass
class Encoded(ModelOutput):
    """What text encoders return, under all the names that pipelines look for."""

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    text_embeds: torch.Tensor | None = None


class TextEncoder(torch.nn.Module):
    """Looks every token up: (batch, tokens, width), and the mean of them, (batch, pooled)."""

    def __init__(self, width: int = TEXT, pooled: int = POOLED, layers: int = 40) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(VOCABULARY, width)
        self.text_projection = torch.nn.Linear(width, pooled)
        self.layers = layers
        self.config = SimpleNamespace(
            model_type="t5",
            hidden_size=width,
            d_model=width,
            projection_dim=pooled,
            num_hidden_layers=layers - 1,
            use_attention_mask=True,
            max_position_embeddings=LONGEST,
        )
        self.config.text_config = self.config
        randomise(self)

    @property
    def dtype(self) -> torch.dtype:
        return self.words.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.words.weight.device

    @property
    def text_model(self) -> TextEncoder:
        return self

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.words

    def forward(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> Encoded:
        states = self.words(input_ids.clamp(max=VOCABULARY - 1))
        pooled = self.text_projection(states.mean(1))
        return Encoded(states, pooled, (states,) * self.layers, pooled)


def text_encoder(width: int = TEXT, pooled: int = POOLED) -> TextEncoder:
    return TextEncoder(width, pooled)


@dataclass
class Projected(ModelOutput):
    """What the second text encoder of Stable Diffusion XL returns: the pooled embedding comes first."""

    text_embeds: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class ProjectedEncoder(TextEncoder):
    def forward(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> Any:
        found = super().forward(input_ids)
        return Projected(found.text_embeds, found.last_hidden_state, found.hidden_states)


class TokensFirst(TextEncoder):
    """As ChatGLM: (tokens, batch, width)."""

    def forward(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> Any:
        found = super().forward(input_ids)
        return Encoded(hidden_states=tuple(state.transpose(0, 1) for state in found.hidden_states))


class PooledFirst(TextEncoder):
    """As Kandinsky 2.1's: the pooled embedding, and in second place those of the tokens."""

    def forward(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> Any:
        found = super().forward(input_ids)
        return found.text_embeds, found.last_hidden_state


def image_encoder(projection: int = TEXT, hidden: int = 16, projected: bool = True) -> torch.nn.Module:
    """A real CLIP of one layer."""
    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=hidden,
        projection_dim=projection,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    return randomise((CLIPVisionModelWithProjection if projected else CLIPVisionModel)(config))


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
