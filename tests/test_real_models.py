"""The scripts of docs/real-models.md run as they are printed, with a tiny pipeline of their class for the weights.

What a machine without a GPU, a hub and codecs lacks is put in their place: loading, moving to the GPU, offloading, the
compiler's backend, the LoRA's file and the writing of mp4.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from peft import LoraConfig

from accel import cli
from accel.measure.media import save_clip, to_pixels
from tests.tiny import TINY, TinyPipeline

PAGE = (Path(__file__).parents[1] / "docs" / "real-models.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
MODELS = {
    "Wan 2.1": "wan",
    "Wan 2.2": "wan_two_experts",
    "HunyuanVideo": "hunyuan_video",
    "LTX-Video": "ltx",
    "CogVideoX": "cogvideox_dpm",
    "FLUX.1": "flux",
    "Stable Diffusion 3.5": "sd3",
    "SDXL": "sdxl",
    "Qwen-Image": "qwen_image",
}
STEPS = 12
KEPT = ("generator", "output_type", "return_dict", "latents")


def blocks(section: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", SECTIONS[section], re.DOTALL | re.MULTILINE)


VARIANTS = dict(
    zip(("offloaded", "compiled", "LoRA", "quantised", "recipe"), blocks("Variants", "python"), strict=True)
)


def as_published(tiny: TinyPipeline) -> Any:
    """The tiny pipeline behind the call of its class: it takes prompts and sizes, and makes its own small ones."""
    pipe = tiny.build()
    kind = type(pipe)

    @wraps(kind.__call__)
    def call(self: Any, prompt: Any = None, **options: Any) -> Any:
        kept = {
            name: options[name] for name in ("generator", "output_type", "return_dict", "latents") if name in options
        }
        given = tiny.arguments(self) | kept
        return kind.__call__(self, num_inference_steps=min(options["num_inference_steps"], STEPS), **given)

    pipe.__class__ = type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
    return pipe


def lora(pipe: Any, _: str) -> None:
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    denoiser.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))


@pytest.fixture
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to write to, on a machine that has what the scripts need."""
    pipe = as_published(TINY[MODELS[request.getfixturevalue("model")]])
    pipeline, model = diffusers.DiffusionPipeline, diffusers.ModelMixin
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "from_pretrained", lambda *_, **__: pipe)
    monkeypatch.setattr(model, "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(pipeline, "to", lambda self, *_, **__: self)
    monkeypatch.setattr(pipeline, "enable_model_cpu_offload", lambda self: None)
    monkeypatch.setattr(type(pipe), "load_lora_weights", lora, raising=False)
    compiling = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **options: compiling(*args, **options, backend="eager"))
    monkeypatch.setattr(diffusers.utils, "export_to_video", written)
    return tmp_path


def written(frames: Any, path: str, fps: int) -> None:
    assert Path(path).suffix == ".mp4"
    save_clip(Path(path).with_suffix(""), to_pixels(np.asarray(frames)), fps)


def cases(name: str, every: Iterable[str], fast: Container[str]) -> pytest.MarkDecorator:
    """All of them, of which `--slow` alone runs those that are not among the fast ones."""
    return pytest.mark.parametrize(
        name, [pytest.param(each, marks=() if each in fast else pytest.mark.slow) for each in every]
    )


def test_every_model_of_the_page_is_tried() -> None:
    assert {section for section in SECTIONS if len(blocks(section, "python")) == 1} == {*MODELS}


@cases("model", MODELS, fast=("FLUX.1", "LTX-Video"))
def test_the_script_checks_accelerates_and_writes_its_file(
    model: str, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (script,) = blocks(model, "python")
    scope: dict[str, Any] = {}
    exec(compile(script, "docs/real-models.md", "exec"), scope)
    checked, *report = capsys.readouterr().out.splitlines()
    assert checked.startswith("balanced: ") and report
    assert scope["session"].report().calls
    assert [path.suffix for path in machine.iterdir()] in ([".png"], [".mp4"])


@cases("model", MODELS, fast=("FLUX.1",))
@cases("variant", VARIANTS, fast=("LoRA",))
def test_the_variant_goes_on_from_there(
    model: str, variant: str, machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (script,) = blocks(model, "python")
    loading = script[: script.index("print(accel.check")]
    exec(compile(loading + VARIANTS[variant], "docs/real-models.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.parametrize("line", blocks("Measured and tuned", "sh")[0].splitlines())
def test_the_commands_are_ones(line: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "accel" and cli.parser().parse_args(arguments).command
