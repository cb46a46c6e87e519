"""What a session's pipeline has encoded, for its next calls with the same words."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch

from accel.components import adapters_of, components_of, decoders_of, denoisers_of, schedulers_of
from accel.few_numbers import address, few_numbers
from accel.pipeline_call import PipelineCall
from accel.text_cache import Answers, TextCache, frozen

ALIKE = ("generator", "latents", "callback_on_step_end")
"""Arguments of a call that no encoding of words depends on, though they are no plain values."""

NUMBERS = 64
"""Of each weight, compared in each call: adapters are merged through `weight.data`, of which torch keeps no count."""


class KeptTexts:
    """Stands around what encodes words in one pipeline. `call` is the pipeline call in progress here, if any."""

    def __init__(self, pipe: Any, most_bytes: int, call: Callable[[], PipelineCall | None]) -> None:
        self._call, self._answers = call, Answers(most_bytes)
        self._asked: weakref.WeakKeyDictionary[PipelineCall, Any] = weakref.WeakKeyDictionary()
        self._parts: list[weakref.ref[Any]] = []
        self._cache: TextCache | None = None
        self.attach(pipe)

    def attach(self, pipe: Any) -> None:
        """Puts it on the pipeline (again)."""
        known = weakref.ref(pipe)
        self._cache = TextCache(pipe, self._answers, lambda: self._context(known()))

    def detach(self) -> None:
        """Takes it off. What was encoded stays, for `attach`."""
        if self._cache is not None:
            self._cache.detach()
        self._cache = None

    def _context(self, pipe: Any) -> Any:
        """What an encoding depends on besides its own arguments, found once in a call; None: nothing can be kept."""
        call = self._call()
        if call is None or pipe is None:
            return None
        if call not in self._asked:
            self._asked[call] = self._found(pipe, call.given, _encoders(components_of(pipe)))
        return self._asked[call]

    def _found(self, pipe: Any, given: Mapping[str, Any], parts: list[Any]) -> Any:
        """The call's plain arguments, and pipeline and the parts that may encode as they are now."""
        plain = {name: value for name, value in given.items() if name not in ALIKE}
        modules = [part for part in parts if isinstance(part, torch.nn.Module)]
        if frozen(plain) is None or any(each.training for part in modules for each in part.modules()):
            return None
        if any(weight.is_meta for part in modules for weight in part.parameters()):  # nobody can tell what they are
            return None
        if [known() for known in self._parts] != parts:
            self._parts = [weakref.ref(part) for part in parts]
            self._answers.clear()
        own = [[name, value] for name, value in vars(pipe).items() if name[0] != "_" and frozen(value) is not None]
        sizes = [len(part) for part in parts if hasattr(part, "__len__")]  # of vocabularies
        return frozen((plain, own, sizes, [_numbers(part) for part in modules], [_settings(part) for part in modules]))


def _encoders(components: Mapping[str, Any]) -> list[Any]:
    """All parts but those of the denoising loop: encoders, tokenizers, what prepares for them."""
    of_the_loop = (denoisers_of, adapters_of, schedulers_of, decoders_of)
    others = {name for known in of_the_loop for name, _ in known(components)}
    return [part for name, part in components.items() if name not in others and hasattr(part, "__weakref__")]


def _numbers(module: torch.nn.Module) -> list[Any]:
    """What tells weights from what they were: where each is, torch's count of its changes, and some of its numbers."""
    found: list[Any] = []
    for weight in (*module.parameters(), *module.buffers()):
        version = -1 if weight.is_inference() else weight._version
        found.append([address(weight), version, weight.dtype, weight.device])
    some = [numbers.float() for weight in module.parameters() for numbers in few_numbers(weight, NUMBERS)]
    return [found, torch.cat(some).tolist() if some else []]


def _settings(module: torch.nn.Module) -> list[Any]:
    """The plain attributes of every layer, such as an adapter's scale and whether it is on."""
    return [[path, _plain(each)] for path, each in module.named_modules()]


def _plain(module: torch.nn.Module) -> list[Any]:
    usual = vars(torch.nn.Module()).keys()
    return [[name, value] for name, value in vars(module).items() if name not in usual and frozen(value) is not None]
