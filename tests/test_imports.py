"""What `import accel` costs and offers, seen from a fresh interpreter."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from typing import Any

import pytest

import accel
from accel.method import Method

# Measuring, the app and batch rendering need these; accelerating a pipeline does not.
HEAVY = {
    "av",
    "cache_dit",
    "diffusers",
    "gradio",
    "jinja2",
    "matplotlib",
    "pandas",
    "peft",
    "PIL",
    "ray",
    "rich",
    "scipy",
    "skimage",
    "transformers",
}


PROGRAM = """
import contextlib, io, json, os, sys
loaded = lambda: sorted({name.partition('.')[0] for name in sys.modules})
before = dict(os.environ)
import accel
imported = loaded()
assert os.environ == before
from accel.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(['--help'])
print(json.dumps([imported, loaded()]))
"""


@pytest.fixture(scope="module")
def loaded() -> tuple[set[str], set[str]]:
    """The modules of a fresh interpreter after `import accel`, which leaves the environment as it is, and after
    `accel --help`.
    """
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=600)
    imported, helped = json.loads(done.stdout)
    return set(imported), set(helped)


def test_importing_accel_is_light(loaded: tuple[set[str], set[str]]) -> None:
    imported, _ = loaded
    assert "torch" in imported
    assert imported & HEAVY == set()


def test_the_command_line_loads_nothing_before_it_is_asked_to(loaded: tuple[set[str], set[str]]) -> None:
    _, helped = loaded
    assert "argparse" in helped
    assert helped & HEAVY == set()


FOLDERS = {"attention", "caching", "pocket", "precision", "resolution", "samplers"}


@pytest.mark.parametrize("name", accel.__all__)
def test_public_name_exists_and_hides_no_module(name: str) -> None:
    """A module `accel.compare` would be hidden by the function of that name, or hide it, by order of import."""
    assert getattr(accel, name) is not None
    assert name in FOLDERS or name not in {module.name for module in pkgutil.iter_modules(accel.__path__)}


def test_the_front_door_is_small() -> None:
    assert set(dir(accel)) == {*accel.__all__, "__version__"}
    assert len(accel.__all__) <= 25


def test_every_technique_has_a_short_name_that_is_its_own() -> None:
    ours = [kind for kinds in Method.registry.values() for kind in kinds.values() if kind.__module__[:6] == "accel."]
    assert len(ours) > 50
    assert [kind for kind in ours if getattr(accel, kind.__name__) is not kind] == []
    assert accel.TrajectoryBank is accel.samplers.TrajectoryBank


def test_a_technique_of_earlier_versions_says_what_to_do_now() -> None:
    with pytest.raises(AttributeError, match=r"switch it on with pipe\.transformer\.enable_cache"):
        _ = accel.DiffusersCache
    with pytest.raises(AttributeError, match=r"accel\.caching\.TextKeyValueCache: it saved"):
        _ = accel.caching.TextKeyValueCache
    with pytest.raises(AttributeError, match="no attribute 'UniPC'"):  # which is a sampler
        _ = accel.caching.UniPC


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'acelerate'"):
        _ = accel.acelerate


@pytest.mark.parametrize(
    ("module", "typo", "meant"),
    [(accel, "EasyCach", "EasyCache"), (accel, "acelerate", "accelerate"), (accel.samplers, "unipc", "UniPC")],
)
def test_a_typo_is_told_what_was_meant(module: Any, typo: str, meant: str) -> None:
    with pytest.raises(AttributeError, match=rf"Did you mean: '{meant}'\?$"):
        getattr(module, typo)


@pytest.mark.parametrize("folder", ["attention", "caching", "precision", "samplers"])
def test_a_star_brings_the_techniques(folder: str) -> None:
    found: dict[str, Any] = {}
    exec(f"from accel.{folder} import *", found)
    assert set(dir(getattr(accel, folder))) <= set(found)
    known = {"attention": "Radial", "caching": "EasyCache", "precision": "BFloat16", "samplers": "UniPC"}
    assert known[folder] in found


def test_classes_have_one_identity() -> None:
    import accel.caching

    assert accel.EasyCache is accel.caching.EasyCache
    assert accel.EasyCache.__module__ == "accel.caching.methods.easycache"
