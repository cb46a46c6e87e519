"""One pipeline class of the zoo: its parts and the arguments of its call, read off the class where it tells them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor

from tests.tiny.case import Ask, TinyPipeline, quiet
from tests.tiny.image import POOLED, TEXT
from tests.tiny.inputs import mask, picture
from tests.tiny.zoo.inventory import pipeline_classes
from tests.tiny.zoo.parts import make
from tests.tiny.zoo.stand_ins import Tokenizer, image_encoder, image_processor, text_encoder

EMBEDDED = re.compile(r"(negative_)?(pooled_)?prompt_(embeds|attention_mask|embeds_mask)(_2)?$")
PICTURES = (
    *("image", "control_image", "mask_image", "control_mask", "mask", "hint"),
    *("video", "control_video", "conditioning_frames"),
)
TOKENS = 8
# Nearly all steps of a picture's run; the tiny size and not the nearest one that was trained on; no package for HTML.
ALWAYS = {"strength": 0.9, "use_resolution_binning": False, "clean_caption": False}

Call = Mapping[str, Any] | Callable[[Ask], Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """How a pipeline class departs from what all have in common.

    parts: by argument of the constructor, the settings of a model that differ from its usual ones (a mapping), a
        function that makes the part, or the value itself. Without an entry it is made of the class that the constructor
        names; encoders of text are None where the call takes embeddings.
    call: arguments of the call, or a function of what is asked; they win over those that are read off the signature.
    leave_out: arguments that it would take and shall not get.
    size: height and width in pixels. frames: of a video.
    words: whether prompts are words, because the call's embeddings need more than these.
    rows: whether each sample of a batch needs a picture of its own.
    alone: why it makes no batches, if it does not.
    off: the guidance scale without guidance. after: done with the pipeline once it is built.
    """

    pipeline: str
    parts: Mapping[str, Any] = field(default_factory=dict)
    call: Call = field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    size: tuple[int, int] = (64, 64)
    frames: int = 9
    words: bool = False
    rows: bool = False
    alone: str = ""
    off: float = 1.0
    after: Callable[[Any], None] | None = None

    @property
    def kind(self) -> Any:
        return pipeline_classes()[self.pipeline]

    @property
    def tiny(self) -> TinyPipeline:
        """As the other tests know it."""
        video = "num_frames" in self._taken
        return TinyPipeline(self.pipeline, self.build, self.answer, "batched", video=video)

    @property
    def _taken(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.kind.__call__).parameters

    @property
    def _worded(self) -> bool:
        prompt = self._taken.get("prompt")
        required = prompt is not None and prompt.default is inspect.Parameter.empty
        return self.words or required or "prompt_embeds" not in self._taken

    def build(self) -> DiffusionPipeline:
        wanted = inspect.signature(self.kind.__init__, eval_str=True).parameters
        parts = {name: self._part(name, wanted[name]) for name in wanted if name != "self"}
        parts = {name: part for name, part in parts.items() if part is not inspect.Parameter.empty}
        pipe = quiet(self.kind(**parts))
        if self.after is not None:
            self.after(pipe)
        return pipe

    def _part(self, name: str, wanted: inspect.Parameter) -> Any:
        given = self.parts.get(name, {})
        if callable(given) and not isinstance(given, torch.nn.Module):
            return given()
        if not isinstance(given, Mapping):
            return given
        if name == "requires_safety_checker":
            return False
        if name in self.parts or wanted.default is inspect.Parameter.empty:
            return self._usual(name, wanted, given)
        return wanted.default

    def _usual(self, name: str, wanted: inspect.Parameter, settings: Mapping[str, Any]) -> Any:
        worded = self._worded
        if "safety_checker" in name or "watermarker" in name:
            return None
        if "text_encoder" in name:
            return text_encoder(**settings) if worded else None
        if "tokenizer" in name or name == "processor":
            return Tokenizer() if worded else None
        if "image_encoder" in name:
            return image_encoder(**settings)
        if "feature_extractor" in name or "image_processor" in name:
            return image_processor()
        return make(wanted.annotation, settings)

    def answer(self, ask: Ask) -> dict[str, Any]:
        taken = {name: known for name, known in self._taken.items() if name not in self.leave_out}
        given = {**self._extent(ask, taken), **self._prompt(ask, taken), **self._guidance(ask, taken)}
        given |= {name: self._pictures(name, ask) for name in PICTURES if name in taken}
        given |= {name: value for name, value in ALWAYS.items() if name in taken}
        return given | dict(self.call(ask) if callable(self.call) else self.call)

    def _extent(self, ask: Ask, taken: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(zip(("height", "width"), self.size, strict=True)) | {"num_frames": self.frames}
        return {name: value for name, value in given.items() if name in taken}

    def _guidance(self, ask: Ask, taken: Mapping[str, Any]) -> dict[str, Any]:
        name = "true_cfg_scale" if "true_cfg_scale" in taken else "guidance_scale"
        return {name: 3.0 if ask.guidance else self.off} if name in taken else {}

    def _prompt(self, ask: Ask, taken: Mapping[str, Any]) -> dict[str, Any]:
        if self._worded:
            words = [f"a picture of thing number {ask.prompt + row}" for row in range(ask.batch)]
            given = {"prompt": words if ask.batch > 1 else words[0]}
            if ask.guidance:
                others = [f"bad and blurred {ask.prompt + row}" for row in range(ask.batch)]
                given["negative_prompt"] = others if ask.batch > 1 else others[0]
            return {name: value for name, value in given.items() if name in taken}
        found = {name: self._embedded(name, ask) for name in taken if EMBEDDED.match(name)}
        if not ask.guidance:
            found = {name: value for name, value in found.items() if not name.startswith("negative")}
        default = taken["negative_prompt"].default if "negative_prompt" in taken else None
        return found | ({"negative_prompt": None} if isinstance(default, str) else {})

    @staticmethod
    def _embedded(name: str, ask: Ask) -> torch.Tensor:
        negative = name.startswith("negative")
        if "mask" in name:
            return mask(ask.batch, TOKENS, padding=2 if negative else 1)
        other = Ask(ask.batch, prompt=ask.prompt + (500 if name.endswith("_2") else 0))
        shape = (POOLED,) if "pooled" in name else (TOKENS, TEXT)
        return other.negative_words(*shape) if negative else other.words(*shape)

    def _pictures(self, name: str, ask: Ask) -> Any:
        one = self._picture(name)
        return [one] * ask.batch if self.rows and ask.batch > 1 else one

    def _picture(self, name: str) -> Any:
        first = 0 if "control" in name or "cond" in name else 3
        if "video" in name or "frames" in name:
            return [pil(first + frame, *self.size) for frame in range(self.frames)]
        if "mask" in name:
            return pil(7, *self.size).convert("L").point(lambda value: 255 if value > 127 else 0)
        return pil(first, *self.size)


def drawn_by_one(ask: Ask) -> dict[str, Any]:
    """For calls that take no list of generators: one draws for the whole batch."""
    return {"generator": torch.Generator().manual_seed(ask.prompt)} if ask.batch > 1 else {}


def pil(seed: int, height: int, width: int) -> Any:
    return VaeImageProcessor.numpy_to_pil(picture(seed, height, width)[0].permute(1, 2, 0).numpy())[0]
