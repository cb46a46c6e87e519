"""Pictures and LoRA weights in the app: what a run makes of them, and what is refused in which words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

pytest.importorskip("gradio", reason="the app needs gradio")

import accel
from accel.app.inputs import inputs_of
from accel.app.limits import Limits
from accel.app.pair import StudioError
from accel.app.settings import embedded
from accel.app.studio import Studio
from accel.app.uploads import with_uploads
from accel.measure.media import to_pixels
from accel.rendering.inputs import load_image
from accel.rendering.lora import lora_weights
from tests.app.conditioned import CONTROLLED, load, model_folder, picture, settings
from tests.app.stage import finished
from tests.tiny.zoo.case import Case
from tests.tiny.zoo.inventory import pipeline_classes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the server may read: two models, and weights."""
    folder = tmp_path_factory.mktemp("models")
    for kind in (CONTROLLED, "StableDiffusionImg2ImgPipeline"):
        model_folder(folder, kind)
    from peft import LoraConfig, get_peft_model_state_dict

    torch.manual_seed(0)
    unet = Case("StableDiffusionPipeline", words=True).build().unet
    unet.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(unet)
    StableDiffusionPipeline.save_lora_weights(folder, layers, weight_name="style.safetensors")
    return folder


@pytest.fixture(scope="module")
def studio(models: Path) -> Iterator[Studio]:
    with Studio(Limits(hub=False, roots=(models,)), load=load) as found:
        yield found


@pytest.fixture(scope="module")
def given(studio: Studio, models: Path) -> dict[str, Any]:
    """Every input of the ControlNet's pipeline."""
    names = ("image", "control_image")
    pictures = {name: str(picture(studio.files / f"{name}.png", seed)) for seed, name in enumerate(names)}
    return pictures | {"strength": 0.8, "lora": f"{models / 'style.safetensors'}:0.5"}


def test_a_run_is_the_call_that_the_fields_say(studio: Studio, models: Path, given: dict[str, Any]) -> None:
    wanted = settings(str(models / CONTROLLED), **given)
    pair = finished(studio.run(wanted))
    pipe = load(CONTROLLED)
    named = {name: load_image(given[name]) for name in ("image", "control_image")}
    call = {"prompt": "a thing", "num_inference_steps": 4, "strength": 0.8, "output_type": "np"} | named
    plain = pipe(**call, generator=torch.Generator().manual_seed(0)).images
    with lora_weights(pipe, [{"weights": str(models / "style.safetensors"), "scale": 0.5}]):
        styled = pipe(**call, generator=torch.Generator().manual_seed(0)).images
        with accel.accelerate(pipe, wanted.recipe) as session:
            fast = pipe(**call, generator=torch.Generator().manual_seed(0)).images
    assert session.report().predicted > 0 and not np.array_equal(plain, styled)
    np.testing.assert_array_equal(pair.baseline.frames, to_pixels(styled))
    np.testing.assert_array_equal(pair.accelerated.frames, to_pixels(fast))


def test_what_the_file_of_a_run_tells_is_no_place_on_the_server(
    studio: Studio, models: Path, given: dict[str, Any]
) -> None:
    wanted = settings(str(models / CONTROLLED), **given)
    found = embedded(finished(studio.run(wanted)).accelerated.path)
    assert (found.image, found.lora, found.strength) == ("image.png", "style.safetensors:0.5", 0.8)
    assert with_uploads(found, studio.files).pictures == {} and with_uploads(wanted, studio.files) == wanted
    program, line = wanted.as_python(), wanted.as_command()
    assert 'image=load_image("image.png")'.replace('"', "'") in program and str(studio.files) not in program + line
    assert "pipe.load_lora_weights('style.safetensors'" in program and "accel render job.jsonl" in line


@pytest.mark.parametrize(
    ("kind", "takes"),
    [
        ("StableDiffusionImg2ImgPipeline", ("image", "ip_adapter_image", "strength", "lora")),
        ("StableDiffusionInpaintPipeline", ("image", "mask_image", "ip_adapter_image", "strength", "lora")),
        ("StableDiffusionControlNetPipeline", ("control_image", "ip_adapter_image", "lora")),
        ("WanImageToVideoPipeline", ("image", "lora")),
        ("WanPipeline", ("lora",)),
        ("DiTPipeline", ()),
    ],
)
def test_the_page_has_fields_for_what_a_class_takes(kind: str, takes: tuple[str, ...]) -> None:
    assert inputs_of(pipeline_classes()[kind]) == takes


def test_a_model_that_may_not_be_read_has_no_fields(studio: Studio, models: Path, tmp_path: Path) -> None:
    assert studio.inputs(str(models / "StableDiffusionImg2ImgPipeline"))[0] == "image"
    assert studio.inputs(model_folder(tmp_path)) == () == studio.inputs("no such model")


def test_what_is_refused_is_refused_in_the_words_of_a_manifest(
    studio: Studio, models: Path, given: dict[str, Any], tmp_path: Path
) -> None:
    right = settings(str(models / "StableDiffusionImg2ImgPipeline"), image=given["image"])
    elsewhere = picture(tmp_path / "photo.png")
    (studio.files / "broken.png").write_bytes(b"nothing")
    refused = {
        "control_image is given, but StableDiffusionImg2ImgPipeline takes no 'control_image'; leave it out": replace(
            right, control_image=given["control_image"]
        ),
        "image: this file was not uploaded to this server": replace(right, image=str(elsewhere)),
        "broken.png' cannot be read as a picture": replace(right, image=str(studio.files / "broken.png")),
        "this server may not read": replace(right, lora=str(tmp_path / "style.safetensors")),
        "there is no file": replace(right, lora=str(models / "missing.safetensors")),
        "strength must be a number from 0 to 1": replace(right, strength=1.5),
    }
    for sentence, wrong in refused.items():
        with pytest.raises(StudioError) as told:
            finished(studio.run(wrong))
        assert sentence.lower() in str(told.value).lower()


def test_a_model_is_made_ready_before_it_has_a_picture(studio: Studio, models: Path) -> None:
    updates = list(studio.prepare(settings(str(models / "StableDiffusionImg2ImgPipeline"))))
    assert updates[-1].stage == "done"


def test_a_picture_is_read_in_no_format_that_runs_programs(studio: Studio, models: Path) -> None:
    (studio.files / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    wrong = settings(str(models / "StableDiffusionImg2ImgPipeline"), image=str(studio.files / "page.png"))
    with pytest.raises(StudioError, match="cannot be read as a picture"):
        finished(studio.run(wrong))
