"""Undo leaves no residue, and the patch lives with everything else that people put on a pipeline."""

from __future__ import annotations

import copy
import gc
import inspect
import json
import pickle
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers import (
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    FluxPipeline,
    WanPipeline,
)
from diffusers.hooks import HookRegistry, apply_group_offloading, group_offloading
from diffusers.hooks import ModelHook as DiffusersHook
from peft import LoraConfig

import accel
from accel import FixedInterval, LastOutput, LastResidual, TeaCache
from accel.caching.predictor import PastValues
from accel.call import DenoiserCall
from accel.components import components_of
from accel.session import bare
from tests.accel.residue import snapshot, traces
from tests.accel.witness import denoisers
from tests.accel.witness import plain as plain_run
from tests.tiny import TINY, TinyPipeline
from tests.tiny import run as tiny_run
from tests.tiny.case import quiet
from tests.tiny.conditioned import CONDITIONED
from tests.tiny.kinds import kinds_only

every_pipeline = pytest.mark.parametrize("name", TINY)
GUARDS: dict[str, Any] = {"predictor": LastResidual(), "warmup": 2, "final": 1, "min_steps": 1}
METHOD = FixedInterval(3, **GUARDS)
PROBING = TeaCache(1e9, coefficients=(1.0, 0.0), max_skips=2, **GUARDS)
RECIPE = accel.Recipe(cache=METHOD)
STEPS = 5  # of which two are predicted, between the warm-up and the last
PREDICTED = {"wan": 4, "flux": 2}  # Wan has two streams


def run(pipe: DiffusionPipeline, tiny: TinyPipeline, steps: int = STEPS) -> torch.Tensor:
    return tiny_run(pipe, tiny, steps=steps)


def plain(name: str) -> torch.Tensor:
    return plain_run(name, steps=STEPS)


@cache
def fast(name: str) -> torch.Tensor:
    """The accelerated output of a fresh pipeline."""
    pipe = TINY[name].build()
    with accel.accelerate(pipe, RECIPE):
        return run(pipe, TINY[name])


# Undo


@pytest.mark.part(1)
@every_pipeline
def test_restore_puts_every_attribute_hook_and_class_back(name: str) -> None:
    pipe = TINY[name].build()
    run(pipe, TINY[name], steps=2)
    before = snapshot(pipe)
    accel.accelerate(pipe, RECIPE).restore()
    after = snapshot(pipe)
    assert after.keys() == before.keys()
    assert [path for path in before if before[path] != after[path]] == []


@pytest.mark.part(1)
@kinds_only()
def test_after_a_run_and_restore_nothing_of_ours_is_left(name: str) -> None:
    pipe = TINY[name].build()
    method = PROBING if hasattr(pipe, "transformer") else METHOD  # a U-Net has no modulated input
    run(pipe, TINY[name])
    kind, modules = type(pipe), {name: dict(vars(module)) for name, module in denoisers(pipe).items()}
    hooks = {path: len(child._forward_pre_hooks) + len(child._forward_hooks) for path, child in submodules(pipe)}
    session = accel.accelerate(pipe, cache=method)
    run(pipe, TINY[name])
    session.restore()
    assert traces(pipe) == []
    assert type(pipe) is kind and "_accel_session" not in dir(pipe)
    assert {name: set(vars(module)) for name, module in denoisers(pipe).items()} == {
        name: set(attributes) for name, attributes in modules.items()
    }
    assert hooks == {
        path: len(child._forward_pre_hooks) + len(child._forward_hooks) for path, child in submodules(pipe)
    }
    assert torch.equal(run(pipe, TINY[name]), plain(name))


def submodules(pipe: DiffusionPipeline) -> list[tuple[str, torch.nn.Module]]:
    return [(f"{name}.{path}", child) for name, root in denoisers(pipe).items() for path, child in root.named_modules()]


def test_traces_finds_what_an_accelerated_pipeline_carries() -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, RECIPE):
        assert any("transformer" in path for path in traces(pipe))
        assert any("scheduler" in path for path in traces(pipe))


def test_restoring_twice_is_restoring_once() -> None:
    pipe = TINY["wan"].build()
    session = accel.accelerate(pipe, RECIPE)
    assert session.restore() is pipe
    assert session.restore() is None
    accel.restore(pipe)
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))


# Memory


class Watched(LastOutput, abstract=True):
    """Reuses the last output and keeps weak references to all that a cache holds."""

    def remember(self, call: DenoiserCall, outputs: list[torch.Tensor], kind: str) -> PastValues:
        memory = super().remember(call, outputs, kind)
        HELD.extend(weakref.ref(value) for value in memory.values)
        return memory


HELD: list[weakref.ref[torch.Tensor]] = []


def test_no_cached_tensor_outlives_the_call() -> None:
    HELD.clear()
    pipe = TINY["wan"].build()
    session = accel.accelerate(pipe, cache=FixedInterval(3, predictor=Watched(), warmup=2, min_steps=1))
    run(pipe, TINY["wan"])
    assert session.report().predicted and HELD
    assert all(reference() is None for reference in HELD)


@pytest.mark.usefixtures("quick_collection")
def test_a_restored_session_dies_with_its_last_name() -> None:
    pipe = TINY["wan"].build()
    session = accel.accelerate(pipe, RECIPE)
    run(pipe, TINY["wan"])
    references = [
        weakref.ref(part) for part in (session, session._clock, *session._levers, *session._listeners.wrappers)
    ]
    session.restore()
    del session
    assert [reference() for reference in references] == [None] * len(references)


@pytest.mark.part(1)
@pytest.mark.usefixtures("quick_collection")
@pytest.mark.parametrize("name", ["wan", "flux", "sd3", "sdxl"])
def test_deleting_an_accelerated_pipeline_frees_its_weights_as_soon_as_an_untouched_one_would(name: str) -> None:
    """Even while somebody keeps the session and its report."""

    def freed(pipe: DiffusionPipeline, method: accel.Recipe | None) -> bool:
        session = accel.accelerate(pipe, method) if method else None
        run(pipe, TINY[name], steps=3)
        reference = weakref.ref(next(iter(denoisers(pipe).values())))
        del pipe
        at_once = reference() is None
        gc.collect()
        assert reference() is None
        del session
        return at_once

    # Not inside of the assert: pytest would keep the pipelines.
    accelerated, untouched = freed(TINY[name].build(), RECIPE), freed(TINY[name].build(), None)
    assert accelerated == untouched


@pytest.mark.usefixtures("quick_collection")
def test_a_pipeline_with_offload_hooks_is_freed_while_the_session_is_kept() -> None:
    pipe = TINY["sd3"].build()
    add_hook_to_module(pipe.transformer, ModelHook())
    session = accel.accelerate(pipe, RECIPE)
    run(pipe, TINY["sd3"], steps=3)
    reference = weakref.ref(pipe.transformer)
    del pipe
    gc.collect()
    assert reference() is None
    assert session.pipe is None and session.report().calls


# What a pipeline looks like to others


@pytest.mark.parametrize("name", ["wan", "cogvideox_dpm", "flux", "sdxl"])
def test_signatures_are_unchanged(name: str) -> None:
    def signatures(pipe: DiffusionPipeline) -> list[inspect.Signature]:
        scheduler, denoiser = pipe.scheduler, next(iter(denoisers(pipe).values()))
        methods = (scheduler.set_timesteps, scheduler.step, denoiser.forward, pipe.__call__)
        return [inspect.signature(method) for method in methods]

    pipe = TINY[name].build()
    before = signatures(pipe)
    with accel.accelerate(pipe, RECIPE):
        assert signatures(pipe) == before
        assert inspect.signature(type(pipe).__call__) == inspect.signature(type(TINY[name].build()).__call__)


def test_class_name_and_documentation_are_unchanged() -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, RECIPE):
        assert isinstance(pipe, WanPipeline)
        assert type(pipe).__name__ == "WanPipeline" and type(pipe).__module__ == WanPipeline.__module__
        assert type(pipe).__doc__ == WanPipeline.__doc__ and pipe.__call__.__doc__ == WanPipeline.__call__.__doc__
    assert type(pipe) is WanPipeline


def test_an_accelerated_pipeline_is_saved_as_the_plain_one(tmp_path: Path) -> None:
    pipe = TINY["wan"].build()
    pipe.save_pretrained(tmp_path / "plain")
    with accel.accelerate(pipe, RECIPE):
        pipe.save_pretrained(tmp_path / "accelerated")
    index = json.loads((tmp_path / "accelerated" / "model_index.json").read_text())
    assert index["_class_name"] == "WanPipeline"
    assert index["scheduler"] == ["diffusers", "UniPCMultistepScheduler"]
    expected, again = (
        quiet(WanPipeline.from_pretrained(tmp_path / name, tokenizer=None, text_encoder=None))
        for name in ("plain", "accelerated")
    )
    before, after = (each.transformer.state_dict() for each in (pipe, again))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    # Not with `plain("wan")`: weights of a file lie elsewhere in memory, and some products round otherwise there.
    assert torch.equal(run(again, TINY["wan"]), run(expected, TINY["wan"]))


def test_from_pipe_gives_a_plain_pipeline_on_the_same_parts() -> None:
    pipe = TINY["flux"].build()
    with accel.accelerate(pipe, RECIPE):
        other = FluxImg2ImgPipeline.from_pipe(pipe)
        other.set_progress_bar_config(disable=True)
        assert other.transformer is pipe.transformer
        assert torch.equal(run(other, TINY["flux_img2img"]), plain("flux_img2img"))
        assert torch.equal(run(pipe, TINY["flux"]), fast("flux"))


def test_moving_to_another_dtype_and_back_keeps_it_accelerated() -> None:
    """The second run starts from nothing: as if freshly accelerated in that dtype."""
    pipe, fresh = TINY["wan"].build(), TINY["wan"].build()
    with accel.accelerate(pipe, RECIPE) as session:
        run(pipe, TINY["wan"])
        assert pipe.to(torch.bfloat16) is pipe
        half = run(pipe, TINY["wan"])
        assert session.report().predicted == PREDICTED["wan"]
    with accel.accelerate(fresh.to(torch.bfloat16), RECIPE):
        assert torch.equal(run(fresh, TINY["wan"]), half)


# Copies


DUPLICATES = [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))]
every_duplicate = pytest.mark.parametrize("duplicate", DUPLICATES, ids=["copy", "deepcopy", "pickle"])


@every_duplicate
@pytest.mark.parametrize("name", ["wan_two_experts", "flux", "sd_controlnet"])
def test_a_copy_of_a_part_has_its_own_methods(name: str, duplicate: Callable[[Any], Any]) -> None:
    """Of every part that layers are put on, by however many sessions."""
    pipe = {**TINY, **CONDITIONED}[name].build()
    other = type(pipe)(**pipe.components)
    for each in (pipe, other):
        accel.accelerate(each, RECIPE)
    parts = [part for part in components_of(pipe).values() if any(_is_layer(value) for value in _attributes(part))]
    assert len(parts) == {"wan_two_experts": 3, "flux": 2, "sd_controlnet": 3}[name]
    for part in parts:
        copied = duplicate(part)
        assert type(copied) is type(part)
        assert not any(_is_layer(value) or getattr(value, "__self__", None) is part for value in _attributes(copied))
    for each in (pipe, other):
        accel.restore(each)
    assert traces(pipe) == traces(other) == []


def _attributes(part: Any) -> list[Any]:
    return list(getattr(part, "__dict__", {}).values())


def _is_layer(value: Any) -> bool:
    return isinstance(value, accel.patch.Wrapper)


@every_duplicate
def test_a_copied_scheduler_steps_itself_and_not_the_original(duplicate: Callable[[Any], Any]) -> None:
    pipe = TINY["flux"].build()
    with accel.accelerate(pipe, RECIPE):
        scheduler = duplicate(pipe.scheduler)
        scheduler.set_timesteps(4, mu=0.5)
        scheduler.step(torch.zeros(1, 4, 4), scheduler.timesteps[0], torch.ones(1, 4, 4))
        assert scheduler.step_index == 1
        assert pipe.scheduler.step_index is None and len(pipe.scheduler.timesteps) != 4


@pytest.mark.part(1)
@every_duplicate
@pytest.mark.parametrize("part", ["scheduler", "transformer"])
def test_a_copy_takes_the_place_of_a_part_there_and_elsewhere(part: str, duplicate: Callable[[Any], Any]) -> None:
    pipe, other = TINY["wan"].build(), TINY["wan"].build()
    with accel.accelerate(pipe, RECIPE) as session:
        run(pipe, TINY["wan"], steps=2)
        setattr(other, part, duplicate(getattr(pipe, part)))
        assert torch.equal(run(other, TINY["wan"]), plain("wan"))
        setattr(pipe, part, getattr(other, part))
        assert torch.equal(run(pipe, TINY["wan"]), fast("wan"))
        assert session.report().predicted == PREDICTED["wan"]
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan")) and traces(pipe) == []


@pytest.mark.part(1)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copied_transformer_is_its_own_and_unaccelerated(duplicate: Callable[[Any], Any]) -> None:
    pipe, other = TINY["wan"].build(), TINY["wan"].build()
    with accel.accelerate(pipe, RECIPE) as session:
        run(pipe, TINY["wan"])
        other.transformer = duplicate(pipe.transformer)
        with torch.no_grad():
            for parameter in pipe.transformer.parameters():
                parameter.zero_()
        assert torch.equal(run(other, TINY["wan"]), plain("wan"))
        assert session.report().predicted == PREDICTED["wan"]
        assert traces(other) == []


@pytest.mark.part(1)
@every_duplicate
def test_a_copied_pipeline_is_a_plain_one_that_can_be_accelerated_itself(duplicate: Callable[[Any], Any]) -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, RECIPE):
        other = duplicate(pipe)
        assert type(other) is WanPipeline
        assert torch.equal(run(other, TINY["wan"]), plain("wan"))
        with accel.accelerate(other, RECIPE) as session:
            assert torch.equal(run(other, TINY["wan"]), fast("wan"))
            assert session.report().predicted == PREDICTED["wan"]
        assert torch.equal(run(pipe, TINY["wan"]), fast("wan"))
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))


@pytest.mark.parametrize("recipe", [RECIPE, accel.Recipe(sampler=accel.DiffusersScheduler())], ids=["cache", "swap"])
@every_duplicate
def test_a_pipeline_that_is_copied_by_its_callback_is_a_plain_one(duplicate: Callable[[Any], Any], recipe: Any) -> None:
    """Also where another scheduler stands in it for the duration of the call."""
    pipe, copies = TINY["sdxl"].build(), []

    def callback(pipe: Any, step: int, _: Any, __: Any) -> dict[str, Any]:
        if step == 2:
            copies.append(duplicate(pipe))
        return {}

    with accel.accelerate(pipe, recipe):
        expected = run(pipe, TINY["sdxl"])
        output = tiny_run(pipe, TINY["sdxl"], steps=STEPS, callback_on_step_end=callback)
        assert torch.equal(output, expected)
    (other,) = copies
    assert type(other.scheduler) is type(pipe.scheduler) and traces(other) == []
    assert torch.equal(run(other, TINY["sdxl"]), plain("sdxl"))


# Hooks of other libraries: attached before or after ours, removed in any order, and always all of them gone


class Counting(ModelHook):
    calls = 0

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


class DiffusersCounting(DiffusersHook):
    calls = 0

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return args, kwargs


class Patched:
    """Our patch and one of another library on one denoiser, each put on and taken off in any order."""

    def __init__(self, other: str) -> None:
        self.pipe, self.other, self.session = TINY["wan"].build(), other, None
        self.hook: Any = Counting() if other == "accelerate" else DiffusersCounting()
        self.on: set[str] = set()

    def put_on(self, what: str) -> None:
        self.on.add(what)
        if what == "accel":
            self.session = accel.accelerate(self.pipe, RECIPE)
        elif self.other == "accelerate":
            add_hook_to_module(self.pipe.transformer, self.hook)
        else:
            HookRegistry.check_if_exists_or_initialize(self.pipe.transformer).register_hook(self.hook, "counting")

    def take_off(self, what: str) -> None:
        self.on.remove(what)
        if what == "accel":
            accel.restore(self.pipe)
        elif self.other == "accelerate":
            remove_hook_from_module(self.pipe.transformer)
        else:
            self.pipe.transformer._diffusers_hook.remove_hook("counting")

    def check(self) -> None:
        """The output is right, and so is how often the hook is called; also while the session is suspended."""
        for suspended in (False, True, False):
            self.hook.calls = 0
            accelerated = "accel" in self.on and not suspended
            with bare(self.pipe) if suspended else nullcontext():
                output = run(self.pipe, TINY["wan"])
            assert torch.equal(output, fast("wan") if accelerated else plain("wan"))
            assert (self.hook.calls in (6, 10)) if "hook" in self.on else self.hook.calls == 0
            if not accelerated and "hook" in self.on:
                assert self.hook.calls == 10


@pytest.mark.part(1)
@pytest.mark.parametrize("other", ["accelerate", "diffusers"])
@pytest.mark.parametrize("first_on, last_on", [("accel", "hook"), ("hook", "accel")])
@pytest.mark.parametrize("first_off, last_off", [("accel", "hook"), ("hook", "accel")])
@pytest.mark.parametrize("running", [True, False], ids=["runs between", "no run between"])
def test_hooks_of_others_survive_ours_in_any_order(
    other: str, first_on: str, last_on: str, first_off: str, last_off: str, running: bool
) -> None:
    patched = Patched(other)
    for change, what in (
        (patched.put_on, first_on),
        (patched.put_on, last_on),
        (patched.take_off, first_off),
        (patched.take_off, last_off),
    ):
        change(what)
        if running:
            patched.check()
    patched.check()
    assert traces(patched.pipe) == []


def test_offload_hooks_taken_off_and_put_back_between_calls_do_not_drop_ours() -> None:
    """As `maybe_free_model_hooks` does after each call of a pipeline with model offload."""
    patched = Patched("accelerate")
    patched.put_on("hook")
    patched.put_on("accel")
    for _ in range(2):
        patched.check()
        patched.take_off("hook")
        patched.put_on("hook")
    patched.check()
    patched.take_off("accel")
    patched.check()
    patched.take_off("hook")
    assert traces(patched.pipe) == []


@pytest.mark.part(1)
@pytest.mark.parametrize("method", [METHOD, PROBING], ids=["fixed", "tea"])
@pytest.mark.parametrize("offload_first", [True, False])
def test_weights_offloaded_for_real_come_back_for_every_computed_step(
    method: accel.caching.CacheMethod, offload_first: bool
) -> None:
    """Between the calls the weights are on the meta device: a computed step without its hooks could not run."""
    pipe, asked = TINY["wan"].build(), TINY["wan"].arguments(TINY["wan"].build())
    cpu_offload(pipe.vae, execution_device=torch.device("cpu"))  # the pipeline asks its first module for the device
    if offload_first:
        cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
    with accel.accelerate(pipe, cache=method) as session:
        if not offload_first:
            cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
        for _ in range(2):
            generator = torch.Generator().manual_seed(0)
            output = pipe(
                **asked, num_inference_steps=STEPS, generator=generator, output_type="latent", return_dict=False
            )
            assert session.report().predicted == PREDICTED["wan"]
    resident = TINY["wan"].build()
    with accel.accelerate(resident, cache=method):
        assert torch.equal(run(resident, TINY["wan"]), output[0])
    assert traces(pipe) == []


def test_group_offloading_after_accelerating() -> None:
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, RECIPE):
        apply_group_offloading(
            pipe.transformer, onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
        )
        assert torch.equal(run(pipe, TINY["wan"]), fast("wan"))
        assert torch.equal(run(pipe, TINY["wan"]), fast("wan"))
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))
    assert traces(pipe) == []


class StreamsOfACpu:
    """What diffusers' hooks ask of a device that copies beside its computing: here it waits for each copy."""

    def __init__(self, device: torch.device) -> None:
        self.current_stream = self.Stream = lambda: self

    def synchronize(self) -> None: ...

    def stream(self, stream: object) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.part(1)
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
@pytest.mark.parametrize("name", ["wan", "flux"])
def test_group_offloading_with_streams_from_the_first_run_on(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first call it sees in which order the blocks run, and then puts its hooks on anew, in place of ours."""
    cpu, pipe = torch.device("cpu"), TINY[name].build()
    monkeypatch.setattr(group_offloading, "TorchDeviceBackend", StreamsOfACpu)
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    group_offloading._apply_group_offloading(
        pipe.transformer,
        group_offloading.GroupOffloadingConfig(
            cpu, cpu, group_offloading.GroupOffloadingType(kind), non_blocking=True, record_stream=False,
            low_cpu_mem_usage=False, num_blocks_per_group=1, stream=StreamsOfACpu(cpu),  # type: ignore[arg-type]
        ),
    )  # fmt: skip
    with accel.accelerate(pipe, RECIPE) as session:
        for _ in range(2):
            assert torch.equal(run(pipe, TINY[name]), fast(name))
            assert session.report().predicted == PREDICTED[name]
    assert torch.equal(run(pipe, TINY[name]), plain(name))
    assert traces(pipe) == []


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "flux"])
def test_a_denoiser_placed_by_a_device_map(name: str) -> None:
    """What `from_pretrained(device_map=...)` puts on it: hooks of accelerate, and where each part is."""
    pipe = TINY[name].build()
    dispatch_model(pipe.transformer, {"": "cpu"}, main_device="cpu", force_hooks=True)
    assert pipe.transformer.hf_device_map == {"": "cpu"}
    with accel.accelerate(pipe, RECIPE) as session:
        assert torch.equal(run(pipe, TINY[name]), fast(name))
        assert session.report().predicted == PREDICTED[name]
    assert torch.equal(run(pipe, TINY[name]), plain(name))
    assert traces(pipe) == []


def test_a_closure_over_our_forward_neither_loops_nor_drops_the_cache() -> None:
    """Nobody can look into a closure, so from then on ours stands on top of it and below it passes through."""
    pipe = TINY["wan"].build()
    session = accel.accelerate(pipe, RECIPE)
    ours, calls = pipe.transformer.forward, []

    def closure(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return ours(*args, **kwargs)

    pipe.transformer.forward = closure
    for _ in range(2):
        assert torch.equal(run(pipe, TINY["wan"]), fast("wan"))
        assert session.report().predicted == PREDICTED["wan"]
    session.restore()
    assert pipe.transformer.forward is closure
    calls.clear()
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))
    assert len(calls) == 10


# Weights and parts that change under us


def test_lora_loaded_and_unloaded_while_accelerated() -> None:
    pipe, other = TINY["wan"].build(), TINY["wan"].build()
    config = LoraConfig(r=2, lora_alpha=64, target_modules=["to_q", "to_v"], init_lora_weights=False)
    with accel.accelerate(pipe, RECIPE):
        before = run(pipe, TINY["wan"])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipe.transformer.add_adapter(config)
            torch.manual_seed(0)
            other.transformer.add_adapter(config)
        with accel.accelerate(other, RECIPE):
            adapted = run(pipe, TINY["wan"])
            assert torch.equal(adapted, run(other, TINY["wan"]))
            assert not torch.allclose(adapted, before, atol=1e-2)
        pipe.transformer.delete_adapters("default")
        assert torch.equal(run(pipe, TINY["wan"]), before)
    assert traces(pipe) == []
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))


@pytest.mark.slow  # test_compile.py has the blocks compiled, a test below the whole
@pytest.mark.part(1)
@pytest.mark.parametrize(("in_place", "compiled_first"), [(True, False), (False, True)])
def test_compiled_transformer(in_place: bool, compiled_first: bool) -> None:
    """As one graph: our layer stands outside of what is compiled, whichever came first."""
    pipe, plan = TINY["wan"].build(), ["compile", "accelerate"]
    for step in plan if compiled_first else reversed(plan):
        if step == "accelerate":
            session = accel.accelerate(pipe, RECIPE)
        elif in_place:
            pipe.transformer.compile(backend="eager", fullgraph=True)
        else:
            pipe.transformer = torch.compile(pipe.transformer, backend="eager", fullgraph=True)
    torch.testing.assert_close(run(pipe, TINY["wan"]), fast("wan"), rtol=1e-4, atol=1e-4)
    assert session.report().predicted == PREDICTED["wan"]
    session.restore()
    # torch remembers what it was given to compile, to ask it about settings; that layer is dead.
    assert [path for path in traces(pipe) if not path.endswith("._torchdynamo_orig_callable")] == []
    torch.testing.assert_close(run(pipe, TINY["wan"]), plain("wan"), rtol=1e-4, atol=1e-4)


def test_a_probe_in_a_compiled_transformer_fails_open_and_says_so() -> None:
    pipe = TINY["wan"].build()
    pipe.transformer.compile(backend="eager")
    with accel.accelerate(pipe, cache=PROBING) as session:
        torch.testing.assert_close(run(pipe, TINY["wan"]), plain("wan"), rtol=1e-4, atol=1e-4)
    assert "probe" in session.report().levers[0].reason


def test_a_scheduler_exchanged_after_accelerating_is_followed() -> None:
    pipe, other = TINY["wan"].build(), TINY["wan"].build()
    first, second = pipe.scheduler, FlowMatchEulerDiscreteScheduler(shift=3.0)
    other.scheduler = copy.deepcopy(second)
    with accel.accelerate(pipe, RECIPE) as session, accel.accelerate(other, RECIPE):
        pipe.scheduler = second
        assert torch.equal(run(pipe, TINY["wan"]), run(other, TINY["wan"]))
        assert session.report().predicted == PREDICTED["wan"]
        assert not any(isinstance(value, accel.patch.Wrapper) for value in vars(first).values())
    assert traces(pipe) == []


def test_a_transformer_exchanged_after_accelerating_is_followed() -> None:
    pipe, other = TINY["wan"].build(), TINY["wan_two_experts"].build()
    first = pipe.transformer
    with accel.accelerate(pipe, RECIPE) as session:
        pipe.transformer = other.transformer_2
        run(pipe, TINY["wan"])
        assert session.report().predicted == PREDICTED["wan"]
        assert "forward" not in vars(first)
    assert traces(pipe) == traces(other) == []


def test_flux_and_its_image_to_image_sibling_share_parts_and_are_accelerated_differently() -> None:
    pipe = TINY["flux"].build()
    other = FluxImg2ImgPipeline.from_pipe(pipe)
    other.set_progress_bar_config(disable=True)
    assert isinstance(pipe, FluxPipeline) and other.scheduler is pipe.scheduler
    with accel.accelerate(pipe, RECIPE) as one, accel.accelerate(other, accel.Recipe()) as two:
        for _ in range(2):
            assert torch.equal(run(pipe, TINY["flux"]), fast("flux"))
            assert torch.equal(run(other, TINY["flux_img2img"]), plain("flux_img2img"))
        assert one.report().predicted == PREDICTED["flux"] and two.report().predicted == 0
    assert traces(pipe) == traces(other) == []
