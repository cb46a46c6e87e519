"""A model in 8-bit integers by other libraries, each used as its documentation begins; those that are not installed are
left out. They are no dependency: `pip install --no-deps torchao optimum-quanto` beside the torch that is there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Calibrate = Callable[[Any], object]
"""Evaluates a model on what it will be given, for those that choose scales of activations beforehand."""


def torchao_dynamic(model: Any, calibrate: Calibrate) -> Any:
    """Every linear layer, activations scaled for each token when they arrive, weights for each output channel."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return model


def quanto_weights(model: Any, calibrate: Calibrate) -> Any:
    """Weights alone, as diffusers' `QuantoConfig(weights_dtype="int8")` has it."""
    from optimum.quanto import freeze, qint8, quantize

    quantize(model, weights=qint8)
    freeze(model)
    return model


def quanto_calibrated(model: Any, calibrate: Calibrate) -> Any:
    """Activations too, with scales for whole tensors that a calibration chooses."""
    from optimum.quanto import Calibration, freeze, qint8, quantize

    quantize(model, weights=qint8, activations=qint8)
    with Calibration():
        calibrate(model)
    freeze(model)
    return model


ELSEWHERE: dict[str, Callable[[Any, Calibrate], Any]] = {
    "torchao int8 dynamic": torchao_dynamic,
    "optimum-quanto int8 weights": quanto_weights,
    "optimum-quanto int8": quanto_calibrated,
}


def converted(model: Any, calibrate: Calibrate) -> tuple[dict[str, Any], list[str]]:
    """By name a copy of the model by each library, and a sentence for each that is left out."""
    found, left_out = {}, []
    for name, convert in ELSEWHERE.items():
        try:
            found[name] = convert(copy.deepcopy(model), calibrate)
        except ImportError as error:
            left_out.append(f"{name} is left out: {error}.")
    return found, left_out
