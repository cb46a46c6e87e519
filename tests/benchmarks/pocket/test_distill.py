"""Making the siblings: the teacher's trajectories, the targets, and runs that are interrupted."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

from accel import pocket
from accel.pocket.pipeline import WanPocketPipeline
from benchmarks.pocket import distill, shrink
from benchmarks.pocket.train_video import make_denoiser

CAPTIONS = ["a red circle moves left on a dark background", "a blue cross stays still on a light background"]


@pytest.fixture
def teacher():
    """The packaged pipeline around a tiny untrained denoiser, for speed."""
    torch.manual_seed(0)
    pipe = pocket.load("video")
    pipe.transformer = make_denoiser(24, 32, 1)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def run(teacher, monkeypatch):
    monkeypatch.setattr(distill, "BATCH", 4)
    return distill.Distillation(teacher, rate=5e-3, pool=32, seed=0)


def test_phases_end_where_the_shipped_schedule_has_its_steps():
    ends = distill.LEVELS[:: distill.PARTS]
    assert ends == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])
    scheduler = distill.make_scheduler()
    for steps, expected in ((4, ends), (2, ends[::2]), (1, [1.0, 0.0])):
        scheduler.set_timesteps(steps)
        assert scheduler.sigmas.tolist() == pytest.approx(expected, abs=2e-3)


def test_a_step_of_the_shipped_schedule_is_an_euler_step():
    scheduler = distill.make_scheduler()
    scheduler.set_timesteps(4)
    torch.manual_seed(0)
    x, sigmas = torch.randn(1, 24, 5, 8, 8), scheduler.sigmas.tolist()
    for index, timestep in enumerate(scheduler.timesteps):
        velocity = torch.randn_like(x)
        expected = x + (sigmas[index + 1] - sigmas[index]) * velocity
        x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
        assert torch.allclose(x, expected, atol=1e-4)


def test_trajectories_are_those_of_the_guided_pseudo_corrector(run, teacher):
    noise, words, unprompted = torch.randn(2, 24, 5, 8, 8), run.words(CAPTIONS), run.words(["", ""])
    points = run.trajectory(noise, words)
    assert points.shape == (distill.PHASES * distill.PARTS + 1, 2, 24, 5, 8, 8)
    assert torch.equal(points[0], noise)
    x, corrected, before = noise, noise, None
    for level, following in pairwise(distill.LEVELS):
        plain, prompted = (run._velocity(teacher.transformer, x, level, one) for one in (unprompted, words))
        velocity = plain + 4.0 * (prompted - plain)
        if before is not None:
            corrected = corrected + before[0] * (before[1] + velocity) / 2
        before = following - level, velocity
        x = corrected + (following - level) * velocity
    # The script asks for both velocities in one batch, which bfloat16 rounds otherwise; guidance 5 would give 9e-4.
    assert float((points[-1] - x).square().mean() / (noise - x).square().mean()) < 2e-4


def test_trajectories_end_where_the_pipeline_does(run, teacher):
    """Sixteen steps in bfloat16, nearly where sixty Euler steps of the pipeline itself arrive."""
    noise = torch.randn(2, 24, 5, 8, 8)
    end = run.trajectory(noise, run.words(CAPTIONS))[-1]
    expected = teacher(CAPTIONS, latents=noise, num_inference_steps=60, output_type="latent").frames
    assert float((end - expected).square().mean() / (noise - expected).square().mean()) < 5e-3


def test_targets_lead_to_the_end_of_the_phase(run):
    run.add(4)
    torch.manual_seed(1)
    points, sigma, target, words = run.batch(16)
    assert words.shape == (16, 16, 64)
    ends = torch.tensor(distill.LEVELS[distill.PARTS :: distill.PARTS])[torch.arange(16) % distill.PHASES]
    begins = torch.tensor(distill.LEVELS[: -1 : distill.PARTS])[torch.arange(16) % distill.PHASES]
    assert bool(((sigma > ends) & (sigma <= begins)).all())
    arrived = points + (ends - sigma).view(-1, 1, 1, 1, 1) * target
    for place in range(16):
        known = torch.stack([part[-1] for part, _ in run.pool[place % distill.PHASES]])
        assert float((known - arrived[place]).abs().amax((1, 2, 3, 4)).min()) < 1e-4


def test_later_phases_can_begin_where_the_student_arrives(run):
    run.add(4)
    run.add(4, begin=2)
    assert [len(pool) for pool in run.pool] == [4, 4, 8, 8]
    ends, begins = ([points[place] for points, _ in run.pool[phase]] for phase, place in ((2, -1), (3, 0)))
    assert all(torch.equal(end, begin) for end, begin in zip(ends, begins, strict=True))


def test_distillation_lowers_the_loss_on_one_batch(run):
    run.add(4)
    batch = run.batch(4)
    losses = [run.update(*batch, progress=0.1) for _ in range(14)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_pool_is_filled_before_its_points_are_used_again(run, monkeypatch):
    monkeypatch.setattr(distill, "FIRST", 2)
    for step in range(distill.FIRST + 1):
        run.step(step, 0.1)
    assert len(run.pool[-1]) == distill.FIRST * 4


@pytest.mark.slow
def test_shrinking_lowers_the_loss_on_one_batch(teacher):
    run = shrink.Shrinking(teacher, width=32, layers=1, rate=5e-3, pool=8, seed=0, device="cpu")
    batch = torch.randn(8, 24, 5, 4, 4), [*CAPTIONS, "", ""] * 2
    losses = [run.update(*batch, progress=0.1) for _ in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


SMALL = ["--device", "cpu", "--minutes", "5", "--pool", "32"]


@pytest.mark.part(1)
@pytest.mark.parametrize(
    ("script", "options"), [(distill, []), (shrink, ["--width", "32", "--layers", "1"])], ids=["distill", "shrink"]
)
def test_a_run_resumes_and_leaves_a_pipeline(script, options, teacher, monkeypatch, tmp_path):
    monkeypatch.setattr(distill, "BATCH", 2)
    monkeypatch.setattr(script, "load", lambda name: teacher)
    saved = []
    for steps in ("1", "2"):
        script.main(["--out", str(tmp_path), "--steps", steps, *SMALL, *options])
        saved.append(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert [one["step"] for one in saved] == [1, 2]
    # Adam's own step count shows that the optimisers went on instead of starting anew.
    assert int(saved[1]["run"]["optimisers"][1]["state"][0]["step"]) == 2
    pipe = WanPocketPipeline.from_folder(tmp_path)
    averaged = saved[1]["run"]["averaged"]["denoiser"]
    for name, value in pipe.transformer.state_dict().items():
        assert torch.allclose(value, averaged[name], atol=1e-3)
    pipe.set_progress_bar_config(disable=True)
    clip = pipe(CAPTIONS[0], height=32, width=32, num_frames=5, num_inference_steps=1).frames[0]
    assert np.isfinite(clip).all()


def test_a_student_can_start_from_an_exported_one(teacher, monkeypatch, tmp_path):
    monkeypatch.setattr(distill, "load", lambda name: teacher)
    other = copy.deepcopy(teacher.transformer)
    with torch.no_grad():
        other.proj_out.bias += 1.0
    other.save_pretrained(tmp_path / "before" / "transformer")
    distill.main(["--out", str(tmp_path), "--steps", "0", "--start", str(tmp_path / "before"), *SMALL])
    started = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["run"]
    for name, value in other.state_dict().items():
        assert torch.equal(started["denoiser"][name], value)
