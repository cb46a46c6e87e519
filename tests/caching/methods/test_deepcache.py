"""DeepCache on every kind of U-Net: a skipped step is the U-Net with a hidden state of the past in it, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionControlNetPipeline, UNet2DConditionModel

import accel
from accel import DeepCache
from accel.anatomy import inspect
from accel.caching.methods.deepcache import cut_unet
from accel.components import submodule
from tests.accel.residue import of_denoisers, raising_in_call, traces
from tests.accel.witness import flat, pipeline, plain, twin, witness
from tests.tiny import TINY, picture, run
from tests.tiny.kinds import crossed, kinds_only
from tests.tiny.unet import SHAPE, WIDTHS, build_sd
from tests.tiny.weights import randomise

UNETS = ("sd", "sdxl", "animatediff", "svd")
BRANCHES = (0, 1, 2)
every_unet = pytest.mark.parametrize("name", UNETS)
every_branch = pytest.mark.parametrize("branch", BRANCHES)

# What feeds the first up layer that a skipped step keeps. The tiny U-Nets have two up blocks of two layers each.
FEATURE = {
    "sd": ("up_blocks.1.attentions.0", "up_blocks.0", "up_blocks.0.resnets.0"),
    "sdxl": ("up_blocks.1.resnets.0", "up_blocks.0", "up_blocks.0.attentions.0"),
    "animatediff": ("up_blocks.1.motion_modules.0", "up_blocks.0", "up_blocks.0.motion_modules.0"),
    "svd": ("up_blocks.1.attentions.0", "up_blocks.0", "up_blocks.0.resnets.0"),
}
FRAMES = {"sd": 1, "sdxl": 1, "animatediff": 3, "svd": 3}


def deep(interval: int = 3, branch: int = 0, **guards: Any) -> DeepCache:
    return DeepCache(interval, branch, min_steps=1, **guards)


def accelerated(pipe: DiffusionPipeline, name: str, method: DeepCache, **options: Any) -> tuple[Any, accel.Report]:
    with accel.accelerate(pipe, accel.Recipe(cache=method)) as session:
        return run(pipe, TINY[name], **options), session.report()


# Bit identity


@pytest.mark.part(1)
@crossed("branch", BRANCHES, UNETS)
def test_never_skipping_is_bit_identical(name: str, branch: int) -> None:
    output, report = accelerated(pipeline(name), name, deep(1, branch))
    assert torch.equal(output, plain(name))
    assert report.predicted == 0
    assert not report.levers[0].engaged and "every 1" in report.levers[0].reason


@pytest.mark.part(2)
@every_unet
@every_branch
@pytest.mark.parametrize("size", ["default", "other"])
def test_a_forced_skip_with_unchanged_inputs_gives_the_full_output(name: str, branch: int, size: str) -> None:
    pipe = pipeline(name)
    args, kwargs = asked(pipe, name, size=size)
    full, *skipped = replayed(pipe, deep(3, branch), args, lambda: kwargs)
    assert len(skipped) == 2
    assert all(torch.equal(full, other) for other in skipped)


@pytest.mark.part(2)
@every_unet
@every_branch
def test_what_a_skipped_step_leaves_out_is_not_executed(name: str, branch: int) -> None:
    pipe = pipeline(name)
    args, kwargs = asked(pipe, name)
    kept = {path for layer in layers_kept(name, branch) for path in leaves(pipe.unet, layer)}
    outer = {path for path in leaves(pipe.unet, "") if not path.startswith(("down_blocks", "mid_block", "up_blocks"))}
    with executed(pipe.unet) as counts:
        replayed(pipe, deep(3, branch), args, lambda: kwargs)
    assert {path for path, count in counts.items() if count == 3} == kept | outer
    assert {path for path, count in counts.items() if count == 1} == set(counts) - kept - outer


def layers_kept(name: str, branch: int) -> list[str]:
    """By hand: one skip connection per up layer from the end; the down block has one layer, then its downsampler."""
    down = ["down_blocks.0.resnets.0", "down_blocks.0.attentions.0", "down_blocks.0.motion_modules.0"]
    last = [f"up_blocks.1.{part}.1" for part in ("resnets", "attentions", "motion_modules")]
    if branch == 0:
        return last
    if branch == 1:
        return [*down, "up_blocks.1"]
    deeper = [f"up_blocks.0.{part}" for part in ("resnets.1", "attentions.1", "motion_modules.1", "upsamplers")]
    return [*down, "down_blocks.0.downsamplers", "up_blocks.1", *deeper]


@pytest.mark.part(1)
@every_unet
@every_branch
def test_a_skipped_step_is_the_u_net_with_the_kept_feature(name: str, branch: int) -> None:
    check_formula(pipeline(name), twin(name), name, branch)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sd", "sdxl"])
@every_branch
def test_free_u_scales_features_in_place_and_does_no_harm(name: str, branch: int) -> None:
    pipes = [TINY[name].build() for _ in range(2)]
    for pipe in pipes:
        pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    check_formula(*pipes, name, branch)


@pytest.mark.slow  # the test above has residuals of both kinds
@pytest.mark.part(1)
@every_branch
def test_controlnet_residuals_of_the_layers_that_run_are_this_steps_own(branch: int) -> None:
    check_formula(*(controlled() for _ in range(2)), "sd", branch, image=picture(0, 64, 64))


@pytest.mark.part(1)
@every_branch
def test_a_forced_skip_with_controlnet_or_t2i_adapter_gives_the_full_output(branch: int) -> None:
    pipe = pipeline("sd")
    args, kwargs = asked(pipe, "sd")
    batch, draw = 2, torch.Generator().manual_seed(5)

    def noise(channels: int, side: int) -> torch.Tensor:
        return torch.randn(batch, channels, side, side, generator=draw)

    first, second = WIDTHS
    skips = (noise(first, 8), noise(first, 8), noise(first, 4), noise(second, 4))
    control = {"down_block_additional_residuals": skips, "mid_block_additional_residual": noise(second, 4)}
    adapter = [noise(first, 8), noise(second, 4), noise(second, 4)]
    uncontrolled = replayed(pipe, deep(1), args, lambda: kwargs)[0]
    # The U-Net empties the adapter's list, so it gets another one in every call.
    for extra in (lambda: control, lambda: {"down_intrablock_additional_residuals": list(adapter)}):
        full, *skipped = replayed(pipe, deep(3, branch), args, lambda extra=extra: kwargs | extra())
        assert not torch.equal(full, uncontrolled)
        assert all(torch.equal(full, other) for other in skipped)


def controlled() -> DiffusionPipeline:
    pipe = build_sd()
    controlnet = ControlNetModel(
        block_out_channels=WIDTHS,
        layers_per_block=SHAPE["layers_per_block"],
        cross_attention_dim=SHAPE["cross_attention_dim"],
        norm_num_groups=SHAPE["norm_num_groups"],
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        attention_head_dim=2,
        conditioning_embedding_out_channels=(8, 8, 8, 8),
    )
    parts = {**pipe.components, "controlnet": randomise(controlnet, seed=2)}
    made = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def check_formula(pipe: DiffusionPipeline, other: DiffusionPipeline, name: str, branch: int, **options: Any) -> None:
    """Computed answers are the twin's. Skipped ones are the twin's with the feature of its last computed one in it."""
    with accel.accelerate(pipe, accel.Recipe(cache=deep(3, branch))) as session, witness(pipe) as seen:
        run(pipe, TINY[name], **options)
    exchanges = seen.exchanges
    assert session.report().timeline() == {"pass 1": "█··█··█··"[: len(exchanges)]}
    feature = submodule(other.unet, FEATURE[name][branch])
    assert feature is not None
    kept: list[Any] = []
    for index, exchange in enumerate(exchanges):

        def exchanged(_: Any, __: Any, output: Any, computed: bool = index % 3 == 0) -> Any:
            if computed:
                kept[:] = [structure_copy(output)]
            return structure_copy(kept[0])  # a copy, because FreeU writes into it

        handle = feature.register_forward_hook(exchanged)
        with torch.no_grad():
            expected = flat(other.unet(*exchange.args, **exchange.kwargs))
        handle.remove()
        assert all(torch.equal(got, wanted) for got, wanted in zip(exchange.outputs, expected, strict=True))


def structure_copy(output: Any) -> Any:
    return output.clone() if isinstance(output, torch.Tensor) else tuple(part.clone() for part in output)


@pytest.mark.part(1)
@pytest.mark.parametrize("branch", BRANCHES)
def test_the_blocks_of_kandinsky_2_work_alike(branch: int) -> None:
    pipe = build_sd()
    unet = UNet2DConditionModel(
        **SHAPE,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=8,
    )
    pipe.unet = randomise(unet)
    args, kwargs = asked(pipe, "sd")
    with executed(pipe.unet) as counts:
        full, *skipped = replayed(pipe, deep(3, branch), args, lambda: kwargs)
    assert all(torch.equal(full, other) for other in skipped)
    assert {count for path, count in counts.items() if path.startswith("mid_block")} == {1}
    assert {count for path, count in counts.items() if path.startswith("up_blocks.1.resnets.1")} == {3}


# Where it is cut


def test_the_cuts_of_stable_diffusion() -> None:
    """Four levels of two layers, as in SD 1.5; branches 0 and 2 are the inside and the whole of the outermost level."""
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 8, 8, 8), norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2
    )
    pipe = build_sd()
    pipe.unet = unet
    layers = inspect(pipe).denoisers["unet"].unet
    assert layers is not None and len(layers.skips) == len(layers.ups) == 12
    whole = tuple(f"down_blocks.{index}" for index in (1, 2, 3))
    first = cut_unet(layers, 0)
    assert first.feature == "up_blocks.3.attentions.1"
    assert first.skipped == (
        "down_blocks.0", *whole, "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2",
        "up_blocks.3.resnets.0", "up_blocks.3.attentions.0", "up_blocks.3.resnets.1", "up_blocks.3.attentions.1",
    )  # fmt: skip
    third = cut_unet(layers, 2)
    assert third.feature == "up_blocks.2"
    assert third.skipped == (
        "down_blocks.0.downsamplers.0", *whole, "mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2"
    )  # fmt: skip


# Schedule, memory, state


@pytest.mark.part(1)
@pytest.mark.parametrize(
    ("method", "marks"),
    [
        (deep(2), "█·█·█·█·█·█·"),
        (deep(5), "█····█····█·"),
        (deep(3, warmup=4), "████··█··█··"),
        (deep(3, final=2), "█··█··█··███"),
        (DeepCache(3, min_steps=13), "████████████"),
    ],
    ids=str,
)
def test_which_steps_are_full(method: DeepCache, marks: str) -> None:
    _, report = accelerated(pipeline("sdxl"), "sdxl", method, steps=12)
    assert report.timeline() == {"pass 1": marks}
    assert report.levers[0].engaged == ("·" in marks)


@pytest.mark.part(1)
@every_unet
@pytest.mark.parametrize(("branch", "batch"), [(0, 1), (1, 2), (2, 1)])
def test_extra_memory_is_one_hidden_state(name: str, branch: int, batch: int) -> None:
    _, report = accelerated(pipeline(name), name, deep(3, branch), batch=batch)
    narrow, wide = (32, 64) if name == "svd" else WIDTHS
    side = 4 if name == "svd" else 8
    channels, height = [(narrow, side), (wide, side), (wide, side // 2)][branch]
    samples = 2 * batch * FRAMES[name]  # guidance doubles the batch
    assert report.levers[0].extra_bytes == samples * channels * height * height * 4


@kinds_only(UNETS, kinds=["sd"])
def test_a_session_starts_anew_with_every_call_and_after_an_exception(name: str) -> None:
    asked_for: list[dict[str, Any]] = [{}, {"size": "other", "prompt": 1}, {"batch": 2, "steps": 5}]
    fresh = [accelerated(pipeline(name), name, deep(), **options)[0] for options in asked_for]
    pipe = pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(cache=deep())):
        handle = pipe.unet.conv_out.register_forward_pre_hook(raising_in_call(5))
        with pytest.raises(InterruptedError):
            run(pipe, TINY[name])
        handle.remove()
        again = [run(pipe, TINY[name], **options) for options in asked_for]
    assert all(torch.equal(one, other) for one, other in zip(fresh, again, strict=True))
    assert torch.equal(run(pipe, TINY[name]), plain(name))


@pytest.mark.part(1)
@kinds_only(UNETS, kinds=["sd", "sdxl"])
def test_nothing_is_left_on_the_u_net_after_a_call_and_after_an_interrupted_one(name: str) -> None:
    pipe = TINY[name].build()
    run(pipe, TINY[name])
    before = of_denoisers(pipe)
    with accel.accelerate(pipe, accel.Recipe(cache=deep())) as session:
        run(pipe, TINY[name])
        inside = of_denoisers(pipe)
        handle = pipe.unet.conv_out.register_forward_pre_hook(raising_in_call(3))
        with pytest.raises(InterruptedError):
            run(pipe, TINY[name])
        handle.remove()
    assert [
        path for path in before if path.startswith("unet.") and path != "unet." and inside[path] != before[path]
    ] == []
    assert of_denoisers(pipe) == before
    assert traces(pipe) == [] and session.pipe is None


# Where it cannot act


@pytest.mark.part(1)
@kinds_only(name for name in TINY if name not in UNETS)
def test_transformers_are_left_alone_and_the_report_says_what_to_take(name: str) -> None:
    output, report = accelerated(pipeline(name), name, deep())
    assert torch.equal(output, plain(name))
    assert not report.levers[0].engaged
    assert "skip connections" in report.levers[0].reason and "SeaCache" in report.levers[0].reason


def test_a_branch_that_keeps_everything_is_left_alone_and_told_the_limit() -> None:
    output, report = accelerated(pipeline("sd"), "sd", deep(3, 3))
    assert torch.equal(output, plain("sd"))
    assert report.levers[0].reason == "branch=3 leaves nothing out of this U-Net: give at most 2."


@pytest.mark.slow
def test_a_u_net_compiled_as_a_whole_runs_in_full_and_the_report_says_why() -> None:
    pipe = TINY["sd"].build()
    pipe.unet.compile(backend="eager")
    _, report = accelerated(pipe, "sd", deep(), steps=2)
    assert report.predicted == 0
    assert "compiled as a whole" in report.levers[0].reason


# Machinery


def asked(pipe: DiffusionPipeline, name: str, **options: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the pipeline gives its U-Net in the first step."""
    with witness(pipe) as seen:
        run(pipe, TINY[name], steps=1, **options)
    return seen.exchanges[0].args, seen.exchanges[0].kwargs


def replayed(
    pipe: DiffusionPipeline, method: DeepCache, args: tuple[Any, ...], kwargs: Callable[[], dict[str, Any]]
) -> list[torch.Tensor]:
    """Three steps, each of which gives the U-Net the very same."""
    outputs = []
    with accel.accelerate(pipe, accel.Recipe(cache=method)) as session, session.running(), torch.no_grad():
        pipe.scheduler.set_timesteps(10)
        for timestep in pipe.scheduler.timesteps[:3]:
            outputs.append(flat(pipe.unet(*args, **kwargs()))[0])
            pipe.scheduler.step(outputs[-1], timestep, outputs[-1])
    expected = [method.interval == 1 or step == 0 for step in range(3)]
    assert [call.action == "computed" for call in session.report().calls] == expected
    return outputs


def leaves(unet: torch.nn.Module, below: str) -> list[str]:
    """The paths of the convolutions and linear layers below a path."""
    inside = f"{below}." if below else ""
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
    return [path for path, module in unet.named_modules() if isinstance(module, kinds) and path.startswith(inside)]


@contextmanager
def executed(unet: torch.nn.Module) -> Iterator[dict[str, int]]:
    """Counts how often each convolution and linear layer runs. Those that never run do not count."""
    counts: dict[str, int] = {}

    def counter(path: str) -> Callable[..., None]:
        def count(*_: Any) -> None:
            counts[path] = counts.get(path, 0) + 1

        return count

    handles = [unet.get_submodule(path).register_forward_hook(counter(path)) for path in leaves(unet, "")]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
