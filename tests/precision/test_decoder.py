"""The decoder in 16 bits: near the model's own, for this call alone, and gone without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.hooks import apply_group_offloading

import accel
from accel import BFloat16
from accel.precision.decoder import in_half
from accel.report import LeverReport
from tests.accel.residue import traces
from tests.accel.test_few_numbers import quantise
from tests.tiny import TINY, run

BOTH = BFloat16(decoder="16 bits")


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.precision.decoder.has_instructions", lambda: True)


def account(session: accel.Session) -> LeverReport:
    return next(lever for lever in session.report().levers if lever.lever == "precision")


def pictures(pipe: Any, name: str) -> torch.Tensor:
    return run(pipe, TINY[name], steps=2, output_type="np")


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sd", "flux"])
def test_pictures_are_near_and_the_pipeline_comes_back_bit_for_bit(name: str) -> None:
    pipe = TINY[name].build()
    plain, before = pictures(pipe, name), dict(vars(pipe.vae.decoder))
    with accel.accelerate(pipe, accel.Recipe(precision=BOTH)) as session:
        first, second = pictures(pipe, name), pictures(pipe, name)
        assert dict(vars(pipe.vae.decoder)) == before  # between calls
    report = account(session)
    assert report.engaged and "decoder calls in bfloat16" in report.reason and report.extra_bytes > 0
    assert torch.equal(first, second) and 0 < (first - plain).norm() < 0.05 * plain.norm()
    assert torch.equal(pictures(pipe, name), plain) and traces(pipe) == []


def test_weights_that_change_are_copied_anew() -> None:
    pipe = TINY["sd"].build()
    with accel.accelerate(pipe, accel.Recipe(precision=BOTH)):
        before = pictures(pipe, "sd")
        pipe.vae.decoder.conv_out.weight.data.neg_()  # which torch does not count
        changed = pictures(pipe, "sd")
    with accel.accelerate(pipe, accel.Recipe(precision=BOTH)):
        assert torch.equal(pictures(pipe, "sd"), changed) and not torch.equal(before, changed)


def test_others_who_decode_are_left_alone() -> None:
    pipe, latents = TINY["sd"].build(), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        plain = pipe.vae.decode(latents).sample
        with accel.accelerate(pipe, accel.Recipe(precision=BOTH)):
            pictures(pipe, "sd")
            assert torch.equal(pipe.vae.decode(latents).sample, plain)


def test_a_decoder_that_is_not_in_float32_stays_and_the_report_says_so() -> None:
    pipe = TINY["sd"].build()
    pipe.to(torch.bfloat16)
    plain = pictures(pipe, "sd")
    with accel.accelerate(pipe, accel.Recipe(precision=BOTH)) as session:
        assert torch.equal(pictures(pipe, "sd"), plain)
    assert "the vae's decoder stays as it is, because it is not in float32" in account(session).reason


def offload(pipe: Any) -> None:
    apply_group_offloading(pipe.vae, onload_device=torch.device("cpu"), offload_type="leaf_level")


def compile_function(pipe: Any) -> None:
    pipe.vae.decode = torch.compile(pipe.vae.decode, backend="eager")


def quantised(pipe: Any) -> None:
    quantise(pipe.vae.decoder)


LEFT: dict[str, tuple[Any, str]] = {
    "offloaded": (offload, "because its weights come and go (offload)"),
    "its function compiled": (compile_function, "because it is compiled"),
    "compiled": (lambda pipe: pipe.vae.decoder.compile(backend="eager"), "because it is compiled"),
    "quantised": (quantised, "because another library has quantised it already"),
}


@pytest.mark.part(2)
@pytest.mark.parametrize("change, reason", LEFT.values(), ids=LEFT)
def test_a_decoder_of_which_no_copy_would_do_stays_and_the_report_says_why(change: Any, reason: str) -> None:
    pipe = TINY["sd"].build()
    change(pipe)
    plain = pictures(pipe, "sd")
    with accel.accelerate(pipe, accel.Recipe(precision=BOTH)) as session:
        assert torch.equal(pictures(pipe, "sd"), plain)
    assert f"the vae's decoder stays as it is, {reason}" in account(session).reason


def test_a_copy_is_in_bfloat16_throughout_and_nobody_elses() -> None:
    decoder = TINY["sd"].build().vae.decoder
    copied = in_half(decoder)
    assert {part.dtype for part in copied.parameters()} == {torch.bfloat16}
    assert copied.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    assert not {id(part) for part in copied.modules()} & {id(part) for part in decoder.modules()}
