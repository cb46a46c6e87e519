"""A device of its own for tests on machines without one: it computes on the CPU and counts what would stall a GPU.

torch hosts devices that are written in Python under the name `privateuseone`. A tensor of this one is a `torch.Tensor`
on `hosted:0` that holds a CPU tensor and passes every operation on to it, so numbers are real, thresholds decide as
they would anywhere, and the pipeline's own loop runs as it is. What is refused: tensors of two devices in one
operation, but for numbers (0 axes), as on a GPU. What is counted is what `torch.cuda.set_sync_debug_mode` warns of: a
number read off a tensor, a copy between the device and the host that waits, and the operations whose result has a size
that depends on the data (`nonzero`, `unique`, indexing by a mask, ...), all of which let a GPU run dry.

`FakeTensorMode`, the other way to a device that is not there, was tried and cannot carry a pipeline: it has no numbers,
and the schedulers of diffusers read some in every run (UniPC's `index_for_timestep`), as does every adaptive method;
and on torch builds without CUDA it fails at the first `linear` of a GPU's tensor ("not linked with support for cuda").
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from accel.clock import Clock

NAME = "hosted"
ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / folder) + "/" for folder in ("accel", "attention", "caching", "samplers"))
LIBRARY = str(Path(torch.__file__).parent)

# The size of what these return depends on the numbers, so a GPU must tell the host.
DATA_DEPENDENT = (
    *("nonzero", "masked_select", "unique", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
    *("equal", "_local_scalar_dense", "is_nonzero", "repeat_interleave.Tensor"),
)
BETWEEN_DEVICES = ("_to_copy", "copy_", "_copy_from", "_copy_from_and_resize")


class MixedDevices(RuntimeError):
    """Tensors of two devices met in one operation."""


class Stall(NamedTuple):
    """Something that makes the host wait, or is made on it: what, where in accel ("" elsewhere), in which step."""

    what: str
    where: str
    step: int


class HostedTensor(torch.Tensor):
    """A tensor on the hosted device; `raw` is the CPU tensor that it stands for, memory and views included."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> HostedTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype,
            device=hosted_device(), requires_grad=raw.requires_grad,
        )  # fmt: skip

    def __init__(self, raw: torch.Tensor) -> None:
        self.raw = raw

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def tolist(self) -> Any:
        note("tolist")
        return self.raw.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> HostedTensor:
        copied: HostedTensor = self.clone() if not isinstance(self, torch.nn.Parameter) else self.detach().clone()
        return memo.setdefault(id(self), copied)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"HostedTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


@cache
def hosted_device() -> torch.device:
    """Makes the device known to torch; for the rest of the process."""
    from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

    class Module(_DummyBackendModule):
        """What `torch.random.fork_rng` asks every accelerator: this one's random numbers are the CPU's."""

        get_rng_state = staticmethod(lambda _: torch.get_rng_state())
        set_rng_state = staticmethod(lambda state, _: torch.set_rng_state(state))

    _setup_privateuseone_for_python_backend(NAME, Module())
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")  # torch.tensor(..., device=...)
    hosted_device.library = library  # type: ignore[attr-defined]  # what it registered goes with it
    return torch.device(NAME, 0)


def _empty(size: Any, dtype: Any = None, *_: Any, **__: Any) -> torch.Tensor:
    return HostedTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, *_: Any, **__: Any) -> torch.Tensor:
    return HostedTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    note("_copy_from", non_blocking)
    _raw(target).copy_(_raw(source))
    return target


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, HostedTensor) else value


def _compute(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The operation on the CPU; its results are on the hosted device, unless they are copies to the CPU."""
    name = func.overloadpacket.__name__
    given: list[torch.Tensor] = []
    raw_args, raw_kwargs = _on_cpu(args, given), {key: _on_cpu(value, given) for key, value in kwargs.items()}
    if name not in BETWEEN_DEVICES:
        _refuse_mixed(str(func), given)
    if (name in BETWEEN_DEVICES and _crosses(given, kwargs)) or _depends_on_data(name, str(func), given):
        note(name, kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2]))
    raw = func(*raw_args, **raw_kwargs)
    if name == "copy_" and not isinstance(given[0], HostedTensor):
        return given[0]
    there = kwargs.get("device")
    if name == "_to_copy" and there is not None and there.type != NAME:
        return raw
    return _hosted(raw, {id(one.raw): one for one in given if isinstance(one, HostedTensor)})


def _on_cpu(value: Any, given: list[torch.Tensor]) -> Any:
    """The same arguments for the CPU; lists the tensors among them as they are."""
    if isinstance(value, torch.Tensor):
        given.append(value)
        return value.raw if isinstance(value, HostedTensor) else value
    if isinstance(value, (list, tuple)):
        return type(value)([_on_cpu(one, given) for one in value])
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _hosted(value: Any, known: Mapping[int, HostedTensor]) -> Any:
    """A result on the hosted device; what was changed in place is the tensor that was given."""
    if isinstance(value, torch.Tensor):
        return known[id(value)] if id(value) in known else HostedTensor(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_hosted(one, known) for one in value])
    return value


def _crosses(given: list[torch.Tensor], kwargs: Mapping[str, Any]) -> bool:
    here = {isinstance(one, HostedTensor) for one in given}
    there = kwargs.get("device")
    return len(here) > 1 or (there is not None and (there.type == NAME) not in here)


def _depends_on_data(name: str, func: str, given: list[torch.Tensor]) -> bool:
    if name in DATA_DEPENDENT or func.removeprefix("aten.") in DATA_DEPENDENT:
        return True
    masks = any(one.dtype in (torch.bool, torch.uint8) for one in given[1:])
    return name in ("index", "index_put", "index_put_", "_index_put_impl_") and masks


def _refuse_mixed(func: str, given: list[torch.Tensor]) -> None:
    """Indices may come from the host, and are copied, as torch does for GPUs."""
    strange = [one for one in given if not isinstance(one, HostedTensor) and one.ndim]
    if strange and func.startswith(("aten.index.", "aten.index_put", "aten._index_put")):
        note("indices from the host")
    elif strange:
        raise MixedDevices(f"{func} was given tensors of {NAME}:0 and of {strange[0].device}")


class Watch(TorchDispatchMode):
    """Everything within the block that makes tensors on the hosted device, and the account of what stalls it.

    stalls: what made the host wait. made: what accel's own lines made on the CPU, with at least one axis.
    step: updates so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stalls: list[Stall] = []
        self.made: list[Stall] = []
        self.step = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors: list[torch.Tensor] = []
        _on_cpu((args, list(kwargs.values())), tensors)
        there = kwargs.get("device")
        if any(isinstance(one, HostedTensor) for one in tensors) or (there is not None and there.type == NAME):
            return _compute(func, args, kwargs)
        found = func(*args, **kwargs)
        if isinstance(found, torch.Tensor) and found.ndim and not tensors and (where := _where()):
            self.made.append(Stall(func.overloadpacket.__name__, where, self.step))
        return found

    @property
    def ours(self) -> list[Stall]:
        """What accel's own lines made the host wait for."""
        return [stall for stall in self.stalls if stall.where]


def again_and_again(stalls: Sequence[Stall]) -> list[Stall]:
    """Those of lines that stalled in more than two steps of a run: others have set something up, for a batch and half
    of it at most.
    """
    steps: dict[str, set[int]] = {}
    for stall in stalls:
        steps.setdefault(stall.where, set()).add(stall.step)
    return [stall for stall in stalls if len(steps[stall.where]) > 2]


def most_in_a_step(stalls: Sequence[Stall]) -> int:
    """The most of them in one step."""
    return max(Counter(stall.step for stall in stalls).values(), default=0)


_watches: list[Watch] = []


def note(what: str, non_blocking: Any = False) -> None:
    """Something makes the host wait, unless it does not block."""
    if not non_blocking:
        for watch in _watches:
            watch.stalls.append(Stall(what, _where(), watch.step))


def _where() -> str:
    """The file and line that asked, if that is accel's; a library's own lines below accel's are the library's."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((LIBRARY, "<")) and file != __file__:
            return f"{Path(file).relative_to(ROOT)}:{frame.f_lineno}" if file.startswith(OURS) else ""
        frame = frame.f_back  # type: ignore[assignment]
    return ""


@contextmanager
def watched() -> Iterator[Watch]:
    """Watches all that happens within the block; steps are counted where accel counts them, after each update."""
    hosted_device()
    watch, step_done = Watch(), Clock.step_done

    def counting(self: Clock, scheduler: Any) -> None:
        step_done(self, scheduler)
        watch.step += 1

    _watches.append(watch)
    try:
        with patch.object(Clock, "step_done", counting), watch:
            yield watch
    finally:
        _watches.remove(watch)


def to_hosted(pipe: Any) -> Any:
    """The pipeline with its weights on the hosted device."""
    with Watch():
        return pipe.to(hosted_device())


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, whether the tensor is hosted or not."""
    return tensor.raw if isinstance(tensor, HostedTensor) else tensor
