"""The training of the decoder's second stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from accel.pocket.autoencoder import PatchAutoencoder
from benchmarks.pocket.train_decoder import main, steps


def test_a_run_that_is_taken_up_goes_on(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path), "--pool", "4", "--batch", "4", "--width", "8"]
    main([*out, "--steps", "1"])
    first = PatchAutoencoder.from_pretrained(tmp_path / "vae").second_stage.state_dict()
    main([*out, "--steps", "2"])
    second = PatchAutoencoder.from_pretrained(tmp_path / "vae").second_stage.state_dict()
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_ramp_steps_at_borders_as_it_does_beside_them() -> None:
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 1, 16, 16).clone()
    across, beside = steps(ramp, 8)
    assert torch.allclose(across.abs(), beside, atol=1e-6)
    ramp[..., 8:] += 0.5
    across, beside = steps(ramp, 8)
    assert float((across.abs() - beside).max()) == pytest.approx(0.5, rel=1e-3)
