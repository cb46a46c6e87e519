"""Published constants of TeaCache and MagCache, and which model they belong to. Data: teacache.json, magcache.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from accel.anatomy import Anatomy


@dataclass(frozen=True)
class Polynomial:
    """TeaCache's correction: which signal it was fitted on, and the coefficients, highest power first."""

    model: str
    signal: str
    coefficients: tuple[float, ...]
    fitted_range: tuple[float, float] | None = None

    def __call__(self, distance: float, clamp: bool = True) -> float:
        if clamp and self.fitted_range is not None:
            distance = min(max(distance, self.fitted_range[0]), self.fitted_range[1])
        value = 0.0
        for coefficient in self.coefficients:
            value = value * distance + coefficient
        return max(value, 0.0) if clamp else value


def teacache(anatomy: Anatomy, denoiser: str, model: str | None = None, signal: str = "auto") -> Polynomial | str:
    """The published polynomial for this denoiser (or of the named model), else why there is none."""
    rows = [row for row in _table("teacache") if signal in ("auto", row["signal"])]
    row = _match(rows, anatomy, denoiser, model)
    if isinstance(row, str):
        return row
    return Polynomial(row["model"], row["signal"], tuple(row["coefficients"]))


def magcache(anatomy: Anatomy, denoiser: str, model: str | None = None) -> tuple[float, ...] | str:
    """The published ratios for this denoiser (or of the named model), else why there are none."""
    row = _match(_table("magcache"), anatomy, denoiser, model)
    return row if isinstance(row, str) else tuple(row["ratios"])


def check(method: str, model: str | None) -> None:
    """Raises ValueError, listing the models, for a name that has no published set."""
    names = [row["model"] for row in _table(method)]
    if model is not None and model not in names:
        raise ValueError(f"There is no published set for model={model!r}; there are {', '.join(names)}.")


def names() -> list[str]:
    """All models with a published set."""
    return [row["model"] for method in ("teacache", "magcache") for row in _table(method)]


@cache
def _table(name: str) -> list[dict[str, Any]]:
    from importlib.resources import files  # takes a while, and not every session needs a table

    rows: list[dict[str, Any]] = json.loads(
        files("accel.caching.calibration").joinpath(f"{name}.json").read_text("utf-8")
    )
    return rows


def _match(rows: list[dict[str, Any]], anatomy: Anatomy, denoiser: str, model: str | None) -> dict[str, Any] | str:
    if model is not None:
        return next(row for row in rows if row["model"] == model)
    fitting = [row for row in rows if _fits(row, anatomy, denoiser)]
    named = [row for row in fitting if row["repository"].lower() in anatomy.repository.lower()]
    if named:  # the most specific row: one made for this pipeline class, then one for this repository name
        return max(named, key=lambda row: (bool(row["pipeline"]), bool(row["repository"])))
    if fitting:
        return f"several sets fit, choose one with model=: {', '.join(row['model'] for row in fitting)}"
    return "none is published for it"


def _fits(row: Mapping[str, Any], anatomy: Anatomy, denoiser: str) -> bool:
    part = anatomy.denoisers[denoiser]
    return (
        row["denoiser"] == part.kind
        and row["experts"] == len(anatomy.denoisers)
        and anatomy.pipeline.startswith(row["pipeline"])
        and all(part.config.get(key) == value for key, value in row["config"].items())
    )
