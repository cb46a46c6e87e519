"""A job: one file to render. Its identity is a hash of everything that decides what the file shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from accel.files import last_name
from accel.recipe import Recipe
from accel.rendering.inputs import FILES

DIGITS = 16
DEFAULT_FPS = 16.0

_CALL = ("prompt", "negative_prompt", "seed", "steps", "width", "height", "frames", "guidance")
_SETTINGS = ("model", *_CALL, "dtype", "strength", "draft", "best_of")
_LINE = (*_SETTINGS, "recipe", *FILES, "lora", "arguments", "format", "fps", "output")


@dataclass(frozen=True)
class Job:
    """One picture or clip. Plain data: it travels to other processes and machines as it is.

    A field that is None is left to the pipeline's own default. `recipe` is the plain data of a Recipe. `draft` is the
    share of a run after which it is looked at, `best_of` how many seeds are compared, from `seed` on. What `FILES` name
    are absolute paths, as are the weights in `lora`; `inputs` are the hashes of their content. The last three fields
    say where the job comes from and what its file is called; they are no part of its identity.
    """

    model: str
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int = 0
    steps: int | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    guidance: float | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    draft: float | None = None
    best_of: int | None = None
    image: str | None = None
    video: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    format: str | None = None
    fps: float | None = None
    mask_image: str | None = None
    control_image: str | None = None
    ip_adapter_image: str | None = None
    strength: float | None = None
    lora: Sequence[Mapping[str, Any]] = ()
    output: str = field(default="", compare=False)
    index: int = field(default=0, compare=False)
    line: int = field(default=0, compare=False)

    @cached_property
    def id(self) -> str:
        """The first digits of the SHA-256 of the content as JSON with sorted keys.

        Fields that are left out do not take part, so that a later version may have more of them. Input files take part
        with their content and not with their paths, a recipe with its methods and not with its name.
        """
        content = {name: value for name, value in self._content().items() if value not in (None, {}, [])}
        return digest(content)[:DIGITS]

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {name: getattr(self, name) for name in (*_SETTINGS, "format", "fps")}
        content |= {"inputs": dict(self.inputs), "arguments": dict(self.arguments)}
        content["lora"] = [each["scale"] for each in self.lora]
        content["recipe"] = {name: value for name, value in self.recipe.items() if name not in ("name", "schema")}
        return content

    def build_recipe(self) -> Recipe:
        """The recipe with its methods; of a job that names none, with every lever off."""
        return Recipe.from_dict(self.recipe) if self.recipe else Recipe()

    @property
    def recipe_name(self) -> str:
        """A word for the recipe in names and tables."""
        levers = [value["method"] for name, value in self.recipe.items() if isinstance(value, Mapping)]
        return str(self.recipe.get("name") or "+".join(levers) or "off")

    def to_line(self) -> dict[str, Any]:
        """The job as a line of a manifest: rendering that line is this job again."""
        line = {name: getattr(self, name) for name in _LINE}
        if not set(self.recipe) - {"schema", "name"}:
            line["recipe"] = "off"
        left_out: tuple[Any, ...] = (None, {}, (), [])
        return {name: value for name, value in line.items() if value not in left_out and (value or name != "output")}

    def as_text(self) -> dict[str, Any]:
        """The same line for files that are passed on: of a folder of this machine they tell the last name only.

        Rendering it again takes the model of that name by `--set model=...`, and inputs beside the file.
        """
        return self.with_paths(last_name, "model")

    def with_paths(self, change: Callable[[str], str], *others: str) -> dict[str, Any]:
        """The line with every path in it changed, and `others` of its fields."""
        line = self.to_line()
        changed: dict[str, Any] = {name: change(line[name]) for name in (*others, *FILES) if name in line}
        if self.lora:
            changed["lora"] = [{**each, "weights": change(each["weights"])} for each in self.lora]
        return line | changed

    @cached_property
    def group(self) -> str:
        """Equal for jobs that differ in prompt, seed and output only: they need the same model, recipe and size."""
        free = ("prompt", "negative_prompt", "seed", "inputs")
        content = {name: value for name, value in self._content().items() if name not in free}
        given = {name: getattr(self, name) is not None for name in ("prompt", "negative_prompt", "image", "video")}
        given |= {name: True for name in FILES if name not in given and getattr(self, name) is not None}
        return digest(content | {"given": given, **({"weights": self.weights} if self.lora else {})})

    @property
    def weights(self) -> list[Any]:
        """What names its LoRA weights: the hash of each file, and its scale."""
        return [[self.inputs.get(f"lora {n}"), each["scale"]] for n, each in enumerate(self.lora)]


@dataclass(frozen=True)
class JobGroup:
    """Jobs of one model, recipe, size and length, in the order in which they should run.

    done: ids of jobs whose files are there. They are rendered along only where others share their call.
    """

    jobs: tuple[Job, ...]
    done: frozenset[str] = frozenset()

    @property
    def first(self) -> Job:
        return self.jobs[0]

    @property
    def open(self) -> tuple[Job, ...]:
        """The jobs that are not done."""
        return tuple(job for job in self.jobs if job.id not in self.done)

    def only(self, wanted: Container[str]) -> JobGroup:
        """The same jobs, of which all are done but those with the ids `wanted`."""
        return JobGroup(self.jobs, frozenset(job.id for job in self.jobs if job.id not in wanted))

    def split(self, most: int) -> Iterator[JobGroup]:
        """Parts of at most `most` jobs."""
        for start in range(0, len(self.jobs), most):
            yield JobGroup(self.jobs[start : start + most], self.done)


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count`. A job's part depends on its identity alone, not on the other lines."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"a shard is like 3/8, the third of eight parts, not {self.number}/{self.count}.")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """ "3/8" as a shard."""
        number, _, count = text.partition("/")
        if not (number.strip().isdecimal() and count.strip().isdecimal()):
            raise ValueError(f"a shard is like 3/8, the third of eight parts, not {text!r}.")
        return cls(int(number), int(count))

    def holds(self, job: Job) -> bool:
        return int(job.id, 16) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def group_jobs(jobs: Iterable[Job]) -> list[JobGroup]:
    """Jobs in the order that changes the least from one to the next: by model, then recipe, then all else.

    Models, recipes and groups come in the order in which the manifest first names them. Jobs of one prompt follow each
    other, so that its embedding is at hand.
    """
    groups: dict[tuple[str, str, str], list[Job]] = {}
    order: dict[str, int] = {}
    for job in jobs:
        loaded = f"model {job.model} {job.dtype}" + (f" lora {digest(job.weights)}" if job.lora else "")
        recipe = f"{loaded} recipe {digest(job.recipe)}"
        key = (loaded, recipe, f"{recipe} {job.group}")
        for part in key:
            order.setdefault(part, len(order))
        groups.setdefault(key, []).append(job)
    ranked = sorted(groups, key=lambda key: [order[part] for part in key])
    return [JobGroup(tuple(_by_prompt(groups[key]))) for key in ranked]


def _by_prompt(jobs: Sequence[Job]) -> list[Job]:
    first: dict[tuple[str | None, str | None], int] = {}
    for position, job in enumerate(jobs):
        first.setdefault((job.prompt, job.negative_prompt), position)
    return sorted(jobs, key=lambda job: first[job.prompt, job.negative_prompt])


def digest(data: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(_SORTED.encode(data).encode()).hexdigest()


_SORTED = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content. A file that a thousand lines share is read once, unless it changes."""
    status = Path(path).stat()
    return _file_digest(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
