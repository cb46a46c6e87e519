"""A pipeline's decoder in bfloat16, with the channels last: what turns the last latents into pictures."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from accel.components import decoders_of
from accel.lever import Lever
from accel.method import Method
from accel.ownership import owner_of
from accel.patch import Wrapper, is_compiled_function, is_graph, other_method, unwrap_methods
from accel.precision.inside import cast
from accel.precision.weights import identity_of
from accel.processor import has_instructions
from accel.report import CallRecord, LeverReport

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
HALF = torch.bfloat16


class DecoderLever(Lever):
    """Stands around the decoder of each autoencoder for the duration of a pipeline call and runs a copy of it in
    bfloat16. Latents arrive in the pipeline's own data type and pictures leave in it. The copy is made when it is first
    needed, and anew where weights have changed; it is kept as long as the session.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self._copies: weakref.WeakKeyDictionary[torch.nn.Module, tuple[object, torch.nn.Module]]
        self._copies = weakref.WeakKeyDictionary()
        self._wrappers: list[Wrapper] = []
        self._checked: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self._calls, self._reasons = 0, ["this pipeline has no decoder"]

    def accompany(self, components: Mapping[str, Any]) -> None:
        self.end()
        self._checked.clear()
        found = dict(_inner_decoders(components))
        self._calls, self._reasons = 0, [] if found else ["this pipeline has no decoder"]
        for name, decoder in found.items():
            if reason := _compiled(components[name]) or why_not(decoder):
                self._reasons.append(f"the {name}'s decoder stays as it is, {reason}")
                continue
            known, mine = weakref.ref(decoder), owner_of()

            def around(
                inner: Callable[..., Any], *args: Any, known: Any = known, mine: Any = mine, **kwargs: Any
            ) -> Any:
                decoder = known()
                ours = decoder is not None and owner_of() is mine and not torch.is_grad_enabled()
                return self._decoded(decoder, args, kwargs) if ours else inner(*args, **kwargs)

            self._wrappers.append(Wrapper(decoder, "forward", around, everywhere=True))

    def end(self) -> None:
        unwrap_methods(self._wrappers)

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        """The pictures are decoded behind the last step, and before this is asked."""
        done = [f"{self._calls} decoder calls in bfloat16, channels last"] if self._calls else []
        size = sum(part.numel() * part.element_size() for _, one in self._copies.values() for part in one.parameters())
        return LeverReport("precision", str(self.method), self._calls > 0, "; ".join(done + self._reasons), size)

    def _decoded(self, decoder: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        (x, *others), other = args, self._copy(decoder)
        self._calls += 1
        given = [cast(each, x.dtype, HALF) for each in (x, *others)]
        given[0] = given[0].contiguous(memory_format=CHANNELS_LAST.get(x.ndim, torch.contiguous_format))
        named = {name: cast(each, x.dtype, HALF) if torch.is_tensor(each) else each for name, each in kwargs.items()}
        output = cast(other(*given, **named), HALF, x.dtype)
        return output.contiguous() if isinstance(output, torch.Tensor) else output

    def _copy(self, decoder: torch.nn.Module) -> torch.nn.Module:
        """As it is now: weights are looked at once in a pipeline call."""
        kept = self._copies.get(decoder)
        if kept is not None and decoder in self._checked:
            return kept[1]
        identity = [identity_of(weight) for weight in decoder.parameters()]
        if kept is None or kept[0] != identity:
            self._copies[decoder] = kept = identity, in_half(decoder)
        self._checked.add(decoder)
        return kept[1]


def _inner_decoders(components: Mapping[str, Any]) -> Iterator[tuple[str, torch.nn.Module]]:
    """The part of each decoding component that does the work, by the name of that component."""
    for name, component in decoders_of(components):
        decoder = getattr(component, "decoder", None)
        if isinstance(decoder, torch.nn.Module):
            yield name, decoder


def _compiled(component: Any) -> str:
    """Why a layer over this component's decoder would be a part of a graph; "" where it would not."""
    whole = any(is_graph(part) for part in (component, component.decoder) if isinstance(part, torch.nn.Module))
    return "because it is compiled" if whole or is_compiled_function(getattr(component, "decode", None)) else ""


def why_not(decoder: torch.nn.Module) -> str:
    """Why this decoder cannot be run like that, or gains nothing; "" where it can."""
    weights = list(decoder.parameters())
    if any(weight.dtype != torch.float32 for weight in weights) or not weights:
        return "because it is not in float32"
    if weights[0].device.type == "cpu" and not has_instructions():
        return "because this CPU has no instructions for bfloat16"
    if any(type(weight) is not torch.nn.Parameter for weight in weights):
        return "because another library has quantised it already"
    if any(hasattr(part, "_hf_hook") or other_method(part, "forward") is not None for part in decoder.modules()):
        return "because its weights come and go (offload) or another library stands around its layers"
    return ""


def in_half(decoder: torch.nn.Module) -> torch.nn.Module:
    """A copy in bfloat16, the weights of convolutions with the channels last."""
    converted: dict[int, Any] = {}
    for tensor in (*decoder.parameters(), *decoder.buffers()):
        half = tensor.detach().to(HALF) if tensor.is_floating_point() else tensor.detach().clone()
        if isinstance(tensor, torch.nn.Parameter):
            half = half.contiguous(memory_format=CHANNELS_LAST.get(half.ndim, torch.contiguous_format))
            half = torch.nn.Parameter(half, requires_grad=False)
        converted[id(tensor)] = half
    return copy.deepcopy(decoder, converted)
