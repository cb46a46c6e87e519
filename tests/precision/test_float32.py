"""A pipeline in 16 bits on a processor that multiplies them in loops: products in float32, and nothing left of it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import accel
from accel import FixedInterval, Float32
from accel.precision.methods import float32
from accel.report import LeverReport
from tests.accel.residue import of_denoisers, raising_in_call, traces
from tests.tiny import TINY, run

HALVES = pytest.mark.parametrize("dtype", float32.HALVES, ids=str)


@pytest.fixture(autouse=True)
def slow_at_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor without such instructions, whichever runs this."""
    monkeypatch.setattr("accel.precision.methods.float32.multiplies_in_loops", lambda dtype: True)
    monkeypatch.setattr("accel.precision.choosing.multiplies_in_loops", lambda dtype: True)


def account(session: accel.Session) -> LeverReport:
    return next(lever for lever in session.report().levers if lever.lever == "precision")


def in_half(name: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    pipe = TINY[name].build()
    pipe.to(dtype)
    return pipe


def modes() -> list[Any]:
    return torch.overrides._get_current_function_mode_stack()


@HALVES
@pytest.mark.parametrize(
    ("product", "shapes"),
    [
        (F.linear, ((9, 64), (32, 64), (32,))),
        (torch.matmul, ((2, 9, 64), (2, 64, 9))),
        (torch.Tensor.__matmul__, ((9, 64), (64, 9))),
        (torch.bmm, ((2, 9, 64), (2, 64, 9))),
        (torch.baddbmm, ((2, 9, 9), (2, 9, 64), (2, 64, 9))),
        (torch.addmm, ((9, 9), (9, 64), (64, 9))),
        (F.conv2d, ((1, 8, 9, 9), (4, 8, 3, 3), (4,))),
        (F.conv3d, ((1, 8, 3, 9, 9), (4, 8, 3, 3, 3))),
        (F.conv_transpose2d, ((1, 8, 9, 9), (8, 4, 3, 3))),
        (F.scaled_dot_product_attention, ((1, 2, 9, 16),) * 3),
    ],
)
def test_a_product_is_the_exact_one_rounded_once(product: Any, shapes: Any, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    factors = [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]
    with float32._InFloat32(float32.HALVES) as mode:
        output = product(*factors)
    exact = product(*(factor.double() for factor in factors))
    assert mode.products == 1 and output.dtype == dtype
    torch.testing.assert_close(output.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_what_it_does_not_know_or_cannot_widen_is_left_alone() -> None:
    half, masks = torch.ones(9, 9, dtype=torch.bfloat16), torch.ones(9, 9, dtype=torch.bool)
    with float32._InFloat32((torch.bfloat16,)) as mode:
        assert torch.equal(half @ half.float().bfloat16(), 9 * half) and mode.products == 1
        assert (half.float() @ half.float()).dtype == torch.float32
        assert (half.half() @ half.half()).dtype == torch.float16
        assert torch.mm(half, half, out=torch.empty_like(half)).dtype == torch.bfloat16
        assert F.linear(half[:1], half).dtype == torch.bfloat16  # one row
        with torch.autocast("cpu", torch.bfloat16):
            assert F.linear(half.float(), half.float()).dtype == torch.bfloat16
        assert mode.products == 1
        F.scaled_dot_product_attention(half[None], half[None], half[None], attn_mask=masks[None])
    assert mode.products == 2


@pytest.mark.part(1)
@HALVES
@pytest.mark.parametrize("name", ["wan", "flux", "sd"])
def test_a_run_is_as_near_to_the_model_in_float32_and_gone_without_a_trace(name: str, dtype: torch.dtype) -> None:
    pipe = in_half(name, dtype)
    plain, before = run(pipe, TINY[name], steps=2, output_type="np"), of_denoisers(pipe)
    with accel.accelerate(pipe, accel.Recipe(precision=Float32())) as session:
        first, second = (run(pipe, TINY[name], steps=2, output_type="np") for _ in range(2))
        assert modes() == []  # between calls
    assert account(session).engaged and "products in float32" in account(session).reason
    assert torch.equal(first, second)
    assert torch.equal(run(pipe, TINY[name], steps=2, output_type="np"), plain)
    assert of_denoisers(pipe) == before and traces(pipe) == []
    pipe.to(torch.float32)  # the same rounded weights
    exact = run(pipe, TINY[name], steps=2, output_type="np")
    assert (first - exact).norm() <= 2 * (plain - exact).norm()


def test_the_text_encoder_and_the_decoder_have_it_too() -> None:
    pipe, seen = accel.pocket.load("image").to(torch.bfloat16), {}
    decode = pipe.vae.decode

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen["pixels"] = len(modes())
        return decode(*args, **kwargs)

    pipe.vae.decode = watched
    for part in ("text_encoder", "unet"):
        getattr(pipe, part).register_forward_hook(lambda *_, part=part: seen.update({part: len(modes())}))
    with accel.accelerate(pipe, accel.Recipe(precision=Float32())):
        pipe("a red circle", num_inference_steps=1)
    assert seen == {"text_encoder": 1, "unet": 1, "pixels": 1}


def test_it_composes_with_a_cache_and_survives_an_interruption() -> None:
    pipe = in_half("wan")
    recipe = accel.Recipe(cache=FixedInterval(2, warmup=1, final=1, min_steps=1), precision=Float32())
    with accel.accelerate(pipe, recipe) as session:
        expected = run(pipe, TINY["wan"], steps=6)
        assert session.report().predicted > 0 and account(session).engaged
        hook = pipe.transformer.register_forward_pre_hook(raising_in_call(2))
        with pytest.raises(InterruptedError):
            run(pipe, TINY["wan"], steps=6)
        hook.remove()
        assert modes() == []
        assert torch.equal(run(pipe, TINY["wan"], steps=6), expected)


def test_other_threads_do_not_notice() -> None:
    pipe, found = in_half("wan"), []

    def ask(*_: Any) -> None:
        thread = threading.Thread(target=lambda: found.append(modes()))
        thread.start()
        thread.join()

    pipe.transformer.register_forward_hook(ask)
    with accel.accelerate(pipe, accel.Recipe(precision=Float32())):
        run(pipe, TINY["wan"], steps=1)
    assert found and all(not each for each in found)


@pytest.mark.parametrize("meanwhile", ["restored", "accelerated anew"])
def test_it_leaves_its_thread_where_another_one_ends_the_session(meanwhile: str) -> None:
    pipe = in_half("wan")
    plain, session = run(pipe, TINY["wan"], steps=2), accel.accelerate(pipe, accel.Recipe(precision=Float32()))
    end = session.restore if meanwhile == "restored" else lambda: accel.accelerate(pipe, accel.Recipe())
    failed: list[BaseException | None] = []

    def in_another_thread(_: Any, step: int, __: Any, kept: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            with ThreadPoolExecutor(1) as thread:
                failed.append(thread.submit(end).exception())
        return kept

    run(pipe, TINY["wan"], steps=2, callback_on_step_end=in_another_thread)
    assert failed == [None] and modes() == []
    assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)


def test_another_task_of_the_thread_multiplies_as_ever() -> None:
    """torch keeps modes by thread, and a task may wait in the middle of a `running` block."""
    pipe, half = in_half("wan"), torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    plain, wide = half @ half, (half.float() @ half.float()).bfloat16()
    seen: dict[str, bool] = {}

    async def first(go_on: asyncio.Event, done: asyncio.Event) -> None:
        with accel.accelerate(pipe, accel.Recipe(precision=Float32())) as session, session.running():
            go_on.set()
            await done.wait()
            seen["widened"] = bool(torch.equal(half @ half, wide))

    async def both() -> None:
        go_on, done = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(first(go_on, done))
        await go_on.wait()
        seen["left alone"] = bool(torch.equal(half @ half, plain))
        done.set()
        await task

    asyncio.run(both())
    assert not torch.equal(plain, wide) and seen == {"widened": True, "left alone": True} and modes() == []


def test_it_takes_out_itself_and_nothing_that_was_put_on_top() -> None:
    class Theirs(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    pipe, theirs = in_half("wan"), Theirs()

    def enter(_: Any, step: int, __: Any, kept: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            theirs.__enter__()
        return kept

    with accel.accelerate(pipe, accel.Recipe(precision=Float32())):
        run(pipe, TINY["wan"], steps=2, callback_on_step_end=enter)
    assert modes() == [theirs]
    theirs.__exit__(None, None, None)


@pytest.mark.slow
def test_a_compiled_denoiser_is_left_to_its_compiler() -> None:
    pipe = in_half("wan")
    pipe.transformer.compile(backend="eager")
    plain = run(pipe, TINY["wan"], steps=2)
    with accel.accelerate(pipe, accel.Recipe(precision=Float32())):
        assert torch.isfinite(run(pipe, TINY["wan"], steps=2)).all()
    assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)


def test_a_pipeline_in_float32_says_that_there_is_nothing_to_do() -> None:
    pipe = TINY["wan"].build()
    plain = run(pipe, TINY["wan"], steps=2)
    with accel.accelerate(pipe, accel.Recipe(precision=Float32())) as session:
        assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)
    assert not account(session).engaged and account(session).reason.startswith("no product was in bfloat16 or float16")


def test_a_processor_with_instructions_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.precision.methods.float32.multiplies_in_loops", lambda dtype: False)
    pipe = in_half("wan")
    plain = run(pipe, TINY["wan"], steps=2)
    with accel.accelerate(pipe, accel.Recipe(precision=Float32())) as session:
        assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)
    assert "has instructions" in account(session).reason


def test_auto_takes_it_for_16_bits_alone() -> None:
    assert accel.accelerate(in_half("wan"), "fast", precision="auto").recipe.precision == Float32()
    assert not isinstance(accel.precision.automatic(TINY["wan"].build()), Float32)
