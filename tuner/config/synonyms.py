"""Names that classes have in other libraries, for messages about unknown names."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

__all__ = ["LIBRARIES", "SYNONYMS", "is_torch_optimizer", "synonym"]

SYNONYMS: dict[str, Mapping[str, str]] = {
    "loss": {
        "bce": "binary_cross_entropy",
        "bcewithlogitsloss": "binary_cross_entropy",
        "binary_crossentropy": "binary_cross_entropy",
        "binarycrossentropy": "binary_cross_entropy",
        "categorical_crossentropy": "cross_entropy",
        "categoricalcrossentropy": "cross_entropy",
        "crossentropyloss": "cross_entropy",
        "huberloss": "huber",
        "l1": "absolute_error",
        "l1loss": "absolute_error",
        "mae": "absolute_error",
        "mean_absolute_error": "absolute_error",
        "mean_squared_error": "squared_error",
        "meanabsoluteerror": "absolute_error",
        "meansquarederror": "squared_error",
        "mseloss": "squared_error",
        "sparse_categorical_crossentropy": "cross_entropy",
        "sparsecategoricalcrossentropy": "cross_entropy",
    },
    "callback": {"earlystopping": "early_stopping"},
    "schedule": {
        "constantlr": "constant",
        "cosine_decay_schedule": "cosine",
        "cosineannealinglr": "cosine",
        "cosineannealingwarmrestarts": "cosine_restarts",
        "cosinedecay": "cosine",
        "cosinedecayrestarts": "cosine_restarts",
        "cosinelrscheduler": "cosine",
        "cycliclr": "triangular",
        "d2z": "polynomial",
        "exponentialdecay": "exponential",
        "exponentiallr": "exponential",
        "formula": "lambda",
        "get_constant_schedule_with_warmup": "warmup",
        "get_cosine_schedule_with_warmup": "warmup",
        "get_inverse_sqrt_schedule": "inverse_sqrt",
        "get_linear_schedule_with_warmup": "warmup",
        "get_polynomial_decay_schedule_with_warmup": "warmup",
        "get_wsd_schedule": "warmup_stable_decay",
        "inversetimedecay": "inverse_time",
        "lambdalr": "lambda",
        "learningratescheduler": "lambda",
        "linear": "polynomial",
        "linearlr": "polynomial",
        "multiplicativelr": "lambda",
        "multisteplr": "piecewise_constant",
        "multisteplrscheduler": "piecewise_constant",
        "noam": "inverse_sqrt",
        "onecyclelr": "one_cycle",
        "pchip": "spline",
        "piecewiseconstantdecay": "piecewise_constant",
        "plateaulrscheduler": "plateau",
        "polylrscheduler": "polynomial",
        "polynomialdecay": "polynomial",
        "polynomiallr": "polynomial",
        "reducelronplateau": "plateau",
        "rexscheduler": "rex",
        "sequentiallr": "join",
        "steplr": "step",
        "steplrscheduler": "step",
        "trapezoidal": "warmup_stable_decay",
        "warmup_cosine_decay_schedule": "warmup",
        "wsd": "warmup_stable_decay",
    },
    "optimizer": {
        "adamoptimizer": "adam_epsilon_hat",
        "adamwschedulefree": "schedule_free_adamw",
        "schedulefreeadamw": "schedule_free_adamw",
        "schedulefreesgd": "schedule_free_sgd",
        "sgdschedulefree": "schedule_free_sgd",
    },
}
"""Names in torch, Keras, TensorFlow 1, timm, transformers and other libraries, and usual names, in lower case."""

LIBRARIES = ("keras", "optax", "pytorch_optimizer", "tensorflow", "tf", "timm", "torch", "transformers")
KERAS = {"adam": "adam_epsilon_hat"}
"""Classes of Keras that differ from the class of the same name in torch."""


def synonym(kind: str, name: str, known: Collection[str]) -> str:
    """Return " Did you mean ...?" if a class is known by another name here, else an empty string.

    Args:
        kind: Its kind, a key of `registry.KINDS`.
        name: Its name elsewhere.
        known: The short names of its kind.
    """
    path = name.replace(":", ".")
    module, _, last = path.rpartition(".")
    lowered, library = last.lower(), module.partition(".")[0]
    is_optimizer, is_of_library = kind == "optimizer", library in ("", *LIBRARIES)
    of_torch = {each.lower(): each for each, found in vars(torch.optim).items() if is_torch_optimizer(found)}
    is_of_torch = is_optimizer and is_of_library and path == name and lowered in of_torch.keys() - {"optimizer"}
    candidates = (
        KERAS.get(lowered) if is_optimizer and library in ("keras", "tensorflow", "tf") else None,
        SYNONYMS.get(kind, {}).get(lowered),
        lowered if lowered in known and is_of_library else None,
        f"torch.optim:{of_torch[lowered]}" if is_of_torch else None,
        f"{module}:{last}" if module and last and path == name else None,
    )
    found = next(filter(None, candidates), None)
    return f" Did you mean {found}?" if found else ""


def is_torch_optimizer(target: Any) -> bool:
    """Return whether a class is one of torch's optimizers, whose initial lr is called `lr`."""
    return isinstance(target, type) and issubclass(target, torch.optim.Optimizer)
