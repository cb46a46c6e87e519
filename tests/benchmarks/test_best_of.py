"""The measurement of `best_of`: it goes on where it was, and its table says what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from accel.pocket.scenes import Caption, captions, render, sample_scene
from benchmarks.best_of import PLAIN, Outcome, _left, kept, table
from benchmarks.rankers import ranker, verdict
from benchmarks.second_verifier import WORDS, bent, cut_out, stacked, varied


def outcome(way: str, prompt: str, correct: bool, seconds: float) -> Outcome:
    return Outcome(way, prompt, 0, correct, 0.7, seconds, 6, {"second": correct} if way == PLAIN else None)


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    first = kept(tmp_path, {"seeds": 6})
    first.add(outcome(PLAIN, "one", True, 3.0))
    again = kept(tmp_path, {"seeds": 6})
    assert list(again.values()) == list(first.values())
    assert [(way, prompt) for way, prompt, _ in _left(again, ["one", "two"], 6, ["second"])] == [
        ("second", "one"),
        (PLAIN, "two"),
        ("second", "two"),
    ]
    with pytest.raises(ValueError, match="holds runs with other settings"):
        kept(tmp_path, {"seeds": 8})


def test_the_table_compares_each_way_with_one_seed_on_its_own_prompts() -> None:
    rows = [outcome(PLAIN, prompt, prompt != "b", 4.0) for prompt in "abcd"]
    rows += [outcome("second", prompt, True, 3.0) for prompt in "abc"]
    found = table(rows)
    assert f"{PLAIN} | 75% [30, 95] of 4" in found
    assert "second | 100% [44, 100] of 3 | 67% [21, 94] of 3 | 6.0 | 0.70x | 0.75x [0.75, 0.75]" in found


def test_a_random_ranker_says_the_same_of_the_same_clip() -> None:
    clip, other = np.zeros((2, 8, 8, 3), np.float32), np.ones((2, 8, 8, 3), np.float32)
    score = ranker("random", None)
    assert score(clip, "a prompt") == score(clip, "a prompt") != score(other, "a prompt")
    assert verdict("random", score, None, clip, "a prompt") is (score(clip, "a prompt") >= 0.5)


def test_words_follow_what_is_done_to_their_clip() -> None:
    """A mirrored clip that moved left moves right, and red with exchanged primaries is another colour: in each case the
    varied clip is what its new caption would render.
    """
    scene = sample_scene(np.random.default_rng(3), Caption("red", "circle", "moves left", "dark"))
    frames = stacked(torch.from_numpy(render(scene)[None]))
    labels = torch.tensor([[list(words).index(getattr(scene.caption, name)) for name, words in WORDS.items()]])
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        shown, truth = varied(frames, labels)
        words = {name: WORDS[name][int(truth[0, number])] for number, name in enumerate(WORDS)}
        hue = shown.unflatten(1, (6, 3))[0, 0].flatten(1)
        main = hue[:, (hue.max(0).values - hue.min(0).values).argmax()].argmax()
        assert words["colour"] == ("red", "green", "blue")[int(main)]
        assert words["motion"] in ("moves left", "moves right") and words["shape"] == "circle"
        seen.add((words["colour"], words["motion"]))
    assert len(seen) >= 4


def test_the_object_is_cut_out_in_the_middle_wherever_it_is() -> None:
    scenes = [sample_scene(np.random.default_rng(seed), captions()[0]) for seed in (1, 2)]
    cuts = cut_out(torch.cat([stacked(torch.from_numpy(render(scene)[None])) for scene in scenes]))
    assert cuts.shape == (2, 2, 32, 32)
    line = torch.arange(32) - 15.5
    for cut in cuts[:, 0]:
        assert abs(float((cut.sum(0) @ line) / cut.sum())) < 1.5 and abs(float((cut.sum(1) @ line) / cut.sum())) < 1.5


def test_the_worse_a_shape_is_the_less_of_it_is_left() -> None:
    cut = torch.zeros(1, 2, 32, 32)
    cut[..., 8:24, 8:24] = 1.0
    found, badly = bent(cut.expand(400, -1, -1, -1))
    apart = (found - cut).square().mean((1, 2, 3))
    assert float(badly.min()) >= 0.0 and float(badly.max()) <= 1.0
    assert float(apart[badly > 0.8].mean()) > 2 * float(apart[badly < 0.2].mean())
