from __future__ import annotations

import itertools
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from accel.recipe import Recipe
from accel.rendering import Shard
from accel.rendering.fingerprint import fingerprint
from accel.rendering.jobs import Job, group_jobs
from accel.rendering.plan import make_plan
from tests.rendering.studio import worded
from tests.tiny import TINY


def test_identity_is_of_the_content_and_not_of_how_it_is_written() -> None:
    one = Job("m", "a", arguments={"x": 1, "y": {"b": 2, "a": 3}})
    assert replace(one, arguments={"y": {"a": 3, "b": 2}, "x": 1}).id == one.id
    assert replace(one, index=7, line=9, output="other").id == one.id
    assert replace(one, recipe=Recipe(name="mine").to_dict()).id == one.id, "every lever off is no recipe"
    assert len({one.id, *(replace(one, seed=seed).id for seed in range(1, 5))}) == 5
    changes = {"prompt": "b", "negative_prompt": "", "steps": 4, "width": 8, "guidance": 0.0, "format": "webp"}
    others = {replace(one, **{name: value}).id for name, value in changes.items()}  # type: ignore[arg-type]
    assert one.id not in others and len(others) == len(changes)
    assert pickle.loads(pickle.dumps(one)).id == one.id


def test_identity_follows_the_content_of_input_files(tmp_path: Path) -> None:
    def job_id(name: str) -> str:
        line = {"prompt": "a", "image": str(tmp_path / name)}
        return make_plan([line], defaults={"model": "some/model"}).jobs[0].id

    Image.new("RGB", (8, 8), "red").save(tmp_path / "one.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "copy.png")
    first = job_id("one.png")
    assert job_id("copy.png") == first
    Image.new("RGB", (8, 9), "blue").save(tmp_path / "one.png")
    assert job_id("one.png") != first


def test_shards_are_complete_and_disjoint() -> None:
    jobs = [Job("m", "a", seed=seed) for seed in range(300)]
    for count in (1, 2, 7):
        parts = [[job.id for job in jobs if Shard(number, count).holds(job)] for number in range(1, count + 1)]
        assert sorted(itertools.chain(*parts)) == sorted(job.id for job in jobs)
        assert all(len(part) > 300 / count / 2 for part in parts), "parts are of similar size"
    assert Shard.parse("3/8") == Shard(3, 8)
    for wrong in ("0/8", "9/8", "3", "a/b", "-1/2"):
        with pytest.raises(ValueError, match="a shard is like 3/8"):
            Shard.parse(wrong)


def test_groups_change_the_model_least_often_and_keep_prompts_together() -> None:
    fast = {"cache": {"method": "FixedInterval"}}
    jobs = [
        Job("one", "a", seed=0, steps=2),
        Job("two", "a", seed=0, steps=2),
        Job("one", "b", seed=0, steps=2, recipe=fast),
        Job("one", "b", seed=0, steps=2),
        Job("one", "a", seed=0, steps=9),
        Job("one", "a", seed=1, steps=2),
    ]
    order = [(job.model, bool(job.recipe), job.steps, job.prompt, job.seed) for g in group_jobs(jobs) for job in g.jobs]
    assert order == [
        ("one", False, 2, "a", 0),
        ("one", False, 2, "a", 1),
        ("one", False, 2, "b", 0),
        ("one", False, 9, "a", 0),
        ("one", True, 2, "b", 0),
        ("two", False, 2, "a", 0),
    ]


def test_a_pipeline_is_known_by_its_weights() -> None:
    first, same = worded(), worded()
    assert fingerprint(first) == fingerprint(same)
    assert fingerprint(first) != fingerprint(TINY["wan_two_experts"].build())
    next(same.transformer.parameters()).data.mul_(1.5)
    assert fingerprint(first) != fingerprint(same)
