"""How fast planned attention is beside dense attention: python -m benchmarks.attention [--device cuda].

On random tensors, warm, all kernels in turn in every repeat, medians. The ideal is 1/density times the fastest dense
kernel of the device.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from accel.attention.blocks import regions
from accel.attention.dense import all_text
from accel.attention.gather import Gather
from accel.attention.kernels import Kernel, available_kernels
from accel.attention.layout import TokenLayout
from accel.attention.methods.pooled_keys import pooled_attention, pooled_density
from accel.attention.methods.sliding_tile import tile_plan
from accel.attention.plan import KeyPlan
from accel.attention.selftest import sampled_error

if TYPE_CHECKING:
    from rich.table import Table

Run = Callable[[], torch.Tensor]


FACTOR = (1, 2, 2)  # of the blocks whose keys are averaged


class Options(NamedTuple):
    """How it is measured."""

    device: torch.device
    dtype: torch.dtype
    repeats: int
    thread_time: bool  # what the main thread computed instead of what passed


class Shape(NamedTuple):
    """The self-attention of a model."""

    name: str
    layout: TokenLayout
    heads: int
    width: int
    tiles: tuple[tuple[int, int, int], tuple[int, int, int]]  # tile in tokens, window in tiles


CPU = (
    Shape("4k", TokenLayout(16, 16, 16), 2, 64, ((4, 4, 4), (2, 2, 4))),
    Shape("16k", TokenLayout(16, 32, 32), 2, 64, ((4, 8, 8), (2, 2, 4))),
)
CUDA = (
    Shape("Wan 480p", TokenLayout(21, 30, 52), 12, 128, ((6, 8, 8), (2, 3, 5))),
    Shape("Wan 720p", TokenLayout(21, 45, 80), 40, 128, ((6, 8, 8), (2, 4, 6))),
    Shape("HunyuanVideo 720p", TokenLayout(33, 45, 80, text=256), 24, 128, ((6, 8, 8), (3, 4, 5))),
)


def plans(shape: Shape, density: float, device: torch.device) -> Iterator[tuple[str, KeyPlan]]:
    """One plan of every kind: windows of frames, of tiles, and blocks that each head chooses for itself."""
    layout = shape.layout
    frames = max(round(density * layout.frames), 1)
    yield "frames", tile_plan(layout, (1, layout.height, layout.width), (frames, 1, 1))
    yield "tiles", tile_plan(layout, *shape.tiles)
    for size in (256, 128, 64) if device.type == "cpu" else (128,):
        yield f"blocks of {size}", chosen_blocks(layout, shape.heads, size, density)


def chosen_blocks(layout: TokenLayout, heads: int, size: int, density: float) -> KeyPlan:
    """Every block of every head sees itself and others at random, as methods that look at the activations choose."""
    count = -(-layout.video // size)
    order = torch.full((count * size,), -1)
    order[: layout.video] = torch.arange(layout.video)
    scores = torch.rand(1, heads, count, count) + torch.eye(count)
    return KeyPlan(layout, order.view(count, size), scores.topk(max(round(density * count), 1)).indices)


def candidates(device: torch.device) -> list[Kernel]:
    """The kernels of the package, and what may become one."""
    found = list(available_kernels(device))
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        from benchmarks.triton_blocks import TritonBlocks

        found.append(TritonBlocks())
    return found


def dense_kernels(device: torch.device) -> Mapping[str, SDPBackend]:
    """Torch's own kernels that need no mask."""
    if device.type == "cpu":
        return {"flash": SDPBackend.FLASH_ATTENTION}
    return {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}


def measured(runs: Mapping[str, Run], options: Options) -> dict[str, float]:
    """Median milliseconds of each; those that cannot run are left out and named."""
    times: dict[str, list[float]] = {}
    for name, run in runs.items():
        try:
            run()
            times[name] = []
        except Exception as error:  # whatever it is: compilers and extensions fail in many ways
            print(f"{name} does not run here: {str(error).partition(chr(10))[0] or type(error).__name__}")
    for _ in range(options.repeats):
        for name in times:
            start = _now(options)
            runs[name]()
            times[name].append((_now(options) - start) * 1e3)
    return {name: float(np.median(some)) for name, some in times.items()}


def _now(options: Options) -> float:
    if options.device.type == "cuda":
        torch.cuda.synchronize(options.device)
    return time.thread_time() if options.thread_time else time.perf_counter()


def gathering(gather: Gather, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: KeyPlan) -> Run:
    """Only the gathering of a planned attention: what it costs over its calls of dense attention."""
    text = all_text(plan.layout, q.device)

    def run() -> torch.Tensor:
        for chunk in gather.chunks(q, k, v, gather.schedule(q, plan, text), text):
            last = chunk.k
        return last

    return run


def bench(shape: Shape, density: float, options: Options) -> Table:
    """A table of all plans and kernels for one shape."""
    device, layout, scale = options.device, shape.layout, shape.width**-0.5
    size = (1, shape.heads, layout.tokens, shape.width)
    q, k, v = (torch.randn(size, device=device, dtype=options.dtype) for _ in range(3))
    text, flops = all_text(layout, device), 4 * layout.tokens**2 * shape.width * shape.heads
    table = _table(shape, options)
    dense = {f"dense {name}": _native(backend, q, k, v, scale) for name, backend in dense_kernels(device).items()}
    dense |= _sage(q, k, v, scale)
    for name, plan in plans(shape, density, device):
        plan = KeyPlan(layout, plan.order.to(device), plan.key_blocks.to(device))
        kernels = {kernel.name: partial(kernel, q, k, v, plan, scale, text) for kernel in candidates(device)}
        alone = {"gather alone": gathering(Gather(), q, k, v, plan)}
        times = measured(dense | kernels | alone, options)
        gather_ms, fastest = times.pop("gather alone"), min(times[key] for key in dense if key in times)
        for key, ms in times.items():
            share = plan.density if key in kernels else 1.0
            error = sampled_error(kernels[key](), q, k, v, plan, scale, text) if key in kernels else None
            table.add_row(
                name, f"{share:.3f}", key, f"{ms:.1f}", f"{flops * share / ms / 1e9:.3g}", f"{fastest / ms:.2f}",
                f"{fastest / ms * share:.0%}", f"{gather_ms:.1f}" if key == "gather" else "",
                "" if error is None else f"{error:.0e}",
            )  # fmt: skip
        table.add_section()
    parts = list(regions(layout, FACTOR))
    pooled = {"pooled keys": partial(pooled_attention, q, k, v, layout, parts, scale, text, None)}
    times = measured(dense | pooled, options)
    ms, share = times.pop("pooled keys"), pooled_density(layout, parts, None)
    fastest = min(times.values())
    table.add_row(
        f"means of {FACTOR}", f"{share:.3f}", "pooled keys", f"{ms:.1f}", f"{flops * share / ms / 1e9:.3g}",
        f"{fastest / ms:.2f}", f"{fastest / ms * share:.0%}", "", "",
    )  # fmt: skip
    return table


def _table(shape: Shape, options: Options) -> Table:
    from rich.table import Table

    name = f"{shape.name}: {shape.layout.tokens} tokens, {shape.heads} heads x {shape.width}"
    table = Table(title=f"{name}, {str(options.dtype)[6:]}, {options.device.type}, {torch.get_num_threads()} threads")
    for column in ("plan", "density", "kernel", "ms", "TFLOP/s", "x dense", "of ideal", "gather ms", "largest error"):
        table.add_column(column, justify="left" if column in ("plan", "kernel") else "right")
    return table


def _native(backend: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> Run:
    def run() -> torch.Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, scale=scale)

    return run


def _sage(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> dict[str, Run]:
    """SageAttention's dense kernel where it is installed: it computes in 8 bits."""
    try:
        from sageattention import sageattn
    except ImportError:
        return {}
    return {"sage": lambda: sageattn(q, k, v, tensor_layout="HND", sm_scale=scale)}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu (4k and 16k tokens) or cuda (shapes of Wan, HunyuanVideo)")
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="only the shapes whose name contains this")
    parser.add_argument(
        "--thread-time", action="store_true", help="processor time instead of wall-clock time: one thread, busy machine"
    )
    given = parser.parse_args()
    from rich.console import Console

    device = torch.device(given.device)
    if given.thread_time:
        torch.set_num_threads(1)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    options = Options(device, dtype, given.repeats, given.thread_time)
    torch.manual_seed(0)
    console = Console(width=120)
    for shape in CPU if device.type == "cpu" else CUDA:
        if given.only in shape.name:
            console.print(bench(shape, given.density, options))


if __name__ == "__main__":
    main()
