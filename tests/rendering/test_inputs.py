"""What a call starts from besides a prompt: pictures, masks, control images, LoRA weights, as fields of a line."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import accel
from accel.rendering import Job
from accel.rendering.lora import lora_weights
from accel.rendering.manifest import ManifestError
from accel.rendering.pipeline_arguments import arguments_of
from tests.rendering.studio import SMALL, Worded, ledger_lines, worded
from tests.tiny.conditioned import IMAGE, adapter_weights
from tests.tiny.zoo.case import Case
from tests.tiny.zoo.stand_ins import image_encoder, image_processor

SIZE = {"steps": 3, "size": 64, "prompt": "a"}


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pictures of noise by name."""
    folder = tmp_path_factory.mktemp("pictures")
    found = {}
    for seed, name in enumerate(("photo", "other", "mask", "edges")):
        noise = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
        found[name] = str(folder / f"{name}.png")
    return found


@pytest.mark.part(2)
@pytest.mark.parametrize(
    ("name", "line", "argument"),
    [
        ("StableDiffusionImg2ImgPipeline", {"image": "photo", "strength": 0.9}, {"image": "photo", "strength": 0.9}),
        ("StableDiffusionInpaintPipeline", {"image": "photo", "mask_image": "mask"}, {}),
        ("StableDiffusionControlNetPipeline", {"control_image": "edges"}, {"image": "edges"}),
        ("StableDiffusionControlNetImg2ImgPipeline", {"image": "photo", "control_image": "edges"}, {}),
    ],
)
def test_a_line_is_the_call_that_it_says(
    name: str, line: dict[str, Any], argument: dict[str, Any], files: dict[str, str], tmp_path: Path
) -> None:
    pipe = Case(name, words=True).build()
    given = {key: files.get(value, value) for key, value in line.items()}
    assert accel.render(pipe, [SIZE | given], tmp_path, progress_bar=False).complete
    (found,) = tmp_path.glob("*.png")
    loaded = {key: Image.open(files[value]) if value in files else value for key, value in (argument or line).items()}
    sized = {} if "image" in loaded and "Img2Img" in name else {"height": 64, "width": 64}
    call = {"prompt": "a", "num_inference_steps": 3, "generator": torch.Generator().manual_seed(0)}
    made = pipe(**call, **sized, **loaded, output_type="np").images[0]
    np.testing.assert_array_equal(pixels(found), np.rint(made * 255).astype(np.uint8))


def test_what_a_class_does_not_take_is_said(files: dict[str, str], tmp_path: Path) -> None:
    pipe = Case("StableDiffusionImg2ImgPipeline", words=True).build()
    wrong = [
        SIZE | {"image": files["photo"], "control_image": files["edges"]},
        SIZE | {"image": files["photo"], "strength": 1.5},
        SIZE | {"image": files["photo"], "mask_image": "missing.png"},
    ]
    with pytest.raises(ManifestError) as told:
        accel.render(pipe, wrong, tmp_path, progress_bar=False)
    text = str(told.value)
    assert "control_image is given, but StableDiffusionImg2ImgPipeline takes no 'control_image'" in text
    assert "strength must be from 0 to 1, not 1.5" in text and "mask_image: there is no file" in text
    both = Job("any", image="a.png", control_image="b.png")
    assert arguments_of(both) == {"image": "a.png", "control_image": "b.png"}


def test_new_fields_leave_the_identity_of_old_lines_alone() -> None:
    assert Job("pocket:video", "a", seed=3, steps=4, image="a.png", inputs={"image": "1f"}).id == "ae77dff86212f8bc"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two files of LoRA weights for the tiny U-Net."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model_state_dict

    folder, found = tmp_path_factory.mktemp("lora"), []
    for seed in range(2):
        torch.manual_seed(seed)
        unet = Case("StableDiffusionPipeline", words=True).build().unet
        unet.add_adapter(LoraConfig(r=2, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False))
        layers = get_peft_model_state_dict(unet)
        StableDiffusionPipeline.save_lora_weights(folder, layers, weight_name=f"{seed}.safetensors")
        found.append(str(folder / f"{seed}.safetensors"))
    return found


def test_texts_are_encoded_anew_with_other_lora_weights(
    weights: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights may be the text encoder's too."""
    pipe, encoded = worded(), []
    monkeypatch.setattr(Worded, "load_lora_weights", lambda *_, **__: None)
    monkeypatch.setattr("accel.rendering.worker.lora_weights", lambda pipe, loras: nullcontext())
    monkeypatch.setattr(Worded, "_get_word_prompt_embeds", _told(Worded._get_word_prompt_embeds, encoded))
    lines = [{"prompt": "a"}, {"prompt": "a", "lora": weights[0]}, {"prompt": "a", "seed": 1}]
    assert accel.render(pipe, lines, tmp_path, defaults=SMALL, progress_bar=False).complete
    assert encoded.count(["a"]) == 2


def _told(inner: Any, encoded: list[Any]) -> Any:
    def around(pipe: Any, prompt: Any) -> Any:
        encoded.append(prompt)
        return inner(pipe, prompt)

    return around


def test_lora_weights_are_on_for_their_lines_alone(weights: list[str], tmp_path: Path) -> None:
    pipe = Case("StableDiffusionPipeline", words=True).build()
    before = dict(pipe.unet.named_modules())
    scaled = [{"weights": weights[0], "scale": 0.3}, {"weights": weights[1]}]
    lines = [SIZE, SIZE | {"lora": weights[0]}, SIZE | {"lora": scaled}, SIZE | {"seed": 1}]
    assert accel.render(pipe, lines, tmp_path, recipe="balanced", progress_bar=False).complete
    assert list(pipe.unet.named_modules()) == list(before.items()), "the pipeline is as it was"
    entries = sorted(ledger_lines(tmp_path), key=lambda entry: entry["index"])
    plain, one, two, _ = (pixels(tmp_path / entry["file"]).astype(int) for entry in entries)
    assert all(np.abs(a - b).mean() > 0.5 for a, b in ((plain, one), (one, two), (plain, two)))
    assert entries[2]["line"]["lora"][0] == {"weights": "0.safetensors", "scale": 0.3}, "where it lies is not told"
    with lora_weights(pipe, scaled):
        call = {"prompt": "a", "num_inference_steps": 3, "generator": torch.Generator().manual_seed(0)}
        made = pipe(**call, height=64, width=64, output_type="np").images[0]
    np.testing.assert_array_equal(two, np.rint(made * 255).astype(int))
    again = accel.render(pipe, tmp_path / "jobs.jsonl", tmp_path, recipe="balanced", progress_bar=False)
    assert again.before == 4, "the manifest of the folder names the same jobs"


def test_weights_of_the_pipeline_itself_stay(weights: list[str]) -> None:
    pipe = Case("StableDiffusionPipeline", words=True).build()
    pipe.load_lora_weights(weights[0], adapter_name="mine")
    pipe.set_adapters(["mine"], [0.4])

    def made() -> Any:
        call = {"prompt": "a", "num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)}
        return pipe(**call, height=64, width=64, output_type="np").images

    alone = made()
    with lora_weights(pipe, [{"weights": weights[1], "scale": 1.0}]):
        assert np.abs(made() - alone).mean() > 1e-3
    np.testing.assert_allclose(made(), alone, atol=1e-6)
    assert pipe.get_list_adapters() == {"unet": ["mine"]}


def test_weights_that_cannot_be_used_are_one_sentence(weights: list[str], tmp_path: Path) -> None:
    save_file({"unet.nowhere.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "wrong.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    pipe = Case("StableDiffusionPipeline", words=True).build()
    with pytest.raises(ManifestError, match="lora: there is no file"):
        accel.render(pipe, [SIZE | {"lora": "missing.safetensors"}], tmp_path / "a", progress_bar=False)
    with pytest.raises(ManifestError, match=r"lora: .*broken.safetensors' is broken"):
        accel.render(pipe, [SIZE | {"lora": str(tmp_path / "broken.safetensors")}], tmp_path / "a", progress_bar=False)
    with pytest.raises(ManifestError, match="lora must be a file, or"):
        accel.render(pipe, [SIZE | {"lora": {"file": weights[0]}}], tmp_path / "a", progress_bar=False)
    lines = [SIZE | {"lora": str(tmp_path / "wrong.safetensors")}, SIZE]
    summary = accel.render(pipe, lines, tmp_path / "b", progress_bar=False)
    assert (summary.failed, summary.rendered) == (1, 1) and "the LoRA weights" in str(summary)


def test_a_picture_for_an_ip_adapter_goes_through_its_encoder(files: dict[str, str], tmp_path: Path) -> None:
    """With a cache; the attention processors that the adapter has put in are the same objects afterwards."""
    parts = {"image_encoder": partial(image_encoder, IMAGE), "feature_extractor": image_processor}
    pipe = Case("StableDiffusionPipeline", parts, words=True).build()
    pipe.unet._load_ip_adapter_weights([adapter_weights(pipe.unet)])
    before = dict(pipe.unet.attn_processors)

    def made(name: str) -> Any:
        call = {"prompt": "a", "num_inference_steps": 4, "generator": torch.Generator().manual_seed(0)}
        return pipe(**call, height=64, width=64, ip_adapter_image=Image.open(files[name]), output_type="np").images[0]

    plain, other = made("photo"), made("other")
    assert np.abs(plain - other).mean() > 1e-3, "the picture has its effect"
    recipe = accel.Recipe(cache=accel.FixedInterval(2, warmup=1, final=0, min_steps=1))
    with accel.accelerate(pipe, recipe) as session:
        fast = made("photo")
        assert session.report().predicted == 2
    line = SIZE | {"steps": 4, "ip_adapter_image": files["photo"]}
    assert accel.render(pipe, [line], tmp_path, recipe=recipe, progress_bar=False).complete
    (found,) = tmp_path.glob("*.png")
    np.testing.assert_array_equal(pixels(found), np.rint(fast * 255).astype(np.uint8))
    assert dict(pipe.unet.attn_processors) == before
    np.testing.assert_array_equal(made("photo"), plain)
