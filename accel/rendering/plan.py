"""From a manifest to jobs: every line checked, repeats expanded, duplicates merged."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accel.caching.calibration.calibration import Calibration
from accel.caching.calibration.fitting import calibrated
from accel.plain_data import quote
from accel.recipe import Recipe
from accel.rendering.fields import read_fields
from accel.rendering.filenames import wrong_template
from accel.rendering.inputs import FILES, check_input
from accel.rendering.jobs import Job, digest, file_digest
from accel.rendering.manifest import MOST_JOBS, Line, ManifestError, Problem, expand_grid, grid_problems, read_manifest
from accel.rendering.pipeline_arguments import class_of, missing_model, refused_sizes, wrong_arguments
from accel.rendering.seeds import Verifier, unjudged

OFF = "off"
DEFAULT_TEMPLATE = "{index:05d}-{slug}-{id:.8}"


@dataclass(frozen=True)
class RenderPlan:
    """The jobs of a manifest, each once, in its order. `notes` tell what was merged. `kind` is the class of a pipeline
    that exists already.
    """

    jobs: tuple[Job, ...]
    notes: tuple[str, ...] = ()
    kind: type | None = None

    def kind_of(self, model: str) -> type | None:
        """The class of the pipeline for the jobs of a model; None where only loading it would tell."""
        return self.kind or class_of(model)

    def to_jsonl(self) -> str:
        """The jobs as a plain manifest without defaults, grids, repeats or relative paths."""
        return "".join(json.dumps(job.to_line(), ensure_ascii=False) + "\n" for job in self.jobs)

    def lines(self, folder: Path) -> Iterator[str]:
        """The same, line by line, for a manifest in `folder`: inputs are named relative to it."""
        for job in self.jobs:
            yield json.dumps(job.with_paths(lambda path: _near(path, folder)), ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class GivenPipeline:
    """A pipeline that exists already: the name that its jobs bear, and its own class."""

    name: str
    kind: type


def make_plan(
    manifest: Any,
    *,
    given: GivenPipeline | None = None,
    defaults: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    template: str = DEFAULT_TEMPLATE,
    calibrations: Sequence[Calibration] = (),
    verifier: Verifier | None = None,
) -> RenderPlan:
    """Reads and checks a manifest without loading a model.

    given: the pipeline that renders everything; None where the lines name their models.
    defaults: fields for lines that leave them out. overrides: fields that win over what the lines say.
    grid: lists of values by field; each line is rendered with every combination.
    calibrations: of the model: what recipes take of them is in the jobs. verifier: judges for lines with best_of.
    Raises ManifestError with everything that is wrong, and ValueError for a manifest that cannot be read at all.
    """
    name, folder, lines, problems = read_manifest(manifest)
    problems += [Problem(0, text) for text in grid_problems(grid or {})]
    if problem := wrong_template(template):
        problems.append(Problem(0, problem))
    if not lines and not problems:
        problems.append(Problem(0, "there is nothing to render; write a line for each job."))
    reader = _Reader(folder, given, dict(defaults or {}), template, calibrations, verifier)
    jobs, asked, pending = _Jobs(), 0, deque[tuple[Job, int]]()
    for line in expand_grid(lines, overrides or {}, grid or {}) if not grid_problems(grid or {}) else ():
        if isinstance(line, Problem):
            problems.append(line)
            continue
        job, repeat, wrong = reader.read(line)
        problems += [Problem(line.number, text) for text in wrong]
        if job is None:
            continue
        asked += repeat
        if asked > MOST_JOBS:
            problems.append(
                Problem(line.number, f"this makes more than {MOST_JOBS} jobs, repeats counted; make fewer.")
            )
            break
        pending.append((job, repeat))
    while pending and asked <= MOST_JOBS:
        problems += jobs.add(*pending.popleft())
    if problems:
        raise ManifestError(name, problems)
    notes = tuple(dict.fromkeys(jobs.notes))
    return RenderPlan(tuple(jobs.first.values()), notes, given.kind if given is not None else None)


class _Reader:
    """Turns lines into jobs. Recipes, models and classes are looked up once each."""

    def __init__(
        self,
        folder: Path,
        given: GivenPipeline | None,
        defaults: dict[str, Any],
        template: str,
        calibrations: Sequence[Calibration],
        verifier: Verifier | None,
    ) -> None:
        self._calibrations, self._verifier = calibrations, verifier
        self._folder, self._given, self._defaults, self._template = folder, given, defaults, template
        self._recipes: dict[str, dict[str, Any] | str] = {}
        self._missing: dict[str, str] = {}
        self._classes: dict[str, type | None] = {}

    def read(self, line: Line) -> tuple[Job | None, int, list[str]]:
        """The job of a line and how often it is repeated, or what is wrong with it."""
        present = {name: value for name, value in line.fields.items() if value is not None}
        defaults = {name: value for name, value in self._defaults.items() if not _settled(name, present)}
        values, problems = read_fields(defaults | present)
        repeat = values.pop("repeat", 1)
        template = values.pop("output", self._template)
        if problem := wrong_template(template):
            problems.append(problem)
        values["model"], wrong = self._model(values.get("model"))
        problems += wrong
        values["recipe"], wrong = self._recipe(values.get("recipe"))
        problems += wrong + self._inputs(values)
        if not values.get("prompt") and not {*FILES, "arguments"} & set(values):
            problems.append('there is nothing to render: give a prompt, such as "prompt": "a corgi surfing".')
        if "video" in values and "image" in values:
            problems.append("image and video are both given; keep the one to start from.")
        if problems:
            return None, 0, problems
        job = Job(**values, output=template, line=line.number)
        wrong = unjudged(job, self._verifier) + self._arguments(job)
        return (None if wrong else job), repeat, wrong

    def _model(self, model: str | None) -> tuple[str, list[str]]:
        if self._given is not None:
            if model in (None, self._given.name):
                return self._given.name, []
            return "", [f"the line asks for the model {quote(model)}, but a pipeline was given; leave the field out."]
        if model is None:
            return "", ['there is no model; add "model": "pocket:video", or give one for all lines (--model).']
        if model not in self._missing:
            self._missing[model] = missing_model(model)
        return model, [f"model: {self._missing[model]}"] if self._missing[model] else []

    def _recipe(self, given: Any) -> tuple[dict[str, Any], list[str]]:
        given = OFF if given is None else given
        key = given if isinstance(given, str) else digest(given)
        if key not in self._recipes:
            try:
                self._recipes[key] = recipe_data(given, self._folder, self._calibrations)
            except (ValueError, TypeError) as error:
                self._recipes[key] = f"recipe: {error}"
        found = self._recipes[key]
        return ({}, [found]) if isinstance(found, str) else (found, [])

    def _inputs(self, values: dict[str, Any]) -> list[str]:
        """Makes the paths of input files absolute and adds the hashes of their content."""
        problems, hashes = [], {}
        checks = {name: (values, name, kind) for name, kind in FILES.items() if name in values}
        checks |= {f"lora {n}": (each, "weights", "lora") for n, each in enumerate(values.get("lora", ()))}
        for name, (holder, key, kind) in checks.items():
            try:
                path = self._folder / Path(holder[key]).expanduser()
                check_input(path, kind)
                hashes[name] = file_digest(path)
                holder[key] = str(path)
            except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: ~somebody has no home
                problems.append(f"{name.partition(' ')[0]}: {getattr(error, 'strerror', None) or error}")
        values["inputs"] = hashes
        return problems

    def _arguments(self, job: Job) -> list[str]:
        if job.model not in self._classes:
            self._classes[job.model] = class_of(job.model) if self._given is None else self._given.kind
        kind = self._classes[job.model]
        return [] if kind is None else wrong_arguments(job, kind) or refused_sizes(job, kind)


def recipe_data(given: Any, folder: Path, calibrations: Sequence[Calibration] = ()) -> dict[str, Any]:
    """The plain data of a preset's name, a recipe's file (relative to `folder`), plain data or "off", with what it
    takes from calibrations."""
    recipe = _recipe(given, folder)
    return (calibrated(recipe, calibrations) if calibrations and recipe.cache is not None else recipe).to_dict()


def _recipe(given: Any, folder: Path) -> Recipe:
    from accel import presets

    if isinstance(given, Mapping):
        return Recipe.from_dict(given)
    if given == OFF:
        return Recipe()
    if str(given).endswith(".json"):
        return Recipe.load(folder / str(given))
    return presets.resolve(str(given))


def _near(path: str, folder: Path) -> str:
    try:
        # Whoever reads it goes up from where a linked folder really is.
        return os.path.relpath(os.path.realpath(path), os.path.realpath(folder)).replace(os.sep, "/")
    except ValueError:  # on another drive
        return path


def _settled(name: str, present: Mapping[str, Any]) -> bool:
    """Whether a line says itself what a default would say, perhaps by another name of the same thing."""
    others = {"size": ("width", "height"), "width": ("size",), "height": ("size",)}
    others |= {"recipe": ("preset",), "preset": ("recipe",)}
    return any(other in present for other in (name, *others.get(name, ())))


class _Jobs:
    """Each job once, by its identity, with its place in the order; lines that ask for the same file are merged."""

    def __init__(self) -> None:
        self.first: dict[str, Job] = {}
        self.notes: list[str] = []

    def add(self, job: Job, repeat: int) -> list[Problem]:
        """Repeats differ in their seed, counted up from the line's."""
        problems = []
        for number in range(repeat):
            each = replace(job, seed=job.seed + number, index=len(self.first))
            earlier = self.first.setdefault(each.id, each)
            if earlier is each:
                continue
            if earlier.output != each.output:
                told = f"this is the same job as in line {earlier.line} with another output name; keep one of them."
                problems.append(Problem(each.line, told))
            else:
                self.notes.append(f"line {each.line} repeats line {earlier.line}, so it is rendered once.")
        return problems
