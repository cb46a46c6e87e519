"""The controls that hold the settings of a comparison, and the way from them to `StudioSettings` and back."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from accel.app.settings import StudioSettings
from accel.app.ui.recipe_editor import edited_recipe, editor_value, recipe_editor

_SEEDS = 2**31


@dataclass(frozen=True)
class Controls:
    """One component for each field of `StudioSettings`, and the lock of the seed."""

    model: gr.Dropdown
    prompt: gr.Textbox
    negative: gr.Textbox
    seed: gr.Number
    steps: gr.Number
    width: gr.Number
    height: gr.Number
    frames: gr.Number
    guidance: gr.Number
    recipe: gr.HTML
    locked: gr.Checkbox

    @property
    def settings(self) -> list[Any]:
        """The components in the order of `settings_of`."""
        return [getattr(self, each.name) for each in dataclasses.fields(StudioSettings)]


def settings_of(values: Sequence[Any]) -> StudioSettings:
    """What the controls hold. Raises ValueError, in one sentence, for a recipe that cannot be."""
    named = dict(zip((each.name for each in dataclasses.fields(StudioSettings)), values, strict=True))
    for name in ("model", "prompt", "negative"):
        named[name] = (named[name] or "").strip()
    return StudioSettings(**named | {"recipe": edited_recipe(named["recipe"])})


def values_of(settings: StudioSettings) -> list[Any]:
    """What the controls are to hold for these settings."""
    named = {each.name: getattr(settings, each.name) for each in dataclasses.fields(settings)}
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


def build_controls(models: Sequence[str], model: str, prompt: gr.Textbox) -> Controls:
    """Draws everything but the prompt into the present column."""
    start = StudioSettings(model=model)
    recipe = recipe_editor(elem_id="recipe")
    with gr.Row(elem_classes="pair"):
        seed = gr.Number(start.seed, label="Seed", precision=0, minimum=0, elem_id="seed", min_width=90)
        steps = gr.Number(start.steps, label="Steps", precision=0, minimum=1, elem_id="steps", min_width=90)
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
            width, height = (_optional(name, 0) for name in ("width", "height"))
        with gr.Row(elem_classes="pair"):
            frames, guidance = _optional("frames", 0), _optional("guidance", None)
    return Controls(named, prompt, negative, seed, steps, width, height, frames, guidance, recipe, locked)


def next_seed(seed: Any, locked: bool) -> Any:
    """The seed of the next run: this one, or a new one."""
    return seed if locked else random.randrange(_SEEDS)


def _optional(name: str, precision: int | None) -> gr.Number:
    return gr.Number(
        None, label=name.capitalize(), placeholder="the model's own", precision=precision, elem_id=name, min_width=90
    )
