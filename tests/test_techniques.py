"""A technique is one file and no other edit: the files in `tests/outside` go through the whole house as they are."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import accel
from accel.app import method_schema
from accel.app.export import as_python
from accel.app.settings import StudioSettings
from accel.app.ui.axes import axes_of
from accel.app.ui.recipe_editor import edited_recipe, editor_value
from accel.caching.calibration.calibrate import CalibrationRuns, record
from accel.method import Method
from accel.recipe import Recipe
from accel.rendering.batches import AUTO, may_share_call
from accel.rendering.jobs import Job
from accel.tuning.simulate import Simulator
from accel.tuning.space import Candidate, Recipes, Structure, space_of
from tests.processes import needs_fork, start
from tests.tiny import TINY, run

ROOT = Path(__file__).parents[1]
# lever: (file in tests/outside, folder that such techniques live in, class, its dial)
OUTSIDE = {
    "cache": ("mean_cache", "caching/methods", "MeanCache", "threshold"),
    "sampler": ("careful_adams", "samplers", "CarefulAdams", "trust"),
    "guidance": ("early_guidance", "samplers/guidance", "EarlyGuidance", "share"),
    "attention": ("band", "attention/methods", "Band", "reach"),
    "precision": ("sixteenths", "precision/methods", "Sixteenths", "parts"),
}
STEPS = 12
every_lever = pytest.mark.parametrize("lever", OUTSIDE)


@pytest.fixture(scope="module", autouse=True)
def outside() -> Iterator[None]:
    """The files are imported, as a user's would be, and forgotten afterwards."""
    before = {lever: dict(kinds) for lever, kinds in Method.registry.items()}
    modules = [f"tests.outside.{file}" for file, *_ in OUTSIDE.values()]
    for module in modules:
        importlib.import_module(module)
    yield
    for lever, kinds in before.items():
        Method.registry[lever].clear()
        Method.registry[lever].update(kinds)
    for module in modules:
        del sys.modules[module]


def first_setting(lever: str) -> Method:
    return Method.registry[lever][OUTSIDE[lever][2]].for_tuning()[0]


def recipe_of(**methods: Any) -> Recipe:
    return Recipe(**methods)


@pytest.fixture(scope="module")
def recording() -> CalibrationRuns:
    pipe, arguments = TINY["wan"].build(), {"steps": STEPS}
    return record(pipe, ["x"], generate=lambda pipe, *_: run(pipe, TINY["wan"], **arguments), layer_lags=0)


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    """Without a technique."""
    return run(TINY["wan"].build(), TINY["wan"], steps=STEPS)


@pytest.mark.part(2)
@every_lever
def test_it_goes_through_a_recipe_file_and_acts(lever: str, plain: torch.Tensor, tmp_path: Path) -> None:
    method = first_setting(lever)
    if lever == "cache":
        method = replace(method, threshold=1e6)  # random weights move the means by a multiple of themselves
    recipe = recipe_of(**{lever: method})
    recipe.save(tmp_path / "recipe.json")
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, str(tmp_path / "recipe.json")) as session:
        output = run(pipe, TINY["wan"], steps=STEPS)
    assert session.recipe == recipe
    (report,) = session.report().levers
    assert report.engaged and not torch.equal(output, plain)
    assert torch.equal(run(pipe, TINY["wan"], steps=STEPS), plain)


def test_a_calibration_records_its_signal_and_sets_its_dial(recording: CalibrationRuns) -> None:
    calibration = recording.calibration
    assert "channel_means" in calibration.signals()
    method = calibration.threshold(first_setting("cache"), 0.6)  # type: ignore[type-var]
    assert calibration.compute(method) == pytest.approx(0.6, abs=0.05)
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, cache=method) as session:
        run(pipe, TINY["wan"], steps=STEPS)
    report = session.report()
    assert report.computed / len(report.calls) == pytest.approx(0.6, abs=0.15)


def test_the_tuner_has_it_among_its_choices_and_foresees_it(recording: CalibrationRuns) -> None:
    space = space_of(recording.anatomy, recording.calibration, STEPS, True, tuple(OUTSIDE), generic=False)
    assert "MeanCache" in space.caches
    for lever in OUTSIDE.keys() - {"cache"}:
        assert first_setting(lever) in space.others[lever]
    recipe = Recipes(recording.calibration, STEPS).of(Candidate(Structure("MeanCache"), 0.6))
    assert recipe is not None
    assert Simulator.of(recording).outlook(recipe).computed == pytest.approx(0.6, abs=0.05)


def test_guided_steps_are_foreseen_as_they_then_are(recording: CalibrationRuns) -> None:
    recipe = recipe_of(guidance=first_setting("guidance"))
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, recipe) as session:
        run(pipe, TINY["wan"], steps=STEPS)
    assert Simulator.of(recording).outlook(recipe).evaluations == session.report().computed / (2 * STEPS) == 0.75


@every_lever
def test_the_app_has_its_controls_its_dial_first(lever: str) -> None:
    module, _, name, dial = OUTSIDE[lever]
    first = {knob.name for knob in method_schema.methods(lever)[name] if knob.first}
    assert dial in first
    recipe = recipe_of(**{lever: first_setting(lever)})
    assert edited_recipe(json.loads(json.dumps(editor_value(recipe)))) == recipe
    assert f"{lever}.{dial}" in [axis for _, axis in axes_of(recipe)][: 1 + len(first)]
    program = as_python(StudioSettings(recipe=recipe))
    assert f"from tests.outside.{module} import {name}" in program and f"{lever}={name}(" in program


def test_a_batch_of_jobs_asks_whether_it_looks_at_data() -> None:
    job = Job("m", prompt="a", width=64, height=64, frames=1, recipe=recipe_of(cache=first_setting("cache")).to_dict())
    assert may_share_call(job, AUTO, lambda model: None) == 1
    blind = Job("m", prompt="a", width=64, height=64, frames=1, recipe=recipe_of(cache=accel.FixedInterval()).to_dict())
    assert may_share_call(blind, AUTO, lambda model: None) > 1


FINDS = """
import json, sys
folder, outside = sys.argv[1], json.loads(sys.argv[2])
for name in [name for name in sys.modules if name.partition(".")[0] == "accel"]:
    del sys.modules[name]
sys.path.insert(0, folder)
import accel
from accel.recipe import Recipe
found = {}
for lever, (file, folder, name, _) in outside.items():
    kind, package = getattr(accel, name), getattr(accel, folder.partition("/")[0])
    assert kind is getattr(package, name) and name in dir(package)
    assert Recipe.from_dict({lever: {"method": name}}) == Recipe(**{lever: kind()})
    found[name] = kind.__module__
print(json.dumps([found, dir(accel), accel.__file__]))
"""


@needs_fork
def test_files_dropped_into_the_folders_are_found(tmp_path: Path) -> None:
    """In a copy of the package as a wheel lays it out, in a process that has not imported any other."""
    only_code = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.js", "*.css", "*.html")
    shutil.copytree(ROOT / "accel", tmp_path / "accel", ignore=only_code)
    for folder in ("attention", "caching", "samplers"):
        shutil.copytree(ROOT / folder, tmp_path / "accel" / folder, ignore=only_code)
    for file, folder, *_ in OUTSIDE.values():
        shutil.copy(ROOT / "tests" / "outside" / f"{file}.py", tmp_path / "accel" / folder)
    script = tmp_path / "finds.py"
    script.write_text(FINDS)
    code, said, complained = start(script, [str(tmp_path), json.dumps(OUTSIDE)], {}, tmp_path / "said").end(600)
    assert code == 0, complained
    found, shown, where = json.loads(said)
    assert Path(where).is_relative_to(tmp_path)
    assert found == {name: f"accel.{folder.replace('/', '.')}.{file}" for file, folder, name, _ in OUTSIDE.values()}
    assert set(shown) == set(dir(accel))
