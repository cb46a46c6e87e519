"""The studio: everything that a page or a program can ask the app for. One per server, for all its users."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, get_args

from accel.app import shipped
from accel.app.byte_lru import ByteLRU
from accel.app.costs import Costs
from accel.app.inputs import check_inputs, inputs_of
from accel.app.job_queue import JobQueue, Ticket
from accel.app.job_stream import Updates, job_updates, sentence
from accel.app.limits import Limits
from accel.app.models import Loader, ModelPool, check_prompt, verifier_of
from accel.app.pair import Cost, Pair, PairSummary, StudioError, Update, Vote, Winner
from accel.app.renderer import Renderer, StudioGoal
from accel.app.scratch import Scratch
from accel.app.settings import StudioSettings
from accel.app.sweep import Axes, SweepPoint, manifest, points
from accel.app.votes import Votes
from accel.caching.calibration.calibration import Calibration
from accel.caching.calibration.fitting import calibrated
from accel.loading import load_pipeline

T = TypeVar("T")

_USERS = 256
_PAIRS_OF_USER = 200


class Studio:
    """Renders pairs of clips, one request at a time, and remembers them. Thread-safe; one for all users of a device.

    out: folder in which votes are kept; left out, they go with the studio, as the clips do in any case.
    fps: of the videos. dtype and device: as in `accel.loading.load_pipeline`, which `load` replaces.
    calibrations: what every recipe takes what it can from; models that they do not fit run as without.
    Whatever is asked for wrongly, or fails, raises StudioError with one sentence.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        out: Path | str | None = None,
        fps: float = 8.0,
        dtype: str | None = None,
        device: str | None = None,
        load: Loader = load_pipeline,
        calibrations: Sequence[Calibration] = (),
    ) -> None:
        self._calibrations = calibrations
        self.limits, self.fps = limits or Limits(), fps
        self._scratch = Scratch(self.limits.uploads_bytes)
        self.folder, self.files, self.clips = self._scratch.folder, self._scratch.files, self._scratch.clips
        self.make_room = self._scratch.make_room
        self._shelf = ModelPool(self.limits, dtype=dtype, device=device, load=load)
        self._costs = Costs()
        self._renderer = Renderer(self.limits, self._shelf, self._costs, self.clips, fps)
        self._slot = JobQueue(self.limits.queue, self.limits.queue_of_one)
        self._votes = Votes((Path(out) if out else self.folder) / "votes.jsonl", self.limits.votes_bytes)
        self._pairs: ByteLRU[Pair] = ByteLRU(self.limits.history_bytes, attrgetter("nbytes"))
        self._histories: OrderedDict[str, list[str]] = OrderedDict()
        self._lock = threading.Lock()
        self._example: Pair | None = None

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Cancels all jobs, lets go of the models and deletes the clips."""
        self._slot.close()
        self._shelf.clear()
        self._scratch.close()

    def models(self) -> list[str]:
        """Models to choose from."""
        return self._shelf.names()

    def inputs(self, model: str) -> tuple[str, ...]:
        """Which of `accel.app.inputs.FIELDS` the model takes, as far as that is known without loading it."""
        try:
            self.limits.check_model(model)
        except ValueError:
            return ()
        return inputs_of(self._shelf.class_of(model))

    def example(self, model: str) -> Pair | None:
        """A comparison that was made before, to show while nothing has run; None for models without one."""
        if model != shipped.MODEL:
            return None
        if self._example is None:
            self._example = shipped.shipped_pair(self.clips)
        return self._example

    def prepare(self, settings: StudioSettings, user: str = "", cancel: threading.Event | None = None) -> Updates:
        """Loads the model and runs a few steps, so that the first run need not wait and its cost is known before."""
        wanted = self._check(settings)

        def work(ticket: Ticket) -> None:
            self._renderer.is_loaded(wanted.model, ticket.say)
            ticket.limit(self.limits.seconds)
            self._renderer.prepare(wanted, ticket.say, lambda: ticket.cancelled)
            ticket.say(Update("done"))

        return job_updates(self._slot, work, user, cancel)

    def run(self, settings: StudioSettings, user: str = "", cancel: threading.Event | None = None) -> Updates:
        """Both sides of the settings; the last update has the stage "done" and the pair.

        The job is ordered when the first update is asked for. Closing the iterator or setting `cancel` takes it out of
        the queue, or stops it within one denoiser call; the iterator then raises Cancelled (not when closed).
        """
        wanted = self._check(settings)
        return self._submit(wanted, [SweepPoint("", wanted)], user, cancel)

    def sweep(
        self,
        settings: StudioSettings,
        lever: str,
        setting: str | Mapping[str, Sequence[Any]],
        values: Sequence[Any] | None = None,
        user: str = "",
        cancel: threading.Event | None = None,
    ) -> Updates:
        """One baseline, and the accelerated side for every value of a setting, or every combination of values.

        lever and setting: such as "cache" and "threshold", of the method that the recipe has; "recipe" and "preset"
        sweep presets, "call" and "steps" the unaccelerated pipeline at fewer steps. setting may also be values by
        setting, with names of other levers in full ("guidance.low"). Updates hold the pairs so far; a point that fails
        is left out and named in the last update's note.
        """
        base, axes = self._check(settings), _axes(lever, setting, values)
        found = self._check_user(lambda: points(base, axes, self.limits))
        each = [replace(point, settings=self._calibrated(point.settings)) for point in found]
        return self._submit(base, each, user, cancel)

    def tune(
        self,
        settings: StudioSettings,
        min_psnr: float | None = None,
        target_speedup: float | None = None,
        minutes: float = 5.0,
        user: str = "",
        cancel: threading.Event | None = None,
    ) -> Updates:
        """Searches for the fastest recipe with at least this PSNR, or the most faithful one with this speed-up, on this
        prompt with several seeds (`accel.tuning.tune`), and then runs the settings with it: the last update's pair.

        Updates have a note on what is tried. Where the goal cannot be met, the pair is what comes nearest, and the last
        note says so. minutes: of the search; the verification of what it finds may end later.
        """
        wanted = self._check(settings)
        self._check_user(lambda: self.limits.check_number("minutes", minutes, 0.1, self.limits.minutes))
        if (min_psnr is None) == (target_speedup is None):
            raise StudioError("Give either the PSNR that is needed or the speed-up that is wanted, one of the two.")
        goal = StudioGoal(min_psnr, target_speedup, minutes)
        self._check_time(wanted, [SweepPoint("", wanted)])

        def work(ticket: Ticket) -> None:
            self._renderer.is_loaded(wanted.model, ticket.say)
            ticket.limit(60.0 * minutes + self.limits.seconds)
            found, note = self._renderer.tune(wanted, goal, ticket.say, lambda: ticket.cancelled)
            pair = self._renderer.pair(found, SweepPoint("", found), ticket.say, lambda: ticket.cancelled)
            self._remember(pair, ticket.user)
            ticket.say(Update("done", pair=pair, note=note))

        return job_updates(self._slot, work, user, cancel)

    def drafts(
        self, settings: StudioSettings, count: int = 8, user: str = "", cancel: threading.Event | None = None
    ) -> Updates:
        """A quick look at so many seeds, from the settings' own on. The last update has all drafts; to finish one, run
        the settings with its seed: a draft is what `accel.draft` shows, and finishing it gives the same clip.
        """
        wanted, seeds = self._check_seeds(settings, count)

        def work(ticket: Ticket) -> None:
            self._renderer.is_loaded(wanted.model, ticket.say)
            ticket.limit(self.limits.seconds)
            found = self._renderer.drafts(wanted, seeds, ticket.say, lambda: ticket.cancelled)
            ticket.say(Update("done", drafts=found, note="Choose one to finish it, with the recipe as it is."))

        return job_updates(self._slot, work, user, cancel)

    def best_of(
        self, settings: StudioSettings, count: int = 8, user: str = "", cancel: threading.Event | None = None
    ) -> Updates:
        """Finds the best of so many seeds in about one unaccelerated run (`accel.best_of`), judged by the model's own
        verifier, and runs the settings with it: the last update's pair.
        """
        wanted, seeds = self._check_seeds(settings, count)
        self._check_user(lambda: verifier_of(wanted.model))

        def work(ticket: Ticket) -> None:
            self._renderer.is_loaded(wanted.model, ticket.say)
            ticket.limit(self.limits.seconds)
            best, note = self._renderer.best_seed(wanted, seeds, ticket.say, lambda: ticket.cancelled)
            pair = self._renderer.pair(best, SweepPoint("", best), ticket.say, lambda: ticket.cancelled)
            self._remember(pair, ticket.user)
            ticket.say(Update("done", pair=pair, note=note))

        return job_updates(self._slot, work, user, cancel)

    def _check_seeds(self, settings: StudioSettings, count: int) -> tuple[StudioSettings, range]:
        wanted = self._check(settings)
        self._check_user(lambda: self.limits.check_whole("seeds", count, 2, self.limits.seeds))
        return wanted, range(wanted.seed, wanted.seed + count)

    def cost(self, settings: StudioSettings) -> Cost:
        """What `run` will take. Never waits for the device."""
        wanted = self._check(settings)
        since = self._renderer.kept_since(wanted)
        return replace(self._costs.predict(wanted, since is not None), baseline_when=since)

    def manifest(self, settings: StudioSettings, grid: Axes | None = None) -> str:
        """The accelerated sides as a manifest (JSONL) for `accel render`. grid: values by "lever.setting"."""
        return self._check_user(lambda: manifest(settings, grid or {}, self.limits))

    def manifest_file(self, settings: StudioSettings, grid: Axes | None = None) -> Path:
        """The same as a file to download. Equal manifests are one file; it counts and goes as an upload does."""
        data = self.manifest(settings, grid).encode()
        path = self.files / hashlib.sha256(data).hexdigest() / "manifest.jsonl"
        if not self.make_room(len(data)):
            raise StudioError("This server has no room for another file; try again later.")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    def vote(self, pair_key: str, winner: Winner, user: str = "") -> Vote:
        """Notes which side of a pair of theirs somebody liked better, once."""
        if winner not in get_args(Winner):
            raise StudioError(f"A vote is one of {', '.join(get_args(Winner))}, not {winner!r}.")
        pair = self.pair(pair_key, user)
        vote = Vote(pair_key, winner, user, pair.settings, dict(pair.metrics), time.time())
        self._votes.add(vote)
        return vote

    def votes(self) -> list[Vote]:
        """All votes, oldest first."""
        return self._votes.all()

    def history(self, user: str = "") -> list[PairSummary]:
        """The user's pairs that are still there, newest first."""
        with self._lock:
            keys = list(self._histories.get(user, ()))
        pairs = (self._pairs.get(key) for key in keys)
        return [pair.summary() for pair in pairs if pair is not None]

    def pair(self, key: str, user: str | None = None) -> Pair:
        """A pair of an earlier run; of this user's, if one is given."""
        found = self._pairs.get(key)
        with self._lock:
            theirs = user is None or key in self._histories.get(user, ())
        if found is None or not theirs:
            raise StudioError("This pair is no longer in memory; run its settings again.")
        return found

    def _check(self, settings: StudioSettings) -> StudioSettings:
        def checked() -> StudioSettings:
            fitting = self._shelf.check_fits(settings.check(self.limits))
            check_inputs(fitting, self.files, self.limits)
            check_prompt(fitting.model, fitting.prompt)
            return self._calibrated(fitting)

        return self._check_user(checked)

    def _calibrated(self, settings: StudioSettings) -> StudioSettings:
        if not self._calibrations or settings.recipe.cache is None:
            return settings
        return replace(settings, recipe=calibrated(settings.recipe, self._calibrations))

    def _check_user(self, make: Callable[[], T]) -> T:
        """What is made of a user's input, its errors as StudioError."""
        try:
            return make()
        except (TypeError, ValueError) as error:
            raise StudioError(sentence(error)) from None

    def _submit(
        self, base: StudioSettings, wanted: Sequence[SweepPoint], user: str, cancel: threading.Event | None
    ) -> Updates:
        self._check_time(base, wanted)
        return job_updates(self._slot, lambda ticket: self._work(base, wanted, ticket), user, cancel)

    def _check_time(self, base: StudioSettings, wanted: Sequence[SweepPoint]) -> None:
        """Raises StudioError for what is predicted to take longer than the limit; the unknown has it as its end."""
        known = self._renderer.kept_since(base) is not None
        baseline = 0.0 if known else self._costs.predict(base).seconds_baseline or 0.0
        costs = [self._costs.predict(point.settings) for point in wanted]
        seconds = baseline + sum(cost.seconds_accelerated or cost.seconds_baseline or 0.0 for cost in costs)
        if seconds > self.limits.seconds:
            raise StudioError(
                f"This would take about {seconds / 60.0:.0f} minutes here, and the server allows "
                f"{self.limits.seconds / 60.0:.0f}; make the steps, the size or the number of frames smaller, "
                f"or raise it with --max-seconds."
            )

    def _work(self, base: StudioSettings, wanted: Sequence[SweepPoint], ticket: Ticket) -> None:
        """In the slot's thread."""
        self._renderer.is_loaded(base.model, ticket.say)
        ticket.limit(self.limits.seconds)
        pairs, failures = self._renderer.sweep(
            base, wanted, ticket.say, lambda: ticket.cancelled, lambda pair: self._remember(pair, ticket.user)
        )
        note = f"Left out: {' '.join(failures)}" if failures else ""
        ticket.say(Update("done", pair=pairs[-1], points=tuple(each for each in pairs if each.label), note=note))

    def _remember(self, pair: Pair, user: str) -> None:
        self._pairs.put(pair.key, pair)
        with self._lock:
            keys = self._histories.pop(user, [])
            self._histories[user] = [pair.key, *(key for key in keys if key != pair.key)][:_PAIRS_OF_USER]
            while len(self._histories) > _USERS:
                self._histories.popitem(last=False)


def _axes(lever: str, setting: str | Mapping[str, Sequence[Any]], values: Sequence[Any] | None) -> Axes:
    named = {setting: values or ()} if isinstance(setting, str) else setting
    return {name if "." in name else f"{lever}.{name}": given for name, given in named.items()}
