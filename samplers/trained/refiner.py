"""A velocity refiner: one block that corrects the last output of a flow model instead of asking the model again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from accel import conventions
from accel.anatomy import Anatomy
from accel.call import LATENTS, rebuilt, tensors
from accel.components import submodule
from accel.files import read_json, write_whole

SCHEMA = 1
FACTS = "refiner.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name; importing accel does not import diffusers


@dataclass(frozen=True)
class RefinerFacts:
    """What a refiner belongs to and how well it was trained.

    The errors are on prompts that training has not seen, as shares of the change from one output to the next: 1 is as
    far off as saying the last output again. The difference of the two streams counts as guidance makes it count.
    `extrapolated` is what continuing the last two outputs along a straight
    line in noise level misses there, which needs no training and takes no time.
    """

    pipeline: str
    denoiser: str
    width: int  # channels of an output
    step_counts: tuple[int, ...] = ()
    guidance: float = 1.0
    updates: int = 0
    error: float = 1.0
    extrapolated: float = 1.0

    @classmethod
    def parse(cls, data: Any) -> RefinerFacts:
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            raise ValueError(f"this is not a refiner of schema {SCHEMA}; train it anew: python -m benchmarks.refiner.")
        missing = [name for name in ("pipeline", "denoiser", "width") if name not in data]
        if missing:
            raise ValueError(f"{missing[0]!r} is missing; train the refiner anew: python -m benchmarks.refiner.")
        known = {item.name: data[item.name] for item in fields(cls) if item.name in data}
        return cls(**known | {"step_counts": tuple(data.get("step_counts", ()))})


@dataclass(eq=False)
class Refiner:
    """A denoiser of one block that is given the noisy input and the last output stacked along the channels, and all
    other arguments as they are: v' = model(cat(x, v), t, ...) + v (FlowTurbo, arXiv 2409.18128, section 3.3).

    `python -m benchmarks.refiner`, in a checkout of accel's repository, trains one; `save` keeps it. path: the folder
    it was saved to or loaded from.
    """

    model: torch.nn.Module = field(repr=False)
    facts: RefinerFacts
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"a refiner of {self.facts.denoiser}"

    @property
    def bytes(self) -> int:
        """Memory of its weights."""
        return sum(weight.numel() * weight.element_size() for weight in self.model.parameters())

    def refined_output(self, arguments: Mapping[str, Any], last: torch.Tensor) -> Any:
        """The refined output for a denoiser call with these arguments (by name), in the denoiser's own structure.

        last: this stream's last output, shaped like the latents but for the channels.
        """
        name = next(name for name in LATENTS if arguments.get(name) is not None)
        latents = arguments[name]
        stacked = torch.cat([latents, last.to(latents.dtype)], dim=channel_axis(latents))
        output = self.model(**{**arguments, name: stacked})
        return rebuilt(output, [change + last.to(change.dtype) for change in tensors(output)])

    def fits(self, latents: torch.Tensor, answer: torch.Tensor) -> bool:
        """Whether the two can be stacked: alike in all but the channels, of which the output has as many as trained."""
        if latents.ndim != answer.ndim or latents.ndim not in (3, 4, 5):
            return False
        axis = channel_axis(latents)
        alike = [a == b for place, (a, b) in enumerate(zip(latents.shape, answer.shape, strict=True)) if place != axis]
        return all(alike) and answer.shape[axis] == self.facts.width

    def obstacle(self, anatomy: Anatomy) -> str | None:
        """Why it cannot stand in for the denoisers of that pipeline, and what to do; None if it can."""
        return foreign(self, self.facts, getattr(self.model, "config", {}), anatomy)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes config, weights (float16 safetensors) and what the refiner belongs to."""
        model: Any = self.model
        model.save_config(folder)
        half = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
        save_file(half, Path(folder) / WEIGHTS, {"format": "pt"})
        write_whole(Path(folder) / FACTS, json.dumps({"schema": SCHEMA} | asdict(self.facts), indent=2) + "\n")
        self.path = os.fspath(folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Refiner:
        """Reads what `save` wrote, in float32. Raises ValueError, in one sentence, for anything else."""
        import diffusers

        facts, _ = describe(folder)
        kind = getattr(diffusers, facts.denoiser, None)
        if kind is None:
            raise ValueError(f"{folder} refines a {facts.denoiser}, which this version of diffusers does not know.")
        try:
            model = kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True)
        except Exception as error:  # file and configuration errors of two libraries have no common base
            raise ValueError(f"The refiner in {folder} cannot be read: {str(error).partition(chr(10))[0]}") from None
        return cls(model.eval().requires_grad_(False), facts, os.fspath(folder))


def describe(folder: str | os.PathLike[str]) -> tuple[RefinerFacts, dict[str, Any]]:
    """What a saved refiner says about itself, and its model's settings; the weights are not looked at.

    Raises ValueError, in one sentence, for a folder that holds none.
    """
    return read_json(Path(folder) / FACTS, "refiner", RefinerFacts.parse), read_json(
        Path(folder) / "config.json", "model", dict
    )


def foreign(name: object, facts: RefinerFacts, config: Mapping[str, Any], anatomy: Anatomy) -> str | None:
    """Why a refiner with these settings is not one for a pipeline's denoisers, and what to do; None if it is."""
    mine, train = _comparable(config), "train one for this pipeline with `python -m benchmarks.refiner`"
    for denoiser in anatomy.denoisers.values():
        if denoiser.kind != facts.denoiser:
            return f"{name} refines a {facts.denoiser} and not a {denoiser.kind}: {train}."
        wanted = _comparable(refiner_config(denoiser.config, facts.width))
        wrong = next((key for key in sorted(wanted) if mine.get(key) != wanted[key]), None)
        if wrong is not None:
            return (
                f"{name} belongs to another {denoiser.kind}: its {wrong} is {mine.get(wrong)} where this pipeline needs"
                f" {wanted[wrong]}; {train}."
            )
    return None


def channel_axis(latents: torch.Tensor) -> int:
    """(B, N, C) -> 2, packed tokens; (B, C, H, W) and (B, C, T, H, W) -> 1."""
    return 2 if latents.ndim == 3 else 1


def refiner_config(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The denoiser's settings with one block and `width` more input channels.

    Raises ValueError for a model whose depth or channels are not among the settings that accel knows.
    """
    depth = {name: wanted for name, wanted in conventions.REFINER_DEPTH.items() if name in config}
    inputs, outputs = conventions.INPUT_CHANNELS, conventions.OUTPUT_CHANNELS
    if not depth or not isinstance(config.get(inputs), int):
        raise ValueError(
            f"{config.get('_class_name', 'This denoiser')} has no settings for depth and channels that accel knows "
            f"({', '.join((*conventions.REFINER_DEPTH, inputs))}), so no refiner can be made after it."
        )
    channels = {inputs: config[inputs] + width}
    if outputs in config:
        channels[outputs] = config[outputs] or config[inputs]
    # What diffusers keeps under "_" for itself names settings that it would take for defaults again.
    plain = {name: value for name, value in config.items() if not name.startswith("_")}
    return plain | depth | channels


def new_refiner(denoiser: torch.nn.Module, pipeline: str, width: int) -> Refiner:
    """A refiner for this denoiser that repeats the last output exactly: its last layer is zero.

    Embedders, the first block and what its first layer sees of the noisy input are the denoiser's own. width: channels
    of the denoiser's outputs. Raises ValueError for a model that accel cannot make one after.
    """
    original: Any = getattr(denoiser, "_orig_mod", denoiser)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # and no GPU's, which are not put back
        model = type(original).from_config(refiner_config(original.config, width))
    known = original.state_dict()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            _take_over(weight, known.get(name))
        for weight in last_layer(model).parameters():
            weight.zero_()
    model = model.float().eval().requires_grad_(False)
    return Refiner(model, RefinerFacts(pipeline, type(original).__name__, width))


def last_layer(model: torch.nn.Module) -> torch.nn.Module:
    """The layer that makes the output. Raises ValueError for a model that ends in none that accel knows."""
    found = (submodule(model, path) for path in conventions.OUTPUT_PROJECTION)
    last = next((module for module in found if module is not None), None)
    if last is None:
        raise ValueError(
            f"{type(model).__name__} ends in none of the layers that accel knows "
            f"({', '.join(conventions.OUTPUT_PROJECTION)}), so no refiner can be made after it."
        )
    return last


def _take_over(weight: torch.Tensor, known: torch.Tensor | None) -> None:
    """Copies weights of the same shape; of a layer with more input channels the columns that both have."""
    if known is None or known.ndim != weight.ndim:
        return
    if known.shape == weight.shape:
        weight.copy_(known)
    elif weight.ndim > 1 and known.shape[1] < weight.shape[1] and _but_inputs(known) == _but_inputs(weight):
        weight[:, : known.shape[1]].copy_(known)


def _but_inputs(weight: torch.Tensor) -> tuple[int, ...]:
    """Its shape without the input channels."""
    return weight.shape[:1] + weight.shape[2:]


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them, without those that diffusers keeps for itself."""
    return dict(json.loads(json.dumps({k: v for k, v in config.items() if not k.startswith("_")}, default=str)))
