"""A Recipe is plain data: at most one method per lever, readable and writable as JSON."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accel import hub
from accel.files import read_json, write_whole
from accel.method import RETIRED, Method, from_dict
from accel.plain_data import quote, unfit_reason

SCHEMA = 1
FILE = "accel_recipe.json"
LEVERS = ("cache", "attention", "guidance", "sampler", "precision", "resolution")

MOST_BYTES, MOST_VALUES, LONGEST_NAME = 4 * 2**20, 100_000, 200
"""Of a recipe that comes from a file or from somebody else, its evidence and tables of constants included."""


@dataclass(frozen=True)
class Recipe:
    """One method per lever; None switches the lever off. `Recipe()` attaches the clock and the report only.

    evidence: what was measured of it, as plain data, for recipes that `accel.tune` made; nothing depends on it.
    Raises TypeError where a lever is given something that is not one of its methods.
    """

    cache: Method | None = None
    attention: Method | None = None
    guidance: Method | None = None
    sampler: Method | None = None
    precision: Method | None = None
    resolution: Method | None = None
    name: str = dataclasses.field(default="", compare=False)
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for lever in LEVERS:
            method = getattr(self, lever)
            if type(method).__module__.startswith("diffusers.hooks."):
                raise TypeError(f"{lever}={type(method).__name__}: {RETIRED['DiffusersCache']}")
            if method is not None and not (isinstance(method, Method) and method.lever == lever):
                known = ", ".join(Method.registry.get(lever, {})) or "none in this version"
                hint = "an object, not the class itself; " if isinstance(method, type) else ""
                raise TypeError(
                    f"{lever}={method!r} is not a method of the {lever} lever: give {hint}None or one of {known}."
                )

    @property
    def label(self) -> str:
        """A short name for tables: the given name, else the methods."""
        return self.name or " + ".join(str(method) for method in self.methods().values()) or "off"

    def methods(self) -> dict[str, Method]:
        """The levers that are on."""
        return {lever: getattr(self, lever) for lever in LEVERS if getattr(self, lever) is not None}

    def to_dict(self) -> dict[str, Any]:
        """What the recipe does, without its evidence."""
        data: dict[str, Any] = {"schema": SCHEMA, "name": self.name}
        return data | {lever: method.to_dict() for lever, method in self.methods().items()}

    def to_json(self) -> str:
        """Everything, the evidence last."""
        return json.dumps(self.to_dict() | ({"evidence": dict(self.evidence)} if self.evidence else {}), indent=2)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the recipe as JSON, whole or not at all."""
        write_whole(path, self.to_json() + "\n")

    def push_to_hub(self, repository: str, **hub_arguments: Any) -> str:
        """Uploads `accel_recipe.json` with its evidence, making the repository where there is none, and returns where.

        hub_arguments: token and private, and what `huggingface_hub.HfApi.upload_file` takes (revision, create_pr ...).
        """
        return hub.push(self.to_json() + "\n", FILE, repository, "Recipe for accel", **hub_arguments)

    @classmethod
    def from_pretrained(cls, folder_or_repository: str | os.PathLike[str], **hub_arguments: Any) -> Recipe:
        """`accel_recipe.json` of a folder, else of a repository on the hub. Raises ValueError where there is none."""
        return cls.load(hub.find(FILE, folder_or_repository, **hub_arguments))

    @classmethod
    def from_dict(cls, data: object) -> Recipe:
        """Raises ValueError, naming the field and what it may be, for anything that is not a recipe."""
        if not isinstance(data, Mapping):
            raise ValueError(f"A recipe is a JSON object with the levers {', '.join(LEVERS)}; this is {quote(data)}.")
        if problem := unfit_reason(data, finite=False, most=MOST_VALUES):  # infinity is a legal threshold
            raise ValueError(f"This recipe {problem}")
        if data.get("schema", SCHEMA) != SCHEMA:
            raise ValueError(f"This recipe has schema {quote(data['schema'])}, but this version reads schema {SCHEMA}.")
        if not data:
            raise ValueError('This recipe is empty; one with every lever off is {"schema": 1}.')
        for key in data:
            if key not in (*LEVERS, "schema", "name", "evidence"):
                close = difflib.get_close_matches(str(key)[:80], LEVERS, n=1)
                hint = f"did you mean {close[0]}" if close else f"the levers are {', '.join(LEVERS)}"
                raise ValueError(f"{quote(key)} is not a field of a recipe; {hint}.")
        methods = {lever: from_dict(lever, data[lever], lever) for lever in LEVERS if data.get(lever) is not None}
        evidence, name = data.get("evidence", {}), data.get("name") or ""
        if not isinstance(evidence, Mapping):
            raise ValueError(f"evidence must be an object, as accel.tune writes it, not {quote(evidence)}.")
        if not isinstance(name, str) or len(name) > LONGEST_NAME:
            raise ValueError(f"name must be a text of at most {LONGEST_NAME} characters, not {quote(name)}.")
        return cls(**methods, name=name, evidence=dict(evidence))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Reads a recipe file. Raises ValueError for a file that is missing or malformed, saying where."""
        return read_json(path, "recipe", cls.from_dict, MOST_BYTES)
