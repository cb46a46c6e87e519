"""Renders one video on several GPUs at once, accelerated: each holds a part of the tokens (context parallelism).

    torchrun --nproc-per-node 4 examples/render_context_parallel.py --model path/to/model --prompt "a corgi surfing"

For one video that takes too long. Many videos are rendered faster one on each GPU: accel render --workers 4.

The caches' decisions are agreed on by all ranks, so that none waits for another for ever. What a cache measures of a
rank's own tokens (FirstBlockCache, TeaCache) counts where it is largest, so it skips a little less than on one GPU; a
cache that measures the latents (SeaCache), or nothing, decides as there. The denoiser's number of attention heads must
be divisible by the number of GPUs, and diffusers must know how to split it (most of its models for videos).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig

import accel
from accel.loading import load_pipeline
from accel.measure.media import encode_mp4, to_pixels
from accel.measure.metrics import to_clips

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="pocket:video", help="pocket:video, a diffusers folder, or a model id")
parser.add_argument("--prompt", default="a red circle moves left on a dark background")
parser.add_argument("--recipe", default="balanced", help="a preset or recipe file")
parser.add_argument("--steps", type=int, default=25)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("renders/one.mp4"))
options = parser.parse_args()

rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
if torch.cuda.is_available():
    device = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(device)
    dist.init_process_group("nccl")
else:
    device = "cpu"
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and a machine without accelerators has 0
    dist.init_process_group("gloo")

pipe = load_pipeline(options.model, device=device)
pipe.set_progress_bar_config(disable=rank > 0)
if ranks > 1:
    pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=ranks))
session = accel.accelerate(pipe, options.recipe)

generator = torch.Generator("cpu").manual_seed(options.seed)  # the same noise on every rank
output = pipe(options.prompt, num_inference_steps=options.steps, generator=generator, output_type="np")
if rank == 0:
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(encode_mp4(to_pixels(to_clips(output)[0]), 16.0))
    print(session.report())
    print(options.out)
dist.destroy_process_group()
