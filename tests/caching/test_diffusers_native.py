"""diffusers' own caches through accel: the same numbers where diffusers manages alone, and no trace afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    SeaCacheConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks import TextKVCacheConfig

import accel
from accel import DiffusersCache
from tests.accel.residue import of_denoisers, raising_in_call, traces
from tests.accel.witness import denoisers, pipeline, plain, twin, witness
from tests.tiny import TINY, run

WAN_BLOCKS = [r"blocks\.\d+\.attn\d", r"blocks\.\d+\.ffn"]

# Loose settings, under which each cache skips something within eight steps.
CONFIGS: dict[str, Callable[[], Any]] = {
    "first block": lambda: FirstBlockCacheConfig(threshold=0.5),
    "taylor": lambda: TaylorSeerCacheConfig(cache_interval=3, taylor_factors_dtype=torch.float32),
    "taylor, named": lambda: TaylorSeerCacheConfig(cache_interval=3, cache_identifiers=WAN_BLOCKS),
    "broadcast": lambda: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, cross_attention_block_skip_range=3
    ),
    "mag": lambda: MagCacheConfig(mag_ratios=[1.0] * 8, num_inference_steps=8),
    "sea": lambda: SeaCacheConfig(threshold=0.9),
    "faster": lambda: FasterCacheConfig(tensor_format="BFCHW"),
    "faster, image": lambda: FasterCacheConfig(tensor_format="BCHW"),
}

# Where diffusers manages alone: enable_cache on every denoiser gives what accel must give.
ALONE = [
    ("wan", "first block"),
    ("wan", "taylor, named"),
    ("wan", "mag"),
    ("wan", "sea"),
    ("wan_two_experts", "first block"),
    ("wan_two_experts", "mag"),
    ("wan_two_experts", "sea"),
    ("flux", "first block"),
    ("flux", "taylor"),
    ("flux", "broadcast"),
    ("flux", "mag"),
    ("flux_true_guidance", "first block"),
    ("ltx", "first block"),
    ("ltx", "broadcast"),
    ("cogvideox", "first block"),
    ("cogvideox", "broadcast"),
    ("cogvideox", "faster"),
    ("qwen_image", "first block"),
    ("qwen_image", "taylor"),
    ("qwen_image", "mag"),
]

# Where it raises or mixes the streams: no enable_cache, no cache_context, no timestep, or one state for both prompts.
MORE = [
    ("sd3", "taylor"),
    ("sd3", "broadcast"),
    ("sd3", "mag"),
    ("flux_img2img", "first block"),
    ("flux_img2img", "taylor"),
    ("flux_img2img", "broadcast"),
    ("pixart", "first block"),
    ("pixart", "broadcast"),
    ("pixart", "mag"),
    ("pixart", "faster, image"),
    ("sd3", "faster, image"),
    ("wan", "broadcast"),
    ("qwen_image", "broadcast"),
    ("sd", "broadcast"),
]


def accelerated(pipe: DiffusionPipeline, name: str, cache: Any, **options: Any) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipe, accel.Recipe(cache=cache)) as session:
        return run(pipe, TINY[name], **options), session.report()


# The same numbers


@pytest.mark.parametrize(("name", "config"), ALONE)
def test_the_output_is_that_of_enable_cache(name: str, config: str) -> None:
    output, report = accelerated(pipeline(name), name, CONFIGS[config]())
    alone = TINY[name].build()
    for denoiser in denoisers(alone).values():
        settings = CONFIGS[config]()
        if hasattr(settings, "current_timestep_callback"):
            settings.current_timestep_callback = lambda: alone.current_timestep
        denoiser.enable_cache(settings)
    assert torch.equal(output, run(alone, TINY[name]))
    check_engaged(report)
    assert not torch.equal(output, plain(name))


@pytest.mark.parametrize(("name", "config"), MORE)
def test_it_works_where_diffusers_alone_does_not(name: str, config: str) -> None:
    output, report = accelerated(pipeline(name), name, CONFIGS[config]())
    check_engaged(report)
    assert output.isfinite().all() and not torch.equal(output, plain(name))
    assert (output - plain(name)).norm() < 0.5 * plain(name).norm()


def check_engaged(report: accel.Report) -> None:
    lever = report.levers[0]
    assert lever.engaged and report.predicted > 0, lever.reason
    assert "refuses" not in lever.reason and "failed" not in lever.reason


@pytest.mark.parametrize("name", ["wan", "qwen_image"])
@pytest.mark.parametrize("config", ["broadcast", "first block", "mag"])
def test_streams_are_not_mixed(name: str, config: str) -> None:
    """With the negative prompt equal to the prompt both streams are asked the same and must answer the same."""
    pipe = pipeline(name)
    arguments = TINY[name].arguments(pipe)
    same = {f"negative_{key}": value for key, value in arguments.items() if key.startswith("prompt_embeds")}
    same = {key: value.clone() for key, value in same.items()}
    with accel.accelerate(pipe, accel.Recipe(cache=CONFIGS[config]())) as session, witness(pipe) as seen:
        run(pipe, TINY[name], **same)
    assert session.report().predicted > 0
    pairs = zip(seen.exchanges[::2], seen.exchanges[1::2], strict=True)
    assert all(torch.equal(one.outputs[0], other.outputs[0]) for one, other in pairs)


@pytest.mark.parametrize("name", ["wan", "flux", "sd3", "pixart"])
def test_never_skipping_is_bit_identical(name: str) -> None:
    never = MagCacheConfig(threshold=0.0, mag_ratios=[0.5] * 8, num_inference_steps=8)
    output, report = accelerated(pipeline(name), name, never)
    assert torch.equal(output, plain(name))
    assert not report.levers[0].engaged
    assert report.levers[0].reason.startswith("0 of ") and "settings did not allow it" in report.levers[0].reason


# No trace


@pytest.mark.parametrize(("name", "config"), [*ALONE, *MORE])
def test_nothing_is_left_after_a_call_and_after_an_interrupted_one(name: str, config: str) -> None:
    pipe = TINY[name].build()
    run(pipe, TINY[name])
    before = of_denoisers(pipe)
    expected, _ = accelerated(pipeline(name), name, CONFIGS[config]())
    with accel.accelerate(pipe, accel.Recipe(cache=CONFIGS[config]())):
        handle = next(iter(denoisers(pipe).values())).register_forward_hook(raising_in_call(3))
        with pytest.raises(InterruptedError):
            run(pipe, TINY[name], prompt=1)
        handle.remove()
        assert torch.equal(run(pipe, TINY[name]), expected)
    assert of_denoisers(pipe) == before
    assert traces(pipe) == []
    assert torch.equal(run(pipe, TINY[name]), plain(name))


def test_a_model_of_one_block_has_two_hooks_on_it_and_loses_both() -> None:
    pipe = TINY["wan"].build()
    pipe.transformer.blocks = pipe.transformer.blocks[:1]
    expected = run(pipe, TINY["wan"])
    before = of_denoisers(pipe)
    _, report = accelerated(pipe, "wan", CONFIGS["mag"]())
    check_engaged(report)
    assert of_denoisers(pipe) == before
    assert torch.equal(run(pipe, TINY["wan"]), expected)


def test_an_error_inside_of_a_block_reaches_the_caller() -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, accel.Recipe(cache=CONFIGS["first block"]())):
        handle = pipe.transformer.blocks[0].attn1.register_forward_hook(raising_in_call(3))
        with pytest.raises(InterruptedError):
            run(pipe, TINY["wan"])
        handle.remove()
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))


def test_hooks_of_others_stay_whether_they_came_before_or_during_the_call() -> None:
    from diffusers.hooks import HookRegistry, ModelHook

    pipe = TINY["wan"].build()
    block, late = pipe.transformer.blocks[1], ModelHook()
    HookRegistry.check_if_exists_or_initialize(block).register_hook(ModelHook(), "early")

    def add(_: Any, step: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            HookRegistry.check_if_exists_or_initialize(pipe.transformer.blocks[2]).register_hook(late, "late")
        return values

    accelerated(pipe, "wan", CONFIGS["first block"](), callback_on_step_end=add)
    assert list(block._diffusers_hook.hooks) == ["early"]
    assert list(pipe.transformer.blocks[2]._diffusers_hook.hooks) == ["late"]
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))


# Recipes


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_becomes_plain_data_and_back(config: str) -> None:
    recipe = accel.Recipe(cache=CONFIGS[config]())
    assert isinstance(recipe.cache, DiffusersCache)
    again = accel.Recipe.from_dict(json.loads(recipe.to_json()))
    assert again == recipe
    made, given = recipe.cache.configuration(), CONFIGS[config]()
    for name, value in vars(given).items():
        other = getattr(made, name)
        assert torch.equal(other, value) if isinstance(value, torch.Tensor) else _listed(other) == _listed(value)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_accelerate_takes_a_configuration_and_its_timestep_callback_is_replaced_by_the_clock() -> None:
    config = CONFIGS["broadcast"]()
    config.current_timestep_callback = lambda: 0  # never in the window: would skip nothing
    with accel.accelerate(pipeline("flux"), cache=config) as session:
        run(pipeline("flux"), TINY["flux"])
    assert session.report().levers[0].engaged
    assert "callback" not in session.recipe.to_json()


def test_a_text_key_value_configuration_is_taken_too() -> None:
    _, report = accelerated(pipeline("wan"), "wan", TextKVCacheConfig(), steps=2)
    assert report.levers[0].method == "diffusers TextKVCacheConfig()"


WRONG: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "config": (lambda: DiffusersCache("MyConfig"), ValueError, "DiffusersCache.config must be one of FirstBlock"),
    "setting": (
        lambda: DiffusersCache("FirstBlockCacheConfig", {"treshold": 1}),  # type: ignore[arg-type]
        ValueError,
        "FirstBlockCacheConfig refuses {'treshold': 1}",
    ),
    "value": (
        lambda: DiffusersCache("SeaCacheConfig", {"threshold": -1.0}),  # type: ignore[arg-type]
        ValueError,
        "`threshold` must be non-negative",
    ),
    "shape": (lambda: DiffusersCache(settings=5), TypeError, "must be settings of"),  # type: ignore[arg-type]
    "function": (
        lambda: accel.Recipe(cache=FasterCacheConfig(attention_weight_callback=lambda _: 0.3)),  # type: ignore[arg-type]
        TypeError,
        "FasterCacheConfig.attention_weight_callback is a function, which a recipe cannot hold",
    ),
    "object": (
        lambda: DiffusersCache("SeaCacheConfig", {"threshold": object()}),  # type: ignore[arg-type]
        TypeError,
        "SeaCacheConfig.threshold must be plain data",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_in_one_sentence(what: str) -> None:
    make, kind, expected = WRONG[what]
    with pytest.raises(kind) as refusal:
        make()
    assert expected in str(refusal.value)


# Where it cannot act

REFUSED = [
    ("sd", "first block", "no repeated blocks in UNet2DConditionModel: take DeepCache"),
    ("flux", "sea", "knows text-to-video Wan and Cosmos 3 only"),
    ("wan_i2v", "sea", "knows text-to-video Wan and Cosmos 3 only"),
    ("wan", "faster", "FasterCache needs guidance in one batched call, which WanPipeline is not known to have."),
    ("wan", "taylor", "diffusers refuses it for WanTransformer3DModel: it names no module of this model."),
    ("sd3", "first block", "diffusers' hook failed on SD3Transformer2DModel (TypeError"),
    ("z_image", "mag", "diffusers' hook failed on ZImageTransformer2DModel ("),
]


@pytest.mark.parametrize(("name", "config", "reason"), REFUSED)
def test_where_diffusers_refuses_or_fails_the_pipeline_runs_on_and_the_report_says_why(
    name: str, config: str, reason: str
) -> None:
    output, report = accelerated(pipeline(name), name, CONFIGS[config]())
    assert torch.equal(output, plain(name))
    assert not report.levers[0].engaged
    assert reason in report.levers[0].reason


def test_a_denoiser_that_has_a_cache_already_keeps_it() -> None:
    pipe = TINY["wan"].build()
    pipe.transformer.enable_cache(CONFIGS["first block"]())
    expected = run(pipe, TINY["wan"])
    output, report = accelerated(pipe, "wan", CONFIGS["mag"]())
    assert torch.equal(output, expected)
    assert "FirstBlockCacheConfig is enabled on it already" in report.levers[0].reason
    pipe.transformer.disable_cache()
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))


def test_two_pipelines_of_one_class_are_independent() -> None:
    with accel.accelerate(pipeline("wan"), cache=CONFIGS["mag"]()):
        run(pipeline("wan"), TINY["wan"])
        assert torch.equal(run(twin("wan"), TINY["wan"]), plain("wan"))


def test_first_block_cache_is_refused_where_it_would_hang() -> None:
    """On a context-parallel denoiser each device would decide alone; see reference/ecosystem.md."""
    pipe = TINY["wan"].build()
    mesh = SimpleNamespace(get_group=lambda: object())
    config = SimpleNamespace(context_parallel_config=SimpleNamespace(_flattened_mesh=mesh))
    with accel.accelerate(pipe, cache=CONFIGS["first block"]()) as session:
        lever = session._levers[0]
        pipe.transformer._parallel_config = config
        lever.begin({"transformer": pipe.transformer})
        report = lever.report([])
        lever.end()
    assert not report.engaged and "would hang" in report.reason
