"""The pocket image model: a stock pipeline of another architecture than the video model, and what it draws."""

from functools import partialmethod

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel

from accel import AdaptiveGuidance, OptimalSchedule, PseudoCorrector, Recipe, accelerate, pocket
from accel.anatomy import inspect
from accel.loading import load_pipeline
from accel.measure.metrics import psnr
from accel.pocket.autoencoder import PicturePatchAutoencoder
from accel.pocket.image_pipeline import StableDiffusionPocketPipeline
from accel.rendering.pipeline_arguments import class_of
from benchmarks.pocket import train_image
from benchmarks.pocket.evaluate import PICTURE, adherence, generate

PROMPT = "a red circle moves left on a dark background"
PROMPTS = pocket.prompts(24, 2024)  # the first of those that evaluation.json is about


@pytest.fixture(scope="module")
def pipe():
    pipe = pocket.load("image")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return train_image.draw(np.random.default_rng(7), 60)[0]


@pytest.fixture(scope="module")
def autoencoder(pictures) -> PicturePatchAutoencoder:
    return PicturePatchAutoencoder.fit(pictures)


def encode(model, pictures: torch.Tensor) -> torch.Tensor:
    return model.encode(pictures).latent_dist.mode()


def picture(pipe, prompt: str = PROMPT, seed: int = 0, **options) -> np.ndarray:
    return pipe(prompt, generator=torch.Generator().manual_seed(seed), **options).images


def test_load_gives_a_stock_pipeline_of_another_kind(pipe):
    assert isinstance(pipe, StableDiffusionPipeline)
    assert type(pipe.unet) is UNet2DConditionModel
    assert type(pipe.scheduler) is DDIMScheduler
    assert {p.dtype for part in (pipe.unet, pipe.text_encoder, pipe.vae) for p in part.parameters()} == {torch.float32}
    seen = inspect(pipe)
    assert seen.prediction == "epsilon"
    assert seen.denoisers["unet"].unet is not None
    drawn = picture(pipe, num_inference_steps=2)
    assert drawn.shape == (1, 64, 64, 3)
    assert np.isfinite(drawn).all() and 0 <= drawn.min() < drawn.max() <= 1


def test_a_call_makes_fifty_evaluations_of_both_halves_of_guidance(pipe, monkeypatch):
    sizes = []

    def counted(sample, *_, **__):
        sizes.append(len(sample))
        return (torch.zeros_like(sample),)

    monkeypatch.setattr(pipe.unet, "forward", counted)
    picture(pipe)
    assert sizes == [2] * 50
    assert pipe.guidance_scale == 6.0


def test_the_picture_follows_the_seed_the_prompt_and_the_guidance(pipe):
    base = picture(pipe, num_inference_steps=3)
    assert np.array_equal(base, picture(pipe, num_inference_steps=3))
    for change in ({"seed": 1}, {"prompt": PROMPT.replace("red", "blue")}, {"guidance_scale": 1.0}):
        assert np.abs(base - picture(pipe, num_inference_steps=3, **change)).mean() > 0.01


def test_pictures_of_a_batch_are_those_of_single_calls(pipe):
    seeds = [torch.Generator().manual_seed(index) for index in range(3)]
    batch = pipe(PROMPTS[:3], num_inference_steps=2, generator=seeds).images
    for index, prompt in enumerate(PROMPTS[:3]):
        assert np.allclose(batch[index], picture(pipe, prompt, index, num_inference_steps=2)[0], atol=1e-4)


@pytest.mark.part(1)
@pytest.mark.parametrize("kind", [DiffusionPipeline, StableDiffusionPipeline, StableDiffusionPocketPipeline])
def test_a_saved_pipeline_loads_as_itself_and_as_the_stock_class(pipe, kind, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert type(loaded) is (kind if kind is StableDiffusionPocketPipeline else StableDiffusionPipeline)
    loaded.set_progress_bar_config(disable=True)
    same = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np"}
    assert np.array_equal(picture(pipe, **same), picture(loaded, **same))


def test_it_is_known_by_name_everywhere():
    assert pocket.pipeline_class("image") is StableDiffusionPocketPipeline
    assert load_pipeline("pocket:image").vae.config.latent_channels == 8
    assert class_of("pocket:image") is StableDiffusionPocketPipeline


@pytest.mark.slow
def test_the_pictures_show_what_the_prompts_say(pipe):
    shares = adherence(generate(pipe, PROMPTS, PICTURE, 25, 6.0), PROMPTS)
    assert "motion" not in shares
    assert shares["colour"] >= 0.9 and shares["background"] >= 0.9
    assert shares["correct"] >= 0.6  # one of 96 would be chance


def test_cache_guidance_and_sampler_engage_on_it_and_leave_it_as_it_was(pipe):
    plain, short = (picture(pipe, num_inference_steps=steps) for steps in (20, 2))
    methods = {"cache": OptimalSchedule(0.5), "guidance": AdaptiveGuidance(), "sampler": PseudoCorrector()}
    with accelerate(pipe, Recipe(**methods)) as session:
        fast = picture(pipe, num_inference_steps=20)
        assert all(lever.engaged for lever in session.report().levers)
        assert session.report().predicted >= 5
    assert psnr(fast, plain) > 20
    assert np.array_equal(picture(pipe, num_inference_steps=2), short)


def test_the_motion_of_a_single_picture_is_not_judged():
    drawn, captions = train_image.draw(np.random.default_rng(3), 20)
    frames = [frame.permute(1, 2, 0)[None].numpy() / 2 + 0.5 for frame in drawn]
    verdicts = [pocket.verify(frame, caption) for frame, caption in zip(frames, captions, strict=True)]
    assert {tuple(one.matches) for one in verdicts} == {("colour", "shape", "background")}
    assert np.mean([one.correct for one in verdicts]) >= 0.9
    assert all("motion" not in str(one) for one in verdicts)


def test_a_wrong_word_is_found_in_a_single_picture():
    drawn, captions = train_image.draw(np.random.default_rng(3), 1)
    frame = drawn[0].permute(1, 2, 0).numpy() / 2 + 0.5
    right = pocket.verify(frame, captions[0])
    colour = "blue" if right.expected["colour"] != "blue" else "red"
    wrong = pocket.verify(frame, captions[0].replace(right.expected["colour"], colour))
    assert right.correct
    assert wrong.matches == {"colour": False, "shape": True, "background": True}


def test_latents_have_the_scale_that_the_pipeline_reads_off_the_autoencoder(autoencoder, pictures):
    latents = encode(autoencoder, pictures[:2])
    assert latents.shape == (2, 8, 16, 16)
    assert autoencoder.decode(latents, return_dict=False)[0].shape == pictures[:2].shape
    assert 2 ** (len(autoencoder.config.block_out_channels) - 1) == 64 // 16
    assert autoencoder.config.scaling_factor == 1


def test_the_autoencoder_is_a_projection_onto_principal_components(autoencoder, pictures):
    assert torch.allclose(autoencoder.basis @ autoencoder.basis.T, torch.eye(8), atol=1e-5)
    latents = 0.05 * torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(encode(autoencoder, autoencoder.decode(latents).sample), latents, atol=1e-4)
    coarse = PicturePatchAutoencoder.fit(pictures, 3)
    errors = [(m.decode(encode(m, pictures)).sample - pictures).square().mean() for m in (coarse, autoencoder)]
    assert errors[1] < 0.7 * errors[0]


def test_latents_have_mean_square_one_and_keep_their_order(autoencoder, pictures):
    latents = encode(autoencoder, pictures)
    assert float(latents.square().mean()) == pytest.approx(1.0, rel=0.02)
    deviation = latents.std((0, 2, 3))
    assert deviation[0] > 2 * deviation[-1] > 0


def test_sides_that_do_not_fit_are_refused(autoencoder):
    with pytest.raises(ValueError, match="sides are multiples of 4, got 30x32"):
        autoencoder.encode(torch.zeros(1, 3, 30, 32))


def test_training_moves_all_kinds_of_weights_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(train_image.Pictures, "batch", partialmethod(train_image.Pictures.batch, 4, 1))
    tiny = ["--out", str(tmp_path), "--widths", "32", "32", "--pool", "32", "--device", "cpu", "--minutes", "5"]
    saved = []
    for steps in ("2", "3"):
        train_image.main([*tiny, "--steps", steps])
        saved.append(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert [one["step"] for one in saved] == [2, 3]
    before, after = (one["run"]["denoiser"] for one in saved)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    # Kernels go to the optimiser as matrices that share their memory; first and last layers do not.
    assert {"down_blocks.0.resnets.0.conv1.weight", "conv_in.weight", "time_embedding.linear_1.weight"} <= moved
    pipe = StableDiffusionPocketPipeline.from_folder(tmp_path)
    averaged = saved[1]["run"]["averaged"]["denoiser"]
    assert all(torch.equal(value, averaged[name].half().float()) for name, value in pipe.unet.state_dict().items())
    assert torch.equal(pipe.scheduler.alphas_cumprod, train_image.make_scheduler().alphas_cumprod)


@pytest.mark.slow
def test_training_lowers_the_loss_on_one_batch(autoencoder):
    torch.manual_seed(0)
    trainer = train_image.Trainer(autoencoder, (32, 32), rate=5e-3, device="cpu", pool=16)
    batch = trainer._pictures.batch(8, fresh=0)
    losses = [trainer.update(*batch, progress=0.1) for _ in range(40)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_words_in_training_are_those_of_the_pipeline(autoencoder):
    trainer = train_image.Trainer(autoencoder, (32, 32), rate=1e-3, device="cpu", pool=4)
    parts = (autoencoder, trainer.text, trainer.tokenizer, trainer.denoiser, trainer.scheduler)
    with torch.no_grad():
        ours = trainer.text(trainer._tokens([PROMPT, ""]))[0]
        words, nothing = StableDiffusionPocketPipeline(*parts).encode_prompt(PROMPT, "cpu", 1, True)
    assert torch.allclose(ours, torch.cat([words, nothing]), atol=1e-6)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train one with python -m benchmarks\.pocket\.train_image"):
        StableDiffusionPocketPipeline.from_folder(tmp_path / "nowhere")
