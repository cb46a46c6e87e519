"""What one computed step costs in fewer bits, beside what else can be had, and how far its output is off.

    python -m benchmarks.precision --tokens 1024 4096
    python -m benchmarks.precision --memory --layers 12
    python -m benchmarks.precision --decoders
    python -m benchmarks.precision --halves --tokens 256 --layers 2

A stock Wan transformer with random weights. All are measured in turns in one process, after a run that is not counted.
Each row has the least processor time of the rounds and the least wall-clock time: on a machine with other work the
first is the one to look at. The error is that of the output relative to the float32 output, in the 2-norm.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

import accel
from accel import cli
from accel.precision import BFloat16, Float32, Int8, Int8Weights, measure
from accel.precision.decoder import DecoderLever
from accel.precision.methods.float32 import HALVES
from accel.recipe import Recipe
from accel.terminal import show
from benchmarks.command import command_of
from benchmarks.int8_elsewhere import converted

HEAD, TEXT = 128, (128, 512)  # channels of a head; tokens of the prompt and their channels
OURS = {
    "accel BFloat16": Recipe(precision=BFloat16()),
    'accel BFloat16(attention="own")': Recipe(precision=BFloat16(attention="own")),
    "accel Int8": Recipe(precision=Int8()),
    "accel Int8Weights": Recipe(precision=Int8Weights(memory="beside")),  # files are written once for a whole run
}

REPLACED = {
    "Int8Weights()": Recipe(precision=Int8Weights(min_tokens=2)),
    'Int8(memory="replace")': Recipe(precision=Int8(min_tokens=2, memory="replace")),
    'BFloat16(memory="replace")': Recipe(precision=BFloat16(min_tokens=2, memory="replace")),
}

Step = Callable[[], torch.Tensor]


def transformer(width: int, layers: int) -> WanTransformer3DModel:
    """With random weights, also where diffusers initialises to zero, so that every block matters."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=width // HEAD, attention_head_dim=HEAD, in_channels=16,
        out_channels=16, text_dim=TEXT[1], freq_dim=256, ffn_dim=4 * width, num_layers=layers, rope_max_seq_len=128,
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data.normal_(0, 0.02)
    return model


def inputs(tokens: int) -> dict[str, torch.Tensor]:
    """Latents of so many tokens, one frame of them, with the time and a prompt."""
    draw, side = torch.Generator().manual_seed(1), 2 * round(tokens**0.5)
    return {
        "hidden_states": torch.randn(1, 16, 1, side, side, generator=draw),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": torch.randn(1, *TEXT, generator=draw),
    }


def step_of(model: Any, given: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> Step:
    """One evaluation, with inputs in this data type."""
    cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()}

    def step() -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = model(**cast, return_dict=False)[0]
        return output.float()

    return step


def accelerated(
    model: Any, given: dict[str, torch.Tensor], recipe: Recipe, stack: ExitStack, dtype: torch.dtype = torch.float32
) -> Step:
    """One evaluation in a denoising loop with this recipe."""
    pipe = WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(), model)
    step, session = step_of(model, given, dtype), stack.enter_context(accel.accelerate(pipe, recipe))

    def measured() -> torch.Tensor:
        with session.running():
            pipe.scheduler.set_timesteps(4)
            return step()

    return measured


def candidates(model: Any, given: dict[str, torch.Tensor], stack: ExitStack, compiled: bool) -> dict[str, Step]:
    """What is compared, the reference first; other libraries where they are installed."""
    found = {"float32": step_of(model, given)}
    found[".to(bfloat16)"] = step_of(copy.deepcopy(model).to(torch.bfloat16), given, torch.bfloat16)
    others, left_out = converted(model, lambda model: step_of(model, given)())
    found |= {name: step_of(other, given) for name, other in others.items()}
    if compiled:
        found["torch.compile"] = step_of(torch.compile(copy.deepcopy(model)), given)
        found |= {f"{name}, compiled": step_of(torch.compile(other), given) for name, other in others.items()}
    if left_out:
        show(*left_out)
    pipe = WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(), model)
    chosen = Recipe(precision=measure(pipe, lambda pipe: found["float32"]()))
    for name, recipe in {**OURS, "accel measured": chosen}.items():
        found[name] = accelerated(model, given, recipe, stack)
    return found


def timed(steps: dict[str, Step], rounds: int) -> list[tuple[str, float, float, float]]:
    """Name, least processor time, least wall-clock time, relative error."""
    outputs = {name: step() for name, step in steps.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            busy, wall = time.process_time(), time.perf_counter()
            step()
            seconds[name].append((time.process_time() - busy, time.perf_counter() - wall))
    reference = next(iter(outputs.values()))
    error = {name: float((output - reference).norm() / reference.norm()) for name, output in outputs.items()}
    return [
        (name, min(busy for busy, _ in found), min(wall for _, wall in found), error[name])
        for name, found in seconds.items()
    ]


def show_rows(title: str, rows: Sequence[tuple[str, float, float, float]], slower: str = "") -> None:
    """A table beside its first row: how many times as fast, or as slow under that heading."""
    show(f"\n| {title} | processor s | {slower or 'gain'} | wall-clock s | error |\n| --- | --- | --- | --- | --- |")
    for name, busy, wall, error in rows:
        ratio = busy / rows[0][1] if slower else rows[0][1] / busy
        show(f"| {name} | {busy:.3f} | {ratio:.2f} | {wall:.3f} | {error:.2%} |")


def memory(options: argparse.Namespace) -> None:
    """What the weights of a denoiser take of main memory in an accelerated step, beside what they take without."""
    before = anonymous_memory()
    model = transformer(options.width, options.layers)
    alone, given = anonymous_memory() - before, inputs(64)
    show(f"\n| {alone / 2**20:.0f} MiB of weights | MiB in a step | share |\n| --- | --- | --- |")
    for name, recipe in REPLACED.items():
        found: list[int] = []
        with ExitStack() as stack, torch.no_grad():
            hook = model.proj_out.register_forward_hook(lambda *_, found=found: found.append(anonymous_memory()))
            stack.callback(hook.remove)
            accelerated(model, given, recipe, stack)()
        taken = found[-1] - before
        show(f"| {name} | {taken / 2**20:.0f} | {taken / alone:.2f} |")


def decoders(options: argparse.Namespace) -> None:
    """What decoding costs in fewer bits: Stable Diffusion's decoder for 128x128 pixels, half of Wan's for 64x64x5."""
    torch.manual_seed(0)
    pictures = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2,
    ).eval()  # fmt: skip
    clips = AutoencoderKLWan(base_dim=48).eval()
    for autoencoder, shape in ((pictures, (1, 4, 16, 16)), (clips, (1, 16, 2, 8, 8))):
        latents = torch.randn(shape)
        half = copy.deepcopy(autoencoder).to(torch.bfloat16)
        pipe = SimpleNamespace(vae=copy.deepcopy(autoencoder))
        lever = DecoderLever(BFloat16())
        lever.accompany(vars(pipe))
        steps = {
            "float32": decoding(autoencoder, latents),
            ".to(bfloat16)": decoding(half, latents.bfloat16()),
            'accel BFloat16(decoder="16 bits")': decoding(pipe.vae, latents),
        }
        show_rows(type(autoencoder).__name__, timed(steps, options.rounds))
        lever.end()


def halves(options: argparse.Namespace) -> None:
    """What a model that is in 16 bits costs on this processor, beside itself in float32, and with `Float32`."""
    model, recipe = transformer(options.width, options.layers), Recipe(precision=Float32())
    for tokens in options.tokens:
        given = inputs(tokens)
        steps = {"float32": step_of(model, given)}
        with ExitStack() as stack:
            for dtype in HALVES:
                half, name = copy.deepcopy(model).to(dtype), str(dtype).removeprefix("torch.")
                steps[f".to({name})"] = step_of(half, given, dtype)
                steps[f"accel Float32 of {name}"] = accelerated(half, given, recipe, stack, dtype)
            rows = timed(steps, options.rounds)
        show_rows(f"{tokens} tokens", rows, slower="times float32")


def decoding(autoencoder: Any, latents: torch.Tensor) -> Step:
    def step() -> torch.Tensor:
        with torch.no_grad():
            pixels: torch.Tensor = autoencoder.decode(latents).sample
        return pixels.float()

    return step


def anonymous_memory() -> int:
    """Bytes of this process that no file holds too."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))


def table(options: argparse.Namespace) -> None:
    """What one computed step costs in fewer bits, beside what else can be had."""
    model = transformer(options.width, options.layers)
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    show(f"Wan transformer, width {options.width}, {options.layers} layers, {size:.0f} M parameters, random weights; "
         f"{torch.get_num_threads()} threads")  # fmt: skip
    for tokens in options.tokens:
        with ExitStack() as stack:
            rows = timed(candidates(model, inputs(tokens), stack, options.compile), options.rounds)
        show_rows(f"{tokens} tokens", rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = command_of("benchmarks.precision", table)
    parser.add_argument("--width", type=int, default=1024, help="channels, a multiple of 128")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096], help="square numbers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes first")
    parser.add_argument("--decoders", action="store_true", help="instead: what decoding costs")
    parser.add_argument("--memory", action="store_true", help="instead: what weights take of main memory")
    parser.add_argument("--halves", action="store_true", help="instead: a model that is in 16 bits itself")
    options = parser.parse_args(argv)
    for name, command in (("memory", memory), ("decoders", decoders), ("halves", halves)):
        if getattr(options, name):
            options.command = command
    return cli.run(options)


if __name__ == "__main__":
    sys.exit(main())
