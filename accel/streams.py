"""Which stream a denoiser call belongs to, and whether its conditioning is still the same.

A stream is named by the pipeline's cache_context where it gives one, else by the identity of the conditioning, else by
order within the step. Never by call parity: guidance that is off or cut off would mix the streams.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Conditioning counts as the same while it is this near, relative to its size, to where its last move led: a prompt that
# glides moves the outputs as smoothly as the noise level does. Measured on the pocket models (`tests/caching/
# test_conditioning.py`): going on is better than a fresh history below, and worse above.
NEAR = 0.05


@dataclass
class StreamRecord:
    """The conditioning that a stream last had. The tensor is kept, because a freed address may be reused by another."""

    name: str
    conditioning: torch.Tensor
    version: int
    step: int  # when it was last asked
    content: int = 0  # counts the contents so far
    before: torch.Tensor | None = None  # the conditioning before the last move

    def is_about(self, conditioning: torch.Tensor) -> bool:
        """Whether this is the same memory, unchanged; no host sync."""
        known = self.conditioning
        same = known is conditioning or (
            known.data_ptr() == conditioning.data_ptr()
            and known.shape == conditioning.shape
            and known.stride() == conditioning.stride()
        )
        return same and self.version == _version(conditioning)

    def distance(self, conditioning: torch.Tensor) -> float:
        """How far it is from where the last move led, relative to its size: 0 for a copy; one host sync."""
        known, now = self.conditioning, conditioning
        if known.shape != now.shape or known.device != now.device or known.data_ptr() == now.data_ptr():
            return float("inf")  # of memory that was written over nothing is known any more
        expected = known.float() if self.before is None else 2.0 * known.float() - self.before.float()
        far = torch.stack([torch.linalg.vector_norm(now.float() - near) for near in (known.float(), expected)]).amin()
        return float(far / torch.linalg.vector_norm(now.float()).clamp_min(1e-12))

    def move_to(self, conditioning: torch.Tensor, moved: bool) -> None:
        self.before = self.conditioning if moved else None
        self.conditioning, self.version = conditioning, _version(conditioning)


class Streams:
    """The streams of one denoiser in one run; never more than two steps have asked for."""

    def __init__(self) -> None:
        self._asked: dict[str | None, list[StreamRecord]] = {}

    def find(self, named: str | None, conditioning: torch.Tensor | None, order: int, step: int) -> tuple[str, int]:
        """The stream of a call, the `order`-th of this step, and the number of its content: it rises when the stream
        goes on with another conditioning, of which its past says nothing.
        """
        if conditioning is None:
            return named or f"pass {order + 1}", 0
        known = self._asked.setdefault(named, [])
        asked = next((one for one in known if one.is_about(conditioning)), None)
        asked = asked or _near(known, conditioning, step)
        if asked is None:
            asked = _free(known, step, named is not None)
            if asked is None:
                asked = StreamRecord(_name(known, named, order), conditioning, _version(conditioning), step)
                known.append(asked)
            else:
                asked.move_to(conditioning, False)
                asked.content += 1
        asked.step = step
        return asked.name, asked.content


def _near(known: list[StreamRecord], conditioning: torch.Tensor, step: int) -> StreamRecord | None:
    """The stream that this conditioning goes on with, of those that this step has not asked for: some pipelines rebuild
    their embeddings in every step, and callbacks let them glide.
    """
    for asked in known:
        if asked.step < step and (far := asked.distance(conditioning)) < NEAR:
            asked.move_to(conditioning, far > 0.0)
            return asked
    return None


def _free(known: list[StreamRecord], step: int, named: bool) -> StreamRecord | None:
    """The stream that goes on with another conditioning. By name it is clear; else it is one that the last step has not
    asked for, because guidance that sets in asks for a new stream in front of one that goes on.
    """
    return next((asked for asked in known if asked.step < (step if named else step - 1)), None)


def _name(known: list[StreamRecord], named: str | None, order: int) -> str:
    if named is not None:
        return f"{named} {len(known) + 1}" if known else named
    taken = {asked.name for asked in known}
    return next(name for number in range(order, order + len(known) + 1) if (name := f"pass {number + 1}") not in taken)


def _version(tensor: torch.Tensor) -> int:
    """Counts the writes into a tensor; nobody counts them in inference mode."""
    return 0 if tensor.is_inference() else tensor._version
