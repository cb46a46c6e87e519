"""Which keys a mask leaves, read off the device once for each mask: every reading waits for a GPU."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from accel.attention.dense import remember_places

Kept = list[tuple[slice, torch.Tensor]]

_host: MutableMapping[torch.Tensor, torch.Tensor] = WeakTensorKeyDictionary()
_kept: MutableMapping[torch.Tensor, dict[tuple[int, int], Kept]] = WeakTensorKeyDictionary()


def remember_mask(there: torch.Tensor, host: torch.Tensor) -> torch.Tensor:
    """The mask itself; `host` is a copy of it on the CPU, where one was made anyway."""
    _host[there] = host
    return there


def kept_keys(there: torch.Tensor, within: slice) -> Kept:
    """Samples with the places of the keys that they attend: all at once if they agree, else one by one.

    there: (B, L) bool; within: the places that are looked at. One host sync for each mask, none if it is remembered.
    """
    first, last, _ = within.indices(there.shape[1])
    known = _kept.setdefault(there, {})
    if (first, last) not in known:
        if there not in _host:
            remember_mask(there, there.cpu())
        rows: list[list[bool]] = _host[there][:, first:last].tolist()
        alike = all(row == rows[0] for row in rows)
        known[first, last] = [
            (slice(None) if alike else slice(number, number + 1), _places(there[number, first:last], row, first))
            for number, row in enumerate(rows[:1] if alike else rows)
        ]
    return known[first, last]


def _places(there: torch.Tensor, host: list[bool], first: int) -> torch.Tensor:
    """(kept,) on the mask's device; sorted and not picked, because how many there are is known here."""
    places = [first + place for place, kept in enumerate(host) if kept]
    found = there.logical_not().to(torch.uint8).argsort(stable=True)[: len(places)] + first
    return remember_places(found, places)
