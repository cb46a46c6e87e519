"""Weights of other libraries, which cannot do all that a tensor can, and weights that are elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import cpu_offload

import accel
from accel.few_numbers import address, few_numbers
from accel.kept_texts import KeptTexts
from accel.precision.weights import identity_of
from accel.rendering.fingerprint import fingerprint
from tests.tiny import TINY, run


class Quantised(torch.Tensor):
    """Integers and a scale that pass for a tensor of floats, as torchao's do: of torch's operations it has few."""

    integers: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, integers: torch.Tensor, scale: torch.Tensor) -> Quantised:
        return torch.Tensor._make_wrapper_subclass(cls, integers.shape, dtype=scale.dtype)  # type: ignore[attr-defined, no-any-return]

    def __init__(self, integers: torch.Tensor, scale: torch.Tensor) -> None:
        self.integers, self.scale = integers, scale

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["integers", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("detach", "alias"):
            return cls(args[0].integers, args[0].scale)
        if name in ("t", "linear", "addmm", "mm"):
            plain = [each.integers * each.scale if isinstance(each, cls) else each for each in args]
            return func(*plain, **(kwargs or {}))
        raise NotImplementedError(f"{name} of a quantised tensor")


def quantised(weight: torch.Tensor) -> torch.nn.Parameter:
    scale = weight.detach().abs().amax() / 127
    return torch.nn.Parameter(Quantised((weight.detach() / scale).round(), scale), requires_grad=False)


def quantise(module: torch.nn.Module) -> None:
    for layer in module.modules():
        if type(layer) is torch.nn.Linear:
            layer.weight = quantised(layer.weight)


def test_of_a_plain_tensor_they_are_from_all_over_it_and_share_its_memory() -> None:
    weight = torch.arange(100.0).reshape(10, 10)
    (found,) = few_numbers(weight, 10)
    assert found.tolist() == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0]
    assert found.data_ptr() == weight.data_ptr()
    assert few_numbers(torch.empty(3, device="meta"), 10) == few_numbers(torch.empty(0), 10) == []


def test_of_a_quantised_tensor_they_are_those_of_its_parts() -> None:
    weight = quantised(torch.randn(4, 4))
    with pytest.raises(NotImplementedError):
        weight.flatten()
    assert torch.equal(torch.cat([part.flatten() for part in few_numbers(weight, 99)])[:-1], weight.integers.flatten())
    before = identity_of(weight)
    assert identity_of(weight) == before
    weight.integers[0, 0] += 1.0
    assert identity_of(weight) != before
    assert isinstance(address(weight), int)


def test_a_quantised_pipeline_is_known_by_its_weights_and_runs() -> None:
    pipe = TINY["wan"].build()
    quantise(pipe.transformer)
    quantise(pipe.vae)
    plain, before = run(pipe, TINY["wan"], steps=2), fingerprint(pipe)
    with accel.accelerate(pipe, precision=accel.Int8Weights(min_tokens=2)):
        assert torch.equal(run(pipe, TINY["wan"], steps=2), plain)
    assert fingerprint(pipe) == before
    pipe.transformer.blocks[0].attn1.to_q.weight.integers.neg_()
    assert fingerprint(pipe) != before


def test_words_are_kept_by_quantised_encoders_and_not_by_offloaded_ones() -> None:
    encoder = torch.nn.Sequential(torch.nn.Linear(4, 4)).eval()
    kept = KeptTexts(TINY["wan"].build(), 10**6, lambda: None)
    quantise(encoder)
    before = kept._found(object_with_attributes(), {}, [encoder])
    assert before is not None and kept._found(object_with_attributes(), {}, [encoder]) == before
    encoder[0].weight.integers.neg_()
    assert kept._found(object_with_attributes(), {}, [encoder]) != before
    away = torch.nn.Sequential(torch.nn.Linear(4, 4)).eval()
    cpu_offload(away, execution_device=torch.device("cpu"))
    assert kept._found(object_with_attributes(), {}, [away]) is None


def object_with_attributes() -> Any:
    return type("Empty", (), {})()


def test_weights_that_accelerate_keeps_elsewhere_tell_pipelines_apart_as_they_do_in_memory() -> None:
    """Otherwise two fine-tuned models, offloaded layer by layer, would be one for the jobs of a folder."""
    first, other = TINY["wan"].build(), TINY["wan"].build()
    other.transformer.blocks[0].attn1.to_q.weight.data.neg_()
    inside = [fingerprint(first), fingerprint(other)]
    for pipe in (first, other):
        cpu_offload(pipe.transformer, execution_device=torch.device("cpu"))
        assert next(pipe.transformer.parameters()).is_meta
    assert [fingerprint(first), fingerprint(other)] == inside and inside[0] != inside[1]
