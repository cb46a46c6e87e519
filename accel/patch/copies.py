"""A copy of an object gets no layer of ours: it would share them, and with them its methods, with the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accel.patch.method import below_layers


def plain_copies(inner: Callable[[Any], Any], protocol: Any) -> Any:
    """Stands around `__reduce_ex__` of one object, which is what `copy.copy`, `copy.deepcopy` and `pickle` ask for: a
    copy has its own methods. What somebody else has put under our layers, it gets as it would without us.
    """
    reduced = inner(protocol)
    if not isinstance(reduced, tuple) or len(reduced) < 3:  # made from arguments alone, as torch.compile's wrapper
        return reduced
    make, arguments, state, *rest = reduced
    return make, arguments, without_layers(state), *rest


def without_layers(state: Any) -> Any:
    """The attributes that a copy gets."""
    if not isinstance(state, dict):
        return state
    below = {name: below_layers(value) for name, value in state.items()}
    return {name: value for name, value in below.items() if value is not None or state[name] is None}
