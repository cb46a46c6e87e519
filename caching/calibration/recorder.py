"""The recorder: a lever that computes every call and measures what caches want to know about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from accel.anatomy import Anatomy
from accel.caching.cache_method import Cache, NotApplicable
from accel.caching.calibration.key import Plain, scheduler_settings
from accel.caching.calibration.layer_errors import Errors, LayerErrors
from accel.caching.calibration.table import DEPTHS, LAGS, Array
from accel.caching.methods.firstblock import after_blocks
from accel.caching.predictor import bases
from accel.caching.probe import hearing, obstacle
from accel.caching.signal import Probe, Signal, relative_distance, sample_means
from accel.call import DenoiserCall, DenoiserResult, Proceed, noise_part, tensors
from accel.lever import Lever
from accel.method import Method
from accel.parametrization import clean_from_output
from accel.report import CallRecord, LeverReport

# Distances over several steps and inner products are measured on so many elements of each sample, the same ones in
# every step: they are right to about 1 %, and a step of a video model costs 64 kB instead of hundreds of MB.
ELEMENTS = 16384

Values = list[torch.Tensor]


class StepRecord(NamedTuple):
    """One leading call compared with the same stream's calls before; see `RunTrace`."""

    step: int
    position: int
    changes: dict[str, float]
    drifts: dict[int, tuple[float, ...]]
    rates: tuple[float, ...]
    move: float
    size: float
    ratio: float


@dataclass
class RunRecord:
    """One denoiser's part in one run."""

    denoiser: str
    timetable: tuple[float, ...]
    rows: list[StepRecord] = field(default_factory=list)
    outputs: dict[str, Values] = field(default_factory=dict)  # for each stream and step, (rows, elements)
    inputs: Values = field(default_factory=list)  # the latents that the leading stream was asked about, alike
    errors: Errors = field(default_factory=dict)
    end: int = 0  # the position behind the last step that the run was to take
    arguments: Mapping[str, float] = field(default_factory=dict)  # the numbers that the pipeline was called with
    whole: bool = True  # whether the run came to its end, in this denoiser or another
    anatomy: Anatomy | None = None  # of the pipeline as it was in this run
    settings: Mapping[str, Plain] = field(default_factory=dict)  # of its schedulers, then

    @property
    def place(self) -> tuple[object, ...]:
        """Equal for runs that can be averaged."""
        return self.denoiser, self.timetable, *((row.step, row.position) for row in self.rows)

    @property
    def parts(self) -> tuple[object, ...]:
        """Equal for runs of the same parts: those of a pipeline may be exchanged between two calls."""
        if self.anatomy is None:
            return ()
        denoisers = {name: (part.kind, part.parameters) for name, part in self.anatomy.denoisers.items()}
        return self.anatomy.schedulers, self.settings, denoisers

    @property
    def batched(self) -> bool:
        """Whether the rows are two passes of the same latents."""
        latents = self.inputs[0] if self.inputs else torch.empty(0)
        return len(latents) > 0 and len(latents) % 2 == 0 and torch.equal(*latents.chunk(2))

    def inner_products(self, guidance: float) -> Array | None:
        """(T, T), mean over the elements, the rows of the batch and the streams that were there in every step.

        Guidance multiplies the difference of its two streams (if batched: of the halves of the rows), and with it what
        is wrong there, so that difference takes part with the square of the scale. On the pocket model at scale 6 the
        schedules are 0.7 to 2 dB better for it.
        """
        streams = [
            torch.stack(answers).double()  # (T, rows, elements)
            for answers in self.outputs.values()
            if len(answers) == len(self.rows) and len({answer.shape for answer in answers}) == 1
        ]
        if self.batched and len(streams) == 1 and streams[0].shape[1] % 2 == 0:
            streams = list(streams[0].chunk(2, dim=1))
        if not streams:
            return None
        products = np.mean([_products(stream) for stream in streams], axis=0)
        if guidance > 1.0 and len(streams) == 2 and streams[0].shape == streams[1].shape:
            products = products + guidance**2 / 2 * _products(streams[0] - streams[1])
        return np.asarray(products)


@dataclass(frozen=True)
class RecordSteps(Method, lever="cache", abstract=True):
    """The recorder in the place of a cache; `courses` fills during the runs."""

    layer_lags: int = 3
    courses: list[RunRecord] = field(default_factory=list)

    def build(self, anatomy: Anatomy) -> Lever:
        return StepRecorder(self, anatomy)


class StreamHistory:
    """What one stream keeps of its calls before: of the last one everything, of `LAGS` of them what is small."""

    def __init__(self, key: object, columns: dict[str, Signal]) -> None:
        self.key, self.columns = key, columns
        self.heard: dict[str, Values] = {}
        self.blocks: dict[int, deque[torch.Tensor]] = {}  # elements of the first blocks' residual
        self.past: deque[tuple[Values, Values]] = deque(maxlen=LAGS)  # input, output
        self.norms: torch.Tensor | None = None


class StepRecorder(Lever):
    """Computes every call and compares it with the same stream's calls before."""

    def __init__(self, method: RecordSteps, anatomy: Anatomy) -> None:
        self.method, self.anatomy = method, anatomy
        self._layers = LayerErrors(anatomy, method.layer_lags)
        self._probes = {name: dict(_probes(anatomy, name)) for name in anatomy.denoisers}
        self._courses: dict[str, RunRecord] = {}
        self._tracks: dict[tuple[str, str], StreamHistory] = {}
        self._given: dict[str, float] = {}
        self._settings: dict[str, Plain] = {}

    def accompany(self, components: Mapping[str, Any]) -> None:
        self._settings = scheduler_settings(components)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        self._given = {name: value for name, value in given.items() if isinstance(value, (int, float))}
        return {}

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        self._layers.attach(denoisers)

    def end(self) -> None:
        self._layers.detach()
        self._given = {}

    def reset(self) -> None:
        """The run is over: what it measured goes to the method."""
        errors = self._layers.take()
        whole = any(course.rows and course.rows[-1].position + 1 >= course.end for course in self._courses.values())
        for name, course in self._courses.items():
            course.whole = whole
            course.errors = {key: value for key, value in errors.items() if key[0] == name}
            self.method.courses.append(course)
        self._courses, self._tracks = {}, {}

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        heard: dict[str, torch.Tensor] = {}
        with ExitStack() as stack:
            for name, probe in self._probes[call.denoiser].items() if call.leader else ():
                if obstacle(call.module, probe) is None:
                    stack.enter_context(hearing(call.module, probe, _keeper(heard, name)))
            stack.enter_context(self._layers.within(call))
            outcome = proceed(call)
        outputs = [output.detach().clone() for output in tensors(outcome.output)]
        course = self._courses.get(call.denoiser)
        if course is None:
            course = RunRecord(
                call.denoiser, call.context.sigmas, arguments=self._given, anatomy=self.anatomy, settings=self._settings
            )
            self._courses[call.denoiser] = course
        course.end = call.context.end
        if call.leader:
            course.rows.append(self._row(call, heard, outputs))
            course.inputs.append(_join([_noisy(*pair) for pair in zip(call.latents, outputs, strict=False)]))
        course.outputs.setdefault(call.stream, []).append(_answer(call, outputs, self.anatomy.prediction))
        return outcome

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        return LeverReport("cache", "recording", engaged=False, reason=f"{len(calls)} calls recorded")

    def _row(self, call: DenoiserCall, heard: dict[str, torch.Tensor], outputs: Values) -> StepRecord:
        track = self._track(call)
        inputs = [_noisy(value, output).detach().clone() for value, output in zip(call.latents, outputs, strict=False)]
        blocks = {depth: elements(heard.pop(f"residual {depth}")) for depth in DEPTHS if f"residual {depth}" in heard}
        changes = self._changes(call, track, heard, inputs, outputs)
        norms, past = _residual_norms(inputs, outputs), list(reversed(track.past))
        row = StepRecord(
            step=call.context.step,
            position=call.context.position,
            changes=changes,
            drifts={depth: _drifts(block, track.blocks.get(depth, ())) for depth, block in blocks.items()},
            rates=tuple(_rate(inputs, outputs, *then) for then in past),
            move=float(sample_means(_minus(inputs, past[0][0])).max()) if past else 0.0,
            size=float(sample_means(outputs[: len(inputs)]).min()),
            ratio=1.0 if track.norms is None else float((norms / track.norms.clamp_min(1e-8)).mean()),
        )
        track.norms = norms
        track.past.append((inputs, outputs[: len(inputs)]))
        for depth, block in blocks.items():
            track.blocks.setdefault(depth, deque(maxlen=LAGS)).append(block)
        return row

    def _changes(
        self, call: DenoiserCall, track: StreamHistory, heard: dict[str, torch.Tensor], inputs: Values, outputs: Values
    ) -> dict[str, float]:
        blocks = {name: [heard[name]] for name in ("first_block", "block_output") if name in heard}
        now = {"latents": inputs, "output": outputs} | blocks
        changes = {name: _distance(values, track.heard.get(name)) for name, values in now.items()}
        track.heard = now
        for name, signal in track.columns.items():
            if signal.probe is None or name in heard:
                distance = signal.observe(call, heard.get(name))
                signal.after_compute(call, outputs)
                changes[name] = float("nan") if distance is None else distance
        return changes

    def _track(self, call: DenoiserCall) -> StreamHistory:
        key = [(value.shape, value.dtype) for value in call.latents]
        track = self._tracks.get((call.denoiser, call.stream))
        if track is None or track.key != key:
            track = self._tracks[call.denoiser, call.stream] = StreamHistory(key, _columns(self.anatomy, call.denoiser))
        return track


def _products(answers: torch.Tensor) -> Array:
    """(T, rows, elements) -> (T, T)."""
    flat = answers.flatten(1)
    return np.asarray((flat @ flat.T / flat.shape[1]).numpy())


def elements(value: torch.Tensor) -> torch.Tensor:
    """(B, ...) -> (B, at most `ELEMENTS`) in float32: all of them, or a random choice that depends on their number."""
    flat = value.detach().flatten(1)
    count = flat.shape[1]
    if count > ELEMENTS:
        chosen = torch.randint(count, (ELEMENTS,), generator=torch.Generator().manual_seed(count))
        flat = flat[:, chosen.to(flat.device)]
    return flat.float().clone()


def _probes(anatomy: Anatomy, denoiser: str) -> Iterator[tuple[str, Probe]]:
    for name, signal in _columns(anatomy, denoiser).items():
        if signal.probe is not None:
            yield name, signal.probe
    for depth in DEPTHS:
        try:
            yield f"residual {depth}", after_blocks("Calibration", anatomy, denoiser, depth)
        except NotApplicable:
            return


def _columns(anatomy: Anatomy, denoiser: str) -> dict[str, Signal]:
    """What the caches want to be recorded of this denoiser."""
    kinds = [kind for kind in Method.registry["cache"].values() if issubclass(kind, Cache)]
    return {name: signal for kind in kinds for name, signal in kind.columns(anatomy, denoiser).items()}


def _keeper(heard: dict[str, torch.Tensor], name: str) -> Callable[[torch.Tensor], None]:
    def keep(value: torch.Tensor) -> None:
        if name in heard:
            return
        if not name.startswith("residual"):
            heard[name] = value.detach().clone()
            return
        entered, left = value
        heard[name] = left - entered
        if name == "residual 1":
            heard["block_output"], heard["first_block"] = left.clone(), heard[name]

    return keep


def _answer(call: DenoiserCall, outputs: Values, kind: str) -> torch.Tensor:
    """Elements of what a forecast continues, (rows, elements): the flow itself, else the clean estimate."""
    if "flow" not in kind:
        outputs = [
            output if base is None else clean_from_output(output, base, call.context.sigma, kind)
            for output, base in zip(outputs, bases(call, outputs), strict=True)
        ]
    return _join(outputs[: len(call.latents)] if len(call.latents) > 1 else outputs[:1])


def _join(values: Values) -> torch.Tensor:
    """Elements of every row, (rows, elements); a list of latents is a batch of samples."""
    rows = [value[None] for value in values] if len(values) > 1 else values
    return torch.cat([elements(row) for row in rows]).cpu()


def _noisy(latents: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    part = noise_part(latents, output)
    return latents if part is None else part


def _minus(now: Values, then: Values) -> Values:
    return [a.float() - b.float() for a, b in zip(now, then, strict=True)]


def _distance(now: Values, then: Values | None) -> float:
    if then is None or [value.shape for value in now] != [value.shape for value in then]:
        return float("nan")
    return relative_distance(now, then)


def _drifts(now: torch.Tensor, past: Sequence[torch.Tensor]) -> tuple[float, ...]:
    return tuple(_distance([now], [then]) for then in reversed(past))


def _rate(inputs: Values, outputs: Values, inputs_then: Values, outputs_then: Values) -> float:
    """EasyCache's, the largest over the samples: mean|out - out'| / mean|in - in'|."""
    moved = sample_means(_minus(inputs, inputs_then)).clamp_min(1e-12)
    return float((sample_means(_minus(outputs[: len(outputs_then)], outputs_then)) / moved).max())


def _residual_norms(inputs: Values, outputs: Values) -> torch.Tensor:
    """Norm over the channels of output - input, for every token. Channels: last axis of (B, N, C), else 1."""
    residual = outputs[0].float()
    if inputs and inputs[0].shape == outputs[0].shape:
        residual = residual - inputs[0].float()
    norms: torch.Tensor = residual.norm(dim=-1 if residual.ndim == 3 else 1)
    return norms
