"""Text is encoded once: what a pipeline computed for a prompt is kept for the next job with that prompt.

diffusers' pipelines encode text in `encode_prompt` (233 files of diffusers 0.42 have one), and many do one prompt at a
time below it, in methods such as `_get_t5_prompt_embeds`. For the duration of a render, or as long as a session wants
it, these methods of this one pipeline object answer a repeated question with a copy of their first answer. That is
exact, bit for bit, because:

- a question is the same only if all arguments are equal, and only text, numbers, devices and types count: a call with
  tensors or pictures is passed through. What else a pipeline may look at, its guidance, is part of the question.
- an answer is kept only if nothing random was drawn for it (a text encoder in training mode draws its dropout).
- copies are handed out, so that nobody who writes into a tensor changes a later answer.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from accel.patch import Wrapper, unwrap_methods

METHODS = re.compile(r"encode_prompt|_get_\w*prompt_embeds")
MOST_BYTES = 128 * 2**20
"""Outputs stay on the device, where they would otherwise be computed again; the oldest are dropped."""

_PLAIN = (str, int, float, bool, type(None), torch.device, torch.dtype)


class Answers:
    """What was encoded: the oldest is dropped where all together would take more than `most_bytes`."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._held = most_bytes, 0
        self._answers: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def clear(self) -> None:
        with self._lock:
            self._answers.clear()
            self._held = 0

    def get(self, question: Any) -> Any:
        """A copy of an answer, in a tuple of one; None where there is none."""
        with self._lock:
            if question not in self._answers:
                return None
            self._answers.move_to_end(question)
            return (_copied(self._answers[question][0]),)

    def keep(self, question: Any, answer: Any) -> None:
        size = _size(answer)
        if size is None or size > self._most:
            return
        with self._lock:
            self._held -= self._answers.pop(question, (None, 0))[1]
            while self._held + size > self._most:
                self._held -= self._answers.popitem(last=False)[1][1]
            self._answers[question] = (_copied(answer), size)
            self._held += size


class TextCache:
    """The text encodings of one pipeline, or of several over the same weights, which take turns to encode and share
    their `answers`. `context` says what an encoding depends on besides the arguments; None: nothing is kept now.
    """

    def __init__(self, pipe: Any, answers: Answers | None = None, context: Callable[[], Any] = lambda: ()) -> None:
        self._answers = answers or Answers()
        self._context = context
        names = [name for name in dir(type(pipe)) if METHODS.fullmatch(name) and callable(getattr(type(pipe), name))]
        self._wrappers = [Wrapper(pipe, name, self._remembering(name)) for name in names]

    def detach(self) -> None:
        """Gives the pipeline its own methods back."""
        unwrap_methods(self._wrappers)

    def _remembering(self, name: str) -> Callable[..., Any]:
        def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            question = None if (context := self._context()) is None else frozen((name, args, kwargs, context))
            if question is None:
                return inner(*args, **kwargs)
            if (known := self._answers.get(question)) is not None:
                return known[0]
            before = _random_state()
            answer = inner(*args, **kwargs)
            if all(torch.equal(old, new) for old, new in zip(before, _random_state(), strict=True)):
                self._answers.keep(question, answer)
            return answer

        return around


def frozen(value: Any) -> Any:
    """The value as a key, with types, because 1 == True; None if it holds anything but plain values."""
    if isinstance(value, (list, tuple)):
        parts = [frozen(part) for part in value]
        return None if any(part is None for part in parts) else (type(value).__name__, *parts)
    if isinstance(value, dict):
        return frozen([part for pair in sorted(value.items()) for part in pair])
    return (type(value).__name__, value) if isinstance(value, _PLAIN) else None


def _size(answer: Any) -> int | None:
    """The bytes of an answer of tensors, None, numbers and sequences of them; None for any other."""
    if isinstance(answer, torch.Tensor):
        return answer.numel() * answer.element_size()
    if type(answer) in (list, tuple):
        sizes = [_size(part) for part in answer]
        return None if None in sizes else sum(size or 0 for size in sizes)
    return 0 if isinstance(answer, _PLAIN) else None


def _copied(answer: Any) -> Any:
    if isinstance(answer, torch.Tensor):
        return answer.clone()
    return type(answer)(_copied(part) for part in answer) if isinstance(answer, (list, tuple)) else answer


def _random_state() -> list[torch.Tensor]:
    """The global generators' states, wherever random numbers could come from."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return states
