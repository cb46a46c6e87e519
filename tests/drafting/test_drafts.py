"""accel.draft: a run that ends early shows the clean estimate, and finishing it gives the plain run's bits."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel import FixedInterval, Recipe
from accel.drafting.drafts import Draft
from accel.measure.metrics import psnr, to_frames
from accel.patch import session_of
from tests.accel.residue import of_denoisers, raising_in_call
from tests.tiny import TINY
from tests.tiny.case import quiet

STEPS = 8
FAST = Recipe(cache=FixedInterval(4, warmup=1, min_steps=1))
CAREFUL = Recipe(cache=FixedInterval(2, warmup=2, min_steps=1))


SMALL = {"wan": {"num_frames": 1, "height": 32, "width": 32}}
FEW = ("wan", "wan_two_experts", "cogvideox_dpm", "sdxl", "flux", "flux_controlnet")  # two calls, halves, one; no ODE


def kinds() -> list[Any]:
    return [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in TINY]


@functools.cache
def tiny(name: str) -> tuple[Any, dict[str, Any]]:
    """A pipeline without progress bar, and arguments of its call that give a small picture or clip. It has run once,
    because diffusers adds attributes of its own then.
    """
    pipe = quiet(TINY[name].build())
    arguments = {**TINY[name].arguments(pipe), "num_inference_steps": STEPS, **SMALL.get(name, {})}
    pipe(**arguments)
    return pipe, arguments


def plain(pipe: Any, recipe: Recipe, arguments: dict[str, Any], seed: int = 3) -> Any:
    """What `pipe(...)` gives with this seed and recipe."""
    torch.manual_seed(seed)
    with accel.accelerate(pipe, recipe):
        return to_frames(pipe(**arguments, generator=torch.Generator("cpu").manual_seed(seed)))


@functools.cache
def expected(name: str, recipe: Recipe) -> Any:
    return plain(tiny(name)[0], recipe, tiny(name)[1])


@pytest.mark.part(1)
@pytest.mark.parametrize("name", kinds())
def test_a_finished_draft_is_the_plain_run_bit_for_bit(name: str) -> None:
    pipe, arguments = tiny(name)
    before = of_denoisers(pipe)
    draft = accel.draft(pipe, seed=3, recipe=FAST, share=0.5, **arguments)
    finished = [to_frames(draft.finish(recipe)) for recipe in (CAREFUL, Recipe())]
    assert of_denoisers(pipe) == before
    for one, recipe in zip(finished, (CAREFUL, Recipe()), strict=True):
        assert np.array_equal(one, expected(name, recipe))


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl", "flux", "ltx", "flux_img2img"])
def test_a_draft_costs_its_share_and_shows_what_comes(name: str) -> None:
    """Nothing is skipped, so a draft of more of the run is nearer to its end."""
    pipe, arguments = tiny(name)
    final = plain(pipe, Recipe(), arguments)
    early, late = (accel.draft(pipe, seed=3, recipe=Recipe(), share=share, **arguments) for share in (0.25, 0.75))
    assert (early.cost, late.cost) == (0.25, 0.75) or name == "flux_img2img"
    assert psnr(late.frames, final) > psnr(early.frames, final)
    assert early.frames.shape == final.shape


def test_of_two_experts_the_second_is_not_asked_behind_the_end() -> None:
    """Its answers would be thrown away, and where models are offloaded it would be loaded for them."""
    pipe, arguments = tiny("wan_two_experts")
    drafts: list[Draft] = []
    calls = counted(
        pipe.transformer_2,
        lambda: drafts.append(accel.draft(pipe, seed=3, recipe=Recipe(), share=0.25, **arguments)),
    )
    assert calls == 0 and drafts[0].cost == 0.25
    assert counted(pipe.transformer_2, lambda: drafts[0].finish(Recipe())) > 0


def test_a_whole_share_is_the_run_itself() -> None:
    pipe, arguments = tiny("wan")
    draft = accel.draft(pipe, seed=3, recipe=FAST, share=1.0, **arguments)
    assert np.array_equal(draft.frames, plain(pipe, FAST, arguments))


def test_finishing_computes_only_what_the_draft_did_not() -> None:
    """Two calls a step: the draft has made both of the first two steps, and one is made again as a check."""
    pipe, arguments = tiny("wan")
    draft = accel.draft(pipe, seed=3, recipe=Recipe(), share=0.25, **arguments)
    calls = counted(pipe.transformer, lambda: draft.finish(Recipe()))
    assert calls == 2 * STEPS - 3


def test_weights_that_have_changed_since_are_noticed() -> None:
    pipe, arguments = tiny("wan")
    pipe = quiet(type(pipe)(**{**pipe.components, "transformer": copy.deepcopy(pipe.transformer)}))
    draft = accel.draft(pipe, seed=3, recipe=FAST, share=0.5, **arguments)
    for weight in pipe.transformer.parameters():
        weight.data = weight.data * 1.5
    assert np.array_equal(to_frames(draft.finish(CAREFUL)), plain(pipe, CAREFUL, arguments))


@pytest.mark.part(3)
@pytest.mark.parametrize(
    "inside",
    [
        Recipe(cache=accel.FORA(2, min_steps=1)),
        Recipe(cache=accel.TeaCache(1e9, coefficients=(1.0, 0.0), max_skips=2, min_steps=1)),
        Recipe(cache=accel.FirstBlockCache(0.5, min_steps=1)),
        Recipe(attention=accel.Radial()),
        Recipe(guidance=accel.GuidanceDelta()),
        Recipe(sampler=accel.Euler()),
        Recipe(precision=accel.Int8Weights(min_tokens=2)),
        Recipe(resolution=accel.CoarseToFine(0.0)),
        Recipe(resolution=accel.ShiftedWindows(window=2)),
    ],
    ids=["blocks", "probe", "first block", "attention", "guidance", "sampler", "precision", "smaller", "windows"],
)
def test_levers_of_every_kind_finish_exactly(inside: Recipe) -> None:
    """Those within the denoiser too, whose answers are not a function of its arguments alone."""
    pipe, arguments = tiny("wan")
    for first, then in ((FAST, inside), (inside, Recipe()), (inside, inside)):
        draft = accel.draft(pipe, seed=3, recipe=first, share=0.5, **arguments)
        assert np.array_equal(to_frames(draft.finish(then)), expected("wan", then))


def test_several_seeds_give_a_list() -> None:
    pipe, arguments = tiny("wan")
    drafts = accel.draft(pipe, seed=range(3), recipe=FAST, **arguments)
    assert [draft.seed for draft in drafts] == [0, 1, 2]
    alone = accel.draft(pipe, seed=2, recipe=FAST, **arguments)
    assert np.array_equal(drafts[2].frames, alone.frames)


def test_a_session_that_was_on_is_on_again() -> None:
    pipe, arguments = tiny("wan")
    session = accel.accelerate(pipe, CAREFUL)
    draft = accel.draft(pipe, seed=3, recipe=FAST, **arguments)
    draft.finish(Recipe())
    assert session_of(pipe) is session
    session.restore()


@pytest.mark.parametrize("call", [1, 3, 6])
def test_an_interrupted_draft_leaves_the_pipeline_as_it_was(call: int) -> None:
    pipe, arguments = tiny("wan")
    before = of_denoisers(pipe)
    hook = pipe.transformer.register_forward_pre_hook(raising_in_call(call))
    with pytest.raises(InterruptedError):
        accel.draft(pipe, seed=3, recipe=Recipe(), **arguments, share=0.5)
    hook.remove()
    assert session_of(pipe) is None
    assert of_denoisers(pipe) == before


def test_two_threads_take_turns_on_one_pipeline_and_share_weights() -> None:
    pipe, arguments = tiny("wan")
    own = {name: copy.deepcopy(getattr(pipe, name)) for name in ("scheduler", "vae")}  # Wan's autoencoder keeps state
    parts = {**pipe.components, **own}
    other = quiet(type(pipe)(**parts))

    def made(job: tuple[Any, int]) -> Draft:
        return accel.draft(job[0], seed=job[1], recipe=FAST, share=0.5, **arguments)

    jobs = [(pipe, 0), (other, 1), (pipe, 2), (other, 3)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(made, jobs))
    for job, draft in zip(jobs, together, strict=True):
        assert np.array_equal(draft.frames, made(job).frames)
        assert draft.cost == made(job).cost


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"share": 0.0}, "A share of a run is above 0 and at most 1, not 0.0"),
        ({"share": "half"}, "A share of a run is above 0 and at most 1, not 'half'"),
        ({"share": True}, "A share of a run is above 0 and at most 1, not True"),
        ({"seed": True}, "a seed must be a whole number from .*, not True"),
        ({"seed": 2**64}, "a seed must be a whole number from"),
        ({"seed": []}, "seeds is a number of seeds, or different whole numbers"),
        ({"seed": [1, 1]}, "seeds is a number of seeds, or different whole numbers"),
        ({"generator": torch.Generator()}, "The noise is made here"),
        ({"num_videos_per_prompt": 2}, "leave num_videos_per_prompt out"),
        ({"prompt": ["one", "two"]}, "one prompt at a time"),
        ({"recipe": "faster"}, "There is no preset or recipe file"),
        ({"output_type": "latent"}, "output_type='np' if they are latents"),
    ],
)
def test_bad_input_is_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    pipe, arguments = tiny("wan")
    before = of_denoisers(pipe)
    with pytest.raises((ValueError, TypeError), match=sentence):
        accel.draft(pipe, **{"recipe": FAST, **arguments, **wrong})
    assert of_denoisers(pipe) == before


def test_a_batch_is_refused() -> None:
    pipe, arguments = tiny("wan")
    arguments = {**arguments, **TINY["wan"].arguments(pipe, batch=2), "num_frames": 1}
    with pytest.raises(ValueError, match="expected one image or video, got a batch of 2"):
        accel.draft(pipe, recipe=FAST, **arguments)


def counted(module: torch.nn.Module, act: Callable[[], object]) -> int:
    """How often the module ran while something was done."""
    calls: list[int] = []
    own = module.blocks[0].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index, union-attr]
    try:
        act()
    finally:
        own.remove()
    return len(calls)
