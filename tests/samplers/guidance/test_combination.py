"""Which output is the conditional one follows from what the scheduler is given, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from accel.samplers.guidance.combination import main_output

Combine = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def outputs(*shape: int) -> Outputs:
    """Conditional and unconditional outputs as alike as real ones, and the latents they are about."""
    drawn = torch.Generator().manual_seed(0)
    latents, conditional, other = (torch.randn(*(shape or (2, 4, 8, 8)), generator=drawn) for _ in range(3))
    return conditional, conditional + 0.1 * other, latents


def guided(conditional: torch.Tensor, unconditional: torch.Tensor, scale: float = 5.0) -> torch.Tensor:
    return unconditional + scale * (conditional - unconditional)


def rescaled(conditional: torch.Tensor, unconditional: torch.Tensor) -> torch.Tensor:
    """diffusers' `rescale_noise_cfg`: another factor for each sample."""
    one = guided(conditional, unconditional)
    rows = [1, 2, 3]
    return 0.3 * one + 0.7 * one * conditional.std(rows, keepdim=True) / one.std(rows, keepdim=True)


def normalised(conditional: torch.Tensor, unconditional: torch.Tensor) -> torch.Tensor:
    """As Lumina 2 does it: another factor for each row."""
    one = guided(conditional, unconditional)
    return one * conditional.norm(dim=-1, keepdim=True) / one.norm(dim=-1, keepdim=True)


def projected(conditional: torch.Tensor, unconditional: torch.Tensor, axis: int = 1) -> torch.Tensor:
    """Adaptive projected guidance (arXiv 2410.02416): of the difference only what is orthogonal to the conditional."""
    along = torch.nn.functional.normalize(conditional, dim=axis)
    difference = conditional - unconditional
    return conditional + 4.0 * (difference - (difference * along).sum(axis, keepdim=True) * along)


def by_frame(conditional: torch.Tensor, unconditional: torch.Tensor) -> torch.Tensor:
    """As Stable Video Diffusion does it: a scale that grows from frame to frame."""
    return unconditional + torch.linspace(1.0, 3.0, conditional.shape[1]).view(1, -1, 1, 1) * (
        conditional - unconditional
    )


def of_some_channels(conditional: torch.Tensor, unconditional: torch.Tensor) -> torch.Tensor:
    """As Lumina-Next does it: the last channel is the conditional one's own."""
    return torch.cat([guided(conditional, unconditional)[:, :3], conditional[:, 3:]], 1)


GUIDANCE: dict[str, Combine] = {
    "plain": lambda c, u, x: guided(c, u),
    "weak": lambda c, u, x: guided(c, u, 1.2),
    "negated": lambda c, u, x: -guided(c, u),
    "with a factor": lambda c, u, x: 0.6 * guided(c, u),
    "rescaled": lambda c, u, x: rescaled(c, u),
    "normalised by row": lambda c, u, x: -normalised(c, u),
    "by frame": lambda c, u, x: by_frame(c, u),
    "of some channels": lambda c, u, x: of_some_channels(c, u),
    "to a clean sample": lambda c, u, x: x - 0.7 * guided(c, u),
    "in half precision": lambda c, u, x: guided(c.bfloat16(), u.bfloat16()).float(),
}
OTHER: dict[str, Combine] = {
    "the first alone": lambda c, u, x: c,
    "the mean": lambda c, u, x: (c + u) / 2,
    "a third pass": lambda c, u, x: guided(c, u) + 0.3 * x.flip(0) * c.abs(),
    "by a mask": lambda c, u, x: torch.where(x > 0.0, guided(c, u), u),
    "another shape": lambda c, u, x: guided(c, u)[..., :4],
    "a batch": lambda c, u, x: torch.cat([c, u]),
    "noise": lambda c, u, x: x.flip(0),
    "nothing yet": lambda c, u, x: 0.0 * c,
}


@pytest.mark.parametrize("combine", GUIDANCE)
@pytest.mark.parametrize("first", [True, False])
def test_the_conditional_output_is_the_one_that_counts_more_than_once(combine: str, first: bool) -> None:
    conditional, unconditional, latents = outputs()
    given = GUIDANCE[combine](conditional, unconditional, latents)
    pair = [conditional, unconditional] if first else [unconditional, conditional]
    assert main_output(pair, given, latents) == (0 if first else 1)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("alike", [True, False])
def test_projected_guidance_of_a_sound(alike: bool, first: bool) -> None:
    """As ACE-Step does it; outputs of random weights have little in common."""
    conditional, unconditional, latents = outputs(2, 64, 8)
    if not alike:
        unconditional = unconditional + latents.flip(1)
    pair = [conditional, unconditional] if first else [unconditional, conditional]
    assert main_output(pair, projected(conditional, unconditional), latents) == (0 if first else 1)


def test_a_sample_whose_passes_are_equal_tells_nothing() -> None:
    conditional, unconditional, latents = outputs()
    unconditional[0] = conditional[0]
    assert main_output([conditional, unconditional], guided(conditional, unconditional), latents) == 0


@pytest.mark.parametrize("combine", OTHER)
def test_what_is_not_guidance_is_told_from_it(combine: str) -> None:
    conditional, unconditional, latents = outputs()
    given = OTHER[combine](conditional, unconditional, latents)
    assert main_output([conditional, unconditional], given, latents) is None


def test_learned_variances_are_no_part_of_it() -> None:
    conditional, unconditional, latents = outputs()
    more = [torch.cat([answer, torch.rand(answer.shape)], 1) for answer in (conditional, unconditional)]
    given = guided(conditional, unconditional)
    assert main_output(more, given, latents) == 0
    # DeepFloyd IF hands on that of the conditional output, which is not guided.
    assert main_output(more, torch.cat([given, more[0][:, 4:]], 1), latents) == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_of_three_passes_two_are_what_guidance_leads_away_from(order: tuple[int, ...]) -> None:
    """As InstructPix2Pix does it: with text and picture, with the picture alone, with neither."""
    text, unconditional, latents = outputs()
    image = unconditional + 0.05 * latents.flip(-1)
    given = unconditional + 7.5 * (text - image) + 1.5 * (image - unconditional)
    shown = [(text, image, unconditional)[index] for index in order]
    assert main_output(shown, given, latents) == order.index(0)


def test_two_passes_that_both_count_more_than_the_third_are_not_decided() -> None:
    text, unconditional, latents = outputs()
    image = unconditional + 0.05 * latents.flip(-1)
    given = unconditional + 2.0 * (text - image) + 5.0 * (image - unconditional)
    assert main_output([text, image, unconditional], given, latents) is None


def test_an_output_that_is_nearly_the_latents_does_not_turn_the_sign() -> None:
    """What predicts noise gives the latents back in the first step, so that a conversion by them can hide it."""
    _, other, latents = outputs()
    conditional, unconditional = latents + 1e-3 * other, latents + 1e-3 * other.flip(-1)
    for pair, expected in (([conditional, unconditional], {0, None}), ([unconditional, conditional], {1, None})):
        for given in (guided(*sorted(pair, key=lambda one: one is unconditional)),):
            assert main_output(pair, given + 1e-4 * other.flip(0), latents) in expected


@pytest.mark.parametrize("which", [0, 1], ids=["conditional", "unconditional"])
@pytest.mark.parametrize("seed", range(4))
def test_a_pass_that_repeats_another_but_for_rounding_takes_no_part(which: int, seed: int) -> None:
    """LTX-2's perturbed pass, of a model without the layer that it perturbs: a fit over all three could give each of
    the two any weight."""
    c, u, x = outputs()
    rounding = 1e-6 * torch.randn(c.shape, generator=torch.Generator().manual_seed(seed))
    given = guided(c, u) + 0.02 * (c - u).norm() / c.numel() ** 0.5 * rounding.sign()  # of which not all is explained
    assert main_output([u, c, (c, u)[which] + rounding], given, x) == 1
