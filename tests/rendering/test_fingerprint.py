"""A pipeline is known by all that its pictures hang on, and weights are not all of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

import accel
from accel.rendering.fingerprint import fingerprint
from tests.rendering.studio import SMALL, worded
from tests.tiny import TINY
from tests.tiny.conditioned import CONDITIONED

Act = Callable[[Any], object]


def add(pipe: Any, name: str) -> None:
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        config = LoraConfig(r=2, lora_alpha=32, target_modules=["to_q", "to_v"], init_lora_weights=False)
        denoiser.add_adapter(config, adapter_name=name)


def with_adapters(tiny: str = "sd") -> Any:
    pipe = TINY[tiny].build()
    for name in ("a", "bb"):
        add(pipe, name)
    return pipe


CASES: dict[str, tuple[Callable[[], Any], Act, Act]] = {
    "strength": (with_adapters, lambda p: p.set_adapters(["a"], [0.3]), lambda p: p.set_adapters(["a"], [1.0])),
    "which is on": (with_adapters, lambda p: p.set_adapters(["bb"]), lambda p: p.set_adapters(["a"])),
    "one of two": (with_adapters, lambda p: p.set_adapters(["a", "bb"]), lambda p: p.set_adapters(["a"])),
    "of Flux": (lambda: with_adapters("flux"), lambda p: p.set_adapters(["bb"]), lambda p: p.set_adapters(["a"])),
    "on or off": (with_adapters, lambda p: p.disable_lora(), lambda p: p.enable_lora()),
    "FreeU": (TINY["sd"].build, lambda p: p.enable_freeu(0.9, 0.2, 1.5, 1.6), lambda p: p.disable_freeu()),
    "image prompt": (
        CONDITIONED["sd_ip_adapter"].build,
        lambda p: p.set_ip_adapter_scale(0.4),
        lambda p: p.set_ip_adapter_scale(1.0),
    ),
    "FreeInit": (TINY["animatediff"].build, lambda p: p.enable_free_init(2), lambda p: p.enable_free_init(3)),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_set_on_a_pipeline_is_a_part_of_what_it_is(case: str) -> None:
    build, one, other = CASES[case]
    pipe = build()
    other(pipe)
    before = fingerprint(pipe)
    one(pipe)
    assert fingerprint(pipe) != before
    other(pipe)
    assert fingerprint(pipe) == before


def test_an_adapter_of_another_strength_is_rendered_anew(tmp_path: Path) -> None:
    pipe = worded()
    add(pipe, "a")

    def render() -> Any:
        return accel.render(pipe, ["one"], tmp_path, defaults=SMALL, progress_bar=False)

    assert render().rendered == 1
    pipe.set_adapters(["a"], [0.3])
    assert render().rendered == 1
    pipe.set_adapters(["a"], [1.0])
    assert render().before == 1
