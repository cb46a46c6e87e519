"""Every judge is what it says: a small trained model in a stock pipeline that loads without a network."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from accel.measure.metrics import Clip, psnr
from accel.measure.output import output_of
from accel.measure.sound_metrics import snr
from benchmarks.judges import JUDGES, Judge
from benchmarks.judges.language import Words
from benchmarks.judges.roster import SOUNDS

MEGABYTES = 4

EVERY = JUDGES | {"sounds": SOUNDS}

every_judge = pytest.mark.parametrize("judge", EVERY.values(), ids=EVERY)
every_scheduler = pytest.mark.parametrize(
    ("judge", "scheduler"),
    [pytest.param(judge, name, id=f"{judge.name}-{name}") for judge in EVERY.values() for name in judge.schedulers],
)


@cache
def pipeline(name: str, scheduler: str | None = None) -> DiffusionPipeline:
    return EVERY[name].load(scheduler)


def clip(
    judge: Judge, prompt: int = 0, guidance: int = 1, seed: int = 0, scheduler: str | None = None, steps: int = 4
) -> Clip:
    """What four steps make of a prompt, by its number, at one of the two guidance scales."""
    output = pipeline(judge.name, scheduler)(
        judge.prompts[prompt],
        num_inference_steps=steps,
        guidance_scale=judge.guidance_scales[guidance],
        generator=torch.Generator().manual_seed(seed),
    )
    return output_of(output, pipeline(judge.name, scheduler)).main


@cache
def usual(name: str) -> Clip:
    return clip(EVERY[name])


def apart(one: Clip, other: Clip) -> float:
    """The mean difference of their pixels, whose values are in [0, 1]."""
    return float(np.abs(one - other).mean())


@pytest.mark.part(2)
@every_judge
def test_output_has_the_size_of_the_data(judge: Judge) -> None:
    drawn = judge.draw(np.random.default_rng(0), judge.language.words(judge.prompts[0]))
    assert usual(judge.name).shape == (drawn if judge.video or drawn.ndim == 2 else drawn[None]).shape
    assert np.isfinite(usual(judge.name)).all()


@every_judge
def test_pipeline_is_stock(judge: Judge) -> None:
    """But for its call, which takes the judge's prompts as text."""
    ours, stock = type(pipeline(judge.name)).__mro__[:2]
    assert stock.__module__.startswith("diffusers.pipelines.")
    assert ours.__name__ == stock.__name__
    with pytest.raises(ValueError, match="cannot read the prompt"):
        pipeline(judge.name)("a corgi surfing")


@pytest.mark.part(1)
@every_judge
def test_the_same_call_gives_the_same_output(judge: Judge) -> None:
    assert np.array_equal(clip(judge), usual(judge.name))


@pytest.mark.part(2)
@every_judge
def test_output_depends_on_prompt_guidance_and_seed(judge: Judge) -> None:
    assert apart(clip(judge, prompt=1), usual(judge.name)) > 0.01
    assert apart(clip(judge, guidance=0), usual(judge.name)) > 0.003
    assert apart(clip(judge, seed=1), usual(judge.name)) > 0.01


@pytest.mark.part(2)
@every_scheduler
def test_steps_matter(judge: Judge, scheduler: str) -> None:
    four, six = (clip(judge, scheduler=scheduler, steps=steps) for steps in (4, 6))
    assert (psnr(four, six) if four.ndim == 4 else snr(four, six)) < 40


@pytest.mark.part(2)
@every_judge
def test_schedulers_differ(judge: Judge) -> None:
    first, second = (clip(judge, scheduler=name) for name in judge.schedulers)
    assert apart(first, second) > 0.0005


@every_judge
def test_model_is_small_and_complete(judge: Judge) -> None:
    files = [path for path in judge.folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MEGABYTES * 1e6
    assert judge.trained(), "its training was changed; run python -m benchmarks.judges.train"
    assert "README.md" in {path.name for path in files}


@every_judge
def test_weights_are_stored_in_float16(judge: Judge) -> None:
    for path in judge.folder.rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}


@every_judge
def test_model_has_learnt_its_data(judge: Judge) -> None:
    """It predicts better than one who knew the noise level alone could: that leaves 0.79 of a flow's square."""
    pipe, rng = pipeline(judge.name), np.random.default_rng(7)
    prompts = judge.language.trained()[::7][:8]
    drawn = np.stack([judge.draw(rng, judge.language.words(prompt)) for prompt in prompts])
    samples = torch.stack([judge.family.sample(each) for each in drawn])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        latents = judge.family.encode(pipe.vae, samples)
        noised, times, target = judge.objective.noised(latents, torch.randn_like(latents))
        denoiser = getattr(pipe, "transformer", None) or pipe.unet
        predicted = judge.family.predict(denoiser, noised, times, judge.words(), prompts)
    assert float((predicted - target).square().mean()) < 0.75 * float(target.square().mean())


@every_judge
def test_prompts_were_held_out(judge: Judge) -> None:
    if len(judge.language.slots) > 1:
        assert len(judge.prompts) >= 4
        assert not set(judge.prompts) & set(judge.language.trained())
    assert {*judge.prompts, *judge.language.trained()} == set(judge.language.prompts())


@every_judge
def test_it_has_two_schedulers_and_two_guidance_scales(judge: Judge) -> None:
    low, high = judge.guidance_scales
    assert low < high
    assert len(judge.schedulers) == 2


def test_judges_differ() -> None:
    judges = JUDGES.values()
    assert len(judges) >= 6
    assert len({type(judge.family) for judge in judges}) == len(judges)
    assert len({judge.draw.__module__ for judge in judges}) == len(judges)
    assert {judge.video for judge in judges} == {True, False}


def test_words_tell_prompts_apart() -> None:
    language = JUDGES["cells"].language
    embeds, pooled = Words(language, 8)(language.prompts())
    assert len(embeds.flatten(1).unique(dim=0)) == len(pooled.unique(dim=0)) == len(language.prompts())


@pytest.mark.parametrize("prompt", ["coarse ice", "ice coarse maze", "coarse ice maze maze", "huge ice maze"])
def test_a_prompt_out_of_the_language_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="cannot read the prompt"):
        JUDGES["cells"].language.ids(prompt)


@every_judge
def test_data_is_the_same_for_the_same_seed(judge: Judge) -> None:
    words = judge.language.words(judge.prompts[0])
    first, second, other = (judge.draw(np.random.default_rng(seed), words) for seed in (0, 0, 1))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert judge.family.sample(first).abs().max() <= 1
