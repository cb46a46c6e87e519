"""Recipes are plain data: what is written is what is read, and nonsense is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import accel
from accel import (
    FORA,
    PAB,
    AdaCache,
    Align,
    DBCache,
    DeepCache,
    DiCache,
    EasyCache,
    Extrapolate,
    FirstBlockCache,
    FittedSchedule,
    FixedInterval,
    LastOutput,
    LastResidual,
    MagCache,
    OptimalSchedule,
    PlannedDeepCache,
    SeaCache,
    SmoothCache,
    StaticSchedule,
    TeaCache,
    TGate,
)
from accel.caching.run_fit import RunFit
from accel.method import Method

GUARDS: dict[str, Any] = {"warmup": 5, "final": 2, "max_skips": 3, "min_steps": 7}
FIT = RunFit(
    ("transformer", "WanTransformer3DModel", "flow", "UniPCMultistepScheduler"),
    1000,
    sigmas=(1.0, 0.5, 0.0),
    updates=(1.0, -0.5, -0.5),
    first=0,
    computed=(0,),
    weights=((1.1,), (0.9,)),
    ahead=((),),
    errors=(0.0,),
    guidance=(("guidance_scale", 5.0),),
)
METHODS = [
    FixedInterval(4, predictor=LastOutput(), **GUARDS),
    EasyCache(0.02, predictor=LastResidual(), **GUARDS),
    SeaCache(0.5, power=2.5, predictor=Extrapolate(1, limit=0.25, space="x0"), **GUARDS),
    TeaCache(0.3, coefficients=(1.5, -2.0, 0.25), signal="time_embedding", fitted_range=(0.1, 0.9), clamp=0, **GUARDS),
    OptimalSchedule(0.3, **GUARDS),
    StaticSchedule((1.0, 0.9, 0.5), **GUARDS),
    FittedSchedule(0.5, outputs=2, rough=2.0, fit=FIT),
    FirstBlockCache(0.08, **GUARDS),
    DBCache(0.1, first=2, mask=(1, 0), policy="static", **GUARDS),
    DiCache(0.2, depth=2, mode="delta_minus", predictor=Align(2.0), **GUARDS),
    FORA(5, warmup=4, final=2, min_steps=7),
    PAB(cross=4, spatial=3, temporal=5, window=(50, 900)),
    TGate(0.3, self_interval=4, warmup=3),
    AdaCache(codebook=(0.1, 4, 0.2, 2), otherwise=1),
    SmoothCache(0.2, most=2),
    DeepCache(4, branch=1, warmup=2, line=0.5),
    PlannedDeepCache(0.3, interval=3, branch=1, line=0.4, **GUARDS),
    MagCache(0.06, most=2, retention=0.1, ratios=(1.0, 0.98, 0.9), predictor=Extrapolate(0), **GUARDS),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_recipe_survives_a_file(method: Method, tmp_path: Path) -> None:
    recipe = accel.Recipe(cache=method, name="mine")
    recipe.save(tmp_path / "new folder" / "recipe.json")
    again = accel.Recipe.load(tmp_path / "new folder" / "recipe.json")
    assert again == recipe and again.name == "mine"
    assert accel.Recipe.from_dict(json.loads(recipe.to_json())) == recipe
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["recipe.json"]


def test_every_method_is_tried() -> None:
    assert {type(method).__name__ for method in METHODS} == set(Method.registry["cache"])
    caches = [method for method in METHODS if isinstance(method, accel.caching.CacheMethod)]
    predictors = {type(method.predictor).__name__ for method in caches}
    assert predictors == set(Method.registry["predictor"])


# What the methods of the other levers cannot be made without.
NEEDS: dict[str, dict[str, Any]] = {
    "LinearAG": {"sigmas": (1.0, 0.5, 0.0), "rows": ((), (0.9, 0.1, 0.0))},
    "ModelSwitch": {"model": "few"},
    "ReDi": {"bank": "folder of a bank"},
    "SigmaTable": {"sigmas": (1.0, 0.5, 0.25)},
}
SIGMAS = Method.registry["sigmas"]


@pytest.mark.parametrize("name", Method.registry["guidance"])
def test_every_guidance_method_survives_a_file(name: str, tmp_path: Path) -> None:
    survives(accel.Recipe(guidance=Method.registry["guidance"][name](**NEEDS.get(name, {}))), tmp_path)


@pytest.mark.parametrize("name", Method.registry["sampler"])
def test_every_sampler_survives_a_file_with_its_noise_levels(name: str, tmp_path: Path) -> None:
    common: dict[str, Any] = {"steps": 0.5, "sigmas": SIGMAS["Karras"]()}
    survives(accel.Recipe(sampler=Method.registry["sampler"][name](**NEEDS.get(name, {}), **common)), tmp_path)


@pytest.mark.parametrize("name", SIGMAS)
def test_every_schedule_of_noise_levels_survives_a_file(name: str, tmp_path: Path) -> None:
    sampler = Method.registry["sampler"]["Euler"]
    survives(accel.Recipe(sampler=sampler(sigmas=SIGMAS[name](**NEEDS.get(name, {})))), tmp_path)


def test_a_second_class_of_a_name_is_refused_and_a_class_made_anew_is_not() -> None:
    known = Method.registry["cache"]["FixedInterval"]
    with pytest.raises(
        TypeError, match=r"There is a cache called FixedInterval already, in accel\.caching\.methods\.fixed_interval: "
    ) as no:
        type("FixedInterval", (Method,), {"__module__": __name__}, lever="cache")
    assert str(no.value).endswith(".") and "\n" not in str(no.value)
    assert Method.registry["cache"]["FixedInterval"] is known
    try:
        first, second = (type("Twice", (Method,), {"__module__": "__main__"}, lever="cache") for _ in range(2))
        assert first is not second and Method.registry["cache"]["Twice"] is second  # a notebook's cell run twice
    finally:
        del Method.registry["cache"]["Twice"]


def survives(recipe: accel.Recipe, folder: Path) -> None:
    recipe.save(folder / "recipe.json")
    assert accel.Recipe.load(folder / "recipe.json") == recipe
    assert accel.Recipe.from_dict(json.loads(recipe.to_json())) == recipe


def test_an_empty_recipe_survives_a_file(tmp_path: Path) -> None:
    accel.Recipe().save(tmp_path / "recipe.json")
    assert accel.Recipe.load(tmp_path / "recipe.json") == accel.Recipe()


def test_a_recipe_without_anything_is_none() -> None:
    with pytest.raises(ValueError, match="This recipe is empty"):
        accel.Recipe.from_dict({})


def test_left_out_parameters_take_their_defaults() -> None:
    recipe = accel.Recipe.from_dict({"cache": {"method": "EasyCache"}})
    assert recipe == accel.Recipe(cache=EasyCache())


EASY = {"method": "EasyCache"}
MALFORMED: dict[str, tuple[str, str]] = {
    "not JSON": ("{cache", "is not JSON: Expecting property name enclosed in double quotes in line 1"),
    "empty": ("", "is not JSON"),
    "a list": ("[1, 2]", "A recipe is a JSON object"),
    "a string": ('"fast"', "A recipe is a JSON object"),
    "null": ("null", "A recipe is a JSON object"),
    "another schema": (json.dumps({"schema": 99}), "schema 99, but this version reads schema 1"),
    "an unknown lever": (json.dumps({"cahce": EASY}), "'cahce' is not a field of a recipe; did you mean cache"),
    "an unknown field": (json.dumps({"zzz": 1}), "the levers are cache, attention"),
    "a lever without a method": (
        json.dumps({"cache": {"threshold": 1}}),
        'cache must be an object with a "method" name',
    ),
    "a lever that is a number": (json.dumps({"cache": 5}), 'cache must be an object with a "method" name'),
    "an unknown method": (json.dumps({"cache": {"method": "EasyCash"}}), "cache.method 'EasyCash' is not known"),
    "a method that is a list": (json.dumps({"cache": {"method": ["EasyCache"]}}), "is not known"),
    "a method of another lever": (json.dumps({"guidance": EASY}), "guidance.method 'EasyCache' is not known"),
    "an unknown parameter": (
        json.dumps({"cache": EASY | {"treshold": 1}}),
        "cache.treshold is not a parameter of EasyCache; did you mean threshold",
    ),
    "a parameter out of range": (
        json.dumps({"cache": EASY | {"threshold": -1}}),
        "cache: EasyCache.threshold must be a number from 0, not -1",
    ),
    "a parameter of the wrong type": (
        json.dumps({"cache": EASY | {"threshold": "0.1"}}),
        "EasyCache.threshold must be a number from 0, not '0.1'",
    ),
    "not a number": ('{"cache": {"method": "EasyCache", "threshold": NaN}}', "must be a number from 0, not nan"),
    "half a step": (
        json.dumps({"cache": {"method": "FixedInterval", "interval": 2.5}}),
        "FixedInterval.interval must be a whole number from 1 to 1000, not 2.5",
    ),
    "an unknown predictor": (
        json.dumps({"cache": EASY | {"predictor": {"method": "Oracle"}}}),
        "cache.predictor.method 'Oracle' is not known; choose one of: ",
    ),
    "a cache of diffusers": (
        json.dumps({"cache": {"method": "DiffusersCache", "config": "FirstBlockCacheConfig"}}),
        "cache.method DiffusersCache: diffusers' own caches are no method of accel any more: leave it out here",
    ),
    "a cache that is gone": (
        json.dumps({"cache": {"method": "TextKeyValueCache", "then": EASY}}),
        "cache.method TextKeyValueCache: it saved 1-3 % of the time for up to a gigabyte and is gone: take the cache",
    ),
    "a predictor that is a word": (
        json.dumps({"cache": EASY | {"predictor": "LastOutput"}}),
        'cache.predictor must be an object with a "method" name',
    ),
    "no predictor": (json.dumps({"cache": EASY | {"predictor": None}}), "EasyCache.predictor must be one of"),
    "a wrong choice": (
        json.dumps({"cache": EASY | {"predictor": {"method": "Extrapolate", "space": "latent"}}}),
        "Extrapolate.space must be one of auto, output, x0, not 'latent'",
    ),
    "coefficients that are words": (
        json.dumps({"cache": {"method": "TeaCache", "coefficients": ["a"]}}),
        "TeaCache.coefficients must be a tuple of some numbers",
    ),
    "one ratio": (json.dumps({"cache": {"method": "MagCache", "ratios": [1.0]}}), "at least two numbers"),
    "a model without constants": (
        json.dumps({"cache": {"method": "TeaCache", "model": "none"}}),
        "no published set for model='none'",
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_recipe_file_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    text, expected = MALFORMED[what]
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(ValueError) as refusal:
        accel.Recipe.load(path)
    message = str(refusal.value)
    assert expected in message
    assert message.startswith(str(path))
    assert message.endswith(".") and "\n" not in message


@pytest.mark.parametrize("kind", ["missing", "folder", "not text"])
def test_a_file_that_cannot_be_read_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    path = {"missing": tmp_path / "none.json", "folder": tmp_path, "not text": tmp_path / "binary.json"}[kind]
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError) as refusal:
        accel.Recipe.load(path)
    assert str(path) in str(refusal.value) and str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "negative": (lambda: EasyCache(-0.1), ValueError, "EasyCache.threshold must be a number from 0, not -0.1."),
    "nan": (lambda: SeaCache(float("nan")), ValueError, "SeaCache.threshold must be a number from 0, not nan."),
    "text": (lambda: EasyCache("0.1"), ValueError, "EasyCache.threshold must be a number from 0, not '0.1'."),  # type: ignore[arg-type]
    "none": (lambda: EasyCache(None), ValueError, "EasyCache.threshold must be a number from 0, not None."),  # type: ignore[arg-type]
    "truth": (lambda: EasyCache(True), ValueError, "EasyCache.threshold must be a number from 0, not True."),
    "zero interval": (
        lambda: FixedInterval(0),
        ValueError,
        "FixedInterval.interval must be a whole number from 1 to 1000, not 0.",
    ),
    "fraction": (
        lambda: FixedInterval(2.0),  # type: ignore[arg-type]
        ValueError,
        "FixedInterval.interval must be a whole number from 1 to 1000, not 2.0.",
    ),
    "retention": (
        lambda: MagCache(retention=1.5),
        ValueError,
        "MagCache.retention must be a number from 0 to 1, not 1.5.",
    ),
    "warmup": (
        lambda: FixedInterval(warmup=0),
        ValueError,
        "FixedInterval.warmup must be a whole number from 1 to 1000, not 0.",
    ),
    "order": (lambda: Extrapolate(3), ValueError, "Extrapolate.order must be a whole number from 0 to 2, not 3."),
    "signal": (
        lambda: TeaCache(signal="text"),
        ValueError,
        "TeaCache.signal must be one of auto, modulated_input, time_embedding, time_projection, not 'text'.",
    ),
    "predictor": (
        lambda: EasyCache(predictor=5),  # type: ignore[arg-type]
        TypeError,
        "EasyCache.predictor must be one of LastOutput, LastResidual, Extrapolate, Align, not 5.",
    ),
    "cache as predictor": (
        lambda: FixedInterval(predictor=FixedInterval()),  # type: ignore[arg-type]
        TypeError,
        "FixedInterval.predictor must be one of",
    ),
    "nan coefficient": (
        lambda: TeaCache(coefficients=(1.0, float("nan"))),
        ValueError,
        "TeaCache.coefficients must be a tuple of some numbers",
    ),
    "infinite ratio": (
        lambda: MagCache(ratios=(1.0, float("inf"))),
        ValueError,
        "MagCache.ratios must be a tuple of at least two numbers",
    ),
    "method in the wrong lever": (
        lambda: accel.Recipe(guidance=EasyCache()),
        TypeError,
        "is not a method of the guidance lever: give None or one of",
    ),
    "predictor as cache": (
        lambda: accel.Recipe(cache=LastOutput()),
        TypeError,
        "is not a method of the cache lever: give None or one of",
    ),
    "class as method": (
        lambda: accel.Recipe(cache=EasyCache),  # type: ignore[arg-type]
        TypeError,
        "give an object, not the class itself; None or one of",
    ),
    "word as method": (
        lambda: accel.Recipe(cache="EasyCache"),  # type: ignore[arg-type]
        TypeError,
        "cache='EasyCache' is not a method of the cache lever",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_parameter_is_refused_in_one_sentence(what: str) -> None:
    make, kind, expected = WRONG[what]
    with pytest.raises(kind) as refusal:
        make()
    assert expected in str(refusal.value)
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_evidence_travels_with_the_file_and_decides_nothing(tmp_path: Path) -> None:
    recipe = accel.Recipe(cache=accel.SeaCache(0.3), name="mine", evidence={"speedup": 2.0})
    recipe.save(tmp_path / "accel_recipe.json")
    again = accel.Recipe.from_pretrained(tmp_path)
    assert again == recipe == accel.Recipe(cache=accel.SeaCache(0.3))
    assert again.evidence == {"speedup": 2.0}
    assert "evidence" not in again.to_dict()
    with pytest.raises(ValueError, match="evidence must be an object"):
        accel.Recipe.from_dict({"evidence": 3})


def test_the_hub_gets_the_recipe_with_its_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Api:
        def __init__(self, token: str | None = None) -> None:
            pass

        def create_repo(self, repository: str, private: bool | None = None, exist_ok: bool = False) -> None:
            sent["repository"] = repository

        def upload_file(self, **given: Any) -> str:
            sent.update(given)
            return "https://hub/me/mine"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    recipe = accel.Recipe(cache=accel.SeaCache(0.3), evidence={"speedup": 2.0})
    assert recipe.push_to_hub("me/mine") == "https://hub/me/mine"
    assert sent["path_in_repo"] == "accel_recipe.json"
    assert json.loads(sent["path_or_fileobj"])["evidence"] == {"speedup": 2.0}
