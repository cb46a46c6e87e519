"""A tiny pipeline that takes prompts, and what the tests of rendering look at."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, WanPipeline

from tests.tiny import TINY

SMALL = {"size": 16, "frames": 5, "steps": 2, "guidance": 2.0}


class Worded(WanPipeline):  # type: ignore[misc]
    """The tiny Wan pipeline, whose prompts become embeddings without a text encoder. It counts what it is asked for."""

    calls: list[str | list[str]]
    encoded: list[str]

    def _get_word_prompt_embeds(self, prompt: str | list[str]) -> torch.Tensor:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        self.encoded += prompts
        seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in prompts]
        return torch.stack([torch.randn(4, 24, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def encode_prompt(
        self, prompt: Any = None, negative_prompt: Any = None, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        negative = negative_prompt or ""
        negatives = [negative] * len(prompts) if isinstance(negative, str) else negative
        return self._get_word_prompt_embeds(prompt=prompts), self._get_word_prompt_embeds(prompt=negatives)

    def __call__(self, prompt: Any = None, **options: Any) -> Any:
        self.calls.append(prompt)
        if "poison" in (prompt if isinstance(prompt, str) else " ".join(prompt)):
            raise RuntimeError("the prompt is poisoned")
        return super().__call__(prompt=prompt, **options)


def worded() -> Worded:
    """A fresh pipeline, always with the same weights."""
    pipe = Worded(**TINY["wan"].build().components)
    vars(pipe).update(calls=[], encoded=[])
    return pipe


def direct(pipe: DiffusionPipeline, prompt: str, seed: int = 0, **options: Any) -> Any:
    """The pixels that a plain call of the pipeline gives for a job with the fields SMALL."""
    arguments = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 2.0}
    output = pipe(prompt, generator=torch.Generator().manual_seed(seed), **(arguments | options))
    return (output.frames[0] * 255).round().astype("uint8")


def ledger_lines(folder: Path) -> list[dict[str, Any]]:
    """What all ledgers of a folder say, torn lines left out."""
    found = []
    for path in sorted(folder.glob("ledger*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return found


def check_exactly_once(folder: Path, jobs: int) -> None:
    """Every job has one line "ok" and one file, whole, and nothing else lies about."""
    done = [entry for entry in ledger_lines(folder) if entry["status"] == "ok"]
    assert Counter(entry["id"] for entry in done) == Counter({entry["id"]: 1 for entry in done})
    assert len(done) == jobs
    for entry in done:
        assert hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert media_files(folder) == sorted(entry["file"] for entry in done)
    assert [path for parts in (folder / ".accel").glob("parts*") for path in parts.iterdir()] == []


def media_files(folder: Path) -> list[str]:
    suffixes = (".png", ".webp", ".mp4")
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in suffixes)
