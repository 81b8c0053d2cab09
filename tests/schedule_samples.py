"""Schedules of every family, drawn by hypothesis, and their curves."""

from hypothesis import strategies as st

from lightning_modules.schedules import SCHEDULES, HoldThenDecay, Scaled, Warmup, join


def curve(schedule, steps):
    return [schedule(step) for step in steps]


FACTOR = st.floats(0, 1)
SHARE = st.floats(0.01, 0.99)
RATIO = st.floats(1e-3, 1)
POWER = st.floats(1e-3, 100)
LENGTH = st.floats(0.5, 1e6) | st.integers(1, 10**9)
AMOUNT = st.floats(0, 100)
SIMPLE = {
    "constant": {},
    "cosine": {"decay_steps": LENGTH, "min_factor": FACTOR, "exponent": POWER},
    "cosine_restarts": {
        "restart_period": LENGTH,
        "period_growth": st.just(1) | st.floats(1, 1 + 1e-6) | st.floats(1, 1e9),
        "peak_decay": RATIO,
        "min_factor": FACTOR,
    },
    "exponential": {"decay_rate": RATIO, "decay_steps": LENGTH, "staircase": st.booleans()},
    "five_point_spline": {
        "total_steps": LENGTH,
        "x_peak": SHARE,
        "y_start": FACTOR,
        "delta_x1": SHARE,
        "y1": FACTOR,
        "delta_x2": SHARE,
        "y2": FACTOR,
        "y_end": FACTOR,
    },
    "inverse_sqrt": {"warmup_steps": LENGTH},
    "inverse_time": {"decay_rate": AMOUNT, "decay_steps": LENGTH, "staircase": st.booleans()},
    "lambda": {
        "function": st.sampled_from(["1 / (1 + step)", "0.5 + 0.5 * cos(step)", "max(0, 1 - step / 9)", "math:sqrt"])
    },
    "linear_cosine": {"decay_steps": LENGTH, "num_periods": AMOUNT, "alpha": AMOUNT, "beta": AMOUNT},
    "natural_exponential": {"decay_rate": AMOUNT, "decay_steps": LENGTH, "staircase": st.booleans()},
    "noisy_linear_cosine": {
        "decay_steps": LENGTH,
        "num_periods": AMOUNT,
        "alpha": AMOUNT,
        "beta": AMOUNT,
        "initial_variance": AMOUNT,
        "variance_decay": AMOUNT,
        "seed": st.integers(),
    },
    "one_cycle": {
        "total_steps": st.floats(100, 1e6),
        "rise_share": st.floats(0.01, 0.5),
        "start_factor": FACTOR,
        "end_factor": FACTOR,
        "shape": st.sampled_from(["cosine", "linear"]),
        "three_phase": st.booleans(),
    },
    "piecewise_constant": {
        "boundaries": st.just((10, 20.5, 30)),
        "factors": st.tuples(AMOUNT, AMOUNT, AMOUNT, AMOUNT),
    },
    "polynomial": {
        "decay_steps": LENGTH,
        "end_factor": AMOUNT,
        "power": POWER,
        "cycle": st.booleans(),
    },
    "rex": {"decay_steps": LENGTH, "beta": st.floats(1e-9, 1e9), "min_factor": FACTOR},
    "spline": {
        "steps": st.just((0, 10, 20.5, 30)),
        "factors": st.tuples(AMOUNT, AMOUNT, AMOUNT, AMOUNT),
        "monotone": st.just(False),
    },
    "sqrt": {"decay_steps": LENGTH, "exponent": POWER, "min_factor": FACTOR},
    "step": {"decay_rate": RATIO, "decay_steps": LENGTH},
    "triangular": {"half_period": LENGTH, "min_factor": FACTOR, "peak_decay": RATIO, "min_decay": RATIO},
    "two_point_spline": {
        "decay_steps": LENGTH,
        "delta_x1": SHARE,
        "y1": st.floats(0.5, 1),
        "delta_x2": SHARE,
        "delta_y2": FACTOR,
        "min_factor": st.floats(0, 0.5),
    },
    "warmup_stable_decay": {
        "warmup_steps": LENGTH,
        "hold_steps": LENGTH,
        "decay_steps": LENGTH,
        "min_factor": FACTOR,
        "shape": st.sampled_from(["linear", "cosine", "sqrt"]),
        "power": POWER,
    },
}
PLAIN = st.one_of(*(st.builds(SCHEDULES[name], **arguments) for name, arguments in SIMPLE.items()))
COMBINED = {
    "hold_then_decay": st.builds(HoldThenDecay, hold_steps=LENGTH, decay=PLAIN),
    "join": st.builds(lambda *parts: join(parts, (10, 30.5)), PLAIN, PLAIN, PLAIN),
    "scaled": st.builds(Scaled, schedule=PLAIN, factor=st.floats(1e-3, 1e3)),
    "warmup": st.builds(Warmup, schedule=PLAIN, steps=LENGTH, start=FACTOR),
}
ANY = st.one_of(*(st.builds(SCHEDULES[name], **arguments) for name, arguments in SIMPLE.items()), *COMBINED.values())
STEPS = st.integers(0, 10**9) | st.integers(0, 50) | st.floats(0, 1e9)
