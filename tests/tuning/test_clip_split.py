"""Which clips are searched with, and which ones are kept back."""

from __future__ import annotations

from typing import Any

import pytest

from accel.tuning.clip_split import FEWEST_HELD_OUT, PromptSeed, split_clips

PROMPTS = [f"prompt {number}" for number in range(12)]


def test_what_is_judged_on_was_not_searched_with() -> None:
    found = split_clips(PROMPTS, None, seed=5)
    assert [shot.prompt for shot in found.shots] == PROMPTS[:4]
    assert found.unseen == tuple(PromptSeed(prompt, 5) for prompt in PROMPTS[4:])


def test_few_prompts_are_held_out_with_other_seeds() -> None:
    found = split_clips(PROMPTS[:2], None, seed=0)
    assert found.held_out >= FEWEST_HELD_OUT
    assert not set(found.shots) & set(found.unseen)
    assert found.scope == "seeds"


def test_a_promise_is_about_prompts_where_some_were_put_aside() -> None:
    assert split_clips(PROMPTS, None, seed=0).scope == "prompts"
    assert split_clips(PROMPTS[:1], PROMPTS[1:3], seed=0).scope == "prompts"
    assert split_clips(PROMPTS[:2], PROMPTS[:2], seed=0).scope == "seeds"


def test_with_little_time_fewer_are_judged_on_and_the_first_ones_stay() -> None:
    found = split_clips(PROMPTS, None, seed=0)
    fewer = found.judged_on(7)
    assert fewer.unseen == found.unseen[:7] and fewer.shots == found.shots
    assert found.judged_on(0).held_out == FEWEST_HELD_OUT
    assert found.judged_on(100) == found
    assert split_clips(PROMPTS[:2], None, seed=0).judged_on(1).held_out >= FEWEST_HELD_OUT


@pytest.mark.parametrize("prompts", [None, [], "a corgi surfing", [3], iter(["a corgi surfing"])])
def test_what_is_no_list_of_prompts_is_one_sentence(prompts: Any) -> None:
    with pytest.raises(ValueError, match="prompts must be a list of one or more strings"):
        split_clips(prompts, None, seed=0)
