"""The studio: everything that a page or a program can ask the app for. One per server, for all its users."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, get_args

from accel.app.costs import Costs
from accel.app.keep import Keep
from accel.app.limits import Limits
from accel.app.order import Updates, ordered, sentence
from accel.app.pair import Cost, Pair, StudioError, Summary, Update, Vote, Winner
from accel.app.renderer import Goal, Renderer
from accel.app.scratch import Scratch
from accel.app.settings import Settings
from accel.app.shelf import Loader, Shelf
from accel.app.slot import Slot, Ticket
from accel.app.sweeping import Axes, Point, manifest, points
from accel.app.votes import Votes
from accel.loading import load_pipeline

T = TypeVar("T")

_USERS = 256
_PAIRS_OF_USER = 200


class Studio:
    """Renders pairs of clips, one request at a time, and remembers them. Thread-safe; one for all users of a device.

    out: folder in which votes are kept; left out, they go with the studio, as the clips do in any case.
    fps: of the films. dtype and device: as in `accel.loading.load_pipeline`, which `load` replaces.
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
    ) -> None:
        self.limits, self.fps = limits or Limits(), fps
        self._scratch = Scratch(self.limits.uploads_bytes)
        self.folder, self.files, self.clips = self._scratch.folder, self._scratch.files, self._scratch.clips
        self.make_room = self._scratch.make_room
        self._shelf = Shelf(self.limits, dtype=dtype, device=device, load=load)
        self._costs = Costs()
        self._renderer = Renderer(self.limits, self._shelf, self._costs, self.clips, fps)
        self._slot = Slot(self.limits.queue, self.limits.queue_of_one)
        self._votes = Votes((Path(out) if out else self.folder) / "votes.jsonl", self.limits.votes_bytes)
        self._pairs: Keep[Pair] = Keep(self.limits.history_bytes, attrgetter("nbytes"))
        self._histories: OrderedDict[str, list[str]] = OrderedDict()
        self._lock = threading.Lock()

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

    def prepare(self, settings: Settings, user: str = "", cancel: threading.Event | None = None) -> Updates:
        """Loads the model and runs a few steps, so that the first run need not wait and its cost is known before."""
        wanted = self._checked(settings)

        def work(ticket: Ticket) -> None:
            self._renderer.held(wanted.model, ticket.say)
            ticket.limit(self.limits.seconds)
            self._renderer.prepare(wanted, ticket.say, lambda: ticket.cancelled)
            ticket.say(Update("done"))

        return ordered(self._slot, work, user, cancel)

    def run(self, settings: Settings, user: str = "", cancel: threading.Event | None = None) -> Updates:
        """Both sides of the settings; the last update has the stage "done" and the pair.

        The job is ordered when the first update is asked for. Closing the iterator or setting `cancel` takes it out of
        the queue, or stops it within one denoiser call; the iterator then raises Cancelled (not when closed).
        """
        wanted = self._checked(settings)
        return self._ordered(wanted, [Point("", wanted)], user, cancel)

    def sweep(
        self,
        settings: Settings,
        lever: str,
        knob: str | Mapping[str, Sequence[Any]],
        values: Sequence[Any] | None = None,
        user: str = "",
        cancel: threading.Event | None = None,
    ) -> Updates:
        """One baseline, and the accelerated side for every value of a knob, or every combination of values.

        lever and knob: such as "cache" and "threshold", of the method that the recipe has; "recipe" and "preset" sweep
        presets, "call" and "steps" the unaccelerated pipeline at fewer steps. knob may also be values by knob, with
        names of other levers in full ("guidance.low"). Updates hold the pairs so far; a point that fails is left out
        and named in the last update's note.
        """
        base, axes = self._checked(settings), _axes(lever, knob, values)
        return self._ordered(base, self._asked(lambda: points(base, axes, self.limits)), user, cancel)

    def tune(
        self,
        settings: Settings,
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
        wanted = self._checked(settings)
        self._asked(lambda: self.limits.check_number("minutes", minutes, 0.1, self.limits.minutes))
        if (min_psnr is None) == (target_speedup is None):
            raise StudioError("Give either the PSNR that is needed or the speed-up that is wanted, one of the two.")
        goal = Goal(min_psnr, target_speedup, minutes)
        self._check_time(wanted, [Point("", wanted)])

        def work(ticket: Ticket) -> None:
            self._renderer.held(wanted.model, ticket.say)
            ticket.limit(60.0 * minutes + self.limits.seconds)
            found, note = self._renderer.tuned(wanted, goal, ticket.say, lambda: ticket.cancelled)
            pair = self._renderer.pair(found, Point("", found), ticket.say, lambda: ticket.cancelled)
            self._remember(pair, ticket.user)
            ticket.say(Update("done", pair=pair, note=note))

        return ordered(self._slot, work, user, cancel)

    def cost(self, settings: Settings) -> Cost:
        """What `run` will take. Never waits for the device."""
        wanted = self._checked(settings)
        return self._costs.predict(wanted, self._renderer.is_cached(wanted))

    def manifest(self, settings: Settings, grid: Axes | None = None) -> str:
        """The accelerated sides as a manifest (JSONL) for `accel render`. grid: values by "lever.knob"."""
        return self._asked(lambda: manifest(settings, grid or {}, self.limits))

    def manifest_file(self, settings: Settings, grid: Axes | None = None) -> Path:
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

    def history(self, user: str = "") -> list[Summary]:
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

    def _checked(self, settings: Settings) -> Settings:
        return self._asked(lambda: self._shelf.fitting(settings.checked(self.limits)))

    def _asked(self, make: Callable[[], T]) -> T:
        """What is made of a user's input, its errors as StudioError."""
        try:
            return make()
        except (TypeError, ValueError) as error:
            raise StudioError(sentence(error)) from None

    def _ordered(self, base: Settings, wanted: Sequence[Point], user: str, cancel: threading.Event | None) -> Updates:
        self._check_time(base, wanted)
        return ordered(self._slot, lambda ticket: self._work(base, wanted, ticket), user, cancel)

    def _check_time(self, base: Settings, wanted: Sequence[Point]) -> None:
        """Raises StudioError for what is predicted to take longer than the limit; the unknown has it as its end."""
        baseline = 0.0 if self._renderer.is_cached(base) else self._costs.predict(base).seconds_baseline or 0.0
        costs = [self._costs.predict(point.settings) for point in wanted]
        seconds = baseline + sum(cost.seconds_accelerated or cost.seconds_baseline or 0.0 for cost in costs)
        if seconds > self.limits.seconds:
            raise StudioError(
                f"This would take about {seconds / 60.0:.0f} minutes here, and the server allows "
                f"{self.limits.seconds / 60.0:.0f}; make the steps, the size or the number of frames smaller, "
                f"or raise it with --max-seconds."
            )

    def _work(self, base: Settings, wanted: Sequence[Point], ticket: Ticket) -> None:
        """In the slot's thread."""
        self._renderer.held(base.model, ticket.say)
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


def _axes(lever: str, knob: str | Mapping[str, Sequence[Any]], values: Sequence[Any] | None) -> Axes:
    named = {knob: values or ()} if isinstance(knob, str) else knob
    return {name if "." in name else f"{lever}.{name}": given for name, given in named.items()}
