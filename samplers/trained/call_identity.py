"""What decides where a pipeline call's run goes: the arguments that matter, and the noise that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# Arguments of a pipeline call that a trajectory depends on; of sizes, None says as much as the default does.
SIZES = ("height", "width", "num_frames")
COMPARED = (
    "num_inference_steps",
    "guidance_scale",
    "guidance_scale_2",
    "true_cfg_scale",
    "guidance_rescale",
    "negative_prompt",
    "strength",
    "eta",
    "sigmas",
    "timesteps",
    *SIZES,
)
# What a pipeline is asked for, one entry for each sample, and how often.
ASKED = ("prompt", "prompt_embeds", "image")
PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt")


def same_noise(given: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The call's arguments that let every sample start from the noise of `seed`.

    It is drawn on the host, one sample at a time, so that neither batch nor device matters.
    """
    asked = next((given[name] for name in ASKED if given.get(name) is not None), None)
    rows = len(asked) if isinstance(asked, (list, tuple, torch.Tensor)) else 1
    rows *= next((given[name] for name in PER_PROMPT if isinstance(given.get(name), int)), 1)
    return {"generator": [torch.Generator().manual_seed(seed) for _ in range(rows)]}


def compared_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call that a trajectory depends on, as plain data."""
    return {name: _plain(given[name]) for name in COMPARED if name in given}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        same = all(item == value[0] for item in value)
        return _plain(value[0]) if same and len(value) and isinstance(value[0], str) else [float(one) for one in value]
    if value is None or value == "":
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)
