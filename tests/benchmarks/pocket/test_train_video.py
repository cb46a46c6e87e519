from collections import Counter

import numpy as np
import pytest
import torch

from accel.pocket.pipeline import WanPocketPipeline
from accel.pocket.scenes import COLOURS
from benchmarks.pocket import train_video

TINY = ["--width", "32", "--layers", "1", "--channels", "4", "--pool", "24", "--device", "cpu", "--minutes", "5"]


def run(out, steps: int) -> dict:
    train_video.main(["--out", str(out), "--steps", str(steps), *TINY])
    return torch.load(out / "checkpoint.pt", weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("pocket")
    first = run(out, 2)
    return out, first, run(out, 3)


def test_a_run_resumes_where_it_stopped(runs):
    _, first, second = runs
    assert (first["step"], second["step"]) == (2, 3)
    assert second["elapsed"] > first["elapsed"] > 0
    before, after = first["run"], second["run"]
    moved = [name for name in before["denoiser"] if not torch.equal(before["denoiser"][name], after["denoiser"][name])]
    assert len(moved) > 10
    assert any(not torch.equal(before["text"][name], after["text"][name]) for name in before["text"])
    # Adam's own step count shows that the optimisers went on instead of starting anew.
    assert int(after["optimisers"][1]["state"][0]["step"]) == 3


def test_a_run_that_is_complete_does_nothing(runs):
    out, _, second = runs
    again = run(out, 3)
    assert again["elapsed"] == second["elapsed"]


def test_the_exported_folder_is_a_pipeline_of_the_averaged_weights(runs):
    out, _, second = runs
    pipe = WanPocketPipeline.from_folder(out)
    averaged = second["run"]["averaged"]["denoiser"]
    assert all(torch.allclose(value, averaged[name]) for name, value in pipe.transformer.state_dict().items())
    pipe.set_progress_bar_config(disable=True)
    clip = pipe("a red circle moves left on a dark background", num_inference_steps=1).frames[0]
    assert clip.shape == (17, 64, 64, 3)


def test_a_new_run_can_start_from_an_exported_model_whose_text_encoder_stays_that_of_its_siblings(runs, tmp_path):
    out, _, second = runs
    train_video.main(["--out", str(tmp_path), "--steps", "0", "--start", str(out), *TINY])
    started = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert started["step"] == 0
    for name, value in second["run"]["averaged"]["denoiser"].items():
        assert torch.equal(started["run"]["denoiser"][name], value)
    for step in (1, 2):
        train_video.main(["--out", str(tmp_path), "--steps", str(step), "--start", str(out), *TINY])
    trained = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["run"]
    for name, value in second["run"]["averaged"]["text"].items():
        assert torch.equal(trained["text"][name], value)
    assert any(not torch.equal(trained["denoiser"][name], value) for name, value in started["run"]["denoiser"].items())


def test_errors_in_colour_count_and_grey_ones_do_not():
    autoencoder = train_video.fit_autoencoder(16, 12)
    form = train_video.colour_form(autoencoder)
    assert float(form.trace()) == pytest.approx(1.0)

    def weight(*rgb: float) -> float:
        patch = torch.tensor(rgb, dtype=torch.float32).repeat_interleave(autoencoder.basis.shape[1] // 3)
        error = autoencoder.basis @ patch / torch.tensor(autoencoder.config.latents_std)
        return float(error @ form @ error)

    red, blue = weight(1, 0, 0), weight(0, 0, 1)
    assert weight(1, 1, 1) < 0.01 * red
    assert 0.5 < red / blue < 2


def test_the_hardest_shape_is_drawn_most():
    rng = np.random.default_rng(0)
    drawn = [train_video.sample_caption(rng) for _ in range(200)]
    assert Counter(caption.shape for caption in drawn).most_common(1)[0][0] == "cross"
    assert {caption.colour for caption in drawn} == set(COLOURS)


@pytest.mark.slow
def test_training_lowers_the_loss_on_one_batch():
    torch.manual_seed(0)
    autoencoder = train_video.fit_autoencoder(16, 4)
    trainer = train_video.Trainer(autoencoder, width=32, layers=1, rate=5e-3, device="cpu")
    latents, captions = train_video.Clips(autoencoder, train_video.Size(32, 32, 5, 8, 0.0, 1), 8, seed=0).batch(fresh=0)
    losses = [trainer.update(latents, captions, progress=0.1) for _ in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_larger_sizes_join_late():
    chosen = {
        progress: {train_video.size_at(step, progress, train_video.SIZES).height for step in range(30)}
        for progress in (0.3, 0.8)
    }
    assert chosen == {0.3: {64}, 0.8: {64, 96, 128}}


def test_noise_levels_cover_the_schedule():
    sigma = train_video.sample_sigma(4000)
    assert 0 < float(sigma.min()) < 0.1
    assert 0.97 < float(sigma.max()) <= 1
    assert 0.6 < float(sigma.median()) < 0.85
