"""What happened in the last pipeline call: per lever, per step and stream, in words and as data."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from accel.call import Action
from accel.reasons import Code

_MARKS: dict[Action, str] = {"computed": "█", "predicted": "·", "dropped": "○"}
_HALF = "◐"


@dataclass(frozen=True)
class CallRecord:
    """One denoiser call. `seconds` is host time; on CUDA that is launch time, so read `Report.seconds` for totals.

    launches: evaluations of the denoiser that were started for it. part: the samples in them, as a share of its batch.
    spared: by lever, the share of its batch that was not evaluated because of it.
    """

    run: int
    step: int
    position: int
    sigma: float
    stream: str
    denoiser: str
    action: Action
    reason: str
    seconds: float
    code: Code = Code.DECIDED  # what programs go by; the reason is for people
    launches: int = 0
    part: float = 0.0
    spared: tuple[tuple[str, float], ...] = ()

    @property
    def halved(self) -> bool:
        """Whether only a part of the batch was evaluated: guidance left the unconditional half out."""
        return self.action == "computed" and 0.0 < self.part < 1.0


@dataclass(frozen=True)
class LeverReport:
    """Whether a lever acted, why (or why not), and the memory it held at its peak.

    spared: evaluations of whole batches that were not made because of it, as far as that can be counted.
    spared_seconds: about what they would have taken, less what came in their place (`accel.savings`).
    """

    lever: str
    method: str
    engaged: bool
    reason: str
    extra_bytes: int = 0
    spared: float = 0.0
    spared_seconds: float | None = None


@dataclass
class Report:
    """The record of one pipeline call. Phases of `seconds`: total, before (text encoding), denoise, after (decode)."""

    recipe: str = ""
    calls: list[CallRecord] = field(default_factory=list)
    levers: list[LeverReport] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return len({(call.run, call.step) for call in self.calls})

    @property
    def computed(self) -> int:
        return self._count("computed")

    @property
    def predicted(self) -> int:
        return self._count("predicted")

    @property
    def dropped(self) -> int:
        return self._count("dropped")

    @property
    def halved(self) -> int:
        """Computed calls without the unconditional half of their batch."""
        return sum(call.halved for call in self.calls)

    @property
    def launches(self) -> int:
        """Evaluations of a denoiser that were started; one that a cache leaves early counts as well."""
        return sum(call.launches for call in self.calls)

    @property
    def evaluations(self) -> float:
        """What was evaluated, in calls of a whole batch."""
        return sum(call.part for call in self.calls)

    def timeline(self) -> dict[str, str]:
        """One character per step for each denoiser and stream: █ computed (◐ half of it), · predicted, ○ dropped."""
        lines: dict[str, list[str]] = {}
        several = len({call.denoiser for call in self.calls}) > 1
        for call in self.calls:
            key = f"{call.denoiser} {call.stream}" if several else call.stream
            lines.setdefault(key, []).append(_HALF if call.halved else _MARKS[call.action])
        return {key: "".join(marks) for key, marks in lines.items()}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "steps": self.steps,
            "computed": self.computed,
            "predicted": self.predicted,
            "dropped": self.dropped,
            "halved": self.halved,
            "launches": self.launches,
            "evaluations": self.evaluations,
        }

    def __str__(self) -> str:
        if not self.calls:
            return "\n".join(["Nothing has run yet: call the pipeline, then ask for the report.", *self.notes])
        halved = f", {self.halved} for half of the batch, in {self.launches} launches" if self.halved else ""
        lines = [
            f"{self.recipe or 'accel'}: {self.computed} of {len(self.calls)} denoiser calls computed{halved}"
            f" over {self.steps} steps ({self.predicted} predicted, {self.dropped} dropped)"
        ]
        for lever in self.levers:
            state = "engaged" if lever.engaged else "NOT engaged"
            memory = f", {lever.extra_bytes / 2**20:.1f} MiB extra" if lever.extra_bytes else ""
            lines.append(f"  {lever.lever:<9} {lever.method}: {state}: {lever.reason}{memory}")
        lines += [f"  {stream:<14} {marks}" for stream, marks in self.timeline().items()]
        if spared := self._spared():
            lines.append(f"  spared    {spared}")
        if self.seconds:
            lines.append("  seconds   " + ", ".join(f"{phase} {value:.2f}" for phase, value in self.seconds.items()))
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def _spared(self) -> str:
        """For example "cache 30 evaluations (about 12.30 s), guidance 10 evaluations (about 4.10 s)"."""
        levers = [lever for lever in self.levers if lever.spared]
        return ", ".join(f"{lever.lever} {spared_words(lever.spared, lever.spared_seconds)}" for lever in levers)

    def _count(self, action: Action) -> int:
        return Counter(call.action for call in self.calls)[action]


def spared_words(count: float, seconds: float | None) -> str:
    """For example "30 evaluations (about 12.30 s)"."""
    about = "" if seconds is None else f" (about {seconds:.2f} s)"
    return f"{count:.4g} evaluation{'' if count == 1.0 else 's'}{about}"
