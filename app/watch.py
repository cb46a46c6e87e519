"""Watches a pipeline call from outside: how far it is, a preview, and whether anyone still wants it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from accel.app.pair import Cancelled
from accel.app.preview import LatentPreview
from accel.components import components_of, denoisers_of, schedulers_of
from accel.measure.media import Pixels
from accel.parametrization import clean_from_output
from accel.patch import Wrapper, forward_of, unwrap_methods
from accel.session import Session

PREVIEW_SECONDS = 0.25  # between two previews
_WHITE, _CLIPPED = 0.999, 0.1  # more than this share of pixels beyond that value: the picture is clipped
_FAINT = 0.5  # standard deviation of latents whose picture is not

Tell = Callable[[int, int, Pixels | None], None]
"""Called as tell(step, steps, preview) when a step is done, or a part of it."""


class Guard:
    """Wraps the parts of a pipeline while it runs.

    Cancelling raises `Cancelled` out of the next call of any part (text encoder, denoiser, scheduler, autoencoder), so
    at most the denoiser call at hand is finished; callbacks would not do, because many pipelines take none.
    """

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._cancelled = cancelled

    def part(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around any part: not begun once the call is cancelled."""
        if self._cancelled():
            raise Cancelled("The run was cancelled.")
        return inner(*args, **kwargs)

    def denoise(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around a denoiser."""
        return self.part(inner, *args, **kwargs)

    def step(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around a scheduler's step."""
        return self.part(inner, *args, **kwargs)

    def decode(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around an autoencoder's decoder."""
        return self.part(inner, *args, **kwargs)


class PreviewGuard(Guard):
    """A guard on top of a session's own layers that tells how far the call is and shows where it goes.

    rough: a call of few steps, which is not timed. `spent` is the time that previews took, in seconds, and `processor`
    what of it was processor time; `latents` are the last that the scheduler has made, `decoded` is what the autoencoder
    made of them, before it was clipped.
    """

    def __init__(
        self,
        session: Session,
        glimpse: LatentPreview,
        cancelled: Callable[[], bool],
        tell: Tell,
        *,
        rough: bool = False,
    ) -> None:
        super().__init__(cancelled)
        self._session, self._glimpse, self._tell, self._rough = session, glimpse, tell, rough
        self._last_preview = 0.0
        self._schedulers: list[Any] = []
        self._told = (0, 0)
        self.spent, self.processor = 0.0, 0.0
        self.latents: torch.Tensor | None = None
        self.decoded: torch.Tensor | None = None

    def denoise(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        answer = super().denoise(inner, *args, **kwargs)
        place = self._place()
        if place != self._told:  # once for a step, whatever its passes
            self._told = place
            self._tell(*place, None)
        return answer

    def decode(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Around an autoencoder's decoder: keeps what it makes. After a rough call it is asked once more, for a faint
        picture, because a picture that is clipped to black and white says little about the latents.
        """
        result = super().decode(inner, *args, **kwargs)
        self.decoded = _sample(result)
        if self._rough and args and self.latents is not None and _is_clipped(self.decoded):
            share = _FAINT / max(float(self.latents.float().square().mean().sqrt()), _FAINT)
            fainter = args[0] * share + _origin(self.latents, args[0]) * (1.0 - share)
            self.decoded, self.latents = _sample(inner(fainter, *args[1:], **kwargs)), self.latents * share
        return result

    def _place(self) -> tuple[int, int]:
        """The number of the step at hand, from 1, and how many there are."""
        calls, pipe = self._session.report().calls, self._session.pipe
        if not self._schedulers and pipe is not None:  # asked once, and within the call, which may exchange them
            self._schedulers = [scheduler for _, scheduler in schedulers_of(components_of(pipe))]
        position = calls[-1].position + 1 if calls else 0
        return position, max((len(scheduler.timesteps) for scheduler in self._schedulers), default=0)

    def step(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = super().step(inner, *args, **kwargs)
        stepped = result[0] if isinstance(result, tuple) else getattr(result, "prev_sample", None)
        if isinstance(stepped, torch.Tensor):
            self.latents = stepped
            if time.perf_counter() - self._last_preview >= PREVIEW_SECONDS and self._glimpse.knows(stepped):
                self._preview(inspect.signature(inner).bind(*args, **kwargs).arguments)
        return result

    def _preview(self, given: dict[str, Any]) -> None:
        _finish_device_work()  # of the steps, which is not the preview's time
        start, processor = time.perf_counter(), time.process_time()
        clean = self._clean(given)
        picture = None if clean is None else self._glimpse.draw(clean)
        if picture is not None:
            self._tell(*self._place(), picture)
        self._last_preview = time.perf_counter()
        self.spent += self._last_preview - start
        self.processor += time.process_time() - processor

    def _clean(self, given: dict[str, Any]) -> torch.Tensor | None:
        """The clean latents that the present answer leads to."""
        calls, pipe = self._session.report().calls, self._session.pipe
        output, sample = given.get("model_output"), given.get("sample")
        if not (calls and isinstance(output, torch.Tensor) and isinstance(sample, torch.Tensor)) or pipe is None:
            return None
        if output.shape != sample.shape:
            return sample
        sigma, anatomy = calls[-1].sigma, self._session.anatomy
        name = next(iter(anatomy.schedulers))
        if anatomy.samples.get(name) == "exploding":
            sample = sample / (1.0 + sigma * sigma) ** 0.5
        return clean_from_output(output, sample, sigma, anatomy.received[name])


@contextmanager
def guard_run(pipe: Any, guard: Guard) -> Iterator[None]:
    """Puts a guard around the parts of a pipeline for the duration of the block."""
    layers: list[Wrapper] = []
    try:
        layers.extend(_layers(pipe, guard))
        yield
    finally:
        unwrap_methods(layers)


def _layers(pipe: Any, guard: Guard) -> Iterator[Wrapper]:
    components = components_of(pipe)
    denoisers, schedulers = dict(denoisers_of(components)), dict(schedulers_of(components))
    for name, part in components.items():
        if name in schedulers:
            yield Wrapper(part, "step", guard.step)
        elif isinstance(part, torch.nn.Module):
            yield Wrapper(part, forward_of(part), guard.denoise if name in denoisers else guard.part)
            if hasattr(part, "decode"):
                yield Wrapper(part, "decode", guard.decode)


def _sample(result: Any) -> torch.Tensor | None:
    """What a decoder has returned, as diffusers' decoders do."""
    decoded = result[0] if isinstance(result, tuple) else getattr(result, "sample", None)
    return decoded if isinstance(decoded, torch.Tensor) else None


def _is_clipped(decoded: torch.Tensor | None) -> bool:
    return decoded is not None and float((decoded.abs() > _WHITE).float().mean()) > _CLIPPED


def _origin(latents: torch.Tensor, given: torch.Tensor) -> torch.Tensor | float:
    """What the autoencoder is given for latents of zero. Pipelines scale and shift each channel on the way; where they
    pack latents too, they do not shift them.
    """
    if latents.shape != given.shape:
        return 0.0
    axes = [axis for axis in range(latents.ndim) if axis != 1]
    spread, mean = torch.std_mean(latents.to(given.dtype), axes, keepdim=True)
    given_spread, given_mean = torch.std_mean(given, axes, keepdim=True)
    return given_mean - given_spread / spread.clamp_min(1e-6) * mean


def _finish_device_work() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
