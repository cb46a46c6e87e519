"""Weights in fewer bits, kept beside a model's own, or in their place, as long as these stay what they were."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from accel.few_numbers import address, few_numbers
from accel.precision.format import Format
from accel.precision.layers import Layer
from accel.precision.shelf import Shelf

SAMPLES = 64
"""Numbers of a weight that are compared once in a pipeline call. Adapters that are merged change nearly all of them,
through `weight.data`, of which torch keeps no count."""


class _Identity(NamedTuple):
    """What tells weights from others without a look at them."""

    address: int
    version: int
    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    format: str


class _Converted(NamedTuple):
    identity: _Identity
    samples: torch.Tensor
    tensors: Sequence[torch.Tensor]
    format: Format


class ConvertedWeights:
    """What formats made of layers, by layer. Made when first needed: offloaded weights are on their device then.

    shelf: where the model's own are in the meantime; None leaves them where they are.
    """

    def __init__(self, shelf: Shelf | None = None) -> None:
        self.shelf = shelf
        self._entries: weakref.WeakKeyDictionary[Layer, _Converted] = weakref.WeakKeyDictionary()
        self._checked: weakref.WeakSet[Layer] = weakref.WeakSet()

    def begin(self, layers: Iterable[Layer]) -> None:
        """A pipeline call begins, with these layers: others are forgotten, and each is looked at once more."""
        known = {id(layer) for layer in layers}
        for layer in [layer for layer in self._entries if id(layer) not in known]:
            del self._entries[layer]
        self._checked.clear()

    def of(self, layer: Layer, format: Format) -> Sequence[torch.Tensor]:
        """The layer's weights in this format."""
        entry, identity = self._entries.get(layer), _identity(layer, format)
        fits = entry is not None and entry.identity == identity
        if fits and layer not in self._checked:
            assert entry is not None
            fits = torch.equal(entry.samples, _samples(layer))
        if entry is None or not fits:
            self._entries.pop(layer, None)
            with torch.no_grad():
                entry = _Converted(identity, _samples(layer), tuple(format.weights(layer)), format)
            self._entries[layer] = entry
        if layer not in self._checked:
            self._checked.add(layer)
            weight = layer.weight
            if self.shelf is not None and isinstance(weight, torch.nn.Parameter) and self.shelf.put_away(weight):
                self._entries[layer] = entry._replace(identity=_identity(layer, format))
        return entry.tensors

    def end(self) -> None:
        """The pipeline call is over: the model's own weights are back in memory."""
        if self.shelf is None:
            return
        fitting = [layer for layer, entry in self._entries.items() if entry.identity == _identity(layer, entry.format)]
        self.shelf.bring_back()
        for layer in fitting:
            entry = self._entries[layer]
            self._entries[layer] = entry._replace(identity=_identity(layer, entry.format))

    @property
    def bytes(self) -> int:
        """The memory that they take."""
        kept = (tensor for entry in self._entries.values() for tensor in entry.tensors)
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def identity_of(weight: torch.Tensor) -> tuple[object, ...]:
    """What tells a weight from what it was, with a few of its numbers: not only an identity, but cheap to look at."""
    numbers = [number for part in few_numbers(weight, SAMPLES) for number in part.tolist()]
    return address(weight), _version(weight), weight.dtype, weight.device, weight.shape, tuple(numbers)


def _identity(layer: Layer, format: Format) -> _Identity:
    weight = layer.weight
    bias = 0 if layer.bias is None else layer.bias.data_ptr()
    return _Identity(weight.data_ptr() ^ bias, _version(weight), weight.dtype, weight.device, weight.shape, format.name)


def _samples(layer: Layer) -> torch.Tensor:
    """A few numbers of the weight, and the whole bias, copied."""
    samples = few_numbers(layer.weight, SAMPLES)
    return torch.cat([*samples, layer.bias.detach()]) if layer.bias is not None else torch.cat(samples)


def _version(weight: torch.Tensor) -> int:
    """Torch's count of changes in place, of which inference tensors have none."""
    return -1 if weight.is_inference() else weight._version
