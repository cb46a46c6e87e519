"""Route: where each prompt goes, that it is right as often as promised, and what it does without a signal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accel.tuning.conformal import NEVER, Likelihood, safe_threshold, taken
from accel.tuning.models import ChoiceResult, ModelChoice, ModelFront
from accel.tuning.route import Route

BASE, CHEAP, DEAR = (ModelChoice(name, number) for number, name in enumerate(("base", "cheap", "dear")))
PROMPTS = tuple(f"{'plain' if number % 2 else 'hard'} scene {number}" for number in range(240))
SEEDS = tuple(range(240))


def front(share_lost: float = 0.0) -> ModelFront:
    """The cheap model suffices for plain scenes, and the dearer one for all but every tenth of the others."""
    random = np.random.default_rng(0)
    plain = np.array(["plain" in prompt for prompt in PROMPTS])
    cheap = plain & (random.random(len(PROMPTS)) >= share_lost)
    dear = plain | (np.arange(len(PROMPTS)) % 20 != 0)
    results = [
        ChoiceResult(choice, tuple(map(float, scores)), (seconds,) * len(PROMPTS))
        for choice, scores, seconds in ((BASE, np.ones(240), 10.0), (CHEAP, cheap, 1.0), (DEAR, dear, 4.0))
    ]
    return ModelFront((), PROMPTS, SEEDS, tuple(results))


def early(choice: ModelChoice, prompt: str, seed: int) -> float:
    """The cheap model's first step is off where the scene is hard; the other's says nothing."""
    return 0.2 if choice is CHEAP and "hard" in prompt else 0.02


def sent(route: Route, found: ModelFront) -> list[bool]:
    """Of the prompts that did not go to the base, whether the choice was good enough."""
    scores = {one.choice.label: one.scores for one in found.results}
    where = [(number, route.choose(prompt).label) for number, prompt in enumerate(PROMPTS)]
    return [scores[label][number] >= 1.0 for number, label in where if label != "base"]


def test_each_prompt_goes_to_the_cheapest_that_suffices() -> None:
    found = front()
    route = Route.learnt(found, risk=0.1, early=early)
    where = {prompt: route.choose(prompt).label for prompt in PROMPTS}
    assert {label for prompt, label in where.items() if "plain" in prompt} == {"cheap"}
    assert [label for prompt, label in where.items() if "hard" in prompt].count("dear") > 70


@pytest.mark.parametrize("share_lost", [0.0, 0.05, 0.4])
def test_the_risk_is_kept(share_lost: float) -> None:
    """By chance it may be a little more on these very prompts."""
    found = front(share_lost)
    good = sent(Route.learnt(found, risk=0.15, early=early), found)
    assert len(good) - sum(good) <= 0.2 * len(good)


@pytest.mark.parametrize("seed", range(5))
def test_with_shuffled_labels_everything_goes_to_the_base(seed: int) -> None:
    found = front()
    alone = replace(found, results=found.results[:2])  # the dearer one suffices nearly always, whatever the prompt
    assert len(sent(Route.learnt(alone, early=early), alone)) >= 120
    assert not sent(Route.learnt(alone, early=early, shuffled=seed), alone)


def test_few_prompts_promise_nothing() -> None:
    found = front()
    shown = tuple(ChoiceResult(one.choice, one.scores[:10], one.seconds[:10]) for one in found.results)
    few = ModelFront((), PROMPTS[:10], SEEDS[:10], shown)
    assert Route.learnt(few, risk=0.1, early=early).choose("plain scene").label == "base"


@pytest.mark.parametrize("risk", [0.0, 1.0, -1.0])
def test_a_risk_is_a_probability(risk: float) -> None:
    with pytest.raises(ValueError, match="risk is a probability"):
        Route.learnt(front(), risk, early=early)


def test_the_front_holds_what_nothing_beats() -> None:
    results = [
        ChoiceResult(ModelChoice(label, 0), scores, (seconds,) * 2)
        for label, scores, seconds in (
            ("base", (1.0, 1.0), 10.0),
            ("as good", (1.0, 1.0), 2.0),
            ("slow and bad", (0.0, 1.0), 3.0),
            ("quick", (0.0, 1.0), 1.0),
        )
    ]
    found = ModelFront((), ("one", "two"), (0, 1), tuple(results))
    assert [one.choice.label for one in found.front] == ["quick", "as good"]
    assert found.fastest().choice.label == "as good"
    assert found.fastest(below=0.5).choice.label == "quick"


def test_likelihoods_follow_what_tells() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(200, 3))
    likely = Likelihood(features, features[:, 1] > 0.0)
    assert likely(np.array([[0.0, 2.0, 0.0]]))[0] > 0.95 > 0.05 > likely(np.array([[0.0, -2.0, 0.0]]))[0]
    noise = Likelihood(features, random.random(200) < 0.7)
    assert noise(features).std() < 0.12


def test_thresholds_count_what_goes_wrong() -> None:
    likely = np.linspace(0.0, 0.99, 100)[:, None]
    suffices = likely > 0.5
    threshold = safe_threshold(likely, suffices, 0.1)
    assert 0.4 < threshold < 0.5, "a few that do not suffice may be taken"
    assert (~suffices[likely >= threshold]).sum() + 1 <= 0.1 * ((likely >= threshold).sum() + 1)
    assert safe_threshold(likely[:5], suffices[:5], 0.1) == NEVER
    assert taken(np.array([[0.2, 0.9], [0.1, 0.3]]), 0.5).tolist() == [1, 2]
