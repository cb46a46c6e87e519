"""What a call starts from, as options of `compare`, `tune`, `calibrate` and `inspect --check`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionControlNetPipeline, StableDiffusionInpaintPipeline
from PIL import Image

from accel.cli import main, parser
from accel.commands.options import call_arguments
from accel.measure.call_arguments import call_arguments_of
from accel.tuning.subject import _named


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.fromarray(np.full((8, 8, 3), 100, np.uint8)).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def given(kind: type, *options: str) -> dict[str, Any]:
    parsed = parser().parse_args(["compare", "any", *options])
    return call_arguments(parsed, object.__new__(kind))


def test_files_are_read_and_named_as_the_pipeline_names_them(photo: str) -> None:
    found = given(
        StableDiffusionInpaintPipeline, "--image", photo, "--mask-image", photo, "--strength", "0.5",
        "--argument", "eta=0.3", "--argument", "clip_skip=2", "--argument", "how=well",
    )  # fmt: skip
    assert {name: value for name, value in found.items() if not isinstance(value, Image.Image)} == {
        "strength": 0.5, "eta": 0.3, "clip_skip": 2, "how": "well",
    }  # fmt: skip
    assert found["image"].size == found["mask_image"].size == (8, 8)
    assert list(given(StableDiffusionControlNetPipeline, "--control-image", photo)) == ["image"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--image", "missing.png"], "there is no file 'missing.png'"),
        (["--lora", "missing.safetensors:0.5"], "there is no file 'missing.safetensors'"),
        (["--argument", "eta"], "write NAME=VALUE"),
    ],
)
def test_wrong_options_are_told_before_a_model_loads(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "any", "--prompts", "a", *options])
    assert told in capsys.readouterr().err


def test_python_takes_paths_where_it_takes_pictures(photo: str) -> None:
    kind = type("FromPicture", (), {"__call__": lambda self, prompt, image, num_inference_steps: None})
    assert call_arguments_of(kind(), {"image": photo})["image"].size == (8, 8)
    with pytest.raises(ValueError, match=r"image: there is no file 'missing.png'\.$"):
        call_arguments_of(kind(), {"image": "missing.png"})


def test_a_picture_is_named_by_its_content_in_a_journal(photo: str) -> None:
    one, other = Image.open(photo), Image.open(photo)
    assert _named(one) == _named(other) and _named([one, 3]) == _named([other, 3]) and _named("a") == "'a'"
    assert _named(one) != _named(Image.new("RGB", (8, 8)))
