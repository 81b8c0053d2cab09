"""Writes the sections of the families in docs/schedules.md, and their pictures in docs/schedules/.

Run ``python docs/make_schedules.py`` after adding a family or changing its docstring. The text comes from the
docstrings. `EXAMPLES` has the study-file text of up to three curves for each name, over a training of 1000 steps in 10
epochs; the section shows the first of them.
"""

import inspect
import re
from dataclasses import MISSING, fields
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from lightning_modules import Plateau, PlateauState, Schedule
from tuner.config.document import Document
from tuner.config.lengths import Length
from tuner.config.loader import read_schedule
from tuner.config.registry import KINDS
from tuner.config.yaml_reader import read_value
from tuner.text import shown
from tuner.visualization.figure import COLORS

DOCS = Path(__file__).parent
LENGTH = Length(steps_per_epoch=100, max_epochs=10)
BEGIN, END = "<!-- families: written by make_schedules.py -->\n", "<!-- end of the families -->\n"
LOSSES = (1.0, 0.8, 0.7, 0.65, 0.66, 0.65, 0.62, 0.63, 0.64, 0.64)
"""Validation loss after each epoch in the picture of the plateau."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "constant": ("{name: constant}",),
    "cosine": (
        "{name: cosine, decay_steps: 100%}",
        "{name: cosine, decay_steps: 100%, min_factor: 0.2, exponent: 2}",
        "{name: cosine, decay_steps: 6 epochs}",
    ),
    "cosine_restarts": (
        "{name: cosine_restarts, restart_period: 2 epochs, period_growth: 1.5, peak_decay: 0.8}",
        "{name: cosine_restarts, restart_period: 2 epochs}",
    ),
    "exponential": (
        "{name: exponential, decay_rate: 0.5, decay_steps: 2 epochs}",
        "{name: exponential, decay_rate: 0.5, decay_steps: 2 epochs, staircase: true}",
    ),
    "five_point_spline": (
        "{name: five_point_spline, total_steps: 100%, x_peak: 0.2, delta_x1: 0.4, y1: 0.8, delta_x2: 0.5, y2: 0.3}",
        "{name: five_point_spline, total_steps: 100%, x_peak: 0.4, delta_x1: 0.1, y1: 0.3, delta_x2: 0.7, y2: 0.5}",
    ),
    "hold_then_decay": (
        "{name: hold_then_decay, hold_steps: 4 epochs, decay: {name: step, decay_rate: 0.5, decay_steps: 1 epochs}}",
        "{name: hold_then_decay, hold_steps: 40%, decay: {name: cosine, decay_steps: 60%}}",
    ),
    "inverse_sqrt": ("{name: inverse_sqrt, warmup_steps: 10%}", "{name: inverse_sqrt, warmup_steps: 30%}"),
    "inverse_time": (
        "{name: inverse_time, decay_rate: 1, decay_steps: 1 epochs}",
        "{name: inverse_time, decay_rate: 1, decay_steps: 1 epochs, staircase: true}",
    ),
    "join": (
        "{name: join, schedules: [{name: constant}, {name: cosine_restarts, restart_period: 2 epochs}], starts: [40%]}",
    ),
    "lambda": (
        '{name: lambda, function: "max(0, 1 - step / total) ** power", total: 100%, power: 3}',
        '{name: lambda, function: "0.5 + 0.5 * cos(step / 50) * exp(-step / 400)"}',
    ),
    "linear_cosine": (
        "{name: linear_cosine, decay_steps: 100%}",
        "{name: linear_cosine, decay_steps: 100%, num_periods: 2.5, beta: 0.01}",
    ),
    "natural_exponential": (
        "{name: natural_exponential, decay_rate: 0.5, decay_steps: 1 epochs}",
        "{name: natural_exponential, decay_rate: 0.5, decay_steps: 1 epochs, staircase: true}",
    ),
    "noisy_linear_cosine": ("{name: noisy_linear_cosine, decay_steps: 100%, initial_variance: 0.1, seed: 0}",),
    "one_cycle": (
        "{name: one_cycle, total_steps: 100%}",
        "{name: one_cycle, total_steps: 100%, rise_share: 0.4, start_factor: 0.1, shape: linear, three_phase: true}",
    ),
    "piecewise_constant": ("{name: piecewise_constant, boundaries: [5 epochs, 80%], factors: [1, 0.3, 0.1]}",),
    "plateau": (
        "{name: plateau, factor: 0.5, patience: 1, monitor: val/loss}",
        "{name: plateau, factor: 0.5, patience: 1, schedule: {name: cosine_restarts, restart_period: 2 epochs}}",
    ),
    "polynomial": (
        "{name: polynomial, decay_steps: 100%, end_factor: 0.1, power: 2}",
        "{name: polynomial, decay_steps: 100%, end_factor: 0}",
        "{name: polynomial, decay_steps: 25%, end_factor: 0.1, cycle: true}",
    ),
    "rex": (
        "{name: rex, decay_steps: 100%}",
        "{name: rex, decay_steps: 100%, beta: 0.1}",
        "{name: rex, decay_steps: 100%, beta: 3}",
    ),
    "scaled": ("{name: scaled, factor: 0.5, schedule: {name: cosine, decay_steps: 100%}}",),
    "spline": (
        "{name: spline, steps: [0, 30%, 60%, 100%], factors: [1, 0.9, 0.2, 0.05]}",
        "{name: spline, steps: [0, 20%, 80%, 100%], factors: [0.1, 1, 0.5, 0], monotone: false}",
    ),
    "sqrt": (
        "{name: sqrt, decay_steps: 100%}",
        "{name: sqrt, decay_steps: 100%, exponent: 3}",
    ),
    "step": (
        "{name: step, decay_rate: 0.5, decay_steps: 2 epochs}",
        "{name: step, decay_rate: 0.1, decay_steps: 5 epochs}",
    ),
    "triangular": (
        "{name: triangular, half_period: 1 epochs, min_factor: 0.1}",
        "{name: triangular, half_period: 1 epochs, min_factor: 0.1, peak_decay: 0.6}",
    ),
    "two_point_spline": (
        "{name: two_point_spline, decay_steps: 100%, delta_x1: 0.3, y1: 0.8, delta_x2: 0.5, delta_y2: 0.5}",
        "{name: two_point_spline, decay_steps: 100%, delta_x1: 0.1, y1: 0.5, delta_x2: 0.7, delta_y2: 0.4}",
    ),
    "warmup": (
        "{name: warmup, steps: 10%, schedule: {name: cosine, decay_steps: 90%}}",
        "{name: warmup, steps: 3 epochs, start: 0.3, schedule: {name: step, decay_rate: 0.5, decay_steps: 2 epochs}}",
    ),
    "warmup_stable_decay": (
        "{name: warmup_stable_decay, warmup_steps: 5%, hold_steps: 75%, decay_steps: 20%}",
        "{name: warmup_stable_decay, warmup_steps: 5%, hold_steps: 45%, decay_steps: 50%, shape: sqrt}",
        "{name: warmup_stable_decay, warmup_steps: 5%, total_steps: 130%, decay_steps: 80%, power: 1.5}",
    ),
}  # fmt: skip


def example(text: str) -> Schedule | Plateau:
    """Return the schedule of an example, checked like one in a study file."""
    return read_schedule(Document("example", data={"schedule": read_value(text, "example")}), LENGTH)


def factors(schedule: Schedule | Plateau) -> list[float]:
    """Return the factor of the initial lr at each step; a plateau gets `LOSSES` as its metric."""
    if isinstance(schedule, Schedule):
        return [schedule(step) for step in range(LENGTH.steps)]
    scales, state = [], PlateauState()
    for loss in LOSSES:
        scales += [state.scale] * LENGTH.steps_per_epoch
        state = schedule.update(state, loss)
    return [scale * schedule.schedule(step) for step, scale in enumerate(scales)]


def picture(name: str) -> Figure:
    """Return the picture of a family."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    for text, colour in zip(EXAMPLES[name], COLORS, strict=False):
        label = text.removeprefix(f"{{name: {name}").removeprefix(", ").removesuffix("}")
        axes.step(range(LENGTH.steps), factors(example(text)), where="post", color=colour, label=label, linewidth=1.5)
    axes.set(xlabel="step", ylabel="lr / initial lr", ylim=(0, max(1.05, axes.get_ylim()[1])))
    axes.margins(x=0.01)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(EXAMPLES[name]) > 1:
        figure.legend(loc="outside lower left", fontsize=7, frameon=False)
    return figure


def section(name: str) -> str:
    """Return the section of a family: text of its docstring, arguments, example and picture."""
    family = KINDS["schedule"][name]
    prose, arguments = split(inspect.getdoc(family) or "")
    given = {field.name: field for field in fields(family)}
    lines = [f"- `{key}`{default(given[key])}: {text}" for key, text in arguments.items()]
    return "\n".join(
        [
            f"### {name}",
            "",
            f"`lightning_modules.{family.__name__}`. {prose[0]}",
            "",
            f"![{name}: the lr over a run](schedules/{name}.png)",
            "",
            *(line for paragraph in prose[1:] for line in (paragraph, "")),
            *((*lines, "") if lines else ()),
            "```yaml",
            f"schedule: {EXAMPLES[name][0]}",
            "```",
            "",
        ]
    )


def split(doc: str) -> tuple[list[str], dict[str, str]]:
    """Return the paragraphs of a docstring as Markdown, and the texts of its arguments."""
    prose, arguments = [], {}
    for paragraph in re.split(r"\n\n+", doc.partition("\n>>> ")[0].replace("``", "`").strip()):
        if paragraph.startswith("Args:"):
            for entry in re.split(r"\n {4}(?=\w+:)", paragraph.removeprefix("Args:")):
                key, _, text = entry.strip().partition(": ")
                arguments |= {key: " ".join(text.split())} if key else {}
        elif not paragraph.startswith("Raises:"):
            prose.append(
                re.sub(r"^(Source|Synonyms):", r"*\1:*", paragraph, flags=re.MULTILINE).replace(
                    "\n*Synonyms", "\n\n*Synonyms"
                )
            )
    return prose, arguments


def default(field: Any) -> str:
    """Return the default of an argument, for its line."""
    if field.default is not MISSING:
        return f" (default `{shown(field.default)}`)"
    return " (default `{name: constant}`)" if field.default_factory is not MISSING else ""


def contents(text: str) -> str:
    """Return the text of docs/schedules.md with the current sections of the families."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    names = sorted(KINDS["schedule"])
    index = " · ".join(f"[{name}](#{name})" for name in names)
    return f"{before}{BEGIN}\n{index}\n\n{chr(10).join(map(section, names))}\n{END}{after}"


def main() -> None:
    """Write the page and the pictures."""
    page = DOCS / "schedules.md"
    page.write_text(contents(page.read_text()))
    for name in KINDS["schedule"]:
        drawn = BytesIO()
        picture(name).savefig(drawn, dpi=110)
        Image.open(drawn).convert("RGB").quantize(32).save(
            DOCS / "schedules" / f"{name}.png", optimize=True
        )  # a third of the size


if __name__ == "__main__":
    main()
