"""FreeInit and FastInit: which frequencies of a video's noise are kept, on which pipelines; nothing is left."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel import FixedInterval, Recipe
from accel.drafting.fast_init import fast_init
from accel.drafting.free_init import free_init
from accel.drafting.low_frequencies import blended, channel_axis
from accel.measure.metrics import to_frames
from accel.patch import session_of
from tests.accel.residue import of_denoisers, raising_in_call
from tests.tiny import TINY
from tests.tiny.case import quiet

FAST = Recipe(cache=FixedInterval(2, warmup=1, min_steps=1))
BOTH: dict[str, Callable[..., Any]] = {
    "free": functools.partial(free_init, recipe=Recipe()),
    "fast": functools.partial(fast_init, recipe=Recipe(), draft=FAST, share=0.5),
}


@functools.cache
def tiny(name: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline that has run once, because diffusers adds attributes of its own then, and a call of it."""
    pipe = quiet(TINY[name].build())
    arguments = {**TINY[name].arguments(pipe), "num_inference_steps": 4}
    pipe(**arguments)
    return pipe, arguments


@pytest.mark.parametrize("channels", [1, 2])
def test_low_frequencies_are_those_of_one_and_high_ones_those_of_the_other(channels: int) -> None:
    """A slow wave and a fast one over eight frames, whichever axis these are on."""
    time = torch.arange(8) / 8 * 2 * torch.pi
    slow, fast = (wave.view(1, 1, 8, 1, 1).expand(1, 3, 8, 4, 4) for wave in (torch.cos(time), torch.cos(4 * time)))
    low, high = ((x if channels == 1 else x.transpose(1, 2)) for x in (slow + fast, 0.5 * slow - fast))
    found = blended(low, high, channels, 0.5, 0.5)
    expected = slow - fast
    assert torch.allclose(found, expected if channels == 1 else expected.transpose(1, 2), atol=0.01)


def test_one_video_in_both_places_is_that_video() -> None:
    video = torch.randn(1, 4, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(blended(video, video, 1, 0.25, 0.25), video, atol=1e-5)


@pytest.mark.part(1)
@pytest.mark.parametrize("how", BOTH)
@pytest.mark.parametrize("name", ["wan", "cogvideox", "animatediff"])
def test_it_changes_the_clip_and_leaves_nothing(name: str, how: str) -> None:
    pipe, arguments = tiny(name)
    before = of_denoisers(pipe)
    found, again = (to_frames(BOTH[how](pipe, seed=3, **arguments)) for _ in range(2))
    assert np.array_equal(found, again)
    plain = to_frames(pipe(**arguments, generator=torch.Generator("cpu").manual_seed(3)))
    assert found.shape == plain.shape and not np.array_equal(found, plain)
    assert of_denoisers(pipe) == before and "prepare_latents" not in vars(pipe) and session_of(pipe) is None


def test_one_round_is_the_plain_run() -> None:
    pipe, arguments = tiny("wan")
    found = to_frames(free_init(pipe, seed=3, recipe=Recipe(), rounds=1, **arguments))
    assert np.array_equal(found, to_frames(pipe(**arguments, generator=torch.Generator("cpu").manual_seed(3))))


def test_the_noise_that_is_kept_is_slow() -> None:
    """The refined noise agrees with the first one in low frequencies more than two draws do, and is as large."""
    pipe, arguments = tiny("wan")
    begun: list[torch.Tensor] = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, args, kw: begun.append(kw["hidden_states"]), with_kwargs=True
    )
    free_init(pipe, seed=3, recipe=Recipe(), **arguments)
    hook.remove()
    first, refined = begun[0].mean((2, 3, 4)), begun[len(begun) // 2].mean((2, 3, 4))
    assert float(torch.cosine_similarity(first, refined)) > 0.8
    assert float(begun[len(begun) // 2].std()) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("how", BOTH)
def test_an_interruption_leaves_the_pipeline_as_it_was(how: str) -> None:
    pipe, arguments = tiny("wan")
    before, session = of_denoisers(pipe), accel.accelerate(pipe, FAST)
    hook = pipe.transformer.register_forward_pre_hook(raising_in_call(6))
    with pytest.raises(InterruptedError):
        BOTH[how](pipe, seed=3, **arguments)
    hook.remove()
    assert session_of(pipe) is session
    session.restore()
    assert of_denoisers(pipe) == before and "prepare_latents" not in vars(pipe)


@pytest.mark.parametrize(
    ("name", "sentence"), [("flux", "a video of several frames"), ("ltx", "a video of several frames")]
)
def test_what_begins_with_no_video_says_so(name: str, sentence: str) -> None:
    pipe, arguments = tiny(name)
    with pytest.raises(ValueError, match=sentence):
        fast_init(pipe, recipe=Recipe(), draft=FAST, share=0.5, **arguments)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"spatial": 0.0}, "spatial is a share of the highest frequency"),
        ({"temporal": 2.0}, "temporal is a share of the highest frequency"),
        ({"rounds": 0}, "rounds is a whole number of runs"),
    ],
)
def test_bad_input_is_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    pipe, arguments = tiny("wan")
    with pytest.raises(ValueError, match=sentence):
        free_init(pipe, **{**arguments, **wrong})


def test_channels_are_found_where_they_are() -> None:
    assert channel_axis(torch.zeros(1, 16, 3, 8, 8), tiny("wan")[0]) == 1
    pipe, _ = tiny("cogvideox")
    assert channel_axis(torch.zeros(1, 3, pipe.transformer.config.in_channels, 8, 8), pipe) == 2
