"""What adapters of other libraries are set to, which no weight tells: LoRA layers (peft's) and image prompts."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch


def adapters(module: torch.nn.Module) -> list[Any]:
    """The LoRA layers in a model, and its attention processors that add an image prompt."""
    modules = list(module.modules())
    processors = (getattr(child, "processor", None) for child in modules)
    return [
        *(child for child in modules if isinstance(getattr(child, "scaling", None), dict)),
        *(one for one in processors if isinstance(getattr(one, "scale", None), (int, float, list, tuple))),
    ]


def strength(adapter: Any) -> Hashable:
    """How strong it is, and which of several are on."""
    if hasattr(adapter, "scaling"):
        return *adapter.scaling.items(), *adapter.active_adapters, adapter.disable_adapters
    return repr(adapter.scale)  # a number, or lists of numbers and of dictionaries
