"""What programs can call: one named endpoint for each action of the page, with plain data in and out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import api

from accel.app import costs, method_schema, uploads
from accel.app.pair import Pair, PairSummary, StudioError, Update, Vote, Winner
from accel.app.settings import StudioSettings
from accel.app.studio import Studio
from accel.app.ui.progress import picture_source
from accel.app.ui.running import Running, Start
from accel.app.visitors import visitor
from accel.presets import PRESETS


def build_endpoints(studio: Studio, running: Running) -> None:
    """Adds the endpoints to the present page."""
    endpoints = Endpoints(studio, running)
    plain = ["cancel", "cost", "vote", "votes", "history", "pair", "restore", "manifest", "code", "models", "presets"]
    bounded: dict[str, dict[str, Any]] = {"cost": costs.BOUNDED, "restore": uploads.BOUNDED}
    for name in ("run", "sweep", "tune", "drafts", "best_of"):
        api(_answer_stream(getattr(endpoints, name)), api_name=name, concurrency_limit=None)
    for name in (*plain, "methods"):
        limits = bounded.get(name, {"concurrency_limit": None})
        api(_answer_once(getattr(endpoints, name)), api_name=name, **limits)


class Endpoints:
    """A method for each endpoint; its docstring is what clients read. Settings are objects with the fields of
    `accel.app.settings.StudioSettings`, whose recipe may be a preset's name, "off", or a recipe's plain data.
    """

    def __init__(self, studio: Studio, running: Running) -> None:
        self._studio, self._running = studio, running

    def run(self, settings: dict[str, Any], request: gr.Request) -> Iterator[dict[str, Any]]:
        """Generates a clip without and with the recipe. Gives the progress; the last update has the measured pair."""
        wanted = StudioSettings.from_dict(settings)
        return self._updates(request, lambda user, stop: self._studio.run(wanted, user, stop))

    def sweep(
        self, settings: dict[str, Any], axes: dict[str, list[Any]], request: gr.Request
    ) -> Iterator[dict[str, Any]]:
        """Compares every combination of values, such as {"cache.threshold": [0.1, 0.2]}, with one unaccelerated clip.
        The last update has all points.
        """
        wanted = StudioSettings.from_dict(settings)
        return self._updates(request, lambda user, stop: self._studio.sweep(wanted, "", axes, user=user, cancel=stop))

    def tune(
        self,
        settings: dict[str, Any],
        request: gr.Request,
        min_psnr: float | None = None,
        target_speedup: float | None = None,
        minutes: float = 2.0,
    ) -> Iterator[dict[str, Any]]:
        """Searches for the fastest recipe with this PSNR, or the most faithful one with this speed-up. The last update
        has the pair that was made with it.
        """
        wanted = StudioSettings.from_dict(settings)

        def start(user: str, stop: threading.Event) -> Generator[Update, None, None]:
            return self._studio.tune(wanted, min_psnr, target_speedup, minutes, user, stop)

        return self._updates(request, start)

    def drafts(self, settings: dict[str, Any], request: gr.Request, seeds: int = 8) -> Iterator[dict[str, Any]]:
        """A quick look at so many seeds, from the settings' own on. The last update has all drafts, each a seed and a
        picture; to finish one, run the settings with its seed.
        """
        wanted = StudioSettings.from_dict(settings)
        return self._updates(request, lambda user, stop: self._studio.drafts(wanted, seeds, user, stop))

    def best_of(self, settings: dict[str, Any], request: gr.Request, seeds: int = 8) -> Iterator[dict[str, Any]]:
        """Finds the best of so many seeds of a pocket model. The last update has the pair that was made with it."""
        wanted = StudioSettings.from_dict(settings)
        return self._updates(request, lambda user, stop: self._studio.best_of(wanted, seeds, user, stop))

    def cancel(self, request: gr.Request) -> int:
        """Stops all runs of this client; gives how many there were."""
        return self._running.stop(request)

    def cost(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Predicts seconds and memory of a run, without running it."""
        return dict(vars(self._studio.cost(StudioSettings.from_dict(settings))))

    def vote(self, pair: str, winner: Winner, request: gr.Request) -> dict[str, Any]:
        """Notes which side of a pair is better: baseline, accelerated or same."""
        return _vote(self._studio.vote(pair, winner, visitor(request).browser))

    def votes(self, request: gr.Request) -> list[dict[str, Any]]:
        """The votes of this client, with the settings of their pairs."""
        user = visitor(request).browser
        return [_vote(each) for each in self._studio.votes() if each.user == user]

    def history(self, request: gr.Request) -> list[dict[str, Any]]:
        """The pairs that this client has made, newest first."""
        return [_summary(each) for each in self._studio.history(visitor(request).browser)]

    def pair(self, key: str, request: gr.Request) -> dict[str, Any]:
        """A pair that this client has made, with its files."""
        return pair_data(self._studio.pair(key, visitor(request).browser))

    def restore(self, file: gr.FileData) -> dict[str, Any]:
        """The settings inside a clip, picture or .json that accel has made."""
        return _settings(uploads.restore_uploads(file, self._studio.files, self._studio.limits))

    def manifest(self, settings: dict[str, Any], axes: dict[str, list[Any]]) -> dict[str, Any]:
        """The accelerated sides as a manifest for `accel render`, as a file. No axes: the settings themselves."""
        return _file(self._studio.manifest_file(StudioSettings.from_dict(settings), axes))

    def code(self, settings: dict[str, Any]) -> dict[str, str]:
        """The settings as a Python program and as a command line."""
        wanted = StudioSettings.from_dict(settings)
        return {"python": wanted.as_python(), "command": wanted.as_command()}

    def models(self) -> list[str]:
        """Models to choose from. Any diffusers folder that the server may read, or model id, does as well."""
        return self._studio.models()

    def presets(self) -> dict[str, str]:
        """The presets and what they promise."""
        return {name: preset.promise for name, preset in PRESETS.items()}

    def methods(self) -> dict[str, Any]:
        """Every lever's methods with their settings."""
        return {
            lever: {
                name: [dict(vars(setting)) for setting in every] for name, every in method_schema.methods(lever).items()
            }
            for lever in method_schema.levers()
        }

    def _updates(self, request: gr.Request, start: Start) -> Iterator[dict[str, Any]]:
        with closing(self._running.follow(request, start)) as updates:
            yield from map(update_data, updates)


def update_data(update: Update) -> dict[str, Any]:
    """An update as plain data."""
    return {
        "stage": update.stage,
        "step": update.step,
        "steps": update.steps,
        "seconds_left": update.seconds_left,
        "pair_number": update.number,
        "pairs": update.of,
        "position": update.position,
        "note": update.note,
        "pair": pair_data(update.pair) if update.pair else None,
        "points": [_summary(each.summary()) for each in update.points],
        "drafts": [{"seed": each.seed, "picture": picture_source(each.picture)} for each in update.drafts],
    }


def pair_data(pair: Pair) -> dict[str, Any]:
    """A pair as plain data, its clips as files."""
    sides = {name: getattr(pair, name) for name in ("baseline", "accelerated")}
    return _summary(pair.summary()) | {
        "psnr_per_frame": list(pair.psnr_per_frame),
        "worst_frame": pair.worst_frame,
        "baseline_reused": pair.baseline_reused,
        "timing_note": pair.timing_note,
        "notes": list(pair.notes),
        "not_accelerated": pair.accelerated.idle,
        "seconds": {name: side.seconds for name, side in sides.items()},
        "computed": {name: side.computed for name, side in sides.items()},
        "timeline": {name: side.timeline for name, side in sides.items()},
        "report": pair.accelerated.report,
        "files": {name: _file(side.path) for name, side in sides.items()},
    }


def _settings(settings: StudioSettings) -> dict[str, Any]:
    """Plain data that survives JSON and means the same: infinity, which JSON has not, is a default wherever it occurs,
    and so it is left out.
    """
    data = settings.to_dict()
    recipe = {name: _finite(value) if isinstance(value, dict) else value for name, value in data["recipe"].items()}
    return data | {"recipe": recipe}


def _finite(method: dict[str, Any]) -> dict[str, Any]:
    nested = {name: _finite(value) if isinstance(value, dict) else value for name, value in method.items()}
    return {name: value for name, value in nested.items() if not (isinstance(value, float) and math.isinf(value))}


def _summary(run: PairSummary) -> dict[str, Any]:
    return dict(vars(run)) | {"settings": _settings(run.settings)}


def _vote(vote: Vote) -> dict[str, Any]:
    """Without who it was."""
    data = dict(vars(vote)) | {"settings": _settings(vote.settings)}
    del data["user"]
    return data


def _file(path: Path) -> dict[str, Any]:
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def _answer_once(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Errors reach the client as their sentence, and no stack trace the server's log."""

    @wraps(endpoint)
    def answered(*values: Any, **named: Any) -> Any:
        try:
            return endpoint(*values, **named)
        except (StudioError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    return answered


def _answer_stream(endpoint: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same for an endpoint that gives one answer after the other."""

    @wraps(endpoint)
    def answered(*values: Any, **named: Any) -> Iterator[Any]:
        try:
            yield from endpoint(*values, **named)
        except (StudioError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    return answered
