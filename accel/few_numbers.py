"""A few numbers of a tensor, by which weights are told from others without a look at all of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def few_numbers(tensor: torch.Tensor, count: int) -> list[torch.Tensor]:
    """About `count` numbers from all over it, flat, each kept in its own type: a view where its memory allows.

    Tensors of other libraries, such as quantised ones, that cannot be read so are read part by part (their integers,
    their scales); of what cannot be read at all, or has no memory, there are none.
    """
    if tensor.is_meta or not tensor.numel():
        return []
    try:
        flat = tensor.detach().flatten()
        return [flat[:: max(flat.numel() // count, 1)]]
    except (NotImplementedError, RuntimeError):  # an operation that its library has left out
        return [found for part in _parts(tensor) for found in few_numbers(part, count)]


def address(tensor: torch.Tensor) -> int:
    """Where its memory is, or which object it is: a quantised tensor has parts instead."""
    try:
        return tensor.data_ptr()
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors that one of another library consists of, by torch's protocol for these."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    for name in flatten()[0] if flatten is not None else ():
        part = getattr(tensor, name)
        if isinstance(part, torch.Tensor) and part is not tensor:
            yield part
