"""Text key/value cache: what cross-attention makes of the prompt is computed once per run, not in every step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from accel import families
from accel.anatomy import Anatomy, DenoiserAnatomy, submodule
from accel.caching.memo import Memo, Memory, held_bytes
from accel.calls import Call, Outcome, Proceed
from accel.lever import Composite, Idle, Lever
from accel.method import Method, part
from accel.patch import Layer, is_compiled
from accel.report import CallRecord, LeverReport

JOINT = (
    "there is no cross-attention to the prompt: in joint attention the text changes from block to block and with "
    "every step, so nothing of it can be reused exactly"
)


@dataclass(frozen=True)
class TextKeyValueCache(Method, lever="cache"):
    """Reuses the prompt's keys and values in every cross-attention, and the text embedding in front: bit for bit.

    They do not depend on the step where nothing of the timestep enters the text (Wan, LTX, PixArt, Sana, SD, SDXL,
    AnimateDiff). A module's answer is reused only for the tensor it was given before, so a model that does modulate its
    text is merely not sped up. Weights and LoRA scales may change during the run.
    then: another cache for everything else, such as TextKeyValueCache(then=SeaCache()).
    The gain is small: 1-3 % of a video model's time, more at low resolution with long prompts, less where most steps
    are skipped anyway.
    Memory: for each stream and cross-attention the outputs of the key and value projections and of the key's norm,
    (B, T, D) each; Wan 2.1 14B with 512 text tokens and guidance in half precision holds 1.2 GiB. Not where memory is
    what is missing. Modules inside compiled ones and modules with hooks of diffusers (group offloading counts on each
    being run) are left alone.
    """

    then: Method | None = part(None, "cache")  # noqa: RUF009

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.then, TextKeyValueCache):
            raise ValueError("TextKeyValueCache.then must be another cache: a second of its kind has nothing to do.")

    def build(self, anatomy: Anatomy) -> Lever:
        """The working cache; idle only if there is no cross-attention and no cache to go on with."""
        paths = {name: cross_attentions(denoiser) for name, denoiser in anatomy.denoisers.items()}
        then = self.then.build(anatomy) if self.then is not None else None
        if then is None and not any(paths.values()):
            return Idle(self, f"{JOINT}; take another cache.")
        memory = TextMemory(self, paths)
        return memory if then is None else Composite(self, [memory, then])


def cross_attentions(denoiser: DenoiserAnatomy) -> tuple[str, ...]:
    """Those to the prompt. The ones along time have the text repeated for every pixel and would hold gigabytes."""
    paths = denoiser.modules.get("cross_attention", ())
    return tuple(path for path in paths if not any(part in families.TEMPORAL for part in path.split(".")))


class TextMemory(Lever):
    """Puts a layer over every module that sees nothing but the prompt, for the duration of a pipeline call."""

    def __init__(self, method: TextKeyValueCache, paths: Mapping[str, tuple[str, ...]]) -> None:
        self.method, self.paths = method, paths
        self._layers: list[Layer] = []
        self._left_alone = self._reused = self._computed = self._peak = 0
        self.reset()

    def begin(self, denoisers: Mapping[str, torch.nn.Module]) -> None:
        self._left_alone = self._reused = self._computed = 0
        for name, denoiser in denoisers.items():
            for path, module in prompt_modules(denoiser, self.paths[name]):
                if _untouchable(denoiser, path, module):
                    self._left_alone += 1
                    continue
                around = functools.partial(self._around, f"{name}.{path}", module)
                self._layers.append(Layer(module, "forward", around))

    def reset(self) -> None:
        self._memory, self._memos = Memory(), dict[str, Memo]()

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        self._memory.next_call()
        outcome = proceed(call)
        self._peak = max(self._peak, held_bytes(list(self._memos.values())))
        return outcome

    def end(self) -> None:
        for layer in reversed(self._layers):
            layer.detach()
        self._layers.clear()

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        peak, self._peak = self._peak, 0
        return LeverReport("cache", str(self.method), self._reused > 0, self._own_reason(), peak)

    def _own_reason(self) -> str:
        if not any(self.paths.values()):
            return JOINT
        reason = f"{self._reused} of {self._reused + self._computed} projections of the prompt reused"
        if self._left_alone:
            reason += f" ({self._left_alone} modules are compiled or hooked and were left alone)"
        return reason

    def _around(self, name: str, module: torch.nn.Module, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        memo = self._memos.setdefault(name, Memo())
        given = args[0] if len(args) == 1 and not kwargs else None
        if not isinstance(given, torch.Tensor) or not given.numel() or torch.is_grad_enabled() or memo.hopeless:
            return inner(*args, **kwargs)
        output, reused = self._memory.answer(memo, module, given, lambda: inner(given))
        self._reused, self._computed = self._reused + reused, self._computed + (not reused)
        return output


def prompt_modules(denoiser: torch.nn.Module, paths: Sequence[str]) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules that see nothing but the prompt, outermost only: a LoRA layer, not the layer that it wraps."""
    original = getattr(denoiser, "_orig_mod", denoiser)
    for path in families.PROMPT_EMBEDDERS if paths else ():
        module = submodule(original, path)
        if module is not None:
            yield path, module
    for path in paths:
        attention = submodule(original, path)
        for name, module in attention.named_modules() if attention is not None else ():
            parts = [part for part in name.split(".") if not part.isdigit()]  # processor.to_k_ip.0
            named = [part in families.PROMPT_PROJECTIONS for part in parts]
            if sum(named) == 1 and named[-1] and not isinstance(module, torch.nn.ModuleList):
                yield f"{path}.{name}", module


def _untouchable(denoiser: torch.nn.Module, path: str, module: torch.nn.Module) -> bool:
    """Whether the module is part of a compiled graph, or of diffusers' hooks, which count on its being run."""
    names = path.split(".")
    above = [submodule(denoiser, ".".join(names[:length])) for length in range(1, len(names) + 1)]
    compiled = any(is_compiled(each) or hasattr(each, "_orig_mod") for each in (denoiser, *above) if each is not None)
    return compiled or hasattr(module, "_diffusers_hook")
