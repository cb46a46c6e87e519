"""Training a refiner: the loss, what it reaches on prompts that it has not seen, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import accel
from accel import pocket
from accel.anatomy import inspect
from accel.samplers import FlowTurbo
from benchmarks.refiner import training
from benchmarks.refiner.__main__ import main
from benchmarks.refiner.recording import Point
from benchmarks.refiner.training import Aim, train_refiner
from tests.accel.residue import traces
from tests.accel.witness import twin


def test_the_loss_counts_the_difference_of_two_streams_as_guidance_does() -> None:
    errors = [torch.full((1, 3), 2.0), torch.full((1, 3), 1.0)]
    reused = [torch.full((1, 3), 1.0), torch.full((1, 3), 1.0)]
    assert float(Aim(1.0, False, 0.0)(errors, reused)) == pytest.approx((4 + 1) / 2)
    assert float(Aim(6.0, False, 0.0)(errors, reused)) == pytest.approx((4 + 1) / 2 + 6**2 / 2)
    batched = ([torch.cat(errors)], [torch.cat(reused)])
    assert float(Aim(6.0, True, 0.0)(*batched)) == pytest.approx((4 + 1) / 2 + 6**2 / 2)
    assert float(Aim(6.0, False, 0.0)(*batched)) == pytest.approx((4 + 1) / 2)


def test_a_straight_line_through_two_answers_is_continued_in_noise_level() -> None:
    points = [Point({}, torch.tensor([3 * sigma + 1]), sigma) for sigma in (0.9, 0.7, 0.6)]
    assert training._straight(*points).item() == pytest.approx(3 * 0.6 + 1)


@pytest.mark.slow
def test_training_lowers_the_error_on_prompts_that_it_has_not_seen() -> None:
    """An untrained refiner has an error of exactly 1. Nothing of the recording stays on the pipeline."""
    pipe = pocket.load("video")
    pipe.set_progress_bar_config(disable=True)
    before, said = traces(pipe), list[str]()  # the pocket pipeline's own classes are accel's
    options: dict[str, Any] = {"guidance_scale": 1.0, "step_counts": (8,), "start": 0.8, "chain": 1}
    refiner = train_refiner(pipe, pocket.prompts(5, 2), updates=120, progress=said.append, **options)
    print(refiner.facts)
    assert refiner.facts.updates == 120 and refiner.facts.guidance == 1.0 and refiner.facts.step_counts == (8,)
    assert refiner.facts.error < 0.9
    assert refiner.obstacle(inspect(pipe)) is None
    assert not any(weight.requires_grad for weight in refiner.model.parameters()) and not refiner.model.training
    assert traces(pipe) == before
    assert said[0] == "recording run 1 of 3"


def test_the_command_writes_a_refiner_that_the_pipeline_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--steps", "4", "--guidance", "1", "--minutes", "0.02"]
    assert main(["pocket:video", "--prompts", "2", "--out", str(tmp_path), *call]) == 0
    assert "a straight line through two" in capsys.readouterr().out
    pipe = pocket.load("video")
    pipe.set_progress_bar_config(disable=True)
    with accel.accelerate(pipe, accel.Recipe(sampler=FlowTurbo(refiner=str(tmp_path)))) as session:
        pipe(pocket.prompts(1, 0)[0], num_inference_steps=6, output_type="latent")
    assert "2 of 6 steps refined" in session.report().levers[0].reason
    assert main(["pocket:video", "--prompts", "1", "--out", str(tmp_path)]) == 2
    assert "at least two prompts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (1, {}, "at least two prompts"),
        (2, {"step_counts": ()}, "step_counts must be"),
        (2, {"step_counts": (2, 9)}, "step_counts must be"),
        (2, {"updates": 0}, "must be at least 1"),
        (2, {"minutes": 0.0}, "must be at least 1"),
        (2, {"start": 1.0}, "start must be a share"),
    ],
)
def test_wrong_requests_are_one_sentence(prompts: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_refiner(twin("wan"), ["a"] * prompts, **options)


def test_other_models_than_flows_are_refused() -> None:
    with pytest.raises(
        ValueError, match="Refiners are for flow models, and StableDiffusionXLPipeline predicts epsilon"
    ):
        train_refiner(twin("sdxl"), ["a", "b"])
