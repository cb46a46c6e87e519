"""What a server lets in, by how it was started: models of the hub, agents, and libraries of which version."""

from __future__ import annotations

import socket
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

pytest.importorskip("gradio", reason="the app needs gradio")

import accel
from accel import cli
from accel.app import serve as serving
from accel.app.limits import Limits
from accel.app.models import ModelPool
from accel.app.settings import StudioSettings
from accel.loading import load_pipeline
from accel.samplers import denoiser_source
from accel.samplers.model_switch import ModelSwitch
from tests.tiny import TINY

HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
OTHER = "someone/else"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Starts `accel app` with these options, and gives the limits and what the server was launched with."""
    launched: dict[str, Any] = {}
    monkeypatch.setattr(serving, "launch", lambda studio, **given: launched.update(given, limits=studio.limits))

    def start(*options: str) -> SimpleNamespace:
        cli.main(["app", *options])
        return SimpleNamespace(**launched)

    return start


def allows(limits: Limits, model: str) -> bool:
    try:
        StudioSettings(model=model).check(limits)
    except ValueError:
        return False
    return True


@pytest.mark.part(4)
@pytest.mark.parametrize(
    ("options", "named", "others"),
    [
        ([], True, True),
        (["--host", "localhost"], True, True),
        (["--no-hub"], False, False),
        (["--host", "0.0.0.0"], False, False),
        (["--host", "192.168.0.4"], False, False),
        (["--share"], False, False),
        (["--allow-hub", HUB], True, False),
        (["--host", "0.0.0.0", "--allow-hub", HUB], True, False),
        (["--share", "--model", HUB], True, False),
        (["--host", "0.0.0.0", "--no-hub", "--allow-hub", HUB], False, False),
    ],
)
def test_strangers_load_of_the_hub_what_the_owner_has_named(
    started: Any, options: list[str], named: bool, others: bool
) -> None:
    limits = started(*options).limits
    assert (allows(limits, HUB), allows(limits, OTHER)) == (named, others)
    assert allows(limits, "pocket:video")


def test_options_reach_the_server(started: Any) -> None:
    found = started("--allow-host", "gpu.lan", "--max-seconds", "60", "--max-voxels", "1000")
    assert list(found.names) == ["gpu.lan"] and found.mcp is False
    assert (found.limits.seconds, found.limits.voxels) == (60.0, 1000)


@pytest.mark.skipif(find_spec("mcp") is not None, reason="the package for agents is there")
def test_an_address_that_cannot_be_served_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wrong = {
            ("--port", "80000"): "the port must be a whole number from 1 to 65535, not 80000",
            ("--port", "0"): "the port must be",
            ("--port", str(port)): f"port {port} is in use; leave --port out",
            ("--host", "192.0.2.1"): "the host '192.0.2.1' is no address of this machine",
        }
        for options, sentence in wrong.items():
            assert cli.main(["app", *options]) == 2
            message = capsys.readouterr().err
            assert sentence in message and message.count("\n") == 1


def test_agents_need_a_package_of_their_own() -> None:
    with pytest.raises(ValueError, match=r"pip install \"gradio\[mcp\]\""):
        serving.launch(SimpleNamespace(), mcp=True)  # type: ignore[arg-type]


def test_a_large_model_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def info(self: Any, model: str, **_: Any) -> Any:
        files = [("a.safetensors", 6 * 10**9), ("b.safetensors", 6 * 10**9), ("picture.png", 10**12)]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in files])

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", info)
    loaded: list[str] = []
    shelf = ModelPool(Limits(hub_bytes=10**10), load=lambda model, **_: loaded.append(model))
    with pytest.raises(ValueError, match="has 12 GB; this server loads at most 10"):
        shelf.get(HUB)
    with pytest.raises(ValueError, match="has 12 GB; this server loads at most 10"):
        shelf.admit(StudioSettings(recipe=accel.Recipe(sampler=ModelSwitch(model=HUB))))
    assert loaded == []
    ModelPool(Limits(hub_bytes=2 * 10**10), load=lambda model, **_: loaded.append(model) or TINY["sd"].build()).get(HUB)
    assert loaded == [HUB]


def test_weights_that_are_pickled_are_not_loaded(tmp_path: Path) -> None:
    """A pickle is a program."""
    pipe = TINY["sd"].build()
    pipe.unet.save_pretrained(tmp_path / "unet", safe_serialization=False)
    pipe.save_config(tmp_path)
    assert list((tmp_path / "unet").glob("*.bin"))
    with pytest.raises(ValueError, match="safetensors"):
        denoiser_source.resolve(str(tmp_path / "unet")).load(torch.float32)
    pipe.save_pretrained(tmp_path / "whole", safe_serialization=True)
    next((tmp_path / "whole" / "unet").glob("*.safetensors")).unlink()
    next((tmp_path / "unet").glob("*.bin")).rename(tmp_path / "whole" / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_pipeline(str(tmp_path / "whole"))


def test_libraries_that_read_what_strangers_send_are_as_new_as_those_that_were_tested() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["app"])]
    old = {"torch": "2.9", "gradio": "6.30", "av": "17", "pillow": "12.2", "jinja2": "3.1.5", "transformers": "5.22"}
    assert {each.name for each in wanted if each.name in old and each.specifier.contains(old[each.name])} == set()
    assert set(old) <= {each.name for each in wanted}
