"""A recipe fitted to one pipeline: what it makes of the parts that are there, and which levers act in which order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accel.anatomy import Anatomy, inspect
from accel.call import Arguments
from accel.component_swap import ComponentSwap
from accel.components import denoisers_of, schedulers_of
from accel.lever import Lever
from accel.recipe import Recipe
from accel.update import config_of

# The sampler is first, because it decides which steps there are and which model computes them. Guidance stands in front
# of the cache: an output made from another stream must never enter a cache. Behind the cache the size may change: it
# remembers outputs at full size.
CHAIN = ("sampler", "guidance", "cache", "resolution", "attention", "precision")


class FittedRecipe:
    """A recipe on the parts that a pipeline has now; where these are exchanged, another one is made.

    swap: puts the parts in that the recipe exchanges. anatomy: of the pipeline as it is during its calls. arguments:
    how each denoiser is called. Raises what a method raises that does not fit.
    """

    def __init__(self, pipe: Any, recipe: Recipe, own: Mapping[str, Any]) -> None:
        self.recipe, self._methods, self._settings = recipe, recipe.methods(), _settings_of_schedulers(own)
        self.swap = ComponentSwap(own, self._methods.values())
        components = self.swap.parts(own)
        self.anatomy: Anatomy = inspect(pipe, components)
        for method in self._methods.values():
            self.anatomy = method.adjust_anatomy(self.anatomy)
        self.arguments = {name: Arguments(module) for name, module in denoisers_of(components)}

    def levers(self) -> list[Lever]:
        """New ones, the outermost first."""
        return [self._methods[lever].build(self.anatomy) for lever in CHAIN if lever in self._methods]

    def still_fits(self, own: Mapping[str, Any]) -> bool:
        """Whether the schedulers among the pipeline's parts still have the settings that it was fitted to."""
        return self._settings == _settings_of_schedulers(own)


def _settings_of_schedulers(components: Mapping[str, Any]) -> list[str]:
    """What schedulers do hangs on them."""
    return [repr(config_of(scheduler)) for _, scheduler in schedulers_of(components)]
