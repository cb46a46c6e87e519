"""Looks at a pipeline once and says what is there. Everything that depends on a model family is here and in tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from accel import conventions, families
from accel.components import components_of, denoisers_of, guiders_of, original, schedulers_of, submodule
from accel.families import Family, GuidanceCalls
from accel.parametrization import Prediction, Samples
from accel.rounding import COARSE, rounding
from accel.schedulers import scheduler_anatomy
from accel.timestep_input import TimestepInput
from accel.unet_layers import UNetLayers, unet_layers


@dataclass(frozen=True)
class DenoiserAnatomy:
    """One denoiser: its class, its repeated blocks and the modules that probes listen to (paths below the denoiser)."""

    kind: str
    config: Mapping[str, Any]
    parameters: int
    blocks: dict[str, int]  # in the order in which they run
    image_output: dict[str, int]  # for each list of blocks: where the image tokens stand in what a block returns
    modulated_input: str | None  # the first block's self-attention; its input is the modulated input
    time_embedding: str | None
    time_projection: str | None
    # Paths of the modules of all repeated blocks, in order, by kind: self_attention (joint attention too),
    # temporal_attention, cross_attention, feed_forward.
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unet: UNetLayers | None = None  # the layers of a U-Net of a known kind
    rounding: float = 0.0  # how far its linear layers are from being linear: `accel.rounding`

    @cached_property
    def family(self) -> Family:
        """What is known of its class and cannot be asked."""
        return families.of_denoiser(self.kind)


@dataclass(frozen=True)
class Anatomy:
    """What a pipeline consists of. Holds names and facts, never a module: a session must not keep weights alive."""

    pipeline: str
    repository: str
    denoisers: dict[str, DenoiserAnatomy]
    schedulers: dict[str, str]
    prediction: Prediction
    guidance: str
    guidance_calls: GuidanceCalls
    # By scheduler: why forecasts cannot be corrected under its updates, and why no other update can stand in for it: a
    # clause each, or "" where they can.
    uncorrectable: Mapping[str, str] = field(default_factory=dict)
    irreplaceable: Mapping[str, str] = field(default_factory=dict)
    random: bool = False  # whether some scheduler's updates add noise
    depth: int = 1  # outputs that a scheduler's update uses, at most
    leveled: bool = True  # whether all schedulers say at which noise levels their steps are
    twice: bool = False  # whether one evaluates some of them twice (Heun)
    # Of two experts the first, and the flow time below which the other one takes over (Wan 2.2).
    handover: tuple[str, float] | None = None
    # By scheduler: how its samples are scaled, and how it takes noise levels; None: unknown, and not at all.
    samples: Mapping[str, Samples | None] = field(default_factory=dict)
    received: Mapping[str, Prediction] = field(default_factory=dict)  # what it takes the output to be
    levels: Mapping[str, TimestepInput | None] = field(default_factory=dict)
    # By scheduler: the classes of diffusers that may stand in for it, and the spacings that they may have then.
    exchangeable: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    guidance_scale: float | None = None  # of the pipeline's call in progress, where it has one
    guidance_asked: Mapping[str, float] = field(default_factory=dict)  # all numbers for guidance in that call, by name

    @property
    def corrects_in_full(self) -> bool:
        """Whether the errors of forecasts can be corrected. Where noise comes in between they can only in part, and
        where updates use many outputs (PNDM) or evaluate a noise level twice (Heun), errors have come far by then.
        Where noise levels are not known, neither is what forecasts should have been."""
        plain = self.leveled and not self.twice and not self.random and self.depth <= 4
        return plain and not any(self.uncorrectable.values())

    @property
    def caveats(self) -> list[str]:
        """What must be known before a run."""
        return [
            f"{name} rounds its activations to few bits (by {denoiser.rounding:.1%}), so that runs whose latents differ"
            f" in the last bit end as far apart as an accelerated run does: no promise of fidelity is kept above that."
            for name, denoiser in self.denoisers.items()
            if denoiser.rounding > COARSE
        ]

    @property
    def embedded_guidance(self) -> bool:
        """Whether the guidance scale is an input of a denoiser."""
        return any(_takes_guidance(part.config) for part in self.denoisers.values())

    def __str__(self) -> str:
        lines = [f"{self.pipeline} ({self.repository or 'built in memory'})"]
        for name, denoiser in self.denoisers.items():
            blocks = (
                ", ".join(f"{count} × {path}" for path, count in denoiser.blocks.items()) or "no repeated blocks known"
            )
            lines.append(f"  {name}: {denoiser.kind}, {denoiser.parameters / 1e6:.1f} M parameters, {blocks}")
            for role in ("modulated_input", "time_embedding", "time_projection"):
                lines.append(f"    {role.replace('_', ' ')}: {getattr(denoiser, role) or 'not found'}")
            counts = (f"{len(paths)} {kind.replace('_', ' ')}" for kind, paths in denoiser.modules.items())
            lines.append(f"    modules: {', '.join(counts) or 'none found'}")
        lines.append(f"  scheduler: {', '.join(self.schedulers.values())}; prediction: {self.prediction}")
        lines.append(f"  classifier-free guidance: {self.guidance}")
        lines += [f"  note: {caveat}" for caveat in self.caveats]
        return "\n".join(lines)


def inspect(pipe: Any, components: Mapping[str, Any] | None = None) -> Anatomy:
    """The anatomy of a diffusers pipeline; with other `components` than its own, as it would be with these.

    Raises TypeError for an object that is not a pipeline, ValueError for one without a denoiser or scheduler.
    """
    components = components_of(pipe) if components is None else components
    found = dict(denoisers_of(components))
    schedulers = dict(schedulers_of(components))
    if not found:
        raise ValueError(
            f"{type(pipe).__name__} has no denoiser that accel knows (looked for {', '.join(conventions.DENOISERS)})."
        )
    if not schedulers:
        raise ValueError(f"{type(pipe).__name__} has no scheduler, so there are no denoising steps to accelerate.")
    name = str(getattr(pipe, "name_or_path", None) or getattr(pipe.config, "_name_or_path", "") or "")
    asked = {key: scheduler_anatomy(scheduler) for key, scheduler in schedulers.items()}
    prediction = next(iter(asked.values())).prediction
    return Anatomy(
        pipeline=type(pipe).__name__,
        repository=name,
        denoisers={key: anatomy_of(module) for key, module in found.items()},
        schedulers={key: scheduler.kind for key, scheduler in asked.items()},
        prediction=clean_from_prediction(prediction, type(pipe).__name__),
        guidance=_guidance(type(pipe).__name__, found, any(guiders_of(components))),
        guidance_calls=_guidance_calls(type(pipe).__name__, any(guiders_of(components))),
        handover=_handover(pipe, list(found)),
        uncorrectable={key: scheduler.uncorrectable for key, scheduler in asked.items()},
        random=any(scheduler.random for scheduler in asked.values()),
        depth=max(scheduler.depth for scheduler in asked.values()),
        leveled=all(scheduler.leveled for scheduler in asked.values()),
        twice=any(scheduler.twice for scheduler in asked.values()),
        irreplaceable={key: scheduler.irreplaceable for key, scheduler in asked.items()},
        samples={key: scheduler.samples for key, scheduler in asked.items()},
        received={key: scheduler.prediction for key, scheduler in asked.items()},
        levels={key: scheduler.told for key, scheduler in asked.items()},
        exchangeable={key: scheduler.exchangeable for key, scheduler in asked.items()},
    )


def anatomy_of(module: torch.nn.Module) -> DenoiserAnatomy:
    """What one denoiser consists of; its weights are not looked at."""
    module = original(module)
    family = families.of_denoiser(type(module).__name__)
    lists = {
        path: child
        for path, child in module.named_children()
        if path in family.blocks and isinstance(child, torch.nn.ModuleList) and len(child)
    }
    blocks = {path: len(children) for path, children in lists.items()}
    return DenoiserAnatomy(
        kind=type(module).__name__,
        config=dict(getattr(module, "config", {}) or {}),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        blocks=blocks,
        image_output={path: _image_output(children[0]) for path, children in lists.items()},
        modulated_input=_first_self_attention(module, blocks, family),
        time_embedding=next((path for path in family.time_embedding if submodule(module, path) is not None), None),
        time_projection=next((path for path in family.time_projection if submodule(module, path) is not None), None),
        modules=_modules(module, family),
        unet=unet_layers(module),
        rounding=rounding(module),
    )


def _image_output(block: torch.nn.Module) -> int:
    name = type(original(block)).__name__
    return 1 if families.returns_text_first(name) else 0


def _first_self_attention(module: torch.nn.Module, blocks: Mapping[str, int], family: Family) -> str | None:
    paths = (f"{path}.0.{name}" for path in blocks for name in family.modules["self_attention"])
    return next((path for path in paths if submodule(module, path) is not None), None)


def _modules(denoiser: torch.nn.Module, family: Family) -> dict[str, tuple[str, ...]]:
    """The paths of the attention and feed-forward modules of all repeated blocks, by kind."""
    found: dict[str, list[str]] = {}
    for path, module in denoiser.named_modules():
        # torch.compile's wrapper stands for what it wraps, around a block or around such a module itself.
        parts = [part for part in path.split(".") if part != "_orig_mod"]
        kind = None if path.endswith("_orig_mod") else _kind(parts, module, family)
        if kind is not None:
            found.setdefault(kind, []).append(".".join(parts))
    return {kind: tuple(paths) for kind, paths in found.items()}


def _kind(parts: list[str], module: torch.nn.Module, family: Family) -> str | None:
    """What kind of module this is, if it stands directly in a repeated block (`transformer_blocks.0.attn1`)."""
    *block, name = parts
    if block[-1:] == ["block"]:  # HiDream wraps its blocks
        block = block[:-1]
    if len(block) < 2 or not block[-1].isdigit() or block[-2] not in family.blocks:
        return None
    kind = next((kind for kind, names in family.modules.items() if name in names), None)
    if kind in ("self_attention", "cross_attention"):
        # SD3.5 and AnimateDiff have a second self-attention under the name of the cross-attention.
        crossed = getattr(module, "is_cross_attention", kind == "cross_attention")
        along_time = not crossed and any(part in family.temporal for part in block)
        return "cross_attention" if crossed else "temporal_attention" if along_time else "self_attention"
    return kind


def _handover(pipe: Any, denoisers: list[str]) -> tuple[str, float] | None:
    boundary = pipe.config.get("boundary_ratio") if isinstance(pipe.config, Mapping) else None
    return (denoisers[0], float(boundary)) if boundary and len(denoisers) > 1 else None


def clean_from_prediction(prediction: Prediction, pipeline: str) -> Prediction:
    """What the denoiser predicts, given what the scheduler takes it to and the pipeline's class name."""
    if families.of_pipeline(pipeline).negates_prediction and prediction == "flow":
        return "inverted_flow"
    return prediction


def _guidance(pipeline: str, denoisers: Mapping[str, torch.nn.Module], guided: bool) -> str:
    if guided:
        return "two calls per step, made by a guider"
    if any(_takes_guidance(getattr(module, "config", {}) or {}) for module in denoisers.values()):
        return "embedded scale (an extra unconditional call only with true_cfg_scale)"
    recorded = families.of_pipeline(pipeline).guidance_calls
    return "seen in the run, from named calls or at its first step" if recorded == "to be seen" else recorded


def _takes_guidance(config: Mapping[str, Any]) -> bool:
    """Whether the guidance scale is an input of the denoiser with this configuration."""
    return any(config.get(flag) for flag in conventions.EMBEDDED_GUIDANCE)


def _guidance_calls(pipeline: str, guided: bool) -> GuidanceCalls:
    if guided:  # whatever the pipeline's name: modular pipelines have those of others, and no batches
        return "to be seen"
    return families.of_pipeline(pipeline).guidance_calls
