"""A quick look at what a seed becomes, and the same seed in full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from accel.drafting.call_memory import CallMemory
from accel.drafting.seeded_runs import SeededRun, SeededRuns
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
        return self._runs.run(self.seed, recipe, self._memory).output


def draft(
    pipe: Any, prompt: str | None = None, *, seed: int = 0, recipe: Any = "turbo", share: float = 0.4, **call: Any
) -> Draft:
    """A preview of what `pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed), **call)` makes, and the way
    to the finished output.

        drafts = [accel.draft(pipe, "a corgi surfing", seed=seed) for seed in range(16)]
        video = drafts[3].finish("lossless")

    The run goes `share` of its way with a fast `recipe`, and the pipeline decodes the clean estimate there: layout and
    colours are those of the finished output, details are not. For one prompt, and one picture or clip.

    call: further arguments of the pipeline, such as num_inference_steps, height, negative_prompt or image.
    Raises ValueError or TypeError, in one sentence, for bad arguments; the pipeline comes back as it was.
    """
    _check_share(share)
    runs, memory = SeededRuns(pipe, prompt, call), CallMemory()
    run: SeededRun = runs.run(seed, recipe, memory, share)
    found = Draft(seed, run.output, run.spent / max(run.unaccelerated, 1), run.seconds, runs, memory)
    _ = found.frames  # a batch, or latents, cannot be looked at: say so now
    return found


def _check_share(share: float) -> None:
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is how much of the run a draft takes, above 0 and at most 1, not {share!r}.")
