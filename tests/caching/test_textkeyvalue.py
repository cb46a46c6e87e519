"""The text key/value cache changes nothing but the number of products: every tiny pipeline, bit for bit."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, WanTransformer3DModel
from diffusers.hooks import HookRegistry, ModelHook
from peft import LoraConfig

import accel
from accel import DeepCache, FixedInterval, SeaCache, TextKeyValueCache
from accel.caching.memo import KEPT, PATIENCE, Memo, Memory
from tests.accel.residue import of_denoisers, raising_in_call, traces
from tests.accel.witness import denoisers, pipeline, plain, twin
from tests.tiny import TINY, run
from tests.tiny.image import TEXT
from tests.tiny.weights import randomise

# Streams that see a prompt of their own: two calls have two, a batch is one, and each expert has its own.
CROSS = {
    "wan": 2,
    "wan_two_experts": 4,
    "wan_token_timesteps": 2,
    "wan_i2v": 2,
    "ltx": 1,
    "pixart": 1,
    "sana": 1,
    "sdxl": 1,
    "sd": 1,
    "animatediff": 1,
    "svd": 1,
}
every_pipeline = pytest.mark.parametrize("name", TINY)
every_crossed = pytest.mark.parametrize("name", CROSS)


def accelerated(pipe: DiffusionPipeline, name: str, method: Any, **options: Any) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipe, accel.Recipe(cache=method)) as session:
        return run(pipe, TINY[name], **options), session.report()


# Bit identity


@every_pipeline
@pytest.mark.parametrize("options", [{}, {"guidance": False}, {"batch": 2, "size": "other", "prompt": 3}], ids=str)
def test_the_output_is_bit_identical(name: str, options: dict[str, Any]) -> None:
    output, report = accelerated(pipeline(name), name, TextKeyValueCache(), **options)
    assert torch.equal(output, plain(name, **options))
    assert report.levers[0].engaged == (name in CROSS)
    assert report.computed == len(report.calls)


@every_crossed
def test_a_session_starts_anew_with_every_call(name: str) -> None:
    asked: list[dict[str, Any]] = [{}, {"prompt": 5}, {"size": "other", "steps": 3}, {}]
    with accel.accelerate(pipeline(name), accel.Recipe(cache=TextKeyValueCache())):
        for options in asked:
            assert torch.equal(run(pipeline(name), TINY[name], **options), plain(name, **options))


PROMPT = ("attn2.to_k", "attn2.to_v", "attn2.norm_k", "text_embedder", "caption_projection")


@every_crossed
def test_keys_and_values_are_computed_once_for_each_stream(name: str) -> None:
    pipe = TINY[name].build()
    counts = counted(pipe, PROMPT)
    accelerated(pipe, name, TextKeyValueCache())
    assert counts and set(counts.values()) == {CROSS[name] // len(denoisers(pipe))}


def counted(pipe: DiffusionPipeline, endings: tuple[str, ...]) -> dict[str, int]:
    """Counts how often modules really run, from under every layer. Text only: not the attention along time."""
    counts: dict[str, int] = {}

    def count(path: str, module: torch.nn.Module) -> None:
        forward, counts[path] = module.forward, 0

        def counting(*args: Any) -> Any:
            counts[path] += 1
            return forward(*args)

        module.forward = counting  # type: ignore[method-assign]

    for name, denoiser in denoisers(pipe).items():
        for path, module in denoiser.named_modules():
            if path.endswith(endings) and "temporal" not in path and "motion" not in path:
                count(f"{name}.{path}", module)
    return counts


def test_tokens_that_the_model_recomputes_in_every_step_are_recognised_by_content() -> None:
    """Wan 2.1 image to video concatenates image and text tokens anew, and slices them anew in every block."""
    pipe, other = (image_to_video() for _ in range(2))
    image_too = ("attn2.add_k_proj", "attn2.add_v_proj", "attn2.norm_added_k", "image_embedder")
    counts = counted(pipe, (*PROMPT, *image_too))
    draw = torch.Generator().manual_seed(0)
    words, image = torch.randn(1, 512, TEXT, generator=draw), torch.randn(1, 5, 12, generator=draw)
    method = TextKeyValueCache()
    with accel.accelerate(pipe, accel.Recipe(cache=method)) as session, session.running(), torch.no_grad():
        pipe.scheduler.set_timesteps(4)
        for timestep in pipe.scheduler.timesteps:
            latents = torch.randn(1, 36, 2, 4, 4, generator=draw)
            given = {"timestep": timestep[None], "encoder_hidden_states": words, "encoder_hidden_states_image": image}
            got = pipe.transformer(latents, **given).sample
            assert torch.equal(got, other.transformer(latents, **given).sample)
            pipe.scheduler.step(got, timestep, latents[:, :16])
    assert len(counts) == 3 * 6 + 2  # six modules in each of three blocks, two embedders
    assert set(counts.values()) == {1}
    # Text: one embedding, and in each block key, normed key, value; image tokens likewise; and both concatenated.
    width, block = 32, 3 * (512 + 5)
    assert session.report().levers[0].extra_bytes == 4 * width * (512 + 5 + 3 * block + 517)


def image_to_video() -> DiffusionPipeline:
    pipe = TINY["wan_i2v"].build()
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=36, text_dim=TEXT, freq_dim=32, ffn_dim=64,
        num_layers=3, image_dim=12, added_kv_proj_dim=32,
    )  # fmt: skip
    pipe.transformer = randomise(transformer)
    return pipe


@every_crossed
def test_nothing_is_left_after_a_call_and_after_an_interrupted_one(name: str) -> None:
    pipe = TINY[name].build()
    run(pipe, TINY[name])
    before = of_denoisers(pipe)
    denoiser = next(iter(denoisers(pipe).values()))
    with accel.accelerate(pipe, accel.Recipe(cache=TextKeyValueCache())):
        handle = denoiser.register_forward_hook(raising_in_call(3))
        with pytest.raises(InterruptedError):
            run(pipe, TINY[name])
        handle.remove()
        assert torch.equal(run(pipe, TINY[name]), plain(name))
    assert of_denoisers(pipe) == before
    assert traces(pipe) == []


# What may change during a run


@pytest.mark.parametrize("name", ["wan", "sd", "pixart"])
def test_a_prompt_that_is_changed_in_place_is_computed_anew(name: str) -> None:
    def fade(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            values["prompt_embeds"].mul_(0.5)
        return values

    # PixArt asks its callback for nothing; the embeddings are reached through the arguments.
    def old(step: int, timestep: Any, latents: Any) -> None:
        if step == 3:
            words.mul_(0.5)

    outputs = []
    for pipe, method in ((twin(name), None), (pipeline(name), TextKeyValueCache())):
        words = TINY[name].arguments(pipe)["prompt_embeds"]
        late: dict[str, Any] = {"callback_on_step_end": fade, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
        if name == "pixart":
            late = {"callback": old, "callback_steps": 1, "prompt_embeds": words, "guidance": False}
        with accel.accelerate(pipe, accel.Recipe(cache=method)):
            outputs.append(run(pipe, TINY[name], **late))
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0], plain(name))


def test_a_lora_whose_scale_changes_during_the_run_is_obeyed() -> None:
    outputs = []
    for method in (None, TextKeyValueCache()):
        pipe = TINY["wan"].build()
        pipe.transformer.add_adapter(
            LoraConfig(r=2, target_modules=["attn2.to_k", "attn2.to_v"], init_lora_weights=False), "style"
        )
        draw = torch.Generator().manual_seed(1)
        for path, parameter in pipe.transformer.named_parameters():
            if "lora" in path:
                parameter.data.copy_(torch.randn(parameter.shape, generator=draw))

        def louder(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if step in (2, 5):
                pipe.transformer.set_adapters("style", weights=0.3 * step)
            return values

        with accel.accelerate(pipe, accel.Recipe(cache=method)) as session:
            outputs.append(run(pipe, TINY["wan"], callback_on_step_end=louder))
    assert torch.equal(*outputs)
    # Three weights in the run: each key, its norm and each value are computed for them all, in two streams.
    assert session.report().levers[0].reason.startswith(f"{160 - 2 * (3 * 3 * 3 + 1)} of 160 ")


def test_tensors_of_inference_mode_count_no_changes_and_are_compared_by_content() -> None:
    with torch.inference_mode():
        output, report = accelerated(pipeline("wan"), "wan", TextKeyValueCache())
    assert torch.equal(output, plain("wan"))
    assert report.levers[0].reason == "140 of 160 projections of the prompt reused"


# Memory


def test_extra_memory_is_what_the_docstring_says() -> None:
    _, report = accelerated(pipeline("wan"), "wan", TextKeyValueCache())
    streams, layers, tokens, width = 2, 3, 8, 32
    assert report.levers[0].extra_bytes == streams * (3 * layers + 1) * tokens * width * 4


def test_a_remembered_input_keeps_its_address_and_is_let_go_with_its_answers() -> None:
    module, memory, memo = torch.nn.Linear(3, 3), Memory(), Memo()
    first = torch.ones(2, 3)
    alive = weakref.ref(first)
    answered(memory, memo, module, first)
    del first
    gc.collect()
    assert alive() is not None
    for number in range(KEPT):
        answered(memory, memo, module, torch.full((2, 3), 2.0 + number))
    memory.next_call()
    gc.collect()
    assert alive() is None and len(memo.answers) == KEPT


def test_what_is_known_is_the_same_memory_layout_and_version_or_the_same_content() -> None:
    module, memory, memo = torch.nn.Linear(4, 4), Memory(), Memo()
    given = torch.arange(16.0).view(4, 4)
    assert not answered(memory, memo, module, given)
    assert answered(memory, memo, module, given)
    assert answered(memory, memo, module, given.view(2, 8).view(4, 4))
    assert answered(memory, memo, module, given.clone())
    assert not answered(memory, memo, module, given.t())  # the same address and shape
    assert not answered(memory, memo, module, given[:2])
    given.add_(1)
    assert not answered(memory, memo, module, given)
    assert answered(memory, memo, module, given)
    with torch.no_grad():
        module.weight.mul_(2)
    assert not answered(memory, memo, module, given)
    assert answered(memory, memo, module, given)


def test_an_answer_that_somebody_wrote_into_is_computed_anew() -> None:
    module, memory, memo = torch.nn.Linear(4, 4), Memory(), Memo()
    given = torch.ones(2, 4)
    with torch.no_grad():
        memory.answer(memo, module, given, lambda: module(given))[0].zero_()
        output, remembered = memory.answer(memo, module, given, lambda: module(given))
    assert not remembered and torch.equal(output, module(given))


def test_a_module_that_never_sees_the_same_twice_is_given_up_and_holds_nothing() -> None:
    module, memory, memo = torch.nn.Linear(4, 4), Memory(), Memo()
    for number in range(PATIENCE):
        assert not memo.hopeless
        answered(memory, memo, module, torch.full((2, 4), float(number)))
    assert memo.hopeless and not memo.answers


def answered(memory: Memory, memo: Memo, module: torch.nn.Module, given: torch.Tensor) -> bool:
    """Whether the answer was remembered; it is right in any case."""
    memory.next_call()
    with torch.no_grad():
        output, remembered = memory.answer(memo, module, given, lambda: module(given))
        assert torch.equal(output, module(given))
    return remembered


# Together with another cache


@pytest.mark.parametrize("name", ["wan", "wan_two_experts", "sd", "flux"])
@pytest.mark.parametrize(
    "then", [FixedInterval(3, warmup=2, min_steps=1), SeaCache(0.5, min_steps=1), DeepCache(3, min_steps=1)], ids=str
)
def test_it_goes_together_with_another_cache(name: str, then: Any) -> None:
    expected, alone = accelerated(pipeline(name), name, then)
    output, report = accelerated(pipeline(name), name, TextKeyValueCache(then))
    assert torch.equal(output, expected)
    assert report.timeline() == alone.timeline()
    lever, other = report.levers[0], alone.levers[0]
    assert lever.reason.endswith(f"; {other.reason}")
    assert lever.engaged == (name in CROSS or other.engaged)
    assert lever.extra_bytes >= other.extra_bytes


@pytest.mark.parametrize(
    "method", [TextKeyValueCache(), TextKeyValueCache(SeaCache(0.3)), TextKeyValueCache(FixedInterval(4))], ids=str
)
def test_the_other_cache_or_none_is_part_of_the_recipe(method: TextKeyValueCache) -> None:
    recipe = accel.Recipe(cache=method)
    assert accel.Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_second_text_cache_and_what_is_no_cache_are_refused() -> None:
    with pytest.raises(ValueError, match="must be another cache"):
        TextKeyValueCache(TextKeyValueCache())
    with pytest.raises(TypeError, match=r"TextKeyValueCache\.then must be one of"):
        TextKeyValueCache(accel.LastOutput())


# Where it cannot act


def test_joint_attention_is_left_alone_and_the_report_says_why() -> None:
    _, report = accelerated(pipeline("flux"), "flux", TextKeyValueCache())
    assert "no cross-attention to the prompt" in report.levers[0].reason
    assert not report.levers[0].engaged


def test_modules_with_hooks_of_diffusers_are_left_alone_and_the_report_counts_them() -> None:
    pipe = TINY["wan"].build()
    for block in pipe.transformer.blocks:
        HookRegistry.check_if_exists_or_initialize(block.attn2.to_v).register_hook(ModelHook(), "mine")
    output, report = accelerated(pipe, "wan", TextKeyValueCache())
    assert torch.equal(output, plain("wan"))
    assert report.levers[0].reason.endswith("(3 modules are compiled or hooked and were left alone)")


def test_compiled_blocks_are_left_alone() -> None:
    pipe = TINY["wan"].build()
    for block in pipe.transformer.blocks:
        block.compile(backend="eager")
    output, report = accelerated(pipe, "wan", TextKeyValueCache(), steps=2)
    assert torch.equal(output, plain("wan", steps=2))
    assert "(9 modules are compiled or hooked and were left alone)" in report.levers[0].reason
    assert report.levers[0].reason.startswith("2 of 4 ")  # the text embedder
