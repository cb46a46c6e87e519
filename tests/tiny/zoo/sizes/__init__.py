"""The smallest sensible settings of each model class of diffusers, and those of schedulers, by class name."""

from __future__ import annotations

from typing import Any

from tests.tiny.zoo.sizes.autoencoders import AUTOENCODERS
from tests.tiny.zoo.sizes.rare import RARE
from tests.tiny.zoo.sizes.schedulers import SCHEDULERS
from tests.tiny.zoo.sizes.transformers_for_clips import TRANSFORMERS_FOR_CLIPS
from tests.tiny.zoo.sizes.transformers_for_pictures import TRANSFORMERS_FOR_PICTURES
from tests.tiny.zoo.sizes.unets import UNETS

SIZES: dict[str, dict[str, Any]] = (
    UNETS | TRANSFORMERS_FOR_PICTURES | TRANSFORMERS_FOR_CLIPS | AUTOENCODERS | RARE | SCHEDULERS
)
