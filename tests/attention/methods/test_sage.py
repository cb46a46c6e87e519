"""Attention in fewer bits on pipelines, and SageAttention's choice of kernel, against packages made up here."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import accel
from accel.attention import break_even
from accel.attention.low_precision import LowPrecisionAttention, VerifiedKernels, random_fault
from accel.attention.methods import bfloat16, sage
from accel.attention.methods.sage import VARIANTS, Sage, SageVariant
from accel.attention.sdpa import SdpaCall
from tests.accel.residue import of_denoisers, traces
from tests.accel.witness import pipeline, plain, twin
from tests.attention.by_the_letter import ask, random
from tests.attention.methods.quantised import Emulated, Quantised
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, run

LAYOUT = accel.attention.TokenLayout(1, 10, 10)
EMULATED = Emulated()
Kernel = Callable[..., torch.Tensor]

VERSION_2 = (
    "sageattn_qk_int8_pv_fp16_cuda",
    "sageattn_qk_int8_pv_fp16_triton",
    "sageattn_qk_int8_pv_fp8_cuda",
    "sageattn_qk_int8_pv_fp8_cuda_sm90",
)


# Packages with the signatures of the real ones


def right(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tensor_layout: str = "HND",
    is_causal: bool = False,
    sm_scale: float | None = None,
    **options: Any,
) -> torch.Tensor:
    assert q.dtype in (torch.float16, torch.bfloat16) and tensor_layout == "HND" and not is_causal
    return F.scaled_dot_product_attention(q, k, v, scale=sm_scale)


def in_place(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    """As versions 1 and 3 do."""
    k -= k.mean(2, keepdim=True)
    return right(q, k, v, **options)


def blackwell(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: Any = None, is_causal: bool = False, **options: Any
) -> torch.Tensor:
    assert not options, "version 3 takes no scale"
    k -= k.mean(2, keepdim=True)
    return F.scaled_dot_product_attention(q, k, v)


def noise(q: torch.Tensor, *_: Any, **options: Any) -> torch.Tensor:
    return torch.randn(q.shape, generator=torch.Generator().manual_seed(3)).to(q.dtype)


def black(q: torch.Tensor, *_: Any, **options: Any) -> torch.Tensor:
    return torch.full_like(q, torch.nan)


def broken(*_: Any, **options: Any) -> torch.Tensor:
    raise RuntimeError("no kernel image is available\nfor execution on the device")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, dict[str, Any]]]]:
    """Puts packages with these functions in place, on a GPU of this capability; returns the calls that they get."""

    def install(version: tuple[int, int] | None, **functions: Kernel) -> list[tuple[str, dict[str, Any]]]:
        calls: list[tuple[str, dict[str, Any]]] = []
        for package in ("sageattention", "sageattn3"):
            module = ModuleType(package)
            for name, function in functions.items():
                if (name == "sageattn3_blackwell") == (package == "sageattn3"):
                    setattr(module, name, counting(name, function, calls))
            monkeypatch.setitem(sys.modules, package, module if vars(module).keys() & functions.keys() else None)
        monkeypatch.setattr(sage, "capability", lambda device: version)
        return calls

    return install


def counting(name: str, function: Kernel, calls: list[tuple[str, dict[str, Any]]]) -> Kernel:
    def called(*args: Any, **options: Any) -> torch.Tensor:
        calls.append((name, options))
        return function(*args, **options)

    return called


def names(method: accel.SageAttention) -> list[str] | str:
    found = method.kernels(torch.device("cpu"), torch.bfloat16)
    return found if isinstance(found, str) else [kernel.name for kernel in found]


def answered(method: LowPrecisionAttention, trusted: VerifiedKernels | None = None, **options: Any) -> str:
    """The kernel that answers a plain question, or why none does."""
    q, k, v = random(LAYOUT, width=options.pop("width", 64))
    attention = SdpaCall(q, k, v, **options)
    found = (trusted or VerifiedKernels(method)).compute(ask(q, k, LAYOUT, v).site, attention, True)
    if isinstance(found, str):
        return found
    assert F.cosine_similarity(found.output.flatten(), attention.dense().flatten(), dim=0) > 0.999
    return found.kernel


# The choice


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((8, 0), ["sage fp16", "sage triton"]),
        ((8, 6), ["sage triton", "sage fp16"]),
        ((8, 9), ["sage fp8", "sage fp8 fp32", "sage fp16", "sage triton"]),
        ((9, 0), ["sage fp16", "sage fp8 sm90", "sage triton"]),
        ((10, 0), ["sage fp4"]),
        ((12, 0), ["sage fp8 warp", "sage fp4"]),
    ],
)
def test_each_architecture_has_its_order_of_kernels(install: Any, version: Any, expected: list[str]) -> None:
    install(version, **dict.fromkeys((*VERSION_2, "sageattn", "sageattn3_blackwell"), right))
    assert names(accel.SageAttention()) == expected


def test_a_kernel_can_be_asked_for_by_name(install: Any) -> None:
    install((9, 0), **dict.fromkeys(VERSION_2, right))
    assert names(accel.SageAttention(kernel="fp8")) == ["sage fp8 sm90"]
    assert names(accel.SageAttention(kernel="fp4")) == (
        'because no SageAttention kernel "fp4" is installed for compute capability 9.0'
    )


def test_version_1_is_taken_where_it_is_all_there_is(install: Any) -> None:
    calls = install((9, 0), sageattn=in_place)
    assert names(accel.SageAttention()) == ["sage 1"]
    assert answered(accel.SageAttention(min_tokens=0)) == "sage 1"
    assert all(options["sm_scale"] == 0.125 for _, options in calls)
    install((10, 0), **dict.fromkeys((*VERSION_2, "sageattn"), right))  # version 2 is not for this one
    assert names(accel.SageAttention()) == (
        'because no SageAttention kernel "auto" is installed for compute capability 10.0'
    )


@pytest.mark.parametrize("variant", {variant.name: variant for row in VARIANTS.values() for variant in row}.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_functions_are_called_as_they_are_declared(install: Any, variant: SageVariant, dtype: torch.dtype) -> None:
    """Versions 3 and 1 change the keys that they are given; the model's own must stay."""
    function = blackwell if variant.package == "sageattn3" else right
    calls = install((9, 0), **{variant.function: function})
    q, k, v = (tensor.to(dtype).mT.contiguous().mT for tensor in random(LAYOUT, width=64))
    before = k.clone()
    output = Sage(variant)(q, k, v, 0.05)
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=0.05)
    assert output.dtype == dtype and torch.equal(k, before)
    torch.testing.assert_close(output.float(), expected, atol=1e-2, rtol=0)
    given = {"sm_scale": 0.05, **variant.options}.items()
    assert [name for name, _ in calls] == [variant.function]
    assert variant.package == "sageattn3" or given <= calls[0][1].items()


# Trust


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        (noise, r"agrees with dense attention only to a cosine of -?0\.0\d\d on random activations \(needed: 0.99\)"),
        (black, "gives values that are not finite on random activations"),
        (broken, "fails with RuntimeError: no kernel image is available$"),
    ],
)
def test_a_wrong_kernel_makes_way_for_the_next_one_with_a_note(install: Any, kernel: Kernel, fault: str) -> None:
    calls = install((9, 0), **{VERSION_2[0]: kernel, VERSION_2[3]: right, VERSION_2[1]: right})
    trusted = VerifiedKernels(accel.SageAttention(min_tokens=0))
    assert answered(trusted.method, trusted) == "sage fp8 sm90"
    assert len(trusted.notes) == 1
    assert trusted.notes[0].startswith("kernel sage fp16 is not used (float32, head width 64): it ")

    assert re.search(fault, trusted.notes[0])
    calls.clear()
    assert answered(trusted.method, trusted) == "sage fp8 sm90"
    assert [name for name, _ in calls] == [VERSION_2[3]]  # neither the wrong one nor a test again


def test_what_is_right_on_random_activations_can_be_wrong_on_the_models(install: Any) -> None:
    """Such as overflows, which need large values."""

    def overflows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        return right(q, k, v, **options) if len(q) == 2 and q.shape[2] == 333 else black(q)

    install((8, 0), **{VERSION_2[0]: overflows})
    trusted = VerifiedKernels(accel.SageAttention(min_tokens=0))
    assert answered(trusted.method, trusted) == "because no kernel in fewer bits passes its test"
    assert "not finite on the model's activations" in trusted.notes[0]


def test_every_layer_is_checked_the_first_time(install: Any) -> None:

    broken_layer = [False]

    def depends(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        return black(q) if broken_layer[0] else right(q, k, v, **options)

    install((8, 0), **{VERSION_2[0]: depends})
    trusted = VerifiedKernels(accel.SageAttention(min_tokens=0))
    assert answered(trusted.method, trusted) == "sage fp16"
    broken_layer[0] = True
    q, k, v = random(LAYOUT, width=64)
    site = replace(ask(q, k, LAYOUT, v).site, path="blocks.4.attn1")
    assert trusted.compute(site, SdpaCall(q, k, v), True) == "because no kernel in fewer bits passes its test"


def test_a_kernel_that_forgets_the_end_of_a_sequence_is_found() -> None:
    def forgets(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        output = right(q.bfloat16(), k.bfloat16(), v.bfloat16(), sm_scale=scale)
        output[:, :, 320:] = 0
        return output

    assert "agrees" in str(random_fault(forgets, torch.zeros(1, 1, 1, 64)))  # type: ignore[arg-type]
    assert random_fault(Quantised(), torch.zeros(1, 1, 1, 64)) is None


def test_what_no_kernel_takes_stays_dense_and_says_why(install: Any) -> None:
    install((8, 0), **dict.fromkeys(VERSION_2, right))
    method = accel.SageAttention(min_tokens=0)
    trusted = VerifiedKernels(method)
    assert answered(method, trusted, width=160) == "because no kernel in fewer bits passes its test"
    assert "head width 160): it fails with ValueError: takes heads up to 128 channels wide" in trusted.notes[0]
    assert answered(method, is_causal=True) == "that are causal"
    assert answered(method, dropout_p=0.1) == "with dropout"
    least = break_even.LOW_PRECISION_PAYS_FROM["cpu"]
    assert answered(accel.SageAttention()) == f"too short to gain (100 tokens, from {least} on it pays: min_tokens)"
    q, k, v = random(LAYOUT)
    assert VerifiedKernels(method).compute(ask(q, k, LAYOUT, v).site, SdpaCall(q, k, v), False) == (
        "with a mask that is more than padded text"
    )


def test_padded_text_is_left_out_of_the_keys() -> None:
    q, k, v = random(LAYOUT, samples=2)
    for there in (torch.arange(100).expand(2, 100) < 90, torch.arange(100) < torch.tensor([[90], [40]])):
        attention = SdpaCall(q, k, v, attn_mask=there[:, None, None])
        found = VerifiedKernels(EMULATED).compute(ask(q, k, LAYOUT, v).site, attention, there)
        assert not isinstance(found, str)
        torch.testing.assert_close(found.output, attention.dense(), atol=2e-2, rtol=0)


# On pipelines


def accelerated(name: str, method: Any, **options: Any) -> tuple[torch.Tensor, Any]:
    with accel.accelerate(pipeline(name), accel.Recipe(attention=method)) as session:
        return run(pipeline(name), TINY[name], **options), session.report().levers[0]


def off(output: torch.Tensor, expected: torch.Tensor) -> float:
    return float((output - expected).abs().mean() / expected.abs().mean())


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "flux", "flux_kontext", "hunyuan_video", "mochi", "sd"])
def test_emulation_is_near_the_plain_pipeline(name: str) -> None:
    """Reference pictures among the tokens (Kontext) and padded text (HunyuanVideo) are no obstacle."""
    output, report = accelerated(name, EMULATED, steps=3)
    assert 0 < off(output, plain(name, steps=3)) < 0.02
    assert report.engaged and "dense in fewer bits (kernel slow emulation of int8 and float16)" in report.reason
    count = report.reason.split(" self-attentions")[0].split(" of ")
    assert count[0] == count[1] and "dense:" not in report.reason


def test_spared_steps_and_layers_are_the_models_own_to_the_bit() -> None:
    for options in ({"warmup": 1.0}, {"final": 1.0}, {"dense_layers": 3}, {"final_layers": 3}):
        output, report = accelerated("ltx", Emulated(**options), steps=4)
        assert torch.equal(output, plain("ltx", steps=4)) and not report.engaged
    method = Emulated(warmup=0.3, final=0.25, dense_layers=1, final_layers=1)
    _, report = accelerated("ltx", method, steps=4)
    # Of 4 steps in 3 layers: 1.2 steps are two, then one step with its second layer, and the last.
    assert report.reason == (
        "1 of 12 self-attentions dense in fewer bits (kernel slow emulation of int8 and float16); attention is about"
        " 20% of a step at 48 tokens; dense: 6 in the first steps (warmup), 3 in the last steps (final), 1 in the"
        " first layers (dense_layers), 1 in the last layers (final_layers)"
    )


def test_the_package_on_a_pipeline(install: Any) -> None:
    install((9, 0), **{VERSION_2[0]: noise, VERSION_2[3]: right})
    output, report = accelerated("wan", accel.SageAttention(min_tokens=0), steps=3)
    assert 0 < off(output, plain("wan", steps=3)) < 0.02
    assert report.reason.startswith("12 of 12 self-attentions dense in fewer bits (kernel sage fp8 sm90)")
    assert "kernel sage fp16 is not used (float32, head width 16): it agrees with dense" in report.reason
    install((9, 0), **{VERSION_2[0]: noise})
    output, report = accelerated("wan", accel.SageAttention(min_tokens=0), steps=3)
    assert torch.equal(output, plain("wan", steps=3)) and not report.engaged
    assert "dense: 12 because no kernel in fewer bits passes its test" in report.reason


def test_without_package_or_gpu_nothing_changes(install: Any) -> None:
    install((9, 0))
    output, report = accelerated("wan", accel.SageAttention(min_tokens=0), steps=2)
    assert torch.equal(output, plain("wan", steps=2)) and not report.engaged
    assert report.reason.startswith("SageAttention is not installed: pip install sageattention")
    install(None, **dict.fromkeys(VERSION_2, right))
    output, report = accelerated("wan", accel.SageAttention(min_tokens=0), steps=2)
    assert torch.equal(output, plain("wan", steps=2)) and not report.engaged
    assert "dense: 8 because SageAttention needs an NVIDIA GPU" in report.reason


def test_a_sparse_method_beside_it() -> None:
    """What it plans is computed by the plan, what it leaves dense in fewer bits."""
    sparse = accel.SlidingTile(tile=(1, 4, 4), window=(1, 1, 1), warmup=0.5, dense_layers=0, min_tokens=0)
    output, report = accelerated("wan", Emulated(sparse=sparse), steps=4)
    assert report.reason.startswith(
        "8 of 16 self-attentions sparse, computing 33% of their query-key pairs (kernel gather), 8 dense in fewer"
        " bits (kernel slow emulation of int8 and float16); "
    )
    alone, _ = accelerated("wan", sparse, steps=4)
    assert 0 < off(output, alone) < 0.02 < off(output, plain("wan", steps=4))


def test_planned_attention_is_in_bfloat16_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: True)
    sparse = accel.SlidingTile(tile=(1, 4, 4), window=(1, 1, 1), warmup=0.0, dense_layers=0, min_tokens=0)
    alone, _ = accelerated("wan", sparse, steps=4)
    output, report = accelerated("wan", accel.LowPrecision(sparse=sparse, min_tokens=0), steps=4)
    assert 0 < off(output, alone) < 0.02 and "(kernel gather in bfloat16), 0 dense in fewer bits" in report.reason
    output, report = accelerated("wan", accel.LowPrecision(sparse=sparse, min_tokens=0, warmup=1.0), steps=4)
    assert torch.equal(output, alone) and "(kernel gather), 0 dense in fewer bits" in report.reason


@pytest.mark.part(1)
@pytest.mark.parametrize(("tiles", "kernel"), [(True, "bfloat16"), (False, "bfloat16 products")])
def test_bfloat16_on_processors_with_and_without_it(monkeypatch: pytest.MonkeyPatch, tiles: bool, kernel: str) -> None:
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: True)
    monkeypatch.setattr(bfloat16, "has_tiles", lambda: tiles)
    output, report = accelerated("wan", accel.LowPrecision(min_tokens=0), steps=3)
    assert 0 < off(output, plain("wan", steps=3)) < 0.02
    assert report.reason.startswith(f"12 of 12 self-attentions dense in fewer bits (kernel {kernel})")
    _, report = accelerated("wan", accel.LowPrecision("float16", min_tokens=0), steps=2)
    assert "8 because CPUs are slower in float16 than in float32: choose bfloat16" in report.reason
    monkeypatch.setattr(bfloat16, "has_instructions", lambda: False)
    output, report = accelerated("wan", accel.LowPrecision(min_tokens=0), steps=3)
    assert torch.equal(output, plain("wan", steps=3)) and not report.engaged
    assert "12 because this CPU has no instructions for bfloat16" in report.reason


def test_beside_a_cache_and_guidance() -> None:
    cache = accel.FixedInterval(2, warmup=2, final=1, min_steps=1)
    recipe = accel.Recipe(cache=cache, attention=EMULATED, guidance=accel.GuidanceInterval(0.0, 0.9))
    pipe = pipeline("wan")
    with accel.accelerate(pipe, recipe) as session:
        output = run(pipe, TINY["wan"], steps=6)
    with accel.accelerate(pipe, accel.Recipe(cache=cache, guidance=recipe.guidance)):
        expected = run(pipe, TINY["wan"], steps=6)
    assert 0 < off(output, expected) < 0.02
    assert all(lever.engaged for lever in session.report().levers)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "mochi", "sd"])
def test_restore_leaves_no_trace(name: str) -> None:
    pipe = TINY[name].build()
    run(pipe, TINY[name], steps=2)
    before = of_denoisers(pipe)
    with accel.accelerate(pipe, accel.Recipe(attention=EMULATED)):
        assert not torch.equal(run(pipe, TINY[name], steps=2), plain(name, steps=2))
    assert traces(pipe) == [] and of_denoisers(pipe) == before
    assert torch.equal(run(pipe, TINY[name], steps=2), run(twin(name), TINY[name], steps=2))


def test_a_model_without_known_self_attention_is_left_alone() -> None:
    pipe = ToyPipeline(lambda latents, sigma: latents * sigma)
    pipe.transformer.blocks = torch.nn.ModuleList()
    pipe.transformer.forward = lambda hidden_states, timestep: (hidden_states * float(timestep) / 1000,)
    with accel.accelerate(pipe, accel.Recipe(attention=EMULATED)) as session:
        pipe()
    assert "no self-attention is known in" in session.report().levers[0].reason


# Parameters


def test_recipes_survive_json() -> None:
    for method in (
        accel.SageAttention("fp8", warmup=0.1, final=0.05, dense_layers=1, final_layers=2),
        accel.LowPrecision("float16", sparse=accel.TopKBlocks(0.4), min_tokens=7),
    ):
        recipe = accel.Recipe(attention=method)
        assert accel.Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_recipe_of_an_earlier_version_is_read_unless_it_emulates() -> None:
    of_then = accel.SageAttention().to_dict()
    assert accel.Recipe.from_dict({"attention": of_then | {"emulate": False}}).attention == accel.SageAttention()
    with pytest.raises(ValueError, match=r"^attention\.emulate: it was for tests and is gone: leave it out\.$"):
        accel.Recipe.from_dict({"attention": of_then | {"emulate": True}})


def test_bad_parameters_say_what_is_right() -> None:
    for wrong, sentence in (
        (lambda: accel.SageAttention("fp5"), "SageAttention.kernel must be one of auto, fp16, fp8, fp4, triton"),
        (lambda: accel.LowPrecision("int8"), "LowPrecision.dtype must be one of bfloat16, float16"),
        (
            lambda: accel.LowPrecision(sparse=accel.SageAttention()),
            "LowPrecision.sparse must be a method that only selects keys",
        ),
        (
            lambda: accel.WindowResidual(accel.SageAttention()),
            "must be a method that only selects keys, not SageAttention",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            wrong()
