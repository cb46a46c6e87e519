"""One call of a denoiser as the levers see it: latents in, prediction out, whatever the model's own signature is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, NamedTuple

import torch

from accel.clock import StepContext
from accel.reasons import Code
from accel.update import LinearUpdates, Unknown

# How diffusers' denoisers name their arguments; the first name present is taken.
LATENTS = ("hidden_states", "sample", "x", "latents", "latent_model_input")
TIMESTEP = ("timestep", "t", "timesteps", "timestep_r")
CONDITIONING = ("encoder_hidden_states", "context", "cap_feats", "prompt_embeds", "class_labels", "y")

Action = Literal["computed", "predicted", "dropped"]


class DenoiserResult(NamedTuple):
    """What a lever returns: the denoiser's output in its own structure, how it came about, and why: in one sentence
    for people, which no program reads, and as a code.
    """

    output: Any
    action: Action
    reason: str
    code: Code = Code.DECIDED


def no_scheduler_to_ask(space: str) -> LinearUpdates:
    """For a call that no session has made."""
    raise Unknown("there is no scheduler to ask")


def unanswered(*_: Any, **__: Any) -> Any:
    """The denoiser of a call that no session has made."""
    raise ValueError("This call has no denoiser to evaluate: pass on one that a session has made.")


@dataclass
class DenoiserCall:
    """One denoiser call. `latents` are its noisy inputs as a list (one tensor for nearly all models)."""

    denoiser: str
    stream: str
    leader: bool  # the first call of this step at this denoiser: it decides, the others follow
    context: StepContext
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    latents: list[torch.Tensor]
    module: torch.nn.Module = field(repr=False)
    arguments: Mapping[str, Any] = field(repr=False)  # all arguments by name
    alignment: torch.Tensor | None = field(default=None, repr=False)  # (B,), where the cache's signal measures one
    raw_output: Any = field(default=None, repr=False)  # the denoiser's own output, once it has been evaluated
    # The denoiser itself; a lever that uses another model passes on a call with that one's.
    forward: Callable[..., Any] = field(default=unanswered, repr=False)
    content: int = 0  # counts the contents that this stream's conditioning has had so far
    # Asks what the scheduler makes of outputs ("output") or of the clean estimates that they imply ("x0") in this run;
    # raises `accel.update.Unknown`.
    updates: Callable[[str], LinearUpdates] = field(default=no_scheduler_to_ask, repr=False)
    guided: bool | None = None  # whether classifier-free guidance is on, where the pipeline says so
    entangled: bool = False  # the denoiser tells the passes of a batch by their place in it (perturbed attention)
    probed: bool = False  # it may be left before all arguments are read, so what is deferred in them stays so
    # For half of a batch: proceeds with it and the other half in one launch, for levers that do not look inside.
    evaluate_both: Callable[[DenoiserCall, Proceed], DenoiserResult] | None = field(default=None, repr=False)
    # The samples of each evaluation of the denoiser that was launched for this call, in whatever copies of it.
    launch_sizes: list[int] = field(default_factory=list, repr=False)
    # The samples that a lever has answered for, so that they are not evaluated, with the lever's name.
    spared_sizes: list[tuple[str, int]] = field(default_factory=list, repr=False)

    # Whether the batch is a list of samples (Z-Image) and not the first axis of a tensor.
    is_list: bool = field(init=False, repr=False)
    rows: int = field(init=False, repr=False)  # the number of samples in the batch, of both halves
    # What of the latents must stay as it is for one call's output to say anything about another's.
    layout: tuple[object, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.is_list = isinstance(Arguments.pick(self.arguments, LATENTS), (list, tuple))
        self.rows = len(self.latents) if self.is_list else self.latents[0].shape[0] if self.latents else 0
        self.layout = tuple([(tensor.shape, tensor.dtype, tensor.device) for tensor in self.latents])

    @property
    def weight(self) -> float:
        """What one unit of the output adds in this step, in coordinates in which the updates of all steps simply add
        up; 0 where there are none."""
        try:
            updates = self.updates("output")
        except Unknown:
            return 0.0
        return updates.added[self.context.position - updates.first] if updates.depth == 1 else 0.0


Proceed = Callable[[DenoiserCall], DenoiserResult]


class Arguments:
    """Finds latents, timestep and conditioning among a denoiser's arguments; the signature is read once.

    It is the class that knows the names: `module.forward` may have been replaced by `lambda *args, **kwargs: ...`, and
    a wrapper (torch.compile's, those of parallel training) has names of its own for nothing.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._names = _positional(type(module).forward)
        inside = (getattr(module, name, None) for name in ("_orig_mod", "module", "_fsdp_wrapped_module"))
        wrapped = next((other for other in inside if isinstance(other, torch.nn.Module)), None)
        if not self._names and wrapped is not None:
            self._names = Arguments(wrapped)._names

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {**dict(zip(self._names, args, strict=False)), **kwargs} if args else dict(kwargs)

    @staticmethod
    def pick(bound: Mapping[str, Any], names: tuple[str, ...]) -> Any:
        for name in names:
            value = bound.get(name)
            if value is not None:
                return value
        return None


def _positional(method: Callable[..., Any]) -> list[str]:
    """The names of the arguments that a method takes by position, but for its own object."""
    _, *taken = inspect.signature(method).parameters.values()
    return [known.name for known in taken if known.kind in (known.POSITIONAL_ONLY, known.POSITIONAL_OR_KEYWORD)]


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors of a (nested) argument or output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors(item)]
    if isinstance(value, Mapping):  # such as diffusers' BaseOutput
        return tensors(list(value.values()))
    return []


def rebuilt(template: Any, values: list[torch.Tensor]) -> Any:
    """The same structure as `template` (tensor, tuple, list, dictionary, BaseOutput) holding `values` in order."""
    rest = iter(values)

    def build(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return next(rest)
        if isinstance(part, (list, tuple)):
            return type(part)([build(item) for item in part])
        if isinstance(part, Mapping):
            built: Any = {key: build(item) for key, item in part.items()}
            return type(part)(**built) if is_dataclass(part) else built
        return part

    return build(template)


def copied(answer: Any) -> Any:
    """With tensors of its own: pipelines go on to change theirs in place."""
    return rebuilt(answer, [tensor.clone() for tensor in tensors(answer)])


def carries_state(output: Any) -> bool:
    """Whether an output holds more than predictions, which nobody can forecast: plain dictionaries (AnyFlow's key-value
    caches) and objects of unknown kinds.
    """
    if output is None or isinstance(output, (torch.Tensor, bool, int, float, str)):
        return False
    if isinstance(output, (list, tuple)):
        return any(map(carries_state, output))
    if isinstance(output, Mapping) and is_dataclass(output):  # diffusers' BaseOutput
        return any(map(carries_state, output.values()))
    return True


def structure(output: Any) -> Any:
    """The output's structure without its tensors' memory: enough for `rebuilt` to give the same kind of object."""
    return rebuilt(output, [_NOTHING] * len(tensors(output)))


_NOTHING = torch.empty(0)


def noise_part(latents: torch.Tensor, like: torch.Tensor) -> torch.Tensor | None:
    """The part of the input that the prediction `like` is about, or None where the shapes do not allow it.

    Image-to-video and inpainting models append conditioning channels after the noisy ones, so the leading channels
    are taken. (B, C_in, ...) or (B, N, C_in) -> shape of `like`.
    """
    if latents.shape == like.shape:
        return latents
    if latents.ndim != like.ndim or any(have < want for have, want in zip(latents.shape, like.shape, strict=True)):
        return None
    for dimension, size in enumerate(like.shape):
        latents = latents.narrow(dimension, 0, size)
    return latents
