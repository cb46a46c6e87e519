"""What a stream is asked about may change during a run: its past then says nothing, and it begins a new history."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig

import accel
from accel import FORA, FixedInterval
from accel.caching.conditions import StreamConditions
from accel.call import CONDITIONING, tensors
from accel.report import Report
from accel.streams import Streams
from tests.tiny import TINY, run
from tests.tiny.kinds import kinds_only

STEPS = 12  # with an interval of four: ███···█···██
EXCHANGED = 3  # at the end of this step


def new_words(pipe: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {"prompt_embeds": negated(values["prompt_embeds"])} if step == EXCHANGED else {}


def negated(words: Any) -> Any:
    return [-one for one in words] if isinstance(words, list) else -words


def report(pipe: Any, name: str, cache: Any = None, steps: int = STEPS, **options: Any) -> Report:
    with accel.accelerate(pipe, cache=cache or FixedInterval(4)) as session:
        run(pipe, TINY[name], steps=steps, **options)
    return session.report()


def actions(report: Report, step: int) -> set[str]:
    return {call.action for call in report.calls if call.step == step}


def level(wrong: torch.Tensor, right: torch.Tensor) -> float:
    """PSNR in decibels, with the largest value as the peak."""
    return float(20 * torch.log10(right.abs().max() / (wrong - right).pow(2).mean().sqrt()))


@pytest.mark.part(2)
@kinds_only(name for name in TINY if name not in ("pixart", "svd"))  # they take no such callback
def test_a_prompt_that_is_exchanged_begins_a_new_history_in_every_pipeline(name: str) -> None:
    pipe, heard = TINY[name].build(), list[torch.Tensor]()

    def hear(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found = tensors(next((kwargs[name] for name in CONDITIONING if kwargs.get(name) is not None), args[2:3]))
        heard.extend(found[:1])

    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    denoiser.register_forward_pre_hook(hear, with_kwargs=True)
    given = {"callback_on_step_end": new_words, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    found = report(pipe, name, steps=16, **given)
    # Some pipelines hand the new prompt to the denoiser and some do not.
    exchanged = any(first.shape == one.shape and torch.equal(first, -one) for one in heard for first in heard[:2])
    assert ("computed" in actions(found, EXCHANGED + 1)) is exchanged
    assert any("predicted" in actions(found, step) for step in range(EXCHANGED + 2, 16))
    assert len(found.timeline()) <= 4


@pytest.mark.slow  # tests the test above
def test_most_pipelines_hand_on_an_exchanged_prompt() -> None:
    """Else the test above would test nothing: here is one of each kind of guidance."""
    for name in ("wan", "sd", "flux"):
        given = {"callback_on_step_end": new_words, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
        assert "computed" in actions(report(TINY[name].build(), name, **given), EXCHANGED + 1), name
        assert actions(report(TINY[name].build(), name), EXCHANGED + 1) == {"predicted"}, name


@pytest.mark.part(2)
@pytest.mark.parametrize("name", ["wan", "sd"])
@pytest.mark.parametrize(("size", "kept"), [(0.01, True), (0.5, False)])
def test_a_prompt_that_moves_a_little_keeps_its_history_and_one_that_jumps_does_not(
    name: str, size: float, kept: bool
) -> None:
    draw = torch.Generator().manual_seed(0)

    def moved(pipe: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
        words = values["prompt_embeds"]
        return {"prompt_embeds": words + size * torch.randn(words.shape, generator=draw)}

    given = {"callback_on_step_end": moved, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    found = report(TINY[name].build(), name, **given)
    first = [call.action for call in found.calls if call.stream.startswith(("cond", "pass"))]
    assert ("predicted" in first) is kept
    assert len(found.timeline()) <= 2


@pytest.mark.part(1)
@pytest.mark.parametrize("cache", [FixedInterval(4), FORA(4)], ids=str)
def test_another_strength_of_a_lora_begins_a_new_history(cache: Any) -> None:
    pipe = TINY["wan"].build()
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "style")

    def louder(pipe: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step == (EXCHANGED if isinstance(cache, FixedInterval) else 4):
            pipe.transformer.set_adapters("style", weights=3.0)
        return {}

    with accel.accelerate(pipe, cache=cache) as session:
        run(pipe, TINY["wan"], steps=STEPS, callback_on_step_end=louder)
    found = session.report()
    if isinstance(cache, FixedInterval):
        assert found.timeline()["cond"] == found.timeline()["uncond"] == "███·██···█·█"
    else:
        plain = report(TINY["wan"].build(), "wan", cache)
        assert reused(found) < reused(plain)


def reused(report: Report) -> int:
    return int(report.levers[0].reason.split()[0])


def test_another_strength_of_an_image_prompt_is_seen() -> None:
    module = torch.nn.Linear(1, 1)
    module.processor = SimpleNamespace(scale=[0.5])
    call: Any = SimpleNamespace(
        denoiser="unet",
        module=module,
        arguments={},
        content=0,
        context=SimpleNamespace(run=1, step=0, steps=9, mixed=False),
    )
    regime = StreamConditions()
    before = regime.key(call)
    call.context.step = 1
    assert regime.key(call) == before
    module.processor.scale[0], call.context.step = 0.7, 2
    assert regime.key(call) != before


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sd3_controlnet", "flux_controlnet"])
def test_a_controlnet_that_ends_begins_a_new_history(name: str) -> None:
    """Pipelines go on calling it and multiply its answers by 0."""
    pipe = TINY[name].build()
    found = report(pipe, name, control_guidance_end=0.35)  # on in steps 0 to 3
    assert next(iter(found.timeline().values())) == "███·██···█·█"
    assert next(iter(report(pipe, name).timeline().values())) == "███···█···██"


@pytest.mark.slow  # its outcome; that it ends is told by the tests before it
@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sd3_controlnet", "flux_controlnet"])
def test_a_controlnet_that_ends_costs_no_quality(name: str) -> None:
    pipe, levels = TINY[name].build(), []
    for end in (1.0, 0.5):
        options = {"steps": 24, "control_guidance_end": end}
        right = run(pipe, TINY[name], **options)
        with accel.accelerate(pipe, cache=FixedInterval(3)):
            levels.append(level(run(pipe, TINY[name], **options), right))
    assert levels[1] > levels[0] - 4


def test_guidance_that_returns_after_a_pause_begins_a_new_history() -> None:
    pipe = TINY["wan"].build()

    def paused(pipe: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 1.0 if 2 <= step < 11 else 3.0
        return {}

    with accel.accelerate(pipe, cache=FixedInterval(4)) as session:
        run(pipe, TINY["wan"], steps=20, callback_on_step_end=paused)
    lines = session.report().timeline()
    assert lines["cond"] == "███···█···█···█···██"
    assert lines["uncond"] == "███" + "███···██"  # steps 0 to 2 and 12 to 19


class Asking:
    """A denoiser's side of `Streams`: one line per step of what is asked."""

    def __init__(self) -> None:
        self.streams, self.step = Streams(), -1

    def __call__(self, *asked: torch.Tensor, named: str | None = None) -> list[tuple[str, int]]:
        self.step += 1
        return [self.streams.find(named, words, order, self.step) for order, words in enumerate(asked)]


def words(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(seed))


def test_the_same_memory_costs_no_look_at_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, ask = words(1), words(2), Asking()
    ask(one, other)
    monkeypatch.setattr("accel.streams.StreamRecord.distance", lambda *_: pytest.fail("a host sync"))
    assert ask(one, other) == [("pass 1", 0), ("pass 2", 0)]
    assert ask(other[:1]) == [("pass 2", 0)]


def test_memory_that_was_written_over_is_another_content() -> None:
    one, ask = words(1), Asking()
    ask(one, named="cond")
    one.copy_(words(2))
    assert ask(one, named="cond") == [("cond", 1)]


def test_a_line_that_the_conditioning_follows_is_no_change() -> None:
    start, way, ask = words(1), words(2), Asking()
    assert {ask(start + 0.03 * step * way, named="cond")[0] for step in range(20)} == {("cond", 0)}


def test_two_prompts_under_one_name_are_two_streams() -> None:
    one, other, ask = words(1), words(2), Asking()
    assert ask(one, other, named="cond") == [("cond", 0), ("cond 2", 0)]
    assert ask(one.clone(), other.clone(), named="cond") == [("cond", 0), ("cond 2", 0)]


def test_guidance_that_sets_in_leaves_the_other_stream_its_history() -> None:
    condition, negative, ask = words(1), words(2), Asking()
    ask(condition)
    ask(condition)
    assert ask(negative, condition) == [("pass 2", 0), ("pass 1", 0)]
    assert ask(negative, condition) == [("pass 2", 0), ("pass 1", 0)]


def test_never_more_streams_than_two_steps_have_asked_for() -> None:
    ask = Asking()
    names = {ask(words(seed), words(100 + seed))[0][0] for seed in range(50)}
    assert len(names) <= 4
