"""The fields for what only some models take: pictures, and LoRA weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from accel.app.inputs import FIELDS
from accel.app.settings import PICTURES
from accel.app.ui.number_box import number_box

_LABELS = {
    "image": "Picture to start from",
    "mask_image": "Mask: what of it is painted anew, in white",
    "control_image": "Picture for the ControlNet",
    "ip_adapter_image": "Picture for the IP-Adapter",
}


def picture_fields(taken: Sequence[str]) -> list[Any]:
    """Draws one component for each picture, and the strength; those that are not taken are hidden."""
    fields: list[Any] = [
        gr.File(
            label=_LABELS[name],
            file_types=["image"],
            height=110,
            visible=name in taken,
            elem_id=name.replace("_", "-"),
        )
        for name in PICTURES
    ]
    shown = "strength" in taken
    strength = number_box("Strength", placeholder="how much is made anew, 0 to 1", visible=shown, elem_id="strength")
    return [*fields, strength]


def lora_field(taken: Sequence[str]) -> gr.Textbox:
    """Draws the field for LoRA weights, hidden where they are not taken."""
    return gr.Textbox(
        "",
        label="LoRA",
        placeholder="style.safetensors:0.8",
        info="weights in a folder that this server may read, and their scale",
        max_lines=1,
        visible="lora" in taken,
        elem_id="lora",
    )


def shown_fields(taken: Sequence[str]) -> list[Any]:
    """For another model, all of `FIELDS`: what it does not take is hidden and emptied."""
    return [gr.update(visible=True) if name in taken else gr.update(visible=False, value=None) for name in FIELDS]
