"""The second engine: modules answered from the past, beside everything else that people do to a pipeline."""

from __future__ import annotations

import copy
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import DiffusionPipeline, WanPipeline
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig

import accel
from accel import FORA, PAB, AdaCache, SmoothCache, TGate
from accel.anatomy import inspect
from accel.caching.module_gate import ModuleGate, relative_change
from accel.caching.module_store import ModuleCall, ModuleStore, StoredOutput
from accel.caching.modules import ModuleSite, attach, reachable
from accel.call import DenoiserCall, DenoiserResult
from accel.clock import StepContext
from accel.patch import Wrapper
from tests.accel.residue import traces
from tests.accel.witness import plain as unaccelerated
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, run

METHOD = FORA(3, warmup=2, final=1, min_steps=1)  # eight steps: ccrrcrrc
MODULES = 6  # of the tiny Wan: two blocks of self-attention, cross-attention and feed-forward
ONE_OUTPUT = 3 * 4 * 4 * 32 * 4  # bytes: frames x height x width x channels x float32


def build(name: str = "wan") -> DiffusionPipeline:
    return TINY[name].build()


def accelerated(pipe: DiffusionPipeline, method: Any = METHOD, name: str = "wan", **options: Any) -> Any:
    with accel.accelerate(pipe, accel.Recipe(cache=method)) as session:
        return run(pipe, TINY[name], **options), session.report()


@cache
def reused() -> torch.Tensor:
    """The output of a fresh pipeline with `METHOD`."""
    return accelerated(build())[0]


def layers(pipe: DiffusionPipeline) -> int:
    """How many modules below the denoiser carry a layer of accel's now."""
    children = (child for path, child in pipe.transformer.named_modules() if path)
    return sum(any(isinstance(value, Wrapper) for value in vars(child).values()) for child in children)


# What is found


def test_modules_are_found_by_kind_as_names() -> None:
    def found(name: str, denoiser: str = "transformer") -> dict[str, int]:
        return {kind: len(paths) for kind, paths in inspect(build(name)).denoisers[denoiser].modules.items()}

    assert found("wan") == {"self_attention": 2, "cross_attention": 2, "feed_forward": 2}
    # Two joint blocks (the second MLP is the text's) and two single ones, whose MLP begins with a projection.
    assert found("flux") == {"self_attention": 4, "feed_forward": 6}
    # The first block has a second self-attention; the last one no MLP for the text.
    assert found("sd3") == {"self_attention": 4, "feed_forward": 5}
    assert found("animatediff", "unet") == {
        "self_attention": 4, "temporal_attention": 14, "cross_attention": 4, "feed_forward": 11,
    }  # fmt: skip
    assert found("svd", "unet") == {
        "self_attention": 4, "temporal_attention": 4, "cross_attention": 8, "feed_forward": 12,
    }  # fmt: skip
    paths = inspect(build()).denoisers["transformer"].modules["cross_attention"]
    assert paths == ("blocks.0.attn2", "blocks.1.attn2")
    assert "2 self attention, 2 cross attention, 2 feed forward" in str(inspect(build()))


def test_a_model_without_such_modules_is_left_alone_and_told_what_to_use() -> None:
    pipe = ToyPipeline(lambda latents, sigma: latents * sigma)
    pipe.transformer.blocks = torch.nn.ModuleList()
    pipe.transformer.forward = lambda hidden_states, timestep: (hidden_states * float(timestep) / 1000,)
    expected = pipe()
    for method in (FORA(), PAB(), TGate(), AdaCache()):
        with accel.accelerate(pipe, accel.Recipe(cache=method)) as session:
            assert torch.equal(pipe(), expected)
        assert "finds no" in session.report().levers[0].reason and "FixedInterval" in session.report().levers[0].reason


# The report


def test_the_report_counts_module_calls_and_bytes() -> None:
    _, report = accelerated(build())
    lever = report.levers[0]
    assert lever.engaged
    # Two streams of eight steps, four of which reuse.
    assert lever.reason == (
        "48 of 96 module calls reused (self_attention 16 of 32, cross_attention 16 of 32, feed_forward 16 of 32)"
    )
    assert lever.extra_bytes == 2 * MODULES * ONE_OUTPUT
    assert (report.computed, report.predicted) == (16, 0)
    reasons = [call.reason for call in report.calls if call.stream == "cond"]
    reuses = "reuses self_attention, cross_attention, feed_forward"
    nothing = "nothing is reused in this step"
    assert reasons == ["warm-up", "warm-up", reuses, reuses, nothing, reuses, reuses, "last steps"]


@pytest.mark.part(3)
@pytest.mark.parametrize(
    ("method", "outputs"),
    [
        (PAB(3, 1, 1, (-1.0, 1001.0), min_steps=1), 2),
        (PAB(3, 2, 1, (-1.0, 1001.0), min_steps=1), 4),
        (TGate(4, 1, min_steps=1), 2),
        (AdaCache((1e9, 3), min_steps=1), 6),
        (FORA(1), 0),
    ],
)
def test_only_what_may_be_reused_is_kept(method: Any, outputs: int) -> None:
    _, report = accelerated(build(), method)
    assert report.levers[0].extra_bytes == 2 * outputs * ONE_OUTPUT


@pytest.mark.part(3)
@pytest.mark.parametrize(
    ("method", "words"),
    [
        (FORA(1), "never reuse a module"),
        (FORA(3, min_steps=10), "min_steps=10"),
        (PAB(window=(0.0, 1.0), min_steps=1), "widen it"),
        (AdaCache((1e-9, 3), min_steps=1), "raise them"),
        (TGate(99, 1, min_steps=1), "lower it"),
        (SmoothCache(), "accel.calibrate(pipe, prompts)"),
        (SmoothCache(0.1, (("transformer", "feed_forward", ((1.0, 9.0), (0.0, 9.0))),), min_steps=1), "raise it"),
    ],
)
def test_where_nothing_is_reused_the_report_says_why(method: Any, words: str) -> None:
    _, report = accelerated(build(), method)
    assert not report.levers[0].engaged and words in report.levers[0].reason


# Streams


def test_guidance_that_is_cut_off_does_not_mix_the_streams() -> None:
    """The conditional stream goes on as if it had been alone all the time; the other one's outputs are let go."""

    def switch_off(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == 3:
            pipe._guidance_scale = 1.0
        return values

    pipe = build()
    with accel.accelerate(pipe, accel.Recipe(cache=METHOD)) as session:
        gate = session._levers[0]
        assert isinstance(gate, ModuleGate)
        held = []
        run(
            pipe,
            TINY["wan"],
            callback_on_step_end=lambda *given: (held.append(gate._store.bytes_now), switch_off(*given))[1],
        )
    report = session.report()
    assert [len([call for call in report.calls if call.stream == name]) for name in ("cond", "uncond")] == [8, 4]
    # Of each stream: 2 reused steps before the cut; of the conditional one 2 after it.
    assert report.levers[0].reason.startswith(f"{(2 + 2 + 2) * MODULES} of {12 * MODULES} ")
    one = MODULES * ONE_OUTPUT
    assert held == [2 * one] * 5 + [one] * 3  # after the next computed step (4) there is nobody to ask for them


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("last", [3, 4])
def test_a_batch_that_shrinks_in_mid_run_computes_first(name: str, last: int) -> None:
    """The recipe of the diffusers documentation for cutting guidance off: from there on it is another stream."""
    pipe = build(name)
    cut = ["prompt_embeds", *(["add_text_embeds", "add_time_ids"] if name == "sdxl" else [])]

    def switch_off(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == last:
            values |= {key: values[key].chunk(2)[-1] for key in cut}
            pipe._guidance_scale = 0.0
        return values

    options = {"callback_on_step_end": switch_off, "callback_on_step_end_tensor_inputs": cut, "steps": 10}
    _, report = accelerated(pipe, FORA(2, warmup=2, min_steps=1), name, **options)
    modules = sum(len(paths) for paths in inspect(pipe).denoisers["unet"].modules.values())
    marks = "ccrcrcrcrc" + ("c" if name == "sd" else "")  # PNDM evaluates once more; the last step computes
    reusing = [step for step, mark in enumerate(marks) if mark == "r"]
    first = last + 1  # evaluation of the new stream
    expected = len([step for step in reusing if step != first])
    assert report.levers[0].reason.startswith(f"{expected * modules} of {len(marks) * modules} ")
    assert len({call.stream for call in report.calls}) == 2


def reuse_by_hand(pipe: Any, method: Any) -> Any:
    """A gate around a toy denoiser, called directly: step(number, streams) -> what the module gave each stream."""
    gate, denoiser = ModuleGate(method, inspect(pipe)), pipe.transformer
    gate.begin({"transformer": denoiser})
    gate.reset()

    def proceed(call: DenoiserCall) -> DenoiserResult:
        tokens = torch.full((1, *call.latents[0].shape[2:]), 10.0 * call.context.step, dtype=call.latents[0].dtype)
        value = denoiser.blocks[0].attn1(hidden_states=tokens)
        assert value.shape == tokens.shape and value.dtype == tokens.dtype
        return DenoiserResult(float(value.mean()), "computed", "computed")

    def step(number: int, *streams: str, width: int = 4, dtype: torch.dtype = torch.float32) -> list[float]:
        context, latents = StepContext(1, number, number, 10, 1 - number / 10), torch.ones(1, 2, 4, width, dtype=dtype)
        calls = [
            DenoiserCall("transformer", stream, stream == streams[0], context, (), {}, [latents], denoiser, {})
            for stream in streams
        ]
        return [gate.handle(call, proceed).output for call in calls]

    return gate, step


def test_a_stream_that_was_away_when_the_leader_computed_is_computed_when_it_comes_back() -> None:
    """A guidance lever answers the second stream in some steps: what is older than the leader's is not reused."""
    pipe = ToyPipeline(lambda latents, sigma: latents)
    gate, step = reuse_by_hand(pipe, FORA(3, min_steps=1, final=0))
    assert step(0, "cond", "uncond") == [0, 0]
    assert step(1, "cond", "uncond") == [0, 0]
    assert step(2, "cond") == [0]
    assert step(3, "cond") == [30]  # computed, and the other stream is away
    assert step(4, "cond", "uncond") == [30, 40]
    assert step(5, "cond", "uncond") == [30, 40]
    assert step(6, "cond", "uncond") == [60, 60]
    gate.end()


def test_another_shape_or_dtype_is_computed() -> None:
    gate, step = reuse_by_hand(ToyPipeline(lambda latents, sigma: latents), FORA(9, min_steps=1, final=0))
    assert [*step(0, "cond"), *step(1, "cond")] == [0, 0]
    assert [*step(2, "cond", width=6), *step(3, "cond", width=6)] == [20, 20]
    assert [*step(4, "cond", width=6, dtype=torch.float64), *step(5, "cond", width=6)] == [40, 50]
    gate.end()


def test_a_second_expert_has_outputs_of_its_own_and_the_first_ones_are_let_go() -> None:
    pipe = build("wan_two_experts")
    _, report = accelerated(pipe, METHOD, "wan_two_experts")
    assert report.levers[0].extra_bytes == 2 * MODULES * ONE_OUTPUT
    # Expert one: ccr, expert two: crrcc.
    assert report.levers[0].reason.startswith(f"{3 * 2 * MODULES} of {8 * 2 * MODULES} ")


# What is kept


def test_nobody_who_works_in_place_on_an_answer_changes_the_next_one() -> None:
    output = (torch.ones(2, 3), torch.zeros(2))
    kept = StoredOutput.of(output, "self_attention", 0, ())
    output[0].mul_(5)
    for _ in range(2):
        again = kept.output()
        assert isinstance(again, tuple) and torch.equal(again[0], torch.ones(2, 3))
        again[0].add_(7)


def test_the_store_counts_what_it_holds_and_held_at_most() -> None:
    store, slots = ModuleStore(), [ModuleCall("transformer", "cond", f"blocks.{index}", 0) for index in range(3)]
    for slot in slots:
        store.put(slot, StoredOutput.of(torch.zeros(5), "feed_forward", 1, ()))
    store.put(slots[0], StoredOutput.of(torch.zeros(1), "feed_forward", 2, ()))
    assert (store.bytes_now, store.peak) == (4 * 11, 4 * 15)
    store.drop_where(lambda slot, kept: kept.step == 1)
    assert (store.bytes_now, store.peak) == (4, 60)
    store.clear()
    assert (store.bytes_now, store.peak, store.get(slots[0])) == (0, 60, None)


def test_nothing_is_held_after_the_call_and_layers_stand_during_it_alone() -> None:
    pipe, during = build(), []

    def look(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        during.append(layers(pipe))
        return values

    session = accel.accelerate(pipe, accel.Recipe(cache=METHOD))
    assert layers(pipe) == 0
    run(pipe, TINY["wan"], callback_on_step_end=look)
    assert set(during) == {MODULES}
    assert layers(pipe) == 0
    gate = session._levers[0]
    assert isinstance(gate, ModuleGate)
    assert gate._store.bytes_now == 0 and not gate._store._kept and not gate._courses and not gate._wrappers


def test_a_module_that_is_called_several_times_in_one_call_has_an_output_for_each() -> None:
    """Chunked feed-forward is exact, so it changes nothing about what is reused."""
    usual, _ = accelerated(build("animatediff"), METHOD, "animatediff", steps=5)
    pipe = build("animatediff")
    pipe.unet.enable_forward_chunking(chunk_size=2, dim=0)
    chunked, report = accelerated(pipe, METHOD, "animatediff", steps=5)
    assert report.levers[0].engaged
    torch.testing.assert_close(chunked, usual, rtol=1e-4, atol=1e-4)


def test_the_change_is_that_of_the_sample_that_changed_most() -> None:
    """Frames are folded into the batch behind the samples: (2 samples x 3 frames, tokens, channels)."""
    before = torch.ones(6, 2, 4)
    now = before.clone()
    now[3:] += 0.5
    assert relative_change([before], [now], samples=2) == pytest.approx(0.5)
    assert relative_change([before], [now], samples=1) == pytest.approx(0.25)
    assert relative_change([before], [now], samples=4) == pytest.approx(0.25)  # does not fold: all of it


def test_adacache_measures_the_middle_attention_of_computed_steps() -> None:
    """The toy's attention gives 1 + sigma. Under 0.03 a step: four steps; under 0.04: three; else one."""
    pipe = ToyPipeline(lambda latents, sigma: latents)
    method = AdaCache((0.03, 4, 0.04, 3), min_steps=1, final=1)
    with accel.accelerate(pipe, accel.Recipe(cache=method)) as session:
        pipe(num_inference_steps=20)
    value = [1 + sigma for sigma in pipe.scheduler.sigmas[:20].tolist()]
    expected, last, rate = [0], 0, 1
    for step in range(1, 20):
        if step >= last + rate or step == 19:
            change = (value[last] - value[step]) / value[last] / (step - last)
            rate = 4 if change < 0.03 else 3 if change < 0.04 else 1
            expected.append(step)
            last = step
    computed = [call.step for call in session.report().calls if not call.reason.startswith("reuses")]
    assert computed == expected
    assert {4, 3} <= {later - step for step, later in pairwise(computed)}


# Beside others


def test_a_denoiser_that_two_pipelines_share_is_reused_in_one_of_them() -> None:
    pipe = build()
    other = WanPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    expected = unaccelerated("wan")
    with accel.accelerate(pipe, accel.Recipe(cache=METHOD)):
        assert not torch.equal(run(pipe, TINY["wan"]), expected)
        assert torch.equal(run(other, TINY["wan"]), expected)
        with accel.accelerate(other, accel.Recipe(cache=FORA(2, warmup=2, min_steps=1))) as second:
            assert torch.equal(run(pipe, TINY["wan"]), reused())
            run(other, TINY["wan"])
            assert second.report().levers[0].reason.startswith(f"{3 * 2 * MODULES} of")
    assert traces(pipe) == traces(other) == []


def test_restoring_in_the_middle_of_a_call() -> None:
    pipe = build()
    session = accel.accelerate(pipe, accel.Recipe(cache=METHOD))

    def restore(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == 2:
            session.restore()
            assert layers(pipe) == 0
        return values

    run(pipe, TINY["wan"], callback_on_step_end=restore)
    assert traces(pipe) == []
    assert torch.equal(run(pipe, TINY["wan"]), unaccelerated("wan"))


def test_a_copy_made_during_a_call_is_a_plain_one() -> None:
    pipe, copies = build(), []

    def duplicate(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == 2:
            copies.append(copy.deepcopy(pipe.transformer))
        return values

    with accel.accelerate(pipe, accel.Recipe(cache=METHOD)):
        run(pipe, TINY["wan"], callback_on_step_end=duplicate)
    plain = build()
    plain.transformer = copies[0]
    assert torch.equal(run(plain, TINY["wan"]), unaccelerated("wan"))


def offloaded_by_accelerate(pipe: Any) -> None:
    cpu_offload(pipe.vae, execution_device=torch.device("cpu"))  # the pipeline asks its first module for the device
    cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))


def offloaded_by_diffusers(pipe: Any) -> None:
    apply_group_offloading(
        pipe.transformer, onload_device=torch.device("cpu"), offload_device=torch.device("cpu"),
        offload_type="leaf_level",
    )  # fmt: skip


def hooked_modules(pipe: Any) -> None:
    for block in pipe.transformer.blocks:
        add_hook_to_module(block.attn1, ModelHook())
        add_hook_to_module(block.ffn, ModelHook())


@pytest.mark.part(1)
@pytest.mark.parametrize("prepare", [offloaded_by_accelerate, offloaded_by_diffusers, hooked_modules])
def test_reuse_works_with_offload_hooks_and_leaves_them_in_place(prepare: Any) -> None:
    expected, plain = reused(), unaccelerated("wan")
    pipe, asked = build(), TINY["wan"].arguments(build())  # an offloaded pipeline says that it is on "meta"
    asked |= {"num_inference_steps": 8, "output_type": "latent", "return_dict": False}
    prepare(pipe)

    def output() -> torch.Tensor:
        return pipe(**asked, generator=torch.Generator().manual_seed(0))[0]

    assert torch.equal(output(), plain)
    before = {path: dict(vars(child)) for path, child in pipe.transformer.named_modules()}
    with accel.accelerate(pipe, accel.Recipe(cache=METHOD)) as session:
        for _ in range(2):
            assert torch.equal(output(), expected)
            assert session.report().levers[0].reason.startswith("48 of 96")
    after = {path: vars(child) for path, child in pipe.transformer.named_modules()}
    assert all(before[path].keys() == after[path].keys() for path in before)
    assert all(before[path].get("forward") is after[path].get("forward") for path in before if path)
    assert torch.equal(output(), plain)


def test_adapters_that_come_and_go_between_calls() -> None:
    pipe = build()
    with accel.accelerate(pipe, accel.Recipe(cache=METHOD)) as session:
        without = run(pipe, TINY["wan"])
        torch.manual_seed(0)
        pipe.transformer.add_adapter(LoraConfig(target_modules=["to_q", "to_out.0", "net.2"], init_lora_weights=False))
        within = run(pipe, TINY["wan"])
        assert session.report().levers[0].reason.startswith("48 of 96")
        pipe.transformer.disable_adapters()
        assert torch.equal(run(pipe, TINY["wan"]), without)
    assert not torch.equal(within, without)
    assert traces(pipe) == []


# Compiled


def test_modules_inside_of_compiled_blocks_are_left_alone_and_the_report_says_so() -> None:
    pipe = build()
    pipe.transformer.blocks[0].compile(backend="eager")
    output, report = accelerated(pipe)
    reason = report.levers[0].reason
    assert reason.startswith("24 of 48 module calls reused")
    assert "3 modules are inside compiled blocks" in reason and "denoiser's boundary" in reason
    for block in pipe.transformer.blocks[1:]:
        block.compile(backend="eager")
    output, report = accelerated(pipe)
    assert not report.levers[0].engaged and "no module can be reached" in report.levers[0].reason
    torch.testing.assert_close(output, unaccelerated("wan"))


def test_compiled_modules_are_reached_in_front_of_their_graph() -> None:
    pipe, graphs = build(), []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for block in pipe.transformer.blocks:
        block.ffn.compile(backend=backend)
    run(pipe, TINY["wan"])
    compiled = len(graphs)
    assert compiled > 0
    output, report = accelerated(pipe)
    assert report.levers[0].reason.startswith("48 of 96")
    assert len(graphs) == compiled  # reuse made nobody compile again
    torch.testing.assert_close(output, reused())
    assert traces(pipe) == []


def test_a_compiled_denoiser_has_no_reachable_module() -> None:
    pipe = build()
    wrapped = torch.compile(pipe.transformer, backend="eager")
    assert reachable(wrapped, "blocks.0.attn1") is None
    assert reachable(pipe.transformer, "blocks.0.attn1") is pipe.transformer.blocks[0].attn1
    assert reachable(pipe.transformer, "blocks.9.attn1") is None
    site = ModuleSite("transformer", "self_attention", "blocks.0.attn1")
    assert attach({"transformer": wrapped}, [site], print) == ([], [site])
    assert traces(pipe) == []
