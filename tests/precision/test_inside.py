"""What stands between layers in 16 bits: as torch has it, seen by nobody else, and left when it must be."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.activations import GEGLU, GELU
from torch.nn import functional as F

import accel
from accel import BFloat16
from accel.precision.inside import as_ever, cast, computing_in, gelu_behind, rms_norm
from tests.tiny import TINY, run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighed", [True, False])
def test_the_norm_is_torchs(dtype: torch.dtype, weighed: bool) -> None:
    x, weight = torch.randn(2, 5, 48).to(dtype), torch.randn(48) if weighed else None
    before, right = x.clone(), F.rms_norm(x.float(), (48,), weight, 1e-6)
    norm = rms_norm(x, (48,), weight, 1e-6)
    assert norm.dtype == dtype and torch.equal(x, before)
    torch.testing.assert_close(norm.float(), right, rtol=1e-6 if dtype == torch.float32 else 0.004, atol=1e-6)


def test_attention_in_the_block_is_in_16_bits_and_the_norm_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    q, norm = torch.randn(1, 2, 8, 16), torch.nn.RMSNorm(16)
    with torch.no_grad(), computing_in(torch.bfloat16, "cpu"):
        assert F.scaled_dot_product_attention(q, q, q).dtype == torch.bfloat16
        assert norm(q.bfloat16()).dtype == torch.bfloat16
        with as_ever("cpu"):
            assert F.scaled_dot_product_attention(q, q, q).dtype == torch.float32
    assert F.scaled_dot_product_attention(q, q, q).dtype == torch.float32 and not recwarn.list


def test_what_a_module_returns_is_in_the_models_type_again() -> None:
    half, whole = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float64)
    found = cast((half, [whole, None]), torch.bfloat16, torch.float32)
    assert found[0].dtype == torch.float32 and found[1][0] is whole and found[1][1] is None


class Doubled(GELU):
    """An activation of somebody else's that looks like one that is known."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = 2 * super().forward(hidden_states)
        return output


def test_an_activation_is_asked_and_not_looked_up() -> None:
    assert gelu_behind(GELU(8, 16), "proj") == "none"
    assert gelu_behind(GELU(8, 16, approximate="tanh"), "proj") == "tanh"
    assert gelu_behind(GEGLU(8, 16), "proj") == gelu_behind(Doubled(8, 16), "proj") == ""


def test_hooks_on_an_activation_keep_their_place() -> None:
    module = GELU(8, 16)
    module.proj.register_forward_hook(lambda *_: None)
    assert gelu_behind(module, "proj") == ""


def test_blocks_hand_on_float32_and_attentions_compute_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.precision.methods.bfloat16.has_instructions", lambda: True)
    pipe = TINY["wan"].build()
    block, seen = pipe.transformer.blocks[0], {}
    for name, part in {"query": block.attn1.norm_q, "attention": block.attn1, "block": block}.items():
        part.register_forward_hook(lambda *given, name=name: seen.update({name: given[2].dtype}))
    with accel.accelerate(pipe, accel.Recipe(precision=BFloat16(min_tokens=2))):
        run(pipe, TINY["wan"], steps=1)
    assert seen == {"query": torch.bfloat16, "attention": torch.float32, "block": torch.float32}
    seen.clear()
    with accel.accelerate(pipe, accel.Recipe(precision=BFloat16(min_tokens=2, attention="own"))):
        run(pipe, TINY["wan"], steps=1)
    assert set(seen.values()) == {torch.float32}


def test_an_attention_that_fails_leaves_the_next_one_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.precision.methods.bfloat16.has_instructions", lambda: True)
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, accel.Recipe(precision=BFloat16(min_tokens=2))):
        right = run(pipe, TINY["wan"], steps=1)
        hook = pipe.transformer.blocks[0].attn1.norm_q.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(pipe, TINY["wan"], steps=1)
        hook.remove()
        assert torch.equal(run(pipe, TINY["wan"], steps=1), right)
