"""A job decoded while the next is denoised, beside a plain loop: python -m benchmarks.rendering_overlap.

The pocket video model with a slow decoder: diffusers' own of Wan, with random weights, of a width at which it takes
about as long as the denoiser; or with --waits its own, which waits as one on another device would, because a busy
machine may give a process no second core whatever it asks for. A mixed manifest: prompts, seeds, sizes, lengths and
recipes. The plain loop is `pipe(**job)` and then the file. All take turns in every round, in one process, and their
files are compared.

Wall-clock times of a busy machine are noise that is never negative, so the least of all rounds is told beside the
median; processor time tells what was computed. Seconds by stage are those of the plain loop.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLWan
from rich.console import Console
from rich.table import Table

import accel
from accel.loading import load_pipeline
from accel.measure.output import outputs_of
from accel.measure.pipeline_runs import without_progress_bars
from accel.patch import Wrapper
from accel.pocket import prompts
from accel.rendering.encoding import encode
from accel.rendering.jobs import Job
from benchmarks.rendering import Pass, in_turn

SHAPES = ((64, 9), (96, 5), (64, 17))  # pixels of a side, frames
RECIPES = ("off", "balanced", "fast")
STEPS = 8  # half of them where the decoder only waits
STAGES = {"before": "text", "denoise": "denoising", "after": "decoding"}


class Times(NamedTuple):
    """Seconds of one pass: what passed, and what was computed."""

    wall: float
    computed: float


def slow_decoder(width: int, channels: int) -> AutoencoderKLWan:
    """Wan's autoencoder with random weights for latents of so many channels. It makes no pictures worth a look."""
    torch.manual_seed(0)
    scale = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
    return AutoencoderKLWan(base_dim=width, z_dim=channels, num_res_blocks=1, **scale).eval()


def waiting_decoder(vae: Any, seconds: float) -> Any:
    """The autoencoder, whose decoder first waits."""

    def decode(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return inner(*args, **kwargs)

    Wrapper(vae, "decode", decode, everywhere=True)
    return vae


def lines_of(jobs: int, steps: int) -> list[dict[str, Any]]:
    """In the order in which `render` takes them, so that the plain loop attaches each recipe once as well."""
    texts = prompts(3, seed=0)
    lines = []
    for number in range(jobs):
        (side, frames), recipe = SHAPES[number // 2 % 3], RECIPES[number * 3 // jobs]
        lines.append(
            {
                "prompt": texts[number % 3],
                "seed": number,
                "size": side,
                "frames": frames,
                "recipe": recipe,
                "steps": steps,
            }
        )
    return lines


def plain_loop(pipe: Any, lines: list[dict[str, Any]], spent: dict[str, list[float]]) -> Pass:
    """What one would write without `accel render`; the seconds of its stages go to `spent`."""

    def run(folder: Path) -> None:
        recipe, stages = "off", dict.fromkeys([*STAGES.values(), "file"], 0.0)
        session = accel.accelerate(pipe, accel.Recipe())
        for number, line in enumerate(lines):
            if line["recipe"] != recipe:
                recipe = line["recipe"]
                session = accel.accelerate(pipe, recipe)
            output = pipe(
                line["prompt"], height=line["size"], width=line["size"], num_frames=line["frames"],
                num_inference_steps=line["steps"], generator=torch.Generator("cpu").manual_seed(line["seed"]),
            )  # fmt: skip
            start = time.perf_counter()
            data, suffix = encode(Job("plain"), outputs_of(output)[0], embed=False)
            (folder / f"{number}{suffix}").write_bytes(data)
            stages["file"] += time.perf_counter() - start
            for phase, stage in STAGES.items():
                stages[stage] += session.report().seconds[phase]
        accel.restore(pipe)
        for stage, seconds in stages.items():
            spent.setdefault(stage, []).append(seconds)

    return run


def rendering(pipe: Any, lines: list[dict[str, Any]], *, overlap: bool) -> Pass:
    def run(folder: Path) -> None:
        summary = accel.render(pipe, lines, folder, overlap=overlap, embed=False, progress_bar=False)
        if not summary.complete or summary.notes:
            raise RuntimeError(str(summary))

    return run


def timed(run: Pass) -> tuple[Times, list[str]]:
    """What a pass took, and the hashes of its clips."""
    with TemporaryDirectory() as folder:
        wall, computed = time.perf_counter(), time.process_time()
        run(Path(folder))
        times = Times(time.perf_counter() - wall, time.process_time() - computed)
        files = sorted(Path(folder).glob("*.mp4"))
        return times, sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def measured(runs: dict[str, Pass], rounds: int) -> dict[str, list[Times]]:
    """All in turn in every round, each time beginning with another one, after one that is not counted."""
    found: dict[str, list[Times]] = {name: [] for name in runs}
    clips = {name: timed(run)[1] for name, run in runs.items()}
    for name in in_turn(list(runs), rounds):
        times, made = timed(runs[name])
        found[name].append(times)
        clips[name] = clips[name] if clips[name] == made else []
    if any(made != clips["plain loop"] or not made for made in clips.values()):
        raise RuntimeError("the clips of a render are not those of the plain loop")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=6, help="jobs of a pass (6)")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each (3)")
    parser.add_argument("--width", type=int, default=12, help="of the decoder (12)")
    parser.add_argument(
        "--waits", type=float, default=0.0, help="seconds for which the pocket model's own decoder waits"
    )
    options = parser.parse_args()
    pipe = load_pipeline("pocket:video")
    channels = pipe.vae.config.z_dim
    pipe.vae = waiting_decoder(pipe.vae, options.waits) if options.waits else slow_decoder(options.width, channels)
    lines, spent = lines_of(options.jobs, STEPS // 2 if options.waits else STEPS), dict[str, list[float]]()
    runs = {"plain loop": plain_loop(pipe, lines, spent)}
    runs |= {"render": rendering(pipe, lines, overlap=False), "render, overlap": rendering(pipe, lines, overlap=True)}
    with without_progress_bars(pipe):
        found = measured(runs, options.rounds)
    report(found, spent, options)


def report(found: dict[str, list[Times]], spent: dict[str, list[float]], options: argparse.Namespace) -> None:
    title = f"{torch.get_num_threads()} threads of torch in each lane, {options.jobs} jobs, {options.rounds} rounds"
    table = Table(title=title)
    for column in ("", "least s", "median s", "computed s", "speed, least", "speed, median"):
        table.add_column(column, justify="left" if not column else "right")
    plain = found["plain loop"]
    for name, times in found.items():
        least, median = min(one.wall for one in times), statistics.median(one.wall for one in times)
        ratios = [one.wall / other.wall for one, other in zip(plain, times, strict=True)]
        computed = statistics.median(one.computed for one in times)
        least_of_plain = min(one.wall for one in plain)
        table.add_row(
            name, f"{least:.2f}", f"{median:.2f}", f"{computed:.2f}",
            f"{least_of_plain / least:.2f}", f"{statistics.median(ratios):.2f}",
        )  # fmt: skip
    Console(width=120).print(table)
    stages = ", ".join(f"{stage} {min(seconds):.2f}" for stage, seconds in spent.items())
    print(f"The files are the same bytes. Seconds of a plain pass by stage, the least of each: {stages}.")


if __name__ == "__main__":
    main()
