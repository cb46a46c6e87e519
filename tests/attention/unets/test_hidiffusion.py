"""HiDiffusion: windows are attention under their mask, and a halved U-Net is the U-Net with other strides and sizes in
it, written down here by hand from reading the paper's code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionControlNetPipeline
from peft import LoraConfig
from torch.nn import functional as F

import accel
from accel import DeepCache, HiDiffusion
from accel.anatomy import inspect
from accel.attention import lever as lever_module
from accel.attention.layout import TokenLayout
from accel.attention.planner import AttentionInputs, HeadPlan
from accel.attention.static import StaticPlanner
from accel.attention.unets.high_resolution import high_resolution
from accel.attention.unets.rau_net import Switches, sizes_of_skips, switches
from accel.attention.unets.window_attention import window_plan
from accel.clock import StepContext
from accel.method import from_dict
from tests.accel.residue import of_denoisers, raising_in_call, traces
from tests.accel.witness import flat, witness
from tests.accel.witness import pipeline as tiny_pipeline
from tests.accel.witness import plain as tiny_plain
from tests.attention.by_the_letter import ask, mask_of, random, under
from tests.attention.unets.tiny import SHARED, TINY, build, pipeline, plain
from tests.tiny import picture, run
from tests.tiny.weights import randomise

NAMES = ("sd", "sdxl")
WINDOWS = HiDiffusion(rau=False, min_tokens=0)
HALVED = HiDiffusion(windows=False)
every_unet = pytest.mark.parametrize("name", NAMES)

# The modules with windows, as in the paper's code; the tiny U-Nets have as many layers there.
FINEST = {
    "sd": {
        *(f"down_blocks.0.attentions.{index}.transformer_blocks.0.attn1" for index in (0, 1)),
        *(f"up_blocks.3.attentions.{index}.transformer_blocks.0.attn1" for index in (0, 1, 2)),
    },
    "sdxl": {
        *(f"down_blocks.1.attentions.{index}.transformer_blocks.{block}.attn1" for index in (0, 1) for block in (0, 1)),
        *(
            f"up_blocks.1.attentions.{index}.transformer_blocks.{block}.attn1"
            for index in (0, 1, 2)
            for block in (0, 1)
        ),
    },
}


def accelerated(
    name: str, method: HiDiffusion, pipe: DiffusionPipeline | None = None, **options: Any
) -> tuple[torch.Tensor, accel.Report]:
    pipe = pipe or pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(attention=method)) as session:
        return run(pipe, TINY[name], **options), session.report()


# Windows


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("grid", [(1, 8, 8), (1, 9, 13), (2, 7, 12)], ids=str)
def test_the_mask_of_windows(grid: tuple[int, int, int], shift: int) -> None:
    layout = TokenLayout(*grid)
    mask = window_plan(layout, 2, shift).mask()

    def window(token: int) -> tuple[int, ...]:
        place = token // (grid[1] * grid[2]), token // grid[2] % grid[1], token % grid[2]
        halves = []
        for length, at in zip(grid[1:], place[1:], strict=True):
            moved = (at - shift * (length // 2) // 4) % length
            halves.append(int(moved >= -(-length // 2)))  # the first window is the larger one
        return place[0], *halves

    windows = [window(token) for token in range(layout.video)]
    assert mask.tolist() == [[one == other for other in windows] for one in windows]


@pytest.mark.parametrize("shift", range(4))
def test_windows_are_attention_in_the_four_parts_of_the_moved_picture(shift: int) -> None:
    """With rolls and views, as the paper has it."""
    height, width = 8, 16
    layout = TokenLayout(1, height, width)
    q, k, v = random(layout, samples=2)
    move = (-shift * (height // 2) // 4, -shift * (width // 2) // 4)

    def parts(tokens: torch.Tensor) -> torch.Tensor:
        moved = tokens.unflatten(2, (height, width)).roll(move, (2, 3))
        return moved.unfold(2, height // 2, height // 2).unfold(3, width // 2, width // 2).flatten(5).mT

    inside = F.scaled_dot_product_attention(*(parts(tensor) for tensor in (q, k, v)))  # (B, H, 2, 2, n, D)
    whole = inside.unflatten(4, (height // 2, width // 2)).permute(0, 1, 2, 4, 3, 5, 6).flatten(4, 5).flatten(2, 3)
    expected = whole.roll((-move[0], -move[1]), (2, 3)).flatten(2, 3)
    inputs = ask(q, k, layout, v)
    plans = [HeadPlan(None, window_plan(layout, 2, shift))]
    torch.testing.assert_close(lever_module.attend(inputs, plans), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(under(inputs, mask_of(inputs, plans)), expected, atol=1e-5, rtol=0)


def test_one_window_is_dense() -> None:
    layout = TokenLayout(1, 6, 9)
    plan = window_plan(layout, 1, 3)
    assert plan.density == 1 and plan.mask().all()
    assert StaticPlanner(lambda layout: window_plan(layout, 1, 3)).plan(ask(*random(layout)[:2], layout)) is None


@dataclass
class Planned:
    """What the kernels were asked for: the mask of each self-attention, by step and path; and what came of it."""

    masks: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict)
    outcome: tuple[torch.Tensor, accel.Report] | None = None

    def __call__(self, inputs: AttentionInputs, plans: list[HeadPlan], *kernel: Any) -> torch.Tensor:
        self.masks[inputs.site.context.step, inputs.site.path] = mask_of(inputs, plans)[0, 0]
        return ATTEND(inputs, plans, *kernel)


ATTEND = lever_module.attend


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Planned]:
    def asked(name: str, method: HiDiffusion, steps: int = 2, **options: Any) -> Planned:
        heard = Planned()
        monkeypatch.setattr(lever_module, "attend", heard)
        heard.outcome = accelerated(name, method, steps=steps, **options)
        return heard

    return asked


@pytest.mark.part(1)
@every_unet
def test_windows_move_by_seed_step_and_module_and_by_nothing_else(name: str, planned: Callable[..., Planned]) -> None:
    first = planned(name, WINDOWS).masks
    assert {path for _, path in first} == FINEST[name]
    side = 16 if name == "sd" else 8
    possible = [window_plan(TokenLayout(1, side, side), 2, shift).mask() for shift in range(4)]

    def shifts(masks: dict[tuple[int, str], torch.Tensor]) -> dict[tuple[int, str], int]:
        return {key: [torch.equal(mask, other) for other in possible].index(True) for key, mask in masks.items()}

    assert set(shifts(first).values()) == {0, 1, 2, 3}
    for options in ({"seed": 5, "prompt": 1, "batch": 2}, {"guidance": False}):
        assert shifts(planned(name, WINDOWS, **options).masks) == shifts(first)
    assert shifts(planned(name, replace(WINDOWS, seed=1)).masks) != shifts(first)


@pytest.mark.part(1)
@every_unet
@pytest.mark.parametrize("options", [{}, {"size": "other", "batch": 2}], ids=str)
def test_the_u_net_with_windows_is_the_u_net_with_these_masks(
    name: str, options: dict[str, Any], planned: Callable[..., Planned]
) -> None:
    heard = planned(name, WINDOWS, steps=3, **options)
    assert heard.outcome is not None
    masks, (output, report) = heard.masks, heard.outcome
    twin, step, inside = build(name), [-1], []
    twin.unet.register_forward_pre_hook(lambda *_: step.__setitem__(0, step[0] + 1))
    for path in FINEST[name]:
        module = twin.unet.get_submodule(path)
        module.register_forward_pre_hook(lambda *_, path=path: inside.append(path))
        module.register_forward_hook(lambda *_: (inside.pop(), None)[1])
    dense = F.scaled_dot_product_attention

    def attention(*args: Any, **kwargs: Any) -> torch.Tensor:
        return dense(*args, **kwargs | ({"attn_mask": masks[step[0], inside[-1]]} if inside else {}))

    F.scaled_dot_product_attention = attention
    try:
        expected = run(twin, TINY[name], steps=3, **options)
    finally:
        F.scaled_dot_product_attention = dense
    torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(output, plain(name, steps=3, **options), atol=1e-2)
    assert report.levers[0].engaged


@pytest.mark.slow  # what is left alone is asked of the switches too
@pytest.mark.part(1)
@every_unet
def test_small_pictures_are_left_alone(name: str) -> None:
    """On a CPU windows pay from 512 tokens on; at the size trained on features stay as they are."""
    pipe = build(name, sample_size=16)
    output, report = accelerated(name, HiDiffusion(), pipe, steps=3)
    assert torch.equal(output, plain(name, steps=3))
    assert not report.levers[0].engaged
    assert report.levers[0].reason.startswith(
        "RAU-Net off: latents of 16 x 16 are less than 2 times the area of the 16 x 16 that the U-Net was trained on"
    )
    assert "too short to gain" in report.levers[0].reason


@pytest.mark.parametrize(("side", "divides"), [(32, False), (40, True)])
def test_where_windows_cost_more_than_they_save_there_are_none(side: int, divides: bool) -> None:
    layout = TokenLayout(1, side, side)
    inputs = ask(*random(layout)[:2], layout)
    site = replace(inputs.site, denoiser="unet", path=min(FINEST["sd"]))
    planner = HiDiffusion().planner(inspect(pipeline("sd")))
    assert (planner.plan(replace(inputs, site=site)) is not None) == divides


# Features halved once more

Size = tuple[int, int]


@dataclass(frozen=True)
class By:
    """A U-Net that halves features, by hand: which modules do, and the sizes to which others grow again."""

    strided: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()
    upsampled: dict[str, Size] = field(default_factory=dict)
    grown: dict[str, Size] = field(default_factory=dict)


def up(*sizes: Size) -> dict[str, Size]:
    return {f"up_blocks.{block}.upsamplers.0": size for block, size in enumerate(sizes)}


CONVOLVED, AVERAGED = "down_blocks.0.downsamplers.0", "down_blocks.1.attentions.0"
BY_HAND: dict[tuple[str, str, str], By] = {
    ("sd", "default", "first"): By((CONVOLVED,), (), up((2, 2), (4, 4), (16, 16))),
    ("sd", "default", "both"): By(
        (CONVOLVED,), (AVERAGED,), up((1, 1), (2, 2), (16, 16)), {"up_blocks.2.attentions.1": (4, 4)}
    ),
    ("sd", "other", "first"): By((CONVOLVED,), (), up((2, 2), (3, 4), (9, 13))),
    ("sd", "other", "both"): By(
        (CONVOLVED,), (AVERAGED,), up((1, 1), (2, 2), (9, 13)), {"up_blocks.2.attentions.1": (3, 4)}
    ),
    ("sdxl", "default", "first"): By((), (AVERAGED,), up((4, 4), (16, 16)), {"up_blocks.1.attentions.1": (8, 8)}),
    ("sdxl", "default", "early"): By(("down_blocks.1.downsamplers.0",), (), up((8, 8), (16, 16))),
    ("sdxl", "default", "both"): By(
        ("down_blocks.1.downsamplers.0",), (AVERAGED,), up((4, 4), (16, 16)), {"up_blocks.1.attentions.1": (8, 8)}
    ),
    ("sdxl", "other", "first"): By((), (AVERAGED,), up((3, 4), (9, 13)), {"up_blocks.1.attentions.1": (5, 7)}),
    ("sdxl", "other", "both"): By(
        ("down_blocks.1.downsamplers.0",), (AVERAGED,), up((3, 4), (9, 13)), {"up_blocks.1.attentions.1": (5, 7)}
    ),
}


@contextmanager
def halved(unet: torch.nn.Module, by: By) -> Iterator[None]:
    """The U-Net with other strides and sizes in it."""

    def strided(module: Any, args: Any, _: Any) -> torch.Tensor:
        return F.conv2d(args[0], module.conv.weight, module.conv.bias, stride=4, padding=2, dilation=2)

    def pooled(_: Any, __: Any, output: Any) -> Any:
        (tensor,) = output
        height, width = tensor.shape[-2:]
        ends = F.pad(tensor, (0, width % 2, 0, height % 2))
        counts = F.pad(torch.ones(1, 1, height, width), (0, width % 2, 0, height % 2))
        sums, divisors = (F.avg_pool2d(part, 2) for part in (ends, counts))
        return (sums / divisors,)

    def upsampled(size: Size) -> Callable[..., torch.Tensor]:
        return lambda module, args, _: module.conv(F.interpolate(args[0], size=size, mode="nearest"))

    def grown(size: Size) -> Callable[..., Any]:
        return lambda _, __, output: (F.interpolate(output[0], size=size, mode="bicubic"),)

    hooks: dict[str, Callable[..., Any]] = dict.fromkeys(by.strided, strided) | dict.fromkeys(by.pooled, pooled)
    hooks |= {path: grown(size) for path, size in by.grown.items()}
    handles = [unet.get_submodule(path).register_forward_hook(hook) for path, hook in hooks.items()]
    modules = {path: unet.get_submodule(path) for path in by.upsampled}
    for path, module in modules.items():  # an upsampler given no size could not be added up afterwards
        module.forward = lambda x, size=None, *, module=module, path=path: upsampled(by.upsampled[path])(
            module, (x,), None
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in modules.values():
            del module.forward


def check_steps(
    pipe: DiffusionPipeline, name: str, method: HiDiffusion, stages: list[By | None], **options: Any
) -> accel.Report:
    """Every answer of the U-Net in a run is that of an untouched one with the stage's changes made by hand."""
    twin = build(name)
    twin.unet.load_state_dict(pipe.unet.state_dict())
    with accel.accelerate(pipe, accel.Recipe(attention=method)) as session, witness(pipe) as seen:
        run(pipe, TINY[name], **options)
    assert len(seen.exchanges) == len(stages)
    for exchange, by in zip(seen.exchanges, stages, strict=True):
        with torch.no_grad(), halved(twin.unet, by or By()):
            expected = flat(twin.unet(*exchange.args, **exchange.kwargs))
        tolerance = 0.0 if by is None else 1e-5
        torch.testing.assert_close(exchange.outputs, expected, atol=tolerance, rtol=tolerance)
    return session.report()


@pytest.mark.part(1)
@pytest.mark.parametrize(("size", "batch"), [("default", 1), ("other", 2)])
@every_unet
def test_a_u_net_with_halved_features_is_the_one_written_down_by_hand(name: str, size: str, batch: int) -> None:
    """9 x 13 latents are halved to 5 x 7, 3 x 4 and so on, which the U-Net has to be told on its way up."""
    first, both = (BY_HAND[name, size, stage] for stage in ("first", "both"))
    method = replace(HALVED, t1=0.6, t2=0.21)
    steps = 11 if name == "sd" else 10  # PNDM evaluates once more than asked, 11 times: 6.6 and 2.3
    report = check_steps(
        build(name, sample_size=4), name, method, [both] * 2 + [first] * 4 + [None] * (steps - 6), size=size,
        steps=10, batch=batch,
    )  # fmt: skip
    assert report.levers[0].engaged
    assert report.levers[0].reason == f"features halved once more in 6 of {steps} calls (T1 0.6, T2 0.21)"


def test_sdxl_halves_one_level_deeper_at_the_very_first() -> None:
    early, first = BY_HAND["sdxl", "default", "early"], BY_HAND["sdxl", "default", "first"]
    report = check_steps(build("sdxl"), "sdxl", HALVED, [early] + [first] * 2 + [None] * 5, steps=8)
    assert "3 of 8 calls (T1 0.4, T2 0, deeper up to 0.16)" in report.levers[0].reason


@pytest.mark.part(1)
@every_unet
def test_without_windows_and_with_both_switches_at_zero_nothing_changes(name: str) -> None:
    output, report = accelerated(name, replace(HALVED, t1=0.0, t2=0.0), steps=3)
    assert torch.equal(output, plain(name, steps=3))
    assert not report.levers[0].engaged
    output, report = accelerated(name, HiDiffusion(windows=False, rau=False), steps=3)
    assert torch.equal(output, plain(name, steps=3))
    assert report.levers[0].reason == "windows and rau are both off: switch one of them on"


def asked(name: str, size: Size, controlled: bool = False, t1: float = -1.0, t2: float = -1.0, **config: Any) -> Any:
    part = inspect(pipeline(name)).denoisers["unet"]
    unet = high_resolution(replace(part, config={**part.config, **config}))
    assert unet is not None
    return switches(unet, size, controlled, t1, t2)


def test_the_published_switches() -> None:
    sd, sdxl, turbo = {"sample_size": 64}, {"sample_size": 128}, {"sample_size": 64}
    assert asked("sd", (128, 128), **sd) == asked("sd", (255, 300), **sd) == Switches(0.4, 0.0)
    assert asked("sd", (256, 256), **sd) == Switches(0.7, 0.3)
    assert asked("sd", (128, 128), controlled=True, **sd) == Switches(0.4, 0.0)
    assert asked("sdxl", (256, 256), **sdxl) == Switches(0.4, 0.0, 8 / 50)
    assert asked("sdxl", (256, 256), controlled=True, **sdxl) == Switches(0.5, 0.0, 8 / 50)
    assert asked("sdxl", (256, 256), in_channels=9, **sdxl) == Switches(0.4, 0.0)
    assert asked("sdxl", (512, 512), **sdxl) == Switches(0.7, 0.3)
    assert asked("sdxl", (128, 128), **turbo) == Switches(0.5, 0.0)
    assert asked("sdxl", (256, 256), t1=0.1, **sdxl) == Switches(0.1, 0.0, 0.1)
    assert asked("sdxl", (256, 256), t1=0.6, t2=0.0, **sdxl) == Switches(0.6, 0.0)
    assert "are less than 2 times the area of the 128 x 128" in asked("sdxl", (128, 255), **sdxl)
    assert isinstance(asked("sdxl", (128, 256), **sdxl), Switches)
    assert "does not say which size it was trained on" in asked("sd", (128, 128), sample_size=None)


@pytest.mark.parametrize(
    ("shares", "marks"),
    [
        (Switches(0.4, 0.0), "1111......"),
        (Switches(0.7, 0.3), "bbb1111..."),
        (Switches(0.4, 0.0, 0.16), "2111......"),
        (Switches(0.0, 0.0), ".........."),
    ],
    ids=str,
)
def test_which_module_halves_in_which_step(shares: Switches, marks: str) -> None:
    names = {(True, False): "1", (False, True): "2", (True, True): "b", (False, False): "."}
    steps = (shares.active(StepContext(1, step, step, 10, 1.0)) for step in range(10))
    assert "".join(names[active] for active in steps) == marks


@pytest.mark.part(1)
@every_unet
@pytest.mark.parametrize("size", [(16, 16), (9, 13), (7, 24)], ids=str)
def test_sizes_of_skip_connections_are_those_of_the_u_net(name: str, size: Size) -> None:
    pipe = pipeline(name)
    layers = inspect(pipe).denoisers["unet"].unet
    assert layers is not None
    seen: list[Size] = []
    handles = [
        pipe.unet.get_submodule(layer[-1]).register_forward_hook(
            lambda _, __, output: seen.append(tuple(flat(output)[0].shape[-2:]))
        )
        for layer in layers.skips
    ]
    with witness(pipe) as heard:
        run(pipe, TINY[name], steps=1)
    seen.clear()
    exchange = heard.exchanges[0]
    latents, others = torch.randn(2, 4, *size), {**exchange.kwargs}
    with torch.no_grad():
        pipe.unet(latents, *exchange.args[1:], **others)
    for handle in handles:
        handle.remove()
    assert sizes_of_skips(layers, size, ()) == seen


# What others add to the skip connections


def controlled(batch: int, *channels_and_sides: tuple[int, int]) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(batch, channels, side, side, generator=draw) for channels, side in channels_and_sides]


# Channels and sides of the residuals for latents of 16 x 16, and the sides once "first" and "both" have halved.
CONTROL = {
    "sd": [(8, 16)] * 3 + [(8, 8)] * 3 + [(8, 4)] + [(16, 4)] * 2 + [(16, 2)] * 3,
    "sdxl": [(8, 16)] * 3 + [(8, 8)] * 3 + [(8, 4)] + [(16, 4)] * 2,
}
CONTROL_SIDES = {
    ("sd", "first"): [16, 16, 16, 4, 4, 4, 2, 2, 2, 1, 1, 1],
    ("sd", "both"): [16, 16, 16, 4, 2, 2, 1, 1, 1, 1, 1, 1],
    ("sdxl", "first"): [16, 16, 16, 8, 4, 4, 2, 2, 2],
    ("sdxl", "both"): [16, 16, 16, 8, 4, 4, 1, 1, 1],
}
ADAPTER = {
    "sd": [(8, 16), (8, 8), (16, 4), (16, 2)],
    "sdxl": [(8, 8), (8, 8), (16, 4)],
}
ADAPTER_SIDES = {
    ("sd", "first"): [16, 4, 2, 1],
    ("sd", "both"): [16, 2, 1, 1],
    ("sdxl", "first"): [8, 4, 2],
    ("sdxl", "both"): [8, 4, 1],
}


@pytest.mark.part(1)
@every_unet
@pytest.mark.parametrize("stage", ["first", "both"])
@pytest.mark.parametrize("kind", ["controlnet", "adapter", "adapter, as it used to be"])
def test_residuals_of_controlnets_and_adapters_are_averaged_to_size(name: str, stage: str, kind: str) -> None:
    pipe, twin = build(name), build(name)
    with witness(pipe) as seen:
        run(pipe, TINY[name], steps=1)
    args, kwargs = seen.exchanges[0].args, seen.exchanges[0].kwargs
    shapes, sides = (CONTROL[name], CONTROL_SIDES) if kind == "controlnet" else (ADAPTER[name], ADAPTER_SIDES)

    def extra(changed: bool) -> dict[str, Any]:
        given = controlled(2, *shapes)
        if changed:
            given = [
                F.adaptive_avg_pool2d(tensor, side) for tensor, side in zip(given, sides[name, stage], strict=True)
            ]
        if kind != "controlnet":
            key = "down_intrablock" if kind == "adapter" else "down_block"
            return {f"{key}_additional_residuals": given}
        middle = controlled(2, shapes[-1])[0]
        middle = F.adaptive_avg_pool2d(middle, sides[name, stage][-1]) if changed else middle
        return {"down_block_additional_residuals": tuple(given), "mid_block_additional_residual": middle}

    method = replace(HALVED, t1=1.0, t2=0.0 if stage == "first" else 1.0)
    with accel.accelerate(pipe, accel.Recipe(attention=method)) as session, session.running(), torch.no_grad():
        pipe.scheduler.set_timesteps(10)
        output = flat(pipe.unet(*args, **kwargs, **extra(False)))[0]
    with torch.no_grad(), halved(twin.unet, BY_HAND[name, "default", stage]):
        expected = flat(twin.unet(*args, **kwargs, **extra(True)))[0]
        without = flat(twin.unet(*args, **kwargs))[0]
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(without, expected, atol=1e-2)


def test_a_pipeline_with_a_controlnet() -> None:
    pipe = build("sd")
    shape = {key: value for key, value in SHARED.items() if key != "sample_size"}
    controlnet = ControlNetModel(
        **shape, block_out_channels=(8, 8, 16, 16), conditioning_embedding_out_channels=(8, 8, 8, 8)
    )
    parts = {**pipe.components, "controlnet": randomise(controlnet, seed=2)}
    made = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    output, report = accelerated("sd", HiDiffusion(min_tokens=0), made, steps=5, image=picture(0, 128, 128))
    assert output.isfinite().all() and report.levers[0].engaged


def test_lora_on_the_convolution_that_takes_every_fourth_place() -> None:
    """By hand: the strides of the layer and of its adapter are others."""

    def adapted() -> DiffusionPipeline:
        pipe = build("sd")
        torch.manual_seed(0)
        pipe.unet.add_adapter(
            LoraConfig(r=2, lora_alpha=8, target_modules=["downsamplers.0.conv"], init_lora_weights=False)
        )
        return pipe

    pipe, twin = adapted(), adapted()
    with accel.accelerate(pipe, accel.Recipe(attention=replace(HALVED, t1=1.0, t2=0.0))), witness(pipe) as seen:
        run(pipe, TINY["sd"], steps=2)
    for module in twin.unet.down_blocks[0].downsamplers.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            module.stride, module.padding, module.dilation = (4, 4), (2, 2), (2, 2)
    grown = By((), (), BY_HAND["sd", "default", "first"].upsampled)
    for exchange in seen.exchanges:
        with torch.no_grad(), halved(twin.unet, grown):
            expected = flat(twin.unet(*exchange.args, **exchange.kwargs))
        torch.testing.assert_close(exchange.outputs, expected, atol=1e-5, rtol=1e-5)


# Beside everything else

GUARDS: dict[str, Any] = {"warmup": 1, "final": 0, "min_steps": 1}


@pytest.mark.part(1)
@pytest.mark.parametrize("size", ["default", "other"])
@pytest.mark.parametrize(
    ("name", "branch"), [(name, branch) for name in NAMES for branch in range(len(CONTROL[name]) - 2 + 1)]
)
def test_beside_deep_cache_with_any_of_its_branches(name: str, branch: int, size: str) -> None:
    """Its kept feature may come from a step with other sizes, and skipped steps reach into the halved layers."""
    pipe = build(name, sample_size=4)
    method = HiDiffusion(t1=0.7, t2=0.4, min_tokens=0)
    recipe = accel.Recipe(attention=method, cache=DeepCache(3, branch, min_steps=1))
    with accel.accelerate(pipe, recipe) as session:
        output = run(pipe, TINY[name], steps=4, guidance=False, size=size)
    assert output.isfinite().all()
    assert all(lever.engaged for lever in session.report().levers)


@pytest.mark.part(1)
@every_unet
@pytest.mark.parametrize(
    "recipe",
    [
        accel.Recipe(cache=accel.FixedInterval(2, **GUARDS)),
        accel.Recipe(cache=accel.FORA(2, **GUARDS)),
        accel.Recipe(guidance=accel.GuidanceInterval(0.0, 0.7)),
        accel.Recipe(guidance=accel.GuidanceInterval(0.0, 0.7), cache=DeepCache(2, 0, min_steps=1)),
    ],
    ids=lambda recipe: recipe.label,
)
def test_beside_caches_and_guidance_and_callbacks(name: str, recipe: accel.Recipe) -> None:
    steps: list[int] = []

    def callback(_: Any, step: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return values

    whole = replace(recipe, attention=HiDiffusion(min_tokens=0))
    with accel.accelerate(pipeline(name), whole) as session:
        output = run(pipeline(name), TINY[name], steps=8, callback_on_step_end=callback)
    assert output.isfinite().all() and len(steps) == len({(call.run, call.step) for call in session.report().calls})
    assert all(lever.engaged for lever in session.report().levers)


@pytest.mark.part(1)
@every_unet
def test_half_of_a_batch_is_treated_as_the_whole(name: str) -> None:
    """Guidance that is dropped leaves the conditional half as it was: the same windows, the same sizes."""
    method = HiDiffusion(t1=1.0, t2=0.0, min_tokens=0)
    with accel.accelerate(pipeline(name), accel.Recipe(attention=method)), witness(pipeline(name)) as whole:
        run(pipeline(name), TINY[name], steps=1)
    exchange = whole.exchanges[0]
    halves = {
        key: value[1:] if torch.is_tensor(value) and value.ndim and len(value) == 2 else value
        for key, value in exchange.kwargs.items()
    }
    if halves.get("added_cond_kwargs"):
        halves["added_cond_kwargs"] = {key: value[1:] for key, value in halves["added_cond_kwargs"].items()}
    pipe = pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(attention=method)) as session, session.running(), torch.no_grad():
        pipe.scheduler.set_timesteps(1)
        output = flat(pipe.unet(exchange.args[0][1:], *exchange.args[1:], **halves))[0]
    torch.testing.assert_close(output, exchange.outputs[0][1:], atol=1e-5, rtol=1e-5)


@pytest.mark.part(1)
@every_unet
def test_restore_and_exceptions_leave_no_trace(name: str) -> None:
    pipe = build(name)
    assert torch.equal(run(pipe, TINY[name], steps=2), plain(name, steps=2))
    before = of_denoisers(pipe)
    with accel.accelerate(pipe, accel.Recipe(attention=HiDiffusion(min_tokens=0))) as session:
        inside = of_denoisers(pipe)
        handle = pipe.unet.get_submodule("down_blocks.1.downsamplers.0").register_forward_pre_hook(raising_in_call(2))
        with pytest.raises(InterruptedError):
            run(pipe, TINY[name], steps=2)
        handle.remove()
        assert of_denoisers(pipe) == inside
        run(pipe, TINY[name], steps=2)
        assert session.report().levers[0].engaged
    assert of_denoisers(pipe) == before
    assert traces(pipe) == []
    assert torch.equal(run(pipe, TINY[name], steps=2), plain(name, steps=2))


# Where it cannot act


@pytest.mark.part(1)
@pytest.mark.parametrize("name", [name for name in TINY if name not in ("flux_kontext",)])
def test_other_models_are_left_alone_and_the_report_says_why(name: str) -> None:
    """Among them the tiny U-Nets of two levels, AnimateDiff's and Stable Video Diffusion's."""
    output, report = accelerated(name, HiDiffusion(), tiny_pipeline(name), steps=2)
    assert torch.equal(output, tiny_plain(name, steps=2))
    assert not report.levers[0].engaged
    assert "HiDiffusion is worked out for the U-Nets of Stable Diffusion 1.5, 2.1 and SDXL" in report.levers[0].reason


@pytest.mark.slow
def test_compiled_blocks_keep_their_sizes() -> None:
    pipe = build("sd")
    pipe.unet.up_blocks[1].compile(backend="eager")
    output, report = accelerated("sd", HALVED, pipe, steps=2)
    assert torch.equal(output, plain("sd", steps=2))
    assert "RAU-Net off: its blocks are compiled" in report.levers[0].reason


def test_parameters_survive_a_file_and_are_checked() -> None:
    method = HiDiffusion(windows=False, t1=0.3, seed=4)
    assert from_dict("attention", method.to_dict(), "attention") == method
    with pytest.raises(TypeError, match=r"HiDiffusion\.rau must be True or False"):
        HiDiffusion(rau=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"HiDiffusion\.t1 must be a number from -1 to 1"):
        HiDiffusion(t1=2.0)
