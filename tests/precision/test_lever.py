"""Layers in fewer bits act where they may, say where they do not, and leave nothing behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

import accel
from accel import BFloat16, FixedInterval, Int8, Int8Weights
from accel.app import method_schema
from accel.measure.metrics import psnr, to_clips
from accel.precision import ReducedPrecision
from accel.precision.format import Format
from accel.precision.integers import kernel
from accel.precision.layers import Layer, find_layers
from accel.precision.methods.bfloat16 import BFloat16Format
from accel.report import LeverReport
from tests.accel.residue import of_denoisers, traces
from tests.tiny import TINY, run

STEPS = 5
EVERY: dict[str, ReducedPrecision] = {
    "bfloat16": BFloat16(min_tokens=2),
    "more exact": BFloat16(min_tokens=2, attention="own"),
    "int8": Int8(min_tokens=2),
    "int8 weights": Int8Weights(min_tokens=2, memory="beside"),
    "replaced": Int8Weights(min_tokens=2),
}
every_method = pytest.mark.parametrize("method", EVERY.values(), ids=EVERY)
ONE = EVERY["int8 weights"]  # acts on any processor


@pytest.fixture(autouse=True)
def as_if_every_processor_gained(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are right on any; what they are slow on is only refused."""
    monkeypatch.setattr("accel.precision.methods.bfloat16.has_instructions", lambda: True)
    if not kernel("cpu"):
        monkeypatch.setattr("accel.precision.integers.kernel", lambda device: "torch")


def account(session: accel.Session) -> LeverReport:
    return next(lever for lever in session.report().levers if lever.lever == "precision")


@pytest.mark.part(1)
@every_method
@pytest.mark.parametrize("name", ["wan", "flux", "sd3", "sd", "pixart"])
def test_it_acts_and_gives_the_pipeline_back_bit_for_bit(method: ReducedPrecision, name: str) -> None:
    pipe = TINY[name].build()
    plain = run(pipe, TINY[name], steps=STEPS)
    before = of_denoisers(pipe)
    with accel.accelerate(pipe, accel.Recipe(precision=method)) as session:
        first, second = (run(pipe, TINY[name], steps=STEPS) for _ in range(2))
        assert of_denoisers(pipe) != before or session.pipe is pipe
    assert account(session).engaged and account(session).extra_bytes > 0
    assert torch.equal(first, second) and not torch.equal(first, plain)
    assert (first - plain).norm() < 0.1 * plain.norm()
    assert torch.equal(run(pipe, TINY[name], steps=STEPS), plain)
    assert of_denoisers(pipe) == before and traces(pipe) == []


def test_between_calls_nothing_is_on_the_layers() -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)):
        run(pipe, TINY["wan"], steps=2)
        assert [path for path, part in pipe.transformer.named_modules() if path and "forward" in vars(part)] == []


@pytest.mark.parametrize("name", ["wan", "flux", "sd"])
def test_what_embeds_modulates_and_makes_the_output_is_not_taken(name: str) -> None:
    pipe = TINY[name].build()
    denoisers = {key: part for key, part in pipe.components.items() if key in ("transformer", "unet")}
    found = find_layers(denoisers, accel.anatomy.inspect(pipe), convolutions=True).layers
    taken = {path for _, path in found}
    left = {path for part in denoisers.values() for path, layer in part.named_modules() if isinstance(layer, Layer)}
    assert taken and taken < left
    words = ("time", "norm", "embed", "conv_in", "conv_out", "condition", "context_embedder", "adaln")
    assert not [path for path in taken if any(word in path for word in words)]
    assert "proj_out" not in taken


def test_first_and_last_steps_stay_exact() -> None:
    pipe = TINY["wan"].build()
    plain = run(pipe, TINY["wan"], steps=4)
    with accel.accelerate(pipe, accel.Recipe(precision=replace(ONE, warmup=0.75, final=0.25))) as session:
        assert torch.equal(run(pipe, TINY["wan"], steps=4), plain)
    assert "in the first steps (warmup)" in account(session).reason and "in the last steps" in account(session).reason
    with accel.accelerate(pipe, accel.Recipe(precision=replace(ONE, warmup=0.5))) as session:
        assert not torch.equal(run(pipe, TINY["wan"], steps=4), plain)
    half = account(session)
    total = 4 * 2 * sum(path.endswith(LAYERS_OF_WAN) for path, _ in pipe.transformer.named_modules())
    assert half.engaged and f"of {total} products" in half.reason and f"{total // 2} in int8 weights" in half.reason


LAYERS_OF_WAN = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2")


class Spying(Format):
    """Counts how often activations are made."""

    name = "spying"

    def __init__(self) -> None:
        self.made: list[torch.Tensor] = []

    def weights(self, layer: Layer) -> list[torch.Tensor]:
        return [layer.weight.detach().clone()]

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        self.made.append(x)
        return x.clone()

    def product(
        self, activations: torch.Tensor, weights: Any, layer: Layer, x: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        return torch.nn.functional.linear(activations, weights[0], layer.bias)


@pytest.fixture
def spying(monkeypatch: pytest.MonkeyPatch) -> Spying:
    format = Spying()
    monkeypatch.setattr(Int8Weights, "formats", lambda self: {"": format})
    return format


def test_queries_keys_and_values_share_their_activations(spying: Spying) -> None:
    pipe = TINY["wan"].build()
    plain = run(pipe, TINY["wan"], steps=1, guidance=False)
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)) as session:
        assert torch.equal(run(pipe, TINY["wan"], steps=1, guidance=False), plain)
    blocks, report = len(pipe.transformer.blocks), account(session).reason
    # Of self-attention q, k, v and output; of cross-attention q, (k, v) and output; two of the feed-forward.
    assert f"{10 * blocks} in spying" in report and len(spying.made) == 7 * blocks


def double_input(layer: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
    args[0].mul_(2)


def test_activations_that_were_changed_in_place_are_made_anew(spying: Spying) -> None:
    pipe = TINY["wan"].build()
    attention = pipe.transformer.blocks[0].attn1
    attention.to_q.register_forward_hook(double_input)
    plain = run(pipe, TINY["wan"], steps=1)
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)):
        assert torch.equal(run(pipe, TINY["wan"], steps=1), plain)


def test_inference_mode_shares_nothing_and_is_right(spying: Spying) -> None:
    pipe = TINY["wan"].build()
    plain = run(pipe, TINY["wan"], steps=1, guidance=False)
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)), torch.inference_mode():
        assert torch.equal(run(pipe, TINY["wan"], steps=1, guidance=False), plain)


def adapted(pipe: Any) -> None:
    torch.manual_seed(0)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "style")


def test_an_adapter_stays_exact_above_a_layer_in_fewer_bits() -> None:
    pipe = TINY["wan"].build()
    adapted(pipe)
    plain = run(pipe, TINY["wan"], steps=STEPS)
    found = find_layers({"transformer": pipe.transformer}, accel.anatomy.inspect(pipe), convolutions=False).layers
    assert ("transformer", "blocks.0.attn1.to_q.base_layer") in found
    assert not [path for _, path in found if "lora" in path]
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)) as session:
        near = run(pipe, TINY["wan"], steps=STEPS)
    assert account(session).engaged and 0 < (near - plain).norm() < 0.1 * plain.norm()


@pytest.mark.part(1)
@pytest.mark.parametrize("how", ["assigned", "in place", "through data"])
def test_weights_that_change_between_calls_are_converted_anew(how: str) -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)):
        run(pipe, TINY["wan"], steps=STEPS)
        for layer in (block.ffn.net[2] for block in pipe.transformer.blocks):
            with torch.no_grad():
                if how == "assigned":
                    layer.weight.data = layer.weight.data * 2
                elif how == "in place":
                    layer.weight.mul_(2)
                else:
                    layer.weight.data.mul_(2)
        found = run(pipe, TINY["wan"], steps=STEPS)
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)):
        assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), found)


class Quantised(torch.nn.Linear):
    """Stands for another library's layer."""


def quantise(module: torch.nn.Module) -> None:
    for part in module.modules():
        if type(part) is torch.nn.Linear:
            part.__class__ = Quantised


def test_a_model_that_is_quantised_already_is_left_alone() -> None:
    pipe = TINY["wan"].build()
    quantise(pipe.transformer)
    plain = run(pipe, TINY["wan"], steps=2)
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)) as session:
        assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)
    assert not account(session).engaged
    assert "quantised or another library's already are left as they are (Quantised)" in account(session).reason


def test_compiled_blocks_are_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = TINY["wan"].build()
    for block in pipe.transformer.blocks:
        block._compiled_call_impl = block._call_impl  # as `block.compile()` does, without its minutes
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)) as session:
        run(pipe, TINY["wan"], steps=2)
    assert not account(session).engaged and "inside compiled blocks" in account(session).reason


UNFIT: dict[str, tuple[Callable[[Any], object], ReducedPrecision, str]] = {
    "small": (lambda pipe: None, BFloat16(), "too small to gain"),
    "short": (lambda pipe: None, Int8Weights(min_tokens=10**6), "of few tokens"),
    "half": (lambda pipe: pipe.transformer.to(torch.bfloat16), EVERY["bfloat16"], "in 16 bits already"),
}


@pytest.mark.part(2)
@pytest.mark.parametrize(("change", "method", "why"), UNFIT.values(), ids=UNFIT)
def test_where_nothing_fits_it_says_so_and_does_nothing(
    change: Callable[[Any], object], method: ReducedPrecision, why: str
) -> None:
    pipe = TINY["wan"].build()
    change(pipe)
    plain = run(pipe, TINY["wan"], steps=2)
    with accel.accelerate(pipe, accel.Recipe(precision=method)) as session:
        assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)
    assert not account(session).engaged and why in account(session).reason


def test_a_model_without_known_layers_gets_an_inactive_lever(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = TINY["wan"].build()
    plain = run(pipe, TINY["wan"], steps=2)
    monkeypatch.setattr("accel.precision.method.has_layers", lambda anatomy: False)
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)) as session:
        assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)
    assert "no attention or feed-forward is known in WanTransformer3DModel" in account(session).reason


def test_another_pipeline_over_the_same_weights_is_not_touched() -> None:
    pipe = TINY["wan"].build()
    other = type(pipe)(**pipe.components)
    other.set_progress_bar_config(disable=True)
    plain = run(other, TINY["wan"], steps=STEPS)
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)):
        assert not torch.equal(run(pipe, TINY["wan"], steps=STEPS), plain)
        assert torch.equal(run(other, TINY["wan"], steps=STEPS), plain)


def test_gradients_keep_the_model_exact() -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, accel.Recipe(precision=ONE)) as session, session.running():
        pipe.scheduler.set_timesteps(2)
        x = torch.randn(1, pipe.transformer.config.in_channels, 1, 4, 4, requires_grad=True)
        text = torch.randn(1, 4, pipe.transformer.config.text_dim)
        pipe.transformer(x, pipe.scheduler.timesteps[:1], text, return_dict=False)[0].sum().backward()
        assert x.grad is not None and bool(x.grad.any())
    assert "because gradients are wanted" in account(session).reason


def test_autocast_keeps_its_own_data_types() -> None:
    pipe = TINY["wan"].build()
    with torch.autocast("cpu", torch.bfloat16):
        plain = run(pipe, TINY["wan"], steps=2)
        with accel.accelerate(pipe, accel.Recipe(precision=ONE)) as session:
            assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)
    assert not account(session).engaged and "under autocast" in account(session).reason


def test_beside_a_cache_computed_steps_are_in_fewer_bits() -> None:
    pipe = TINY["wan"].build()
    recipe = accel.Recipe(precision=ONE, cache=FixedInterval(2, warmup=1, min_steps=1))
    with accel.accelerate(pipe, recipe) as session:
        output = run(pipe, TINY["wan"], steps=8)
    report = session.report()
    assert all(lever.engaged for lever in report.levers) and bool(output.isfinite().all())
    assert report.computed < len(report.calls)


@pytest.mark.part(1)
@pytest.mark.parametrize(("format", "coarse"), [("bfloat16", False), ("int8", True)])
def test_coarse_activations_are_said_where_they_were_computed(format: str, coarse: bool) -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, accel.Recipe(precision=EVERY[format])) as session:
        run(pipe, TINY["wan"], steps=2)
    assert ("rounds activations" in account(session).reason) is coarse
    with accel.accelerate(pipe, accel.Recipe(precision=replace(EVERY[format], warmup=1.0))) as session:
        run(pipe, TINY["wan"], steps=2)
    assert "rounds activations" not in account(session).reason


def test_convolutions_of_unets_in_bfloat16() -> None:
    pipe = TINY["sd"].build()
    with accel.accelerate(pipe, accel.Recipe(precision=EVERY["bfloat16"])) as session:
        run(pipe, TINY["sd"], steps=2)
    many = account(session).reason
    with accel.accelerate(pipe, accel.Recipe(precision=EVERY["int8"])) as session:
        run(pipe, TINY["sd"], steps=2)
    assert layers_in(many) > layers_in(account(session).reason)


def layers_in(reason: str) -> int:
    return int(reason.split(" layers")[0].split()[-1])


@every_method
def test_it_goes_through_a_recipe_file_and_the_app_has_its_controls(method: ReducedPrecision, tmp_path: Path) -> None:
    recipe = accel.Recipe(precision=replace(method, warmup=0.2))
    recipe.save(tmp_path / "recipe.json")
    assert accel.Recipe.load(tmp_path / "recipe.json") == recipe
    controls = {each.name: each for each in method_schema.methods("precision")[type(method).__name__]}
    assert controls["warmup"].first and {"final", "min_tokens"} <= controls.keys()
    assert "precision" in method_schema.levers()


def test_packed_products_have_the_same_bits() -> None:
    layer, x = torch.nn.Linear(64, 96), torch.randn(1, 40, 64)
    with torch.no_grad():
        right = torch.nn.functional.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16()).float()
        assert torch.equal(BFloat16Format().compute(layer, x), right)


DECIBELS = {"bfloat16": 40, "more exact": 45, "int8": 38, "int8 weights": 45}


@pytest.mark.part(1)
@pytest.mark.parametrize("model", ["video", pytest.param("image", marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", DECIBELS)
def test_pocket_models_stay_near(model: str, format: str, request: pytest.FixtureRequest) -> None:
    pipe = accel.pocket.load(model)
    pipe.set_progress_bar_config(disable=True)
    long = request.config.getoption("--slow")
    prompts, steps = (accel.pocket.prompts(3, 5), 28) if long else (["a green triangle stays still"], 8)
    short = {} if long or model != "video" else {"num_frames": 5}

    def clip(prompt: str) -> Any:
        noise = torch.Generator().manual_seed(0)
        return to_clips(pipe(prompt, num_inference_steps=steps, generator=noise, output_type="np", **short))[0]

    plain = [clip(prompt) for prompt in prompts]
    with accel.accelerate(pipe, accel.Recipe(precision=EVERY[format])):
        near = [psnr(clip(prompt), right) for prompt, right in zip(prompts, plain, strict=True)]
    assert sum(near) / len(near) >= DECIBELS[format]


@pytest.mark.usefixtures("quick_collection")
def test_a_session_does_not_keep_the_models_weights_alive() -> None:
    pipe = TINY["wan"].build()
    session = accel.accelerate(pipe, accel.Recipe(precision=ONE))
    run(pipe, TINY["wan"], steps=2)
    weight = weakref.ref(pipe.transformer.blocks[0].attn1.to_q.weight)
    del pipe
    gc.collect()
    assert session.pipe is None and weight() is None
