"""Codes that say why a denoiser call was computed, predicted or dropped; the sentences beside them are for people."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Programs branch on these and never on the words of a sentence. A report keeps both."""

    COMPUTED = "computed"  # no lever had anything to say
    DECIDED = "decided"  # the method's own choice, for this step or beforehand; its sentence says more
    SHORT_RUN = "short run"  # fewer steps than the method is for
    WARM_UP = "warm-up"
    LAST_STEPS = "last steps"
    MOST_SKIPS = "most skips"  # as many in a row as are allowed
    NO_HISTORY = "no history"  # nothing is known yet that an output could be forecast from
    UNREACHABLE = "unreachable"  # the modules concerned cannot be listened to
    OVER_THRESHOLD = "over threshold"  # what was measured forbids to skip
    NOTHING_REUSED = "nothing reused"  # no kind of module is due in this step
    REFINED = "refined"  # a small model stood in for the denoiser
