"""The recipe's controls: presets, a method for each lever, and the settings that its dataclass gives it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

import gradio as gr

from accel import presets
from accel.app import method_schema
from accel.app.ui.assets import read
from accel.method import Method
from accel.recipe import Recipe

_FIRST = {
    "cache": "OptimalSchedule",
    "attention": "WindowResidual",
    "guidance": "AdaptiveGuidance",
    "sampler": "PseudoCorrector",
    "precision": "BFloat16",
}
"""What to take first: the best of its lever on the most models in docs/holds.md and docs/numbers.md."""
_OFF = Recipe(name="off")
_OFF_PROMISE = "the same twice, which shows the noise of the measurement"


def recipe_editor(**arguments: Any) -> gr.HTML:
    """A component whose value is what `editor_value` gives; the browser changes its "preset" and "levers"."""
    named = {name: preset.recipe for name, preset in presets.PRESETS.items()} | {"off": _OFF}
    told = {name: _promise(preset) for name, preset in presets.PRESETS.items()} | {"off": _OFF_PROMISE}
    return gr.HTML(
        value=editor_value(presets.resolve(presets.DEFAULT)),
        html_template='<div class="recipe"></div>',
        js_on_load=read("recipe_editor.js"),
        apply_default_css=False,
        schema={lever: _schema(lever) for lever in method_schema.levers()},
        told={lever: _told(lever) for lever in method_schema.levers()},
        first=_FIRST,
        presets=[
            {"name": name, "promise": told[name], "value": editor_value(dataclasses.replace(recipe, name=name))}
            for name, recipe in named.items()
        ],
        **arguments,
    )


def _promise(preset: presets.Preset) -> str:
    """As a least: most clips come out better."""
    return f"at least {preset.promise}" if preset.promise.startswith("about") else preset.promise


def editor_value(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the editor holds it: its methods with their settings, and the whole of it for what has no
    setting."""
    return {
        "preset": recipe.name if recipe.name in presets.PRESETS or recipe.name == _OFF.name else "",
        "levers": {
            lever: {"method": type(method).__name__, "values": method_schema.values(method)}
            for lever, method in recipe.methods().items()
        },
        "base": json.dumps(recipe.to_dict()),  # as text, because the way to a browser and back loses infinity
    }


def edited_recipe(value: Any) -> Recipe:
    """The recipe that the editor holds. Raises ValueError, in one sentence, for one that cannot be."""
    if not isinstance(value, Mapping) or not isinstance(value.get("levers"), Mapping):
        raise ValueError("the recipe's controls hold no recipe; choose a preset.")
    base = Recipe.from_dict(json.loads(value["base"])) if isinstance(value.get("base"), str) else Recipe()
    methods: dict[str, Any] = {}
    for lever, chosen in value["levers"].items():
        if not isinstance(chosen, Mapping) or not isinstance(chosen.get("values"), Mapping):
            raise ValueError(f"the controls of {lever} hold no method; choose one, or a preset.")
        methods[lever] = _method(lever, str(chosen.get("method")), chosen["values"], getattr(base, lever, None))
    recipe = Recipe(**methods)
    return base if recipe == base else dataclasses.replace(recipe, name="" if methods else _OFF.name)


def _method(lever: str, name: str, values: Mapping[str, Any], before: Method | None) -> Method:
    """The method with these settings. One that consists of tables has no controls, and stays as it was."""
    if before is not None and name == type(before).__name__ and name not in method_schema.methods(lever):
        return before
    return method_schema.build(lever, name, values, like=before)


def _told(lever: str) -> dict[str, str]:
    """What each method does, in the first sentence of its docstring."""
    found = {name: inspect.getdoc(Method.registry[lever][name]) or "" for name in method_schema.methods(lever)}
    return {name: re.split(r"(?<=\.)\s|\n\n", text)[0].replace("\n", " ") for name, text in found.items()}


def _schema(lever: str) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [dataclasses.asdict(setting) for setting in every] for name, every in method_schema.methods(lever).items()
    }
