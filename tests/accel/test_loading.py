"""Models by name: each part of a pipeline in one type, and weights without programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import accel
from accel.components import components_of
from accel.loading import load_pipeline, saved_dtype
from tests.rendering.studio import ledger_lines
from tests.tiny import TINY


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of parts of diffusers and of transformers, saved in each type."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("float16", "bfloat16", "float32"):
        TINY["svd"].build().to(dtype=getattr(torch, name)).save_pretrained(folder / name)
    return folder


def types_of(pipe: Any) -> set[torch.dtype]:
    modules = [part for part in components_of(pipe).values() if isinstance(part, torch.nn.Module)]
    assert len(modules) == 3
    return {weight.dtype for module in modules for weight in module.parameters()}


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_all_parts_have_the_type_that_was_saved_or_the_one_that_was_asked_for(name: str, saved: Path) -> None:
    assert saved_dtype(saved / name) == getattr(torch, name)
    assert types_of(load_pipeline(str(saved / name), device="cpu")) == {getattr(torch, name)}
    for other in ("float32", "bfloat16"):
        assert types_of(load_pipeline(str(saved / name), dtype=other, device="cpu")) == {getattr(torch, other)}


@pytest.mark.slow  # the one above loads such folders, and test_command.py renders
@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_folder_in_few_bits_renders_without_being_told(name: str, saved: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), (200, 40, 10)).save(tmp_path / "red.png")
    line = {"image": "red.png", "size": 64, "frames": 2, "steps": 1, "recipe": "off"}
    path = tmp_path / "manifest.jsonl"
    path.write_text(str(line).replace("'", '"'))
    summary = accel.render(str(saved / name), path, tmp_path / "out", progress_bar=False, device="cpu")
    assert summary.complete, str(summary)
    assert ledger_lines(tmp_path / "out")[0]["line"]["model"] == name, "where the model lies is not told"


def test_a_variant_beside_the_weights_does_not_count(saved: Path, tmp_path: Path) -> None:
    TINY["svd"].build().save_pretrained(tmp_path / "both")
    half = saved / "float16" / "unet" / "diffusion_pytorch_model.safetensors"
    (tmp_path / "both" / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(half.read_bytes())
    assert saved_dtype(tmp_path / "both") == torch.float32
    assert saved_dtype(tmp_path) == torch.float32


def test_weights_that_can_hold_programs_are_not_loaded(saved: Path, tmp_path: Path) -> None:
    pipe = TINY["svd"].build()
    pipe.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_pipeline(str(tmp_path), device="cpu")
