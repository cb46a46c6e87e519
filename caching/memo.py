"""Exact reuse of a module's answer to a tensor that it has been given before."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from accel.calls import tensors

Identity = tuple[object, ...]

KEPT = 4  # answers per module: conditional, unconditional and two perturbed streams
PATIENCE = 6  # a module that has met so many new inputs and never an old one is given up


class Held:
    """A tensor that answers are remembered for. It stays alive as long as they do, so that its address is its own."""

    __slots__ = ("__weakref__", "recomputed", "tensor", "version")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.version = version(tensor)
        # What cannot be watched for changes in place is compared with a copy.
        self.tensor = tensor if self.version is not None else tensor.clone()
        self.recomputed = self.version is None

    @property
    def unchanged(self) -> bool:
        return version(self.tensor) == self.version


class Answer(NamedTuple):
    """What a module has returned for a held tensor, and what would show that this no longer holds."""

    held: Held
    output: torch.Tensor
    version: int | None
    weights: Identity


@dataclass
class Memo:
    """The answers of one module in this run, oldest first."""

    answers: list[Answer] = field(default_factory=list)
    hits: int = 0
    misses: int = 0

    @property
    def hopeless(self) -> bool:
        return not self.hits and self.misses >= PATIENCE


class Memory:
    """Remembers answers of modules of one tensor.

    An input is known if it is the same memory with the same shape and version, or, because some models recompute
    (concatenate, repeat) their text tokens in every step, if it has the same content; that is compared once per tensor
    and denoiser call, whatever the number of modules. Answers are dropped where the module's weights or adapters, or
    the answer itself, have changed since.
    """

    def __init__(self) -> None:
        self._held: weakref.WeakValueDictionary[Identity, Held] = weakref.WeakValueDictionary()
        self._seen: dict[Identity, tuple[torch.Tensor, Held]] = {}  # in this denoiser call, by content

    def next_call(self) -> None:
        """Another denoiser call begins."""
        self._seen.clear()

    def answer(
        self, memo: Memo, module: torch.nn.Module, given: torch.Tensor, compute: Callable[[], Any]
    ) -> tuple[Any, bool]:
        """What `compute()` returns, and whether it was remembered."""
        held = self._known(memo, given)
        weights = weights_of(module)
        found = next((each for each in memo.answers if each.held is held), None)
        if found is not None and found.weights == weights and version(found.output) == found.version:
            memo.hits += 1
            return found.output, True
        output = compute()
        memo.misses += 1
        if memo.hopeless:
            memo.answers.clear()
        elif isinstance(output, torch.Tensor):
            others = [each for each in memo.answers if each.held is not held]
            memo.answers = [*others, Answer(held, output, version(output), weights)][-KEPT:]
        return output, False

    def _known(self, memo: Memo, given: torch.Tensor) -> Held:
        name = identity(given)
        if name in self._seen:
            return self._seen[name][1]
        held = self._held.get(name) if version(given) is not None else None
        if held is None:
            held = next((each.held for each in reversed(memo.answers) if same_content(each.held, given)), None)
            if held is None:
                held = Held(given)
                if held.version is not None:
                    self._held[name] = held
            else:
                held.recomputed = True
            self._seen[name] = (given, held)
        return held


def identity(tensor: torch.Tensor) -> Identity:
    """Equal for two living tensors only if they are views of the same memory, unchanged in between."""
    memory = tensor.untyped_storage().data_ptr()
    layout = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
    return (memory, layout, version(tensor))


def version(tensor: torch.Tensor) -> int | None:
    """How often the tensor has been changed in place; None for those of inference mode, which do not count."""
    return None if tensor.is_inference() else tensor._version


def same_content(held: Held, given: torch.Tensor) -> bool:
    kept = held.tensor
    alike = kept.shape == given.shape and kept.dtype == given.dtype and kept.device == given.device
    return alike and held.unchanged and torch.equal(kept, given)


def weights_of(module: torch.nn.Module) -> Identity:
    """Changes with the module's parameters, with its LoRA adapters and with their scales."""
    parameters = tuple((parameter.data_ptr(), version(parameter)) for parameter in module.parameters())
    adapters = tuple(
        (*scaling.items(), str(child.active_adapters), str(child.merged_adapters), str(child.disable_adapters))
        for child in module.modules()
        if isinstance(scaling := getattr(child, "scaling", None), dict)  # peft's layers
    )
    return (parameters, adapters)


def held_bytes(memos: list[Memo]) -> int:
    """The memory that the answers take, and the copies of inputs that the model makes anew in every step."""
    answers = [answer for memo in memos for answer in memo.answers]
    kept = [answer.output for answer in answers]
    kept += [answer.held.tensor for answer in answers if answer.held.recomputed]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors(kept)}
    return sum(storages.values())
