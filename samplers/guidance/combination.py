"""How a pipeline combines the outputs of one step: measured from what it gives its scheduler, never looked up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from accel.call import noise_part

# What may be left unexplained, as a share of what guidance adds: rounding in 16 bits.
UNEXPLAINED = 0.1
# The weight of every other output is at most this: 0, but for rounding.
NOTHING = 0.02
# Outputs are alike if they are this near to each other, as a share of how far the outputs are apart at most. In
# float32, on 7 trained models and 21 classes of tiny ones, the same pass under other kernels or in a larger batch is
# 5e-5 away at most, and another one 7e-3 at least (a layer perturbed, first step of a U-Net). In 16 bits rounding
# alone is up to 0.3.
ALIKE = 1e-3
# Entries that must share their weights, at least: with as few as there are weights everything is explained.
FEWEST = 6
# Rows that are looked at, of all: they are evenly spaced, and each has weights of its own.
MOST_GROUPS = 2048


def main_output(outputs: Sequence[torch.Tensor], given: torch.Tensor, sample: torch.Tensor) -> int | None:
    """Which of the outputs for the same latents is the one that guidance leads to; None where this is no guidance, or
    it cannot be decided.

    given: what the scheduler was given for this step; sample: the latents that it was given with it. Guidance gives
    u + s (c - u) with s > 1, or the same with several outputs in place of u (pictures to edit, perturbed passes), which
    pipelines may negate, rescale, normalise or convert (a velocity to a clean sample, by the latents). So `given` is
    k (a₁ o₁ + a₂ o₂ + ...), plus a share of the sample if need be, where all a add up to 1; that of the conditional
    output is above 1, and no other is above 0. Projected guidance adds another multiple of the conditional output. The
    weights may be other ones for each sample, frame or channel, or for each row along some axis, but must all say the
    same. Costs a host sync.
    """
    # Learned variances, which are not guided, are left out.
    target = given if given.shape == sample.shape else noise_part(given, sample)
    shown = [_as_given(output, given, sample) for output in outputs]
    if target is None or len(shown) < 2 or any(one is None for one in shown):
        return None
    parts = [part.detach().cpu().double() for part in (*shown, target, sample) if part is not None]
    different = _different(parts[: len(shown)])
    found = _main_column([*(parts[index] for index in different), *parts[len(shown) :]]) if len(different) > 1 else None
    return None if found is None else different[found]


def _different(outputs: list[torch.Tensor]) -> list[int]:
    """Which outputs are no repetition of an earlier one, but for rounding: no fit could tell these apart (a perturbed
    pass of a model that has no layer to perturb)."""
    apart = torch.tensor([[float((one - other).norm()) for other in outputs] for one in outputs])
    return [index for index in range(len(outputs)) if not bool((apart[index, :index] <= ALIKE * apart.max()).any())]


def _main_column(parts: list[torch.Tensor]) -> int | None:
    """The same of the outputs in front of the last two, which are what the scheduler was given, and its sample."""
    for arranged in _arrangements(parts):
        *columns, wanted, latents = arranged
        found = _largest_weight(columns, [], wanted)
        if found is None:
            found = _projected_from(columns, wanted)
        if found is None:
            found = _largest_weight(columns, [latents], wanted)
        if found is not None:
            return found
    return None


def _as_given(output: torch.Tensor, given: torch.Tensor, sample: torch.Tensor) -> torch.Tensor | None:
    """What of an output the scheduler was given: axes of one entry squeezed, learned variances left out."""
    like = output.reshape(given.shape) if output.numel() == given.numel() else noise_part(output, given)
    return like if like is None or like.shape == sample.shape else noise_part(like, sample)


def _arrangements(parts: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The tensors as (groups, entries) each, in all the ways in which weights may be shared among entries."""
    shape = parts[0].shape
    yield [part.flatten(1) if part.ndim > 1 else part[None] for part in parts]
    if len(shape) > 2:
        yield [part.flatten(2).flatten(0, 1) for part in parts]
        for axis in range(len(shape) - 1, 0, -1):
            rows = [part.movedim(axis, -1).flatten(0, -2) for part in parts]
            every = max(len(rows[0]) // MOST_GROUPS, 1)
            yield [part[::every] for part in rows]


def _projected_from(columns: list[torch.Tensor], target: torch.Tensor) -> int | None:
    """The one of two columns to which the part of the other that is orthogonal to it is added with a weight below 0
    (adaptive projected guidance, arXiv 2410.02416), in all groups.
    """
    if len(columns) != 2 or target.shape[1] < FEWEST:
        return None
    for index, (own, other) in enumerate((columns, columns[::-1])):
        length = (own * own).sum(1, keepdim=True)
        added, apart = target - own, other - own * (own * other).sum(1, keepdim=True) / length
        weight = (added * apart).sum(1, keepdim=True) / (apart * apart).sum(1, keepdim=True)
        missed = (added - weight * apart).norm()
        if bool((weight < -NOTHING).all()) and bool(missed <= UNEXPLAINED * added.norm()):
            return index
    return None


def _largest_weight(columns: list[torch.Tensor], more: list[torch.Tensor], target: torch.Tensor) -> int | None:
    """The index of the column that all groups weigh by more than 1, and no other by more than 0."""
    count = len(columns)
    if target.shape[1] < max(FEWEST, 2 * (count + len(more))):
        return None
    mean = torch.stack(columns).mean(0)
    differences = [column - columns[0] for column in columns[1:]]
    table = torch.stack([mean, *differences, *more], -1)
    weights = torch.linalg.lstsq(table, target[..., None], driver="gelsd").solution[..., 0]  # (groups, weights)
    missed = (target - (table * weights[:, None]).sum(-1)).norm()
    guided = (table[..., 1:count] * weights[:, None, 1:count]).sum(-1).norm()
    scale, moved = weights[:, :1], weights[:, 1:count]
    if guided == 0 or missed > UNEXPLAINED * guided or not _is_certain(table, scale, missed, target.norm()):
        return None
    shares = torch.cat([-moved.sum(1, keepdim=True), moved], 1) / scale + 1.0 / count
    # A group whose outputs are equal tells nothing, and one that gets an output as it is (SVD's first frame, channels
    # without guidance) tells nothing against it.
    differ = table[..., 1:count].flatten(1).norm(dim=1) > 1e-6 * mean.norm(dim=1)
    mixed = (shares.amax(1) - 1.0).abs() + (shares.abs().sum(1) - 1.0) > NOTHING
    shares = shares[differ & mixed]
    if not len(shares):
        return None
    largest = int(shares.mean(0).argmax())
    others = torch.cat([shares[:, :largest], shares[:, largest + 1 :]], 1)
    return largest if bool((shares[:, largest] > 1.0 + NOTHING).all() and (others < NOTHING).all()) else None


def _is_certain(table: torch.Tensor, scale: torch.Tensor, missed: torch.Tensor, size: torch.Tensor) -> bool:
    """Whether the sign of k is beyond doubt, on which hangs which output is the conditional one: what the mean adds
    that the other columns cannot is far above what is left unexplained.
    """
    mean, rest = table[..., :1], table[..., 1:]
    own = mean - rest @ torch.linalg.lstsq(rest, mean, driver="gelsd").solution
    weighed = (own[..., 0] * scale).norm()
    same = bool((scale > 0).all() or (scale < 0).all())
    return same and bool(weighed > 10.0 * missed + 1e-5 * size)
