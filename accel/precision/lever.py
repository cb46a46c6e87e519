"""The lever of all precision methods: computes the layers of a denoiser call in the formats that the method chose.

It stands around the layers' `forward` for the duration of one pipeline call and acts only within a denoiser call. The
model's own weights stay where they are, or go to a `Shelf` meanwhile; those in fewer bits are kept as long as the
session is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn import Conv2d

from accel import conventions
from accel.anatomy import Anatomy
from accel.call import Arguments, DenoiserCall
from accel.lever import Lever
from accel.method import Method
from accel.patch import Wrapper, reachable, unwrap_methods
from accel.precision.account import PrecisionAccount
from accel.precision.format import Format
from accel.precision.inside import as_ever, cast, computing_in, gelu_behind
from accel.precision.layers import FoundLayers, Layer, find_layers, is_plain
from accel.precision.shelf import Shelf
from accel.precision.sparing import Sparing
from accel.precision.weights import ConvertedWeights
from accel.report import CallRecord, LeverReport

GRADIENTS = "because gradients are wanted"
ELSEWHERE = "in another denoiser call"
UNUSUAL = "called in an unusual way"
AUTOCAST = "under autocast, which chooses data types itself"
MIXED = "of another data type than their weights"


class _Place(NamedTuple):
    """A layer with its format."""

    denoiser: str
    format: Format
    layer: weakref.ref[Layer]


class _Part(NamedTuple):
    """An attention or feed-forward that is computed in `dtype` throughout, if its first layer is."""

    first: _Place
    dtype: torch.dtype
    names: Arguments


class _SharedActivations(NamedTuple):
    """The last activations that were made, for the next layers that receive the same tensor (q, k and v)."""

    x: weakref.ref[torch.Tensor]
    version: int
    format: Format
    activations: Any


class PrecisionLever(Lever):
    """Computes layers in the formats of `formats`: by "denoiser/path", or under "" for all that are not named.

    throughout: what attentions compute between their layers is in 16 bits too; of feed-forwards it always is.
    """

    def __init__(
        self,
        method: Method,
        formats: Mapping[str, Format],
        sparing: Sparing,
        anatomy: Anatomy,
        *,
        throughout: bool = True,
        replaces: bool = False,
    ) -> None:
        self.method, self.anatomy, self._throughout = method, anatomy, throughout
        self._formats, self._sparing = formats, sparing
        self._kept = ConvertedWeights(Shelf() if replaces else None)
        self._wrappers: list[Wrapper] = []
        self._account = PrecisionAccount(FoundLayers())
        self.reset()

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        self.end()
        convolutions = any(each.convolutions for each in self._formats.values())
        found = find_layers(denoisers, self.anatomy, convolutions=convolutions)
        self._kept.begin(found.layers.values())
        places = {
            where: _Place(where[0], format, weakref.ref(layer))
            for where, layer in found.layers.items()
            if (format := self._format(where)) is not None and (format.convolutions or not isinstance(layer, Conv2d))
        }
        for where, place in places.items():
            self._wrappers.append(Wrapper(found.layers[where], "forward", partial(self._layer, place)))
        for (name, path), part in found.parts.items():
            if self._throughout or not part.is_attention:
                inside = [places[name, each] for each in part.layers if (name, each) in places]
                self._surround(denoisers[name], path, inside)
        self._account = PrecisionAccount(found, len(places))

    def _surround(self, denoiser: torch.nn.Module, path: str, places: Sequence[_Place]) -> None:
        """Puts a layer around an attention or feed-forward with such layers in it."""
        module = reachable(denoiser, path)
        dtypes = {dtype for place in places if (dtype := place.format.inner_dtype) is not None}
        if module is None or not dtypes:
            return
        (dtype,) = dtypes
        self._wrappers.append(
            Wrapper(module, "forward", partial(self._part, _Part(places[0], dtype, Arguments(module))))
        )
        for parent in module.modules():
            child = parent._modules.get("proj")
            place = next((each for each in places if each.layer() is child), None)
            if place is not None and (how := gelu_behind(parent, "proj")):
                self._wrappers.append(Wrapper(parent, "forward", partial(self._gelu, place, how)))

    def _format(self, layer: tuple[str, str]) -> Format | None:
        return self._formats.get("/".join(layer), self._formats.get(""))

    def reset(self) -> None:
        self._call: DenoiserCall | None = None
        self._spared = ""
        self._shared: _SharedActivations | None = None
        self._inside: torch.dtype | None = None  # what the attention or feed-forward in progress is computed in

    def end(self) -> None:
        unwrap_methods(self._wrappers)
        self._kept.end()
        self.reset()

    def before_evaluation(self, call: DenoiserCall) -> None:
        self._call, self._spared, self._shared = call, self._sparing.why(call.context), None

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        self._shared = None
        account, told = self._account, self._account.sentence(self._formats.values(), self._kept.shelf)
        return LeverReport("precision", str(self.method), account.engaged, told, self._kept.bytes)

    def _part(self, part: _Part, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in place of the forward of an attention or feed-forward."""
        x = Arguments.pick(part.names.bind(args, kwargs), conventions.IMAGE_TOKENS) if self._inside is None else None
        if not isinstance(x, torch.Tensor) or self._why_not_here(part.first, (x,), {}):
            return inner(*args, **kwargs)
        self._inside = part.dtype
        try:
            with computing_in(part.dtype, x.device.type):
                return cast(inner(*args, **kwargs), part.dtype, x.dtype)
        finally:
            self._inside = None

    def _gelu(self, place: _Place, how: str, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in place of a layer with GELU behind it."""
        layer, format = place.layer(), place.format
        if layer is None or self._inside is None or self._why_not_here(place, args, kwargs):
            return inner(*args, **kwargs)
        output = format.gelu(self._activations(format, args[0]), self._kept.of(layer, format), how)
        if output is None:
            return inner(*args, **kwargs)
        self._account.computed[format.name] += 1
        return output

    def _layer(self, place: _Place, inner: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Stands in place of a layer's forward."""
        layer, format, call = place.layer(), place.format, self._own_call(place)
        if layer is None or call is None:
            return inner(*args, **kwargs)
        if reason := self._spared or self._why_exact(call, place, layer, args, kwargs):
            self._account.exact[reason] += 1
            return self._exactly(layer, inner, *args, **kwargs)
        (x,) = args
        weights = self._kept.of(layer, format)
        self._account.computed[format.name] += 1
        return format.product(self._activations(format, x), weights, layer, x, self._inside or layer.weight.dtype)

    def _exactly(self, layer: Layer, inner: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """The layer's own output, in its own data type whatever surrounds it."""
        if self._inside is None:
            return inner(*args, **kwargs)
        with as_ever(layer.weight.device.type):
            return inner(*(cast(each, self._inside, layer.weight.dtype) for each in args), **kwargs)

    def _own_call(self, place: _Place) -> DenoiserCall | None:
        """The call in progress, if it is one of the layer's own denoiser."""
        call = self._call
        return call if call is not None and call.denoiser == place.denoiser else None

    def _why_not_here(self, place: _Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Why a layer is computed as ever, now; "" if it is not."""
        call, layer = self._own_call(place), place.layer()
        if call is None or layer is None:
            return ELSEWHERE
        return self._spared or self._why_exact(call, place, layer, args, kwargs)

    def _why_exact(
        self, call: DenoiserCall, place: _Place, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        if kwargs or len(args) != 1 or not isinstance(args[0], torch.Tensor) or not is_plain(layer):
            return UNUSUAL
        (x,) = args
        if self._inside is None and torch.is_autocast_enabled(x.device.type):
            return AUTOCAST
        if x.dtype not in (layer.weight.dtype, self._inside) or x.device != layer.weight.device:
            return MIXED
        if torch.is_grad_enabled() and (x.requires_grad or layer.weight.requires_grad):
            return GRADIENTS
        channels = x.shape[1 if isinstance(layer, Conv2d) else -1]
        tokens = x.numel() // max(channels, 1) // max(call.rows, 1)
        return self._sparing.why_small(tokens, call.rows, place.format, layer) or place.format.why_not(layer)

    def _activations(self, format: Format, x: torch.Tensor) -> Any:
        """Made once for all layers that receive the very same tensor, as long as nobody has changed it."""
        if x.is_inference():  # which has no version, so that nobody can tell whether it was changed
            return format.activations(x)
        shared = self._shared
        same = shared is not None and shared.x() is x and shared.version == x._version and shared.format is format
        if shared is None or not same:
            self._shared = None  # frees the memory first
            self._shared = shared = _SharedActivations(weakref.ref(x), x._version, format, format.activations(x))
        return shared.activations
