"""Write tensorflow.json, what TensorFlow and Keras really compute, for the tests to compare with.

Run it where TensorFlow is installed; nothing else of this project is needed, and the tests need no TensorFlow:

    python -m venv tensorflow-venv && tensorflow-venv/bin/pip install tensorflow
    tensorflow-venv/bin/python tests/reference/make_tensorflow_table.py

Factors are lr / initial lr. TensorFlow rounds every argument to single precision, so the arguments are numbers that
this leaves as they are (1.5, not 0.6) wherever it then computes in double precision; "float32" marks where it does not.
"""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.keras.optimizer_v2 import learning_rate_schedule

TF1 = tf.compat.v1.train
KERAS = keras.optimizers.schedules
INITIAL_LR = 0.25
STEPS = [0, 1, 7, 49, 50, 51, 99, 100, 101, 150, 151, 200, 201, 250, 1234, 100_000]
# TensorFlow's logarithm may choose the wrong period exactly at a restart, so that those steps prove nothing.
STEPS_BETWEEN_RESTARTS = [0, 1, 7, 49, 51, 99, 101, 149, 151, 201, 250, 333, 1234, 9999]


def row(
    family: str, arguments: dict[str, Any], source: str, steps: list[int], lr: Callable[[int], Any]
) -> dict[str, Any]:
    """Return a row of the table: a family of ours with its arguments, and the factors of TensorFlow."""
    values = [np.asarray(lr(step)) for step in steps]
    return {
        "family": family,
        "arguments": arguments,
        "source": source,
        # natural_exp_decay makes a decay rate of exp(-rate), in single precision, and then an exponential_decay of it.
        "precision": "float32" if "natural" in source else str(values[0].dtype),
        "steps": steps,
        "factors": [float(value) / INITIAL_LR for value in values],
    }


def tf1(name: str, *arguments: Any, **keywords: Any) -> Callable[[int], Any]:
    """Return a decay of TensorFlow 1 as a function of the step, in double precision where it can."""

    def lr(step: int) -> Any:
        for dtype in (tf.float64, tf.float32):
            try:
                decay = getattr(TF1, name)(tf.constant(INITIAL_LR, dtype), tf.constant(step), *arguments, **keywords)
                return decay().numpy()
            except (tf.errors.InvalidArgumentError, TypeError, ValueError):
                if dtype is tf.float32:
                    raise
        raise AssertionError

    return lr


def keras_schedule(name: str, *arguments: Any, **keywords: Any) -> Callable[[int], Any]:
    """Return a schedule of Keras as a function of the step, in double precision."""
    schedule = getattr(KERAS, name)(np.float64(INITIAL_LR), *arguments, **keywords)
    return lambda step: keras.ops.convert_to_numpy(schedule(np.int64(step)))


def schedules() -> list[dict[str, Any]]:
    """Return the rows of all schedules without noise."""
    rows = []
    for staircase in (False, True):
        arguments = {"decay_rate": 0.625, "decay_steps": 50, "staircase": staircase}
        for family, old, new in (
            ("exponential", "exponential_decay", "ExponentialDecay"),
            ("natural_exponential", "natural_exp_decay", None),
            ("inverse_time", "inverse_time_decay", "InverseTimeDecay"),
        ):
            rows.append(row(family, arguments, f"TF1 {old}", STEPS, tf1(old, 50, 0.625, staircase=staircase)))
            if new is not None:
                schedule = keras_schedule(new, 50, 0.625, staircase=staircase)
                rows.append(row(family, arguments, f"Keras {new}", STEPS, schedule))
    for end_factor in (0.0, 0.125, 2.0):
        for power in (0.5, 1.0, 3.0):
            for cycle in (False, True):
                arguments = {"decay_steps": 50, "end_factor": end_factor, "power": power, "cycle": cycle}
                given = (50, INITIAL_LR * end_factor, power, cycle)
                rows.append(
                    row("polynomial", arguments, "TF1 polynomial_decay", STEPS, tf1("polynomial_decay", *given))
                )
                schedule = keras_schedule("PolynomialDecay", *given)
                rows.append(row("polynomial", arguments, "Keras PolynomialDecay", STEPS, schedule))
    for min_factor in (0.0, 0.3125):
        arguments = {"decay_steps": 150, "min_factor": min_factor}
        rows.append(row("cosine", arguments, "TF1 cosine_decay", STEPS, tf1("cosine_decay", 150, min_factor)))
        schedule = keras_schedule("CosineDecay", 150, min_factor)
        rows.append(row("cosine", arguments, "Keras CosineDecay", STEPS, schedule))
    for period, growth, peak, minimum in (
        (50, 1.0, 1.0, 0.0),
        (50, 2.0, 1.0, 0.125),
        (40, 1.5, 0.75, 0.0),
        (10, 3.0, 0.5, 0.25),
    ):
        arguments = {"restart_period": period, "period_growth": growth, "peak_decay": peak, "min_factor": minimum}
        given = (period, growth, peak, minimum)
        steps = STEPS_BETWEEN_RESTARTS
        old, new = "cosine_decay_restarts", "CosineDecayRestarts"
        rows.append(row("cosine_restarts", arguments, f"TF1 {old}", steps, tf1(old, *given)))
        rows.append(row("cosine_restarts", arguments, f"Keras {new}", steps, keras_schedule(new, *given)))
    for arguments in (
        {"decay_steps": 100},
        {"decay_steps": 100, "num_periods": 3.25, "alpha": 0.2, "beta": 0.05},
    ):
        rows.append(
            row("linear_cosine", arguments, "TF1 linear_cosine_decay", STEPS, tf1("linear_cosine_decay", **arguments))
        )
    boundaries, factors = [50, 100, 200], [1.0, 0.5, 0.125, 2.0]
    values = [INITIAL_LR * factor for factor in factors]
    arguments = {"boundaries": boundaries, "factors": factors}
    rows.append(
        row(
            "piecewise_constant",
            arguments,
            "TF1 piecewise_constant",
            STEPS,
            lambda step: TF1.piecewise_constant(tf.constant(step), boundaries, values)().numpy(),
        )
    )
    schedule = KERAS.PiecewiseConstantDecay(boundaries, values)
    rows.append(
        row(
            "piecewise_constant",
            arguments,
            "Keras PiecewiseConstantDecay",
            STEPS,
            lambda step: keras.ops.convert_to_numpy(schedule(step)),
        )
    )
    return rows


def noisy_schedules() -> list[dict[str, Any]]:
    """Return the rows of the schedule with noise, where every draw of a standard normal is the "draw" of the row."""
    rows = []
    drawn = learning_rate_schedule.random_ops.random_normal
    for arguments in (
        {"decay_steps": 100},
        {
            "decay_steps": 100,
            "initial_variance": 0.3,
            "variance_decay": 1.2,
            "num_periods": 1.25,
            "alpha": 0.2,
            "beta": 0.05,
        },
    ):
        for draw in (-2.0, 0.0, 1.0):
            learning_rate_schedule.random_ops.random_normal = lambda shape, stddev, draw=draw: draw * stddev
            lr = tf1("noisy_linear_cosine_decay", **arguments)
            rows.append(
                {"draw": draw, **row("noisy_linear_cosine", arguments, "TF1 noisy_linear_cosine_decay", STEPS, lr)}
            )
    learning_rate_schedule.random_ops.random_normal = drawn
    return rows


def adam() -> list[dict[str, Any]]:
    """Return forty steps of Keras's Adam on ``sum(scale * (weight - target)**2) / 2``, for four eps.

    Keras holds the lr in single precision, and rounds the betas to it in the bias correction only. So there is a path
    with lr and betas that this leaves as they are, and one with the usual betas, whose error an lr this small hides.
    """
    scale, target = np.array([1.0, 0.01, 30.0]), np.array([1.0, -2.0, 0.5])
    rows = []
    for lr, beta1, beta2 in ((2**-4, 1 - 2**-3, 1 - 2**-10), (2**-10, 0.9, 0.999)):
        for eps in (1e-8, 1e-3, 0.1, 1.0):
            weight = keras.Variable(np.zeros(3), dtype="float64")
            optimizer = keras.optimizers.Adam(learning_rate=lr, beta_1=beta1, beta_2=beta2, epsilon=eps)
            optimizer.build([weight])
            path = []
            for _ in range(40):
                gradient = scale * (keras.ops.convert_to_numpy(weight) - target)
                optimizer.apply([keras.ops.convert_to_tensor(gradient, dtype="float64")])
                path.append([float(value) for value in keras.ops.convert_to_numpy(weight)])
            settings = {"initial_lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps}
            rows.append({"settings": settings, "scale": scale.tolist(), "target": target.tolist(), "path": path})
    return rows


def plateaus() -> list[dict[str, Any]]:
    """Return the lr that Keras's ReduceLROnPlateau makes of 1 on random metrics, null being NaN.

    All numbers are multiples of 1/64, so that ties are ties in single precision too.
    """
    draw = random.Random(0)
    rows = []
    for _ in range(60):
        settings = {
            "factor": 0.5,
            "patience": draw.choice([0, 1, 2, 3]),
            "threshold": draw.choice([0, 1, 4]) / 64,
            "cooldown": draw.choice([0, 1, 2, 4]),
            "min_factor": draw.choice([0.0, 0.015625, 0.25]),
            "mode": draw.choice(["min", "max"]),
        }
        metrics: list[float | None] = []
        level = 64
        for _ in range(40):
            level += draw.choice([-3, -1, 0, 0, 1, 2]) * (1 if settings["mode"] == "min" else -1)
            metrics.append(None if draw.random() < 0.03 else level / 64)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(learning_rate=1.0), loss="mse")
        callback = keras.callbacks.ReduceLROnPlateau(
            monitor="val_loss",
            factor=settings["factor"],
            patience=settings["patience"],
            min_delta=settings["threshold"],
            cooldown=settings["cooldown"],
            min_lr=settings["min_factor"],
            mode=settings["mode"],
        )
        callback.set_model(model)
        callback.on_train_begin()
        scales = []
        for epoch, metric in enumerate(metrics):
            callback.on_epoch_end(epoch, {"val_loss": math.nan if metric is None else metric})
            scales.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
        rows.append({"settings": settings, "metrics": metrics, "scales": scales})
    return rows


def write(path: Path, table: dict[str, Any]) -> None:
    """Write the table with one row a line, so that a change can be read."""
    parts = []
    for key, value in table.items():
        rows = value if isinstance(value, list) else [value]
        lines = ",\n".join(f"    {json.dumps(each)}" for each in rows)
        parts.append(
            f"  {json.dumps(key)}: [\n{lines}\n  ]" if isinstance(value, list) else f"  {json.dumps(key)}:\n{lines}"
        )
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    write(
        Path(__file__).with_name("tensorflow.json"),
        {
            "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
            "schedules": schedules(),
            "noisy_schedules": noisy_schedules(),
            "adam": adam(),
            "plateaus": plateaus(),
        },
    )
