"""Words that were encoded once are not encoded again, and no bit differs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import accel
from accel.kept_texts import _encoders
from accel.patch import Wrapper
from tests import shallow
from tests.tiny.case import quiet

CALL = {"num_inference_steps": 1, "num_frames": 1, "height": 32, "width": 32}


class Counting:
    """Counts the calls of a text encoder."""

    def __init__(self, pipe: Any) -> None:
        self.calls = 0
        pipe.text_encoder.register_forward_pre_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def of(
        self, pipe: Any, prompt: str = "a red ball rolls to the left", seed: int = 0, **options: Any
    ) -> torch.Tensor:
        """What the pipeline makes, and how often it encoded for it."""
        before = self.calls
        frames = pipe(prompt, generator=torch.Generator().manual_seed(seed), **CALL | options).frames
        self.last = self.calls - before
        return torch.as_tensor(frames)


@pytest.fixture
def pipe() -> Any:
    return quiet(shallow.load("video"))


def test_another_seed_takes_the_words_that_are_known(pipe: Any) -> None:
    counting = Counting(pipe)
    plain = [counting.of(pipe, seed=seed) for seed in range(3)]
    assert counting.last == 2, "the prompt and the negative one"
    with accel.accelerate(pipe, accel.Recipe()) as session:
        session.keep_texts()
        counting.calls = 0
        assert all(torch.equal(counting.of(pipe, seed=seed), plain[seed]) for seed in range(3))
        assert counting.calls == 2
        with session.suspended():
            counting.of(pipe)
            assert counting.last == 2 and "encode_prompt" not in vars(pipe)
        counting.of(pipe)
        assert counting.last == 0, "it is on again"
        pipe.encode_prompt("a red ball rolls to the left", device="cpu")
        assert counting.calls == 6, "outside of a call nobody knows what an encoding hangs on"
    assert "encode_prompt" not in vars(pipe)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_of_the_pipeline_encodes_by_itself(pipe: Any, duplicate: Any) -> None:
    counting = Counting(pipe)
    with accel.accelerate(pipe, accel.Recipe()) as session:
        session.keep_texts()
        first = counting.of(pipe)
        other = duplicate(pipe)
        assert [name for name, value in vars(other).items() if isinstance(value, Wrapper)] == []
        other.text_encoder = copy.deepcopy(pipe.text_encoder)
        with torch.no_grad():
            other.text_encoder.shared.weight.mul_(-2)
        found = counting.of(other)
        assert torch.equal(counting.of(pipe), first) and counting.last == 0
    expected = type(pipe)(**{**pipe.components, "text_encoder": other.text_encoder})
    assert torch.equal(found, counting.of(quiet(expected))) and not torch.equal(found, first)


def test_words_are_encoded_anew_where_anything_differs_that_they_may_hang_on(pipe: Any) -> None:
    other, counting = quiet(shallow.load("video")), Counting(pipe)
    weight = pipe.text_encoder.encoder.block[0].layer[0].SelfAttention.q.weight
    with accel.accelerate(pipe, accel.Recipe()) as session:
        session.keep_texts()
        first = counting.of(pipe)
        for options in ({"guidance_scale": 3.0}, {"negative_prompt": "blurred"}, {"max_sequence_length": 8}):
            counting.of(pipe, **options)
            assert counting.last, options
        counting.of(pipe)
        assert counting.last == 0
        weight.data.mul_(2.0)  # of which torch keeps no count
        changed = counting.of(pipe)
        assert counting.last == 2 and not torch.equal(changed, first)
        weight.data.div_(2.0)
        pipe.text_encoder.train()
        counting.of(pipe)
        counting.of(pipe)
        assert counting.last == 2
        pipe.text_encoder = other.text_encoder
        assert torch.equal(counting.of(pipe), first)


def test_only_so_many_bytes_are_kept(pipe: Any) -> None:
    counting = Counting(pipe)
    with accel.accelerate(pipe, accel.Recipe()) as session:
        session.keep_texts(most_bytes=0)
        counting.of(pipe)
        counting.of(pipe)
        assert counting.last == 2
    with pytest.raises(ValueError, match="accelerate the pipeline again"):
        session.keep_texts()


class Plain(torch.nn.Module):
    """A part of a pipeline that does nothing else."""


class Decoding(Plain):
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


class Stepping:
    def set_timesteps(self, count: int) -> None: ...

    def step(self) -> None: ...


def test_what_decodes_and_schedules_is_told_by_what_it_does() -> None:
    """Its name may be another: sound has autoencoders of its own, and second stages their scheduler."""
    parts = {"text_encoder": Plain(), "connectors": Plain(), "transformer": Plain(), "controlnet": Plain()}
    loop = {"audio_vae": Decoding(), "vqgan": Decoding(), "scheduler": Stepping(), "decoder_scheduler": Stepping()}
    assert _encoders(parts | loop) == [parts["text_encoder"], parts["connectors"]]
