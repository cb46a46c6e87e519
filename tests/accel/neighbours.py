"""Other libraries and settings that people put on a pipeline: each attaches itself and returns its undoing."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import HookRegistry
from peft import LoraConfig

from tests.accel.witness import denoisers

os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")

Neighbour = Callable[[DiffusionPipeline], Callable[[], object]]


def denoiser(pipe: DiffusionPipeline) -> Any:
    return next(iter(denoisers(pipe).values()))


def library(name: str) -> Any:
    """A library, or the test that asks for it is skipped."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return pytest.skip(f"{name} is not installed")


def cache_dit(pipe: DiffusionPipeline) -> Callable[[], object]:
    """Replaces `__call__` on the pipeline's class and `forward` on the transformer. Skips blocks from step 1 on."""
    module = library("cache_dit")
    settings = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 1, "residual_diff_threshold": 1e9}
    module.enable_cache(pipe, cache_config=module.DBCacheConfig(**settings))
    return lambda: module.disable_cache(pipe)


def deep_cache(pipe: DiffusionPipeline) -> Callable[[], object]:
    """Replaces `forward` by closures, of the U-Net and of all of its blocks."""
    helper = library("DeepCache").DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=2, cache_branch_id=0)
    helper.enable()
    return lambda: helper.disable()


def token_merging(pipe: DiffusionPipeline) -> Callable[[], object]:
    """Gives each block another class, made for it."""
    module = library("tomesd")
    module.apply_patch(pipe, ratio=0.5, use_rand=False)
    return lambda: module.remove_patch(pipe)


def free_u(pipe: DiffusionPipeline) -> Callable[[], object]:
    """Numbers on the blocks, which their forwards look for."""
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    return lambda: pipe.disable_freeu()


def fused_projections(pipe: DiffusionPipeline) -> Callable[[], object]:
    """Other attention processors over merged weights."""
    denoiser(pipe).fuse_qkv_projections()
    return lambda: denoiser(pipe).unfuse_qkv_projections()


def lora(pipe: DiffusionPipeline) -> Callable[[], object]:
    """Other modules in place of linear layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        targets = {"target_modules": ["to_q", "to_v"], "init_lora_weights": False}
        denoiser(pipe).add_adapter(LoraConfig(r=2, lora_alpha=64, **targets))
    return lambda: denoiser(pipe).delete_adapters("default")


def group_offload(pipe: DiffusionPipeline) -> Callable[[], object]:
    """Hooks of diffusers on the denoiser and its blocks. There is no function that takes them off."""
    where = {"onload_device": torch.device("cpu"), "offload_type": "block_level", "num_blocks_per_group": 1}
    denoiser(pipe).enable_group_offload(**where)

    def off() -> None:
        for name in ("group_offloading", "lazy_prefetch_group_offloading", "layer_execution_tracker"):
            HookRegistry.check_if_exists_or_initialize(denoiser(pipe)).remove_hook(name, recurse=True)

    return off


OF_TRANSFORMERS: dict[str, Neighbour] = {
    "cache-dit": cache_dit,
    "fused projections": fused_projections,
    "LoRA": lora,
    "group offload": group_offload,
}
OF_UNETS: dict[str, Neighbour] = {
    "DeepCache": deep_cache,
    "tomesd": token_merging,
    "FreeU": free_u,
    "fused projections": fused_projections,
    "LoRA": lora,
    "group offload": group_offload,
}
