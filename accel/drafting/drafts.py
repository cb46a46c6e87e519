"""A quick look at what a seed becomes, and the same seed in full."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, overload

from accel.drafting.call_memory import CallMemory
from accel.drafting.early_end import EarlyEnd
from accel.drafting.seeded_runs import RunSeed, SeededRuns, check_share, several_seeds
from accel.measure.metrics import Clip, to_frames


@dataclass(frozen=True)
class Draft:
    """What a seed becomes, seen early.

    output: what the pipeline returned, of the clean estimate at which the draft ended. frames: its one picture or clip,
    float32 (frames, height, width, 3) in [0, 1]. cost: in unaccelerated runs, by the samples that denoisers evaluated.
    Remembers these evaluations for `finish`, each of the size of the latents, until it is let go.
    """

    seed: int
    output: Any = field(repr=False)
    cost: float
    seconds: float
    _runs: SeededRuns = field(repr=False)
    _memory: CallMemory = field(repr=False)

    @property
    def frames(self) -> Clip:
        return to_frames(self.output)

    def finish(self, recipe: Any = "lossless") -> Any:
        """Bit for bit what `pipe(...)` returns with this seed and recipe.

        recipe: what `accel.accelerate` takes; `accel.Recipe()` for none. Evaluations that the draft has made and this
        run asks for with the very same bits are not made again. The first of them is, to see that the weights are still
        the same; where they are not, everything is computed anew. A pipeline that does not repeat itself bit for bit (a
        GPU's nondeterministic kernels) computes anew too, as likely as not.
        """
        self._memory.distrust()
        with self._runs.accelerated(recipe) as run:
            return run(self.seed, self._memory).output


@overload
def draft(
    pipe: Any, prompt: str | None = None, *, seed: int = 0, recipe: Any = "turbo", share: float = 0.25, **call: Any
) -> Draft: ...
@overload
def draft(
    pipe: Any,
    prompt: str | None = None,
    *,
    seed: Iterable[int],
    recipe: Any = "turbo",
    share: float = 0.25,
    **call: Any,
) -> list[Draft]: ...
def draft(
    pipe: Any, prompt: str | None = None, *, seed: Any = 0, recipe: Any = "turbo", share: float = 0.25, **call: Any
) -> Draft | list[Draft]:
    """A preview of what `pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed), **call)` makes, and the way
    to the finished output.

        drafts = accel.draft(pipe, "a corgi surfing", seed=range(16))
        video = drafts[3].finish("lossless")

    The run goes `share` of its way with a fast `recipe`, and the pipeline decodes the clean estimate there: layout and
    colours are those of the finished output, details are not. For one prompt, and one picture or clip of each seed.

    seed: a number, or several for a list of drafts.
    call: further arguments of the pipeline, such as num_inference_steps, height, negative_prompt or image.
    Raises ValueError or TypeError, in one sentence, for bad arguments; the pipeline comes back as it was.
    """
    seeds, runs = [seed] if isinstance(seed, int) else several_seeds(seed), SeededRuns(pipe, prompt, call)
    check_share(share)
    with runs.accelerated(recipe) as run:
        found = [_drafted(runs, run, one, share) for one in seeds]
    return found[0] if isinstance(seed, int) else found


def _drafted(runs: SeededRuns, run: RunSeed, seed: int, share: float) -> Draft:
    memory, end = CallMemory(), EarlyEnd(share)
    made = run(seed, memory, end)
    to_frames(made.output)  # a batch, or latents, cannot be looked at: say so at once
    return Draft(seed, made.output, made.spent / end.unaccelerated, made.seconds, runs, memory)
