"""Two jobs of one model at once, a stage apart: while one is decoded, the next is encoded and denoised.

Nobody's code is split for that. Each job is a whole call of a pipeline, in a thread of its own; layers on the decoder
tell where a call is. A job has the front from its beginning until its pipeline enters the decoder, and the decoder from
there to its end, so that the text encoders, the denoiser and the autoencoder each serve one call at a time, as ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import torch

from accel.components import decoders_of, denoisers_of
from accel.patch import unwrap_methods, wrap_methods
from accel.rendering.beside import SharedState

RETURNS = "the pipeline denoises again after it has decoded"
DRAWS = "the pipeline draws from torch's global generator"
CHANGES = "the pipeline changes its model until the end of a call"
MEMORY = "memory did not suffice for two"
METRICS = "each is rendered twice, to be compared with itself unaccelerated"


class OverlapError(RuntimeError):
    """The job must be repeated by itself."""


class Stages:
    """Who has the front and who the decoder.

    in_turn: a clause why, from now on, each job has both from its beginning to its end; "" while none has.
    """

    def __init__(self, components: Mapping[str, Any]) -> None:
        self.in_turn = ""
        self._components = components
        self._changed = threading.Condition()
        self._front: Place | None = None
        self._decoder: Place | None = None
        self._stopped = False
        self._before = torch.default_generator.get_state()
        self._seeded = self._before
        plan: list[tuple[Any, str, Callable[..., Any]]] = []
        for _, part in decoders_of(components):
            plan += [(part, name, around) for name, around in _AROUND.items() if hasattr(part, name)]
        plan += [(module, "forward", _denoise) for _, module in denoisers_of(components)]
        self._wrappers = wrap_methods(plan, everywhere=True)

    def close(self) -> None:
        """When no job is on its way: gives the modules their methods back, and torch its random state."""
        unwrap_methods(self._wrappers)
        torch.default_generator.set_state(self._before)

    def stop(self) -> None:
        """Whoever waits for a place, now or later, gets a KeyboardInterrupt instead."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def found(self) -> SharedState:
        """What the modules are now."""
        return SharedState(self._components)

    @contextmanager
    def still(self) -> Iterator[None]:
        """No job begins, changes over or ends meanwhile."""
        with self._changed:
            yield

    def _until(self, place: Place, free: Callable[[], bool]) -> None:
        """The place waits. Whoever waits for it to wait is told."""
        place._waits = True
        self._changed.notify_all()
        self._changed.wait_for(lambda: self._stopped or free())
        place._waits = False
        if self._stopped:
            raise KeyboardInterrupt

    def _drawn(self, place: Place) -> bool:
        """Whether anybody has drawn from the global generator since it was last seeded.

        A session may seed it for a moment and put it back (`accel.update`): then the job in front is waited for.
        """

        def same() -> bool:
            return torch.equal(torch.default_generator.get_state(), self._seeded)

        if not same():
            self._changed.wait_for(
                lambda: (
                    self._stopped or self._front in (None, place) or (self._front is not None and self._front._waits)
                )
            )
        return not same()


class Place:
    """Where one call of a pipeline is. A block: the call waits for the front when it begins.

    stages: None where nothing overlaps. alone: nobody else is on the way from the beginning of the block to its end.
    left: is called once another job may begin. waited: seconds in which the decoder was another job's.
    Raises OverlapError, at its end or within, where the call must be repeated alone.
    """

    def __init__(
        self, stages: Stages | None = None, *, alone: bool = True, left: Callable[[], object] = lambda: None
    ) -> None:
        self.alone = stages is None or alone or bool(stages.in_turn)
        self.waited, self.note = 0.0, ""
        self._stages, self._left = stages, left
        self._keeps, self._decodes, self._waits = self.alone, False, False

    def __enter__(self) -> Place:
        if (stages := self._stages) is not None:
            with stages._changed:
                stages._until(self, lambda: stages._front is None and not (self.alone and stages._decoder))
                stages._front = self
                if self.alone:
                    stages._decoder = self
            if not self.alone:
                self._found = stages.found()
        self._token = _PLACE.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        _PLACE.reset(self._token)
        if (stages := self._stages) is None:
            return
        with stages._changed:
            drawn = not self.alone and stages._drawn(self)
            stages._front = None if stages._front is self else stages._front
            stages._decoder = None if stages._decoder is self else stages._decoder
            if drawn:
                stages.in_turn = DRAWS
            stages._changed.notify_all()
        if drawn and kind is None:
            raise OverlapError(DRAWS)

    @contextmanager
    def seeded(self, seed: int, device: torch.device) -> Iterator[None]:
        """Torch's global generator as it is after `manual_seed(seed)`, for the few pipelines that draw from it whatever
        they are given. It can serve one job at a time: whether anybody has drawn from it is looked at afterwards.
        """
        own = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(own) if self.alone else nullcontext():
            # torch.manual_seed would note a whole traceback for each kind of device that is not there: milliseconds.
            if self.alone or self._stages is None:
                torch.default_generator.manual_seed(seed)
            else:
                with self._stages._changed:
                    self._stages._seeded = torch.default_generator.manual_seed(seed).get_state()
            if device.type == "cuda":
                torch.cuda.manual_seed(seed)
            yield

    def begin_decoding(self) -> None:
        """The pipeline enters the decoder: it waits until nobody else is there, and lets another job begin.

        The front stays its own where it has left something changed in the modules (attention processors that are put
        back at the end, an autoencoder in another data type), which the next job must not see.
        """
        if self.alone or self._decodes or (stages := self._stages) is None:
            return
        self._keeps = not self._found.same(stages.found())
        start = time.perf_counter()
        with stages._changed:
            stages._until(self, lambda: stages._decoder in (None, self))
            stages._decoder, self._decodes = self, True
            if self._keeps:
                self.note = CHANGES
            else:
                stages._front = None
                stages._changed.notify_all()
        self.waited += time.perf_counter() - start
        if not self._keeps:
            self._left()

    @contextmanager
    def with_decoder(self) -> Iterator[None]:
        """For what an autoencoder does before the denoiser, such as encoding a picture."""
        stages = self._stages
        if self.alone or stages is None or stages._decoder is self:
            yield
            return
        with stages._changed:
            stages._until(self, lambda: stages._decoder is None)
            stages._decoder = self
        try:
            yield
        finally:
            with stages._changed:
                stages._decoder = self if self._decodes else None
                stages._changed.notify_all()

    def begin_denoising(self) -> None:
        """Raises OverlapError where another job may have the denoiser already."""
        if self._decodes and not self._keeps and self._stages is not None:
            self._stages.in_turn = RETURNS
            raise OverlapError(RETURNS)


_PLACE: ContextVar[Place | None] = ContextVar("accel_place", default=None)


def _decode(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if (place := _PLACE.get()) is not None:
        place.begin_decoding()
    return inner(*args, **kwargs)


def _encode(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    place = _PLACE.get()
    with nullcontext() if place is None else place.with_decoder():
        return inner(*args, **kwargs)


def _denoise(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if (place := _PLACE.get()) is not None:
        place.begin_denoising()
    return inner(*args, **kwargs)


_AROUND: Mapping[str, Callable[..., Any]] = {"decode": _decode, "encode": _encode}
