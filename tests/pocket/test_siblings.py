"""The siblings of the pocket video model: what they share with it, their call defaults, and what they generate."""

import inspect
import json

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from accel import pocket
from accel.pocket import pipeline
from accel.pocket.pipeline import WanPocketPipeline, calling_with, write_sibling
from benchmarks.pocket.evaluate import adherence, generate

PROMPT = "a red circle moves left on a dark background"
PROMPTS = pocket.prompts(5, 2024)  # the first of those that evaluation.json is about


@pytest.fixture(scope="module")
def pipes():
    loaded = {name: pocket.load(name) for name in ("video", "few", "small")}
    for pipe in loaded.values():
        pipe.set_progress_bar_config(disable=True)
    return loaded


def defaults(pipe) -> tuple[int, float]:
    parameters = inspect.signature(pipe.__call__).parameters
    return parameters["num_inference_steps"].default, parameters["guidance_scale"].default


@pytest.mark.parametrize(("name", "expected"), [("video", (50, 4.0)), ("few", (4, 1.0)), ("small", (50, 4.0))])
def test_the_defaults_of_a_call_are_those_of_the_model(pipes, name, expected):
    pipe = pipes[name]
    assert defaults(pipe) == expected
    assert type(pipe).__name__ == "WanPocketPipeline"
    assert isinstance(pipe, WanPocketPipeline) and isinstance(pipe, WanPipeline)


def test_few_takes_four_steps_from_phase_to_phase_without_guidance(pipes):
    calls, few = [], pipes["few"]
    hook = few.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(float(kwargs["timestep"][0])), with_kwargs=True
    )
    try:
        few(PROMPT, height=32, width=32, num_frames=5)
    finally:
        hook.remove()
    assert calls == [999, 900, 750, 500]
    assert not few.do_classifier_free_guidance


def test_arguments_of_a_call_overrule_the_defaults_wherever_they_stand(pipes):
    few = pipes["few"]
    few(PROMPT, None, 32, 32, 5, 2)
    assert few.num_timesteps == 2
    few(PROMPT, height=32, width=32, num_frames=5, num_inference_steps=1, guidance_scale=3.0)
    assert few.num_timesteps == 1
    assert few.do_classifier_free_guidance


def test_a_class_without_other_defaults_is_the_class_itself():
    assert calling_with(WanPocketPipeline, {}) is WanPocketPipeline


@pytest.mark.parametrize("name", ["few", "small"])
def test_siblings_have_the_latents_and_the_captions_of_the_teacher(pipes, name):
    teacher, sibling = pipes["video"], pipes[name]
    for part in ("vae", "text_encoder"):
        ours, theirs = (getattr(pipe, part).state_dict() for pipe in (sibling, teacher))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert getattr(sibling, part) is not getattr(teacher, part)
    assert {p.dtype for p in sibling.transformer.parameters()} == {torch.float32}
    x, t, words = torch.randn(1, 24, 5, 8, 8), torch.tensor([900.0]), torch.randn(1, 16, 64)
    assert sibling.transformer(x, t, words).sample.shape == teacher.transformer(x, t, words).sample.shape


def test_the_folder_of_a_sibling_holds_only_what_is_its_own():
    root = pipeline.VIDEO.parent
    own = {name: {path.name for path in (root / name).iterdir()} for name in ("few", "small")}
    described = {"README.md", "evaluation.json", "training_log.jsonl", "model_index.json", "transformer"}
    assert own == {"few": described | {"scheduler"}, "small": described}


def test_small_is_a_fraction_of_the_teacher(pipes):
    sizes = {name: sum(p.numel() for p in pipe.transformer.parameters()) for name, pipe in pipes.items()}
    assert sizes["few"] == sizes["video"]
    assert sizes["small"] < sizes["video"] / 5


def test_four_steps_show_what_the_prompts_say(pipes):
    shares = adherence(generate(pipes["few"], PROMPTS, (64, 64, 17), 4, 1.0), PROMPTS)
    assert shares["colour"] == shares["motion"] == shares["background"] == 1.0
    assert shares["correct"] >= 0.6  # one of 480 would be chance


def test_few_ends_near_the_clip_of_the_teacher_from_the_same_noise(pipes):
    few, teacher, stranger = (
        pipes[name](PROMPTS[0], num_inference_steps=steps, generator=torch.Generator().manual_seed(seed)).frames[0]
        for name, steps, seed in (("few", 4, 0), ("video", 12, 0), ("few", 4, 1))
    )
    assert np.square(few - teacher).mean() < np.square(stranger - teacher).mean() / 3


def test_small_and_the_teacher_agree_at_high_noise(pipes):
    torch.manual_seed(0)
    x, t = torch.randn(5, 24, 5, 8, 8), torch.full((5,), 950.0)
    words = pipes["video"].encode_prompt(PROMPTS, do_classifier_free_guidance=False, max_sequence_length=16)[0]
    with torch.no_grad():
        ours, theirs = (pipes[name].transformer(x, t, words).sample for name in ("small", "video"))
    assert float((ours - theirs).square().mean() / theirs.square().mean()) < 0.1


def test_what_is_written_is_read_again_to_half_precision(pipes, tmp_path):
    few = pipes["few"]
    write_sibling(tmp_path, few.transformer, few.scheduler, num_inference_steps=3)
    read = WanPocketPipeline.from_folder(tmp_path)
    assert defaults(read) == (3, 4.0)
    assert type(read.scheduler) is type(few.scheduler)
    assert read.scheduler.config.flow_shift == few.scheduler.config.flow_shift
    for name, value in read.transformer.state_dict().items():
        assert torch.equal(value, few.transformer.state_dict()[name].half().float())
    assert "vae" not in json.loads((tmp_path / "model_index.json").read_text())


def test_a_sibling_is_saved_as_a_stock_pipeline(pipes, tmp_path):
    few = pipes["few"]
    few.save_pretrained(tmp_path)
    stock = WanPipeline.from_pretrained(tmp_path)
    stock.set_progress_bar_config(disable=True)
    size = {"height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 16}
    clips = [
        pipe(
            PROMPT, num_inference_steps=4, guidance_scale=1.0, generator=torch.Generator().manual_seed(0), **size
        ).frames
        for pipe in (few, stock)
    ]
    assert np.array_equal(*clips)
