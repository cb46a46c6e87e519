"""The training of the decoder's second stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from accel.pocket.autoencoder import PatchAutoencoder
from benchmarks.pocket.train_decoder import main, seams


def test_a_run_that_is_taken_up_goes_on(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path), "--pool", "4", "--batch", "4", "--width", "8"]
    main([*out, "--steps", "1"])
    first = PatchAutoencoder.from_pretrained(tmp_path / "vae").second_stage.state_dict()
    main([*out, "--steps", "2"])
    second = PatchAutoencoder.from_pretrained(tmp_path / "vae").second_stage.state_dict()
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_smooth_ramp_has_no_seam_and_a_step_at_a_border_is_one() -> None:
    ramp = torch.linspace(0, 1, 16).expand(1, 3, 1, 16, 16).clone()
    assert float(seams(ramp, 8)) == pytest.approx(0.0, abs=1e-6)
    ramp[..., 8:] += 0.5
    assert float(seams(ramp, 8)) == pytest.approx(0.25, rel=1e-3)  # one of the two directions
