"""The controls that hold the settings of a comparison, and the way from them to `StudioSettings` and back."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from accel.app.settings import PICTURES, StudioSettings
from accel.app.ui.input_fields import lora_field, picture_fields
from accel.app.ui.number_box import decimal_number, number_box, number_text, required, whole_number
from accel.app.ui.recipe_editor import edited_recipe, editor_value, recipe_editor

_SEEDS = 2**31
_REQUIRED, _WHOLE = ("seed", "steps"), ("seed", "steps", "width", "height", "frames")
_NUMBERS = (*_WHOLE, "guidance", "strength")


@dataclass(frozen=True)
class Controls:
    """One component for each field of `StudioSettings`, and the lock of the seed."""

    model: gr.Dropdown
    prompt: gr.Textbox
    negative: gr.Textbox
    seed: gr.Textbox
    steps: gr.Textbox
    width: gr.Textbox
    height: gr.Textbox
    frames: gr.Textbox
    guidance: gr.Textbox
    recipe: gr.HTML
    image: gr.File
    mask_image: gr.File
    control_image: gr.File
    ip_adapter_image: gr.File
    strength: gr.Textbox
    lora: gr.Textbox
    locked: gr.Checkbox

    @property
    def settings(self) -> list[Any]:
        """The components in the order of `settings_of`."""
        return [getattr(self, each.name) for each in dataclasses.fields(StudioSettings)]

    @property
    def kept(self) -> list[Any]:
        """What a page holds again after it was loaded anew. Uploads may be gone by then, with their server."""
        return [*(one for one in self.settings if not isinstance(one, gr.File)), self.locked]


def settings_of(values: Sequence[Any]) -> StudioSettings:
    """What the controls hold. Raises ValueError, in one sentence, for a number or recipe that cannot be."""
    named = dict(zip((each.name for each in dataclasses.fields(StudioSettings)), values, strict=True))
    for name in ("model", "prompt", "negative", "lora", *PICTURES):
        named[name] = (named[name] or "").strip()
    for name in _NUMBERS:
        named[name] = (whole_number if name in _WHOLE else decimal_number)(name, named[name])
    for name in _REQUIRED:
        required(name, named[name])
    return StudioSettings(**named | {"recipe": edited_recipe(named["recipe"])})


def values_of(settings: StudioSettings) -> list[Any]:
    """What the controls are to hold for these settings."""
    named = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
    named |= {name: number_text(named[name]) for name in _NUMBERS}
    named |= {name: named[name] if os.path.isfile(named[name]) else None for name in PICTURES}
    return list((named | {"recipe": editor_value(settings.recipe)}).values())


def build_prompt(prompts: Sequence[str]) -> gr.Textbox:
    """Draws the prompt into the present column; `prompts` are offered as examples."""
    prompt = gr.Textbox(prompts[0] if prompts else "", label="Prompt", lines=2, max_lines=6, elem_id="prompt")
    if prompts:
        another = gr.Button("Another prompt", size="sm", elem_id="another", variant="secondary")
        another.click(
            lambda now: random.choice([each for each in prompts if each != now]),
            prompt,
            prompt,
            api_visibility="private",
            show_progress="hidden",
        )
    return prompt


def build_controls(models: Sequence[str], model: str, prompt: gr.Textbox, inputs: Sequence[str]) -> Controls:
    """Draws everything but the prompt into the present column; of what some models take, `inputs` are shown."""
    start = StudioSettings(model=model)
    image, mask, control, adapter, strength = picture_fields(inputs)
    recipe = recipe_editor(elem_id="recipe")
    with gr.Row(elem_classes="pair"):
        seed, steps = number_box("Seed", start.seed, elem_id="seed"), number_box("Steps", start.steps, elem_id="steps")
    locked = gr.Checkbox(True, label="Keep this seed for every run", elem_id="locked")
    with gr.Accordion("Model, size and guidance", open=False, elem_id="more"):
        named = gr.Dropdown(
            list(dict.fromkeys([model, *models])),
            value=model,
            label="Model",
            info="a pocket model, a diffusers folder that this server may read, or a model id",
            allow_custom_value=True,
            elem_id="model",
        )
        negative = gr.Textbox("", label="Negative prompt", elem_id="negative")
        with gr.Row(elem_classes="pair"):
            width, height = _optional("width"), _optional("height")
        with gr.Row(elem_classes="pair"):
            frames, guidance = _optional("frames"), _optional("guidance")
        lora = lora_field(inputs)
    inputs_given = (image, mask, control, adapter, strength, lora)
    return Controls(
        named, prompt, negative, seed, steps, width, height, frames, guidance, recipe, *inputs_given, locked
    )


def next_seed(seed: str, locked: bool) -> str:
    """The seed of the next run: this one, or a new one."""
    return seed if locked else str(random.randrange(_SEEDS))


def _optional(name: str) -> gr.Textbox:
    return number_box(name.capitalize(), placeholder="the model's own", elem_id=name)
