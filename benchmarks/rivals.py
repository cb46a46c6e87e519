"""Other libraries' caches, to be measured by the same protocol: functions that attach one and return its undoing."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from accel.session import bare
from accel.terminal import show

Attach = Callable[[Any], Callable[[], None]]


def rivals(pipe: Any) -> list[tuple[str, Attach]]:
    """Those that are installed and accept this pipeline, from cautious to fast. Labels are "name: setting"."""
    found: list[tuple[str, Attach]] = []
    for threshold in (0.03, 0.06, 0.12, 0.25):
        attach = functools.partial(_diffusers, config="FirstBlockCacheConfig", settings={"threshold": threshold})
        found.append((f"diffusers FirstBlockCache: {threshold:g}", attach))
    for threshold, skips in ((0.05, 2), (0.1, 2), (0.15, 2), (0.2, 2), (0.3, 2), (0.4, 6), (0.8, 6), (1.2, 8)):
        sea = {"threshold": threshold, "max_consecutive_cached": skips}
        attach = functools.partial(_diffusers, config="SeaCacheConfig", settings=sea)
        found.append((f"diffusers SeaCache: {threshold:g}, {skips} skips", attach))
    for interval in (2, 3, 4):
        taylor: dict[str, Any] = {"cache_interval": interval, "disable_cache_before_step": 5, "max_order": 1}
        taylor |= {"cache_identifiers": [r"blocks\.\d+\.(attn1|attn2|ffn)"]}
        attach = functools.partial(_diffusers, config="TaylorSeerCacheConfig", settings=taylor)
        found.append((f"diffusers TaylorSeer: {interval}", attach))
    if find_spec("cache_dit") is not None:
        found += _cache_dit_settings()
    if find_spec("DeepCache") is not None:
        for interval in (2, 3, 4, 5):
            found.append((f"DeepCache: {interval}", functools.partial(_deepcache, interval=interval)))
    able = [(label, attach) for label, attach in found if _accepts(pipe, attach)]
    kept = {label.split(":")[0] for label, _ in able}
    refused = dict.fromkeys(name for label, _ in found if (name := label.split(":")[0]) not in kept)
    if refused:
        show(f"left out, because they do not attach to {type(pipe).__name__}: {', '.join(refused)}")
    return able


def _cache_dit_settings() -> list[tuple[str, Attach]]:
    """cache-dit's default and its documented faster ones, without and with TaylorSeer."""
    settings: tuple[tuple[str, dict[str, Any]], ...] = (
        ("F8B0 W8 R0.08 (default)", {}),
        ("F1B0 W8 R0.08", {"Fn": 1, "warmup": 8, "threshold": 0.08, "most": -1}),
        ("F1B0 W4 MC4 R0.12", {"Fn": 1, "warmup": 4, "threshold": 0.12, "most": 4}),
        ("F1B0 W4 MC4 R0.24", {"Fn": 1, "warmup": 4, "threshold": 0.24, "most": 4}),
        ("F1B0 W4 MC6 R0.5", {"Fn": 1, "warmup": 4, "threshold": 0.5, "most": 6}),
    )
    return [
        (f"cache-dit{' TaylorSeer' if taylor else ''}: {label}", functools.partial(_cache_dit, taylor=taylor, **values))
        for taylor in (False, True)
        for label, values in settings
    ]


def _diffusers(pipe: Any, *, config: str, settings: dict[str, Any]) -> Callable[[], None]:
    import diffusers

    model = pipe.transformer
    model.enable_cache(getattr(diffusers, config)(**settings))

    def undo() -> None:
        model._reset_stateful_cache()
        model.disable_cache()

    return undo


def _cache_dit(
    pipe: Any, *, taylor: bool, Fn: int = 8, warmup: int = 8, threshold: float = 0.08, most: int = -1
) -> Callable[[], None]:
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")
    import cache_dit

    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=min(Fn, len(pipe.transformer.blocks) - 1),
        Bn_compute_blocks=0,
        max_warmup_steps=warmup,
        max_continuous_cached_steps=most,
        residual_diff_threshold=threshold,
    )
    calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1) if taylor else None
    # cache-dit copies forwards and patches the class; what it leaves behind is put back by hand (peers.md 3.5).
    transformer, kind = pipe.transformer, type(pipe)
    before, call = dict(transformer.__dict__), kind.__dict__.get("__call__")
    cache_dit.enable_cache(pipe, cache_config=config, calibrator_config=calibrator)

    def undo() -> None:
        cache_dit.disable_cache(pipe)
        transformer.__dict__.clear()
        transformer.__dict__.update(before)
        if call is not None:
            kind.__call__ = call
        elif "__call__" in kind.__dict__:
            del kind.__call__

    return undo


def _deepcache(pipe: Any, *, interval: int) -> Callable[[], None]:
    """The authors' own package, for the pipelines of Stable Diffusion; with its documented settings."""
    from DeepCache import DeepCacheSDHelper

    if not hasattr(pipe, "unet"):
        raise ValueError("DeepCache is for U-Nets")
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=0)
    helper.enable()

    def undo() -> None:
        helper.disable()

    return undo


def _accepts(pipe: Any, attach: Attach) -> bool:
    """Whether the rival attaches to this pipeline at all."""
    try:
        with bare(pipe):
            attach(pipe)()
    except Exception:  # each refuses in a way of its own
        return False
    return True
