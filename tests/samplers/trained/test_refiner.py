"""The refiner: built after a denoiser, exactly velocity reuse before training, better than that after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from accel import pocket
from accel.anatomy import inspect
from accel.samplers import Refiner
from accel.samplers.trained.refiner import new_refiner, refiner_config
from tests.accel.witness import twin

WIDTHS = {"wan": 16, "wan_i2v": 16, "ltx": 16, "mochi": 12, "sd3": 16, "flux": 64, "qwen_image": 64, "sana": 16}


def tiny(name: str) -> tuple[Any, Refiner]:
    denoiser = twin(name).transformer
    return denoiser, new_refiner(denoiser, type(twin(name)).__name__, WIDTHS[name])


@pytest.mark.parametrize("name", WIDTHS)
def test_a_refiner_is_one_block_that_sees_what_the_denoiser_sees_and_its_answer(name: str) -> None:
    denoiser, refiner = tiny(name)
    assert refiner.model.config["num_layers"] == 1
    assert refiner.model.config["in_channels"] == denoiser.config["in_channels"] + WIDTHS[name]
    blocks = inspect(twin(name)).denoisers["transformer"].blocks
    assert sum(len(getattr(refiner.model, path, ())) for path in blocks) == 1
    own, taken = denoiser.state_dict(), refiner.model.state_dict()
    wider = [key for key, weight in taken.items() if key in own and own[key].shape != weight.shape]
    first = [key for key in wider if taken[key].shape[0] == own[key].shape[0] and taken[key].ndim > 1]
    assert first and all(torch.equal(taken[key][:, : own[key].shape[1]], own[key]) for key in first)
    assert not any(bool(weight.any()) for key, weight in taken.items() if key.startswith("proj_out"))
    assert sum(torch.equal(weight, own[key]) for key, weight in taken.items() if key in own.keys() - {*wider}) >= 10


def test_making_one_draws_no_random_numbers_and_seeds_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    state = torch.get_rng_state()
    _, one = tiny("wan")
    _, other = tiny("wan")
    assert torch.equal(torch.get_rng_state(), state) and seeds == []
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))


def test_models_without_the_settings_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="no settings for depth and channels"):
        refiner_config({"layers": 3, "in_channels": 4}, 4)
    with pytest.raises(ValueError, match="no settings for depth and channels"):
        new_refiner(twin("z_image").transformer, "", 16)


def test_saved_and_loaded_it_answers_alike_to_half_precision(tmp_path: Path) -> None:
    denoiser, refiner = tiny("wan")
    with torch.no_grad():
        refiner.model.proj_out.weight.normal_(0, 0.1)
    refiner.save(tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "refiner.json",
    }
    loaded = Refiner.load(tmp_path / "kept")
    assert loaded.facts == refiner.facts and loaded.path == refiner.path == str(tmp_path / "kept")
    assert {weight.dtype for weight in refiner.model.parameters()} == {torch.float32}
    arguments = {
        "hidden_states": torch.randn(2, 16, 2, 4, 4),
        "timestep": torch.tensor([500.0, 500.0]),
        "encoder_hidden_states": torch.randn(2, 8, 24),
        "return_dict": False,
    }
    last = torch.randn(2, 16, 2, 4, 4)
    with torch.no_grad():
        one, other = (made.refined_output(arguments, last)[0] for made in (refiner, loaded))
        assert denoiser(**arguments)[0].shape == one.shape
    assert not torch.equal(one, last)
    torch.testing.assert_close(one, other, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "not a refiner of schema 1"),
        ('{"schema": 1, "pipeline": "A"}', "'denoiser' is missing"),
    ],
)
def test_folders_that_hold_no_refiner_are_one_sentence(tmp_path: Path, written: str, message: str) -> None:
    with pytest.raises(ValueError, match="no refiner file"):
        Refiner.load(tmp_path)
    (tmp_path / "refiner.json").write_text(written)
    with pytest.raises(ValueError, match=message):
        Refiner.load(tmp_path)


def test_the_refiner_that_ships_belongs_to_the_pocket_model() -> None:
    refiner = Refiner.load(pocket.folder("refiner"))
    assert refiner.obstacle(inspect(pocket.load("video"))) is None
    assert refiner.facts.error < 1.0
    size = sum(path.stat().st_size for path in pocket.folder("refiner").iterdir())
    assert size < 1_000_000
    assert json.loads((pocket.folder("refiner") / "refiner.json").read_text())["pipeline"] == "WanPocketPipeline"
    with pytest.raises(ValueError, match="no pocket files 'nothing'"):
        pocket.folder("nothing")


def test_training_has_moved_and_says_where_to() -> None:
    with pytest.raises(ImportError, match=r"train_refiner is now benchmarks\.refiner\.training\.train_refiner"):
        from accel.samplers import train_refiner  # noqa: F401
