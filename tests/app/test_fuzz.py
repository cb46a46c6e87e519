"""Whatever somebody sends as settings, as a recipe or as a file: it is taken, or refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.app.limits import Limits
from accel.app.settings import StudioSettings, embedded
from accel.app.ui.recipe_editor import edited_recipe, editor_value
from accel.measure.output import PipelineOutput
from accel.method import Method
from accel.presets import PRESETS
from accel.recipe import LEVERS, Recipe
from accel.rendering.encoding import encode
from accel.rendering.jobs import Job

every_count = pytest.mark.parametrize("inputs", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
LIMITS = Limits(hub=False)
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10**30, -(10**400), 0.5, -0.0, 1e308, math.inf, -math.inf, math.nan, "", "inf",
    "off", "fast", "a" * 5000, "\0", "\ud800", "../../etc/passwd", "/etc/passwd", "~root", "(a+)+$", "pocket:video",
    "pocket:", "x/y", [], {}, [[]], {"": None}, [1, "a", None], {"method": "EasyCache"}, {"method": None}, (1, 2),
)  # fmt: skip


def odd(chance: random.Random, depth: int = 0) -> Any:
    """A value that has no business where it is."""
    if depth < 3 and chance.random() < 0.2:
        values = [odd(chance, depth + 1) for _ in range(chance.randrange(4))]
        return values if chance.random() < 0.5 else {str(odd(chance, 3))[:20]: value for value in values}
    return chance.choice(ODD)


def changed(data: Any, chance: random.Random) -> Any:
    """Plain data with something in it exchanged, left out or added."""
    if not isinstance(data, (dict, list)) or not data or chance.random() < 0.15:
        return odd(chance)
    if isinstance(data, list):
        place = chance.randrange(len(data))
        return [*data[:place], changed(data[place], chance), *data[place + 1 :]]
    name = chance.choice(list(data))
    kind = chance.random()
    if kind < 0.1:
        return {key: value for key, value in data.items() if key != name}
    if kind < 0.2:
        return data | {str(odd(chance))[:50]: odd(chance)}
    return data | {name: changed(data[name], chance)}


def recipes() -> list[dict[str, Any]]:
    """Every method at its defaults, and the presets."""
    found = [preset.recipe.to_dict() for preset in PRESETS.values()]
    for lever in LEVERS:
        for kind in Method.registry.get(lever, {}).values():
            try:
                given: dict[str, Any] = {lever: kind()}
            except (TypeError, ValueError):  # needs a table
                continue
            found.append(Recipe(**given).to_dict())
    return found


def settings(chance: random.Random, inputs: int) -> Iterator[Any]:
    known = recipes()
    base = StudioSettings(prompt="a red circle").to_dict()
    for _ in range(inputs):
        data = base | {"recipe": chance.choice(known)}
        for _ in range(chance.randrange(1, 4)):
            data = changed(data, chance)
        yield data


@every_count
def test_settings_and_recipes_are_taken_or_refused(inputs: int) -> None:
    taken = 0
    for data in settings(random.Random(1), inputs):
        try:
            found = StudioSettings.from_dict(data).check(LIMITS)
        except ValueError as error:
            assert str(error).strip()
            continue
        taken += 1
        assert found.steps <= LIMITS.steps and len(found.prompt) <= LIMITS.prompt
        assert not found.model.startswith("/") and "/" not in "".join(found.models_to_load)
        again = StudioSettings.from_dict(json.loads(json.dumps(found.to_dict())))  # what it is as a file
        assert again.key() == found.key()
        found.job().to_line()
    assert inputs // 20 < taken < inputs  # neither everything nor nothing


@every_count
def test_what_the_pages_editor_sends_is_taken_or_refused(inputs: int) -> None:
    chance, taken = random.Random(2), 0
    known = [editor_value(Recipe.from_dict(recipe)) for recipe in recipes()]
    for _ in range(inputs // 5):
        value = changed(chance.choice(known), chance)
        try:
            found = dataclasses.replace(StudioSettings(), recipe=edited_recipe(value)).check(LIMITS)
        except ValueError as error:
            assert str(error).strip()
            continue
        taken += 1
        assert isinstance(found.recipe, Recipe)
    assert taken > 20


@every_count
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken EXIF
@pytest.mark.parametrize("suffix", [".png", ".webp", ".mp4", ".json"])
def test_a_broken_file_gives_its_settings_or_a_sentence(tmp_path: Path, suffix: str, inputs: int) -> None:
    chance, taken = random.Random(3), 0
    whole = _file(suffix)
    path = tmp_path / f"file{suffix}"
    for _ in range(inputs // 10):
        data = bytearray(whole[: chance.choice((len(whole), chance.randrange(len(whole))))])
        for _ in range(chance.randrange(8)):
            place, most = chance.randrange(len(data) or 1), chance.choice((1, 2, 4, 8))
            data[place : place + most] = chance.randbytes(most)
        path.write_bytes(data)
        try:
            embedded(path)
        except ValueError as error:
            assert str(error).strip()
            continue
        taken += 1
    assert taken > 0


def _file(suffix: str) -> bytes:
    job = StudioSettings(prompt="a red circle").job()
    if suffix == ".json":
        return json.dumps(StudioSettings(prompt="a red circle").to_dict()).encode()
    frames = np.zeros((1 if suffix == ".png" else 2, 16, 16, 3), np.uint8)
    asked: Job = dataclasses.replace(job, format=suffix.removeprefix("."))
    data, found = encode(asked, PipelineOutput(frames))
    assert found == suffix
    return data
