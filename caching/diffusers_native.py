"""The caches of diffusers itself, through the same call: `accel.accelerate(pipe, cache=FirstBlockCacheConfig(0.1))`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from accel.anatomy import Anatomy, DenoiserAnatomy
from accel.caching.hooked import Hooked, failed_in_hooks
from accel.caching.parallel import group_of
from accel.calls import Call, Outcome, Proceed
from accel.lever import Idle, Lever
from accel.method import Method
from accel.reasons import Code
from accel.report import CallRecord, LeverReport

# The configuration classes of diffusers.hooks and the functions that apply them.
APPLY = {
    "FirstBlockCacheConfig": "apply_first_block_cache",
    "TaylorSeerCacheConfig": "apply_taylorseer_cache",
    "PyramidAttentionBroadcastConfig": "apply_pyramid_attention_broadcast",
    "MagCacheConfig": "apply_mag_cache",
    "SeaCacheConfig": "apply_sea_cache",
    "FasterCacheConfig": "apply_faster_cache",
    "TextKVCacheConfig": "apply_text_kv_cache",
}
OF_BLOCKS = ("FirstBlockCacheConfig", "MagCacheConfig", "SeaCacheConfig")
SEA_MODELS = ("WanTransformer3DModel", "Cosmos3OmniTransformer")  # whose latents diffusers knows where to find
CLOCK = "current_timestep_callback"  # a setting that diffusers wants as a function; ours reads the clock
DTYPE = "torch."  # how a dtype is written in a recipe

Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class DiffusersCache(Method, lever="cache"):
    """One of diffusers' own caches, switched on for the duration of each pipeline call and taken off without a trace.

    config: the name of a configuration class of `diffusers.hooks`. settings: its arguments, as plain data.
    `accelerate` and `Recipe` make this from a configuration object, so there is hardly a need to write it.
    What is better than `enable_cache`: every denoiser of the pipeline gets it (both experts); each stream has a state
    of its own, on pipelines that enter no `cache_context` too, and in PAB and FasterCache, which know no contexts; an
    interrupted run leaves nothing to the next; PAB and FasterCache need no timestep callback. If a hook fails in the
    middle of a run, as FirstBlockCache does on SD3, the denoiser goes on without the cache and the report says so.
    FasterCache needs guidance in one batched call (or is_guidance_distilled=True).
    Memory: see diffusers; it is not counted here. Raises ValueError for an unknown name or setting, TypeError for a
    setting that is a function of your own, because a recipe is plain data.
    """

    config: str = "FirstBlockCacheConfig"
    settings: Settings = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.config not in APPLY:
            raise ValueError(f"DiffusersCache.config must be one of {', '.join(APPLY)}, not {self.config!r}.")
        try:
            given = dict(self.settings)
        except (TypeError, ValueError):
            raise TypeError(
                f"DiffusersCache.settings must be settings of {self.config} by name, not {self.settings!r}."
            ) from None
        plain = tuple((name, _plain(f"{self.config}.{name}", value)) for name, value in sorted(given.items()))
        object.__setattr__(self, "settings", plain)
        self.configuration()

    def configuration(self) -> Any:
        """A fresh configuration object of diffusers. Raises ValueError for settings that it does not take."""
        import diffusers.hooks

        kind = getattr(diffusers.hooks, self.config, None)
        if kind is None:
            raise ValueError(f"{self.config} is not in this version of diffusers.")
        try:
            return kind(**{name: _restored(value) for name, value in self.settings})
        except (TypeError, ValueError) as error:
            raise ValueError(f"DiffusersCache: {self.config} refuses {dict(self.settings)}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        return {"method": type(self).__name__, "config": self.config, "settings": dict(self.settings)}

    def __str__(self) -> str:
        return f"diffusers {self.config}({', '.join(f'{name}={value}' for name, value in self.settings)})"

    def build(self, anatomy: Anatomy) -> Lever:
        """The cache, or an idle lever that says why this pipeline cannot have it."""
        obstacle = next((why for denoiser in anatomy.denoisers.values() if (why := self._obstacle(denoiser))), None)
        distilled = dict(self.settings).get("is_guidance_distilled")
        batched = anatomy.guidance_calls in ("conditional half last", "conditional half first")
        if self.config == "FasterCacheConfig" and not distilled and not batched:
            obstacle = f"FasterCache needs guidance in one batched call, which {anatomy.pipeline} is not known to have."
        return HookedCache(self) if obstacle is None else Idle(self, obstacle)

    def _obstacle(self, denoiser: DenoiserAnatomy) -> str | None:
        if self.config in OF_BLOCKS and not denoiser.blocks:
            return f"diffusers finds no repeated blocks in {denoiser.kind}: take DeepCache or accel's SeaCache."
        config = denoiser.config
        if self.config == "SeaCacheConfig" and (
            denoiser.kind not in SEA_MODELS or config.get("in_channels") != config.get("out_channels")
        ):
            return "diffusers' SeaCache knows text-to-video Wan and Cosmos 3 only: take accel's SeaCache."
        return None


def adopted(value: object) -> object:
    """A configuration object of diffusers as a method; anything else as it is.

    Raises TypeError for a configuration with functions of your own.
    """
    kind = type(value)
    ours = kind.__name__ in APPLY and kind.__module__.startswith("diffusers.")
    if not ours or not dataclasses.is_dataclass(value):
        return value
    defaults = {field.name: field.default for field in dataclasses.fields(value)}
    settings = {name: getattr(value, name) for name in defaults if name != CLOCK}
    changed = {name: setting for name, setting in settings.items() if not _same(setting, defaults[name])}
    return DiffusersCache(kind.__name__, tuple(changed.items()))


def _same(setting: Any, default: Any) -> bool:
    return setting is default or (not isinstance(setting, torch.Tensor) and bool(setting == default))


def _plain(name: str, value: Any) -> Any:
    """A setting as JSON can hold it: tuples for sequences and tensors, names for dtypes."""
    if callable(value):
        ours = name.endswith(f".{CLOCK}")
        what = "accel supplies it" if ours else "leave it out, or call enable_cache yourself"
        raise TypeError(f"{name} is a function, which a recipe cannot hold: {what}.")
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(_plain(name, item) for item in value)
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise TypeError(f"{name} must be plain data, not {value!r}.")
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(DTYPE):
        return getattr(torch, value.removeprefix(DTYPE))
    return value


# Those that measure inside the denoiser, where each device of a context-parallel group sees a part.
MEASURES_SHARDS = ("FirstBlockCacheConfig",)


class HookedCache(Lever):
    """Enables the cache on every denoiser when a pipeline call begins and takes it off when the call has ended."""

    def __init__(self, method: DiffusersCache) -> None:
        self.method = method
        self._hooked: dict[str, Hooked] = {}
        self._problems: dict[str, str] = {}
        self._timestep = 0.0
        self._skipped = self._modules = 0

    def begin(self, denoisers: Mapping[str, torch.nn.Module]) -> None:
        self._problems, self._skipped, self._modules = {}, 0, 0
        for name, denoiser in denoisers.items():
            config = self.method.configuration()
            if self.method.config in MEASURES_SHARDS and group_of(denoiser) is not None:
                self._problems[name] = (
                    f"{self.method.config} decides on each device alone and would hang on a denoiser that is spread "
                    f"over several; use accel's own caches, which agree"
                )
                continue
            if hasattr(config, CLOCK):
                config = dataclasses.replace(config, **{CLOCK: lambda: self._timestep})
            try:
                self._hooked[name] = Hooked(denoiser, APPLY[self.method.config], config)
            except Exception as error:
                self._problems[name] = f"diffusers refuses it for {type(denoiser).__name__}: {error}"

    def reset(self) -> None:
        for hooked in self._hooked.values():
            hooked.reset()

    def end(self) -> None:
        for hooked in self._hooked.values():
            hooked.remove()
        self._hooked.clear()

    def handle(self, call: Call, proceed: Proceed) -> Outcome:
        hooked = self._hooked.get(call.denoiser)
        if hooked is None:
            return proceed(call)
        self._timestep = call.moment.timestep
        hooked.enter_stream(call.stream)
        try:
            with _context(hooked, call):
                outcome = hooked.run(call, proceed)
        except Exception as error:
            if not failed_in_hooks(error):
                raise
            # Fail open: without the hooks the call is the plain one, and so is the rest of the run.
            self._problems[call.denoiser] = (
                f"diffusers' hook failed on {type(call.module).__name__} ({type(error).__name__}: {error}), "
                "so the cache was taken off"
            )
            self._hooked.pop(call.denoiser).remove()
            return proceed(call)
        skipped, met = hooked.counts()
        self._skipped, self._modules = self._skipped + skipped, self._modules + met
        if not skipped:
            return outcome._replace(code=Code.DECIDED)
        return Outcome(outcome.output, "predicted", f"{skipped} of {met} cached modules skipped")

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        reason = f"{self._skipped} of {self._modules} cached modules skipped"
        if not self._skipped and not self._problems:
            reason += " (its settings did not allow it in this run)"
        reason = "; ".join([reason, *(f"{name}: {problem}" for name, problem in self._problems.items())])
        return LeverReport("cache", str(self.method), self._skipped > 0, reason)


def _context(hooked: Hooked, call: Call) -> AbstractContextManager[None]:
    """A `cache_context` named by our stream, which is the pipeline's own name where it has one."""
    if hooked.in_context():
        return nullcontext()
    moment = call.moment
    return hooked.context(
        call.stream,
        step_index=moment.position,
        num_inference_steps=moment.total,
        timestep=moment.timestep,
        sigma=moment.sigma,
    )
