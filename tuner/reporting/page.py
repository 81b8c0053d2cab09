"""The report: studies as one self-contained HTML page.

It reads the stores and nothing else, and never uses their content as HTML, as a path or as code.
"""

import base64
import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.files import write_output

if TYPE_CHECKING:
    from jinja2 import Template

    from tuner.analysis.comparison import Comparison
    from tuner.analysis.record import StudyRecord
    from tuner.tracking.reader import MlflowStudy
    from tuner.visualization.figure import Figure

__all__ = ["Chapter", "render", "template", "write_report"]

TOP_TRIALS = 15
NAME, SEVERAL, WIDEST = 6.0, 46.0, 90.0  # widths in rem: of a name below an axis, of several panels, of any figure
TEMPLATE = "report.html.jinja"
PICTURES = {
    "best/confusion_matrix.png": "Confusion matrix of the best trial on the test data",
    "best/mistakes.png": "Its worst mistakes",
}
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Chapter:
    """The content of a report about one study.

    Args:
        record: The study.
        tags: Tags of its run in MLflow.
        config: Every value of the best trial, as YAML.
        params: The same values by dotted names, as MLflow stores them.
        pictures: PNG images by their titles.
        is_registered: Whether the best trial's network is the champion of the study's name in the model registry.
        figures: Its plots, including those without panels.
        comparisons: The comparisons of its confirmations and final runs, by their names; its own, under its own name,
            if it consists of given configurations, as a confirmation does.
    """

    record: "StudyRecord"
    tags: Mapping[str, str]
    config: str
    params: Mapping[str, str]
    pictures: Mapping[str, bytes]
    is_registered: bool
    figures: "Sequence[Figure]"
    comparisons: Mapping[str, "Comparison"] = field(default_factory=dict)

    @property
    def own(self) -> "Comparison | None":
        """Return its own comparison; None if its trials are no seeds of given configurations."""
        return self.comparisons.get(self.record.name)

    @classmethod
    def of(
        cls,
        record: "StudyRecord",
        tracked: "MlflowStudy",
        figures: "Sequence[Figure]",
        comparisons: Mapping[str, "Comparison"],
    ) -> "Chapter":
        """Read the rest of the content from MLflow."""
        best = tracked.children.get(record.best.number) if record.best else None
        pictures = {title: tracked.read(path) for path, title in PICTURES.items()}
        return cls(
            record,
            dict(tracked.parent.data.tags) if tracked.parent else {},
            (tracked.read("best.yaml") or b"").decode("utf-8", "replace"),
            dict(best.data.params) if best else {},
            {title: data for title, data in pictures.items() if data and data.startswith(PNG)},
            record.best is not None and tracked.champion(record.name) == record.best.number,
            figures,
            comparisons,
        )


def write_report(names: Sequence[str], storage: str, uri: str, path: Path) -> None:
    """Write the report of studies.

    Args:
        names: The studies; several are compared.
        storage: URL of Optuna's database.
        uri: MLflow's store.
        path: The file.

    Raises:
        BadInputError: If there is no such study, or a store or the file cannot be used.
    """
    from tuner.storage.inventory import comparisons, with_fresh_seeds
    from tuner.storage.reader import identifier_of, open_study, record_of
    from tuner.tracking.reader import MlflowStudy
    from tuner.visualization.charts import draw

    chapters = []
    for name in dict.fromkeys(names):
        with open_study(storage, name) as study:
            tracked = MlflowStudy(uri, identifier_of(study))
            record = with_fresh_seeds(record_of(study, tracked.curves), study)
            chapters.append(Chapter.of(record, tracked, draw(record), comparisons(study)))
    write_output(path, render(chapters).encode())


@functools.cache
def template() -> "Template":
    """Return the template of the page, compiled."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("tuner.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(TEMPLATE)


def render(chapters: Sequence[Chapter]) -> str:
    """Return the page."""
    from markupsafe import Markup

    from tuner.analysis.comparison import chance
    from tuner.analysis.findings import duration, findings, values_of
    from tuner.text import format_interval, format_metric, format_objective
    from tuner.tracking.pages import address_of
    from tuner.visualization.comparisons import of_comparison
    from tuner.visualization.plotly_backend import library, to_div
    from tuner.visualization.progress import compare

    def drawn(figure: "Figure", identifier: str) -> tuple["Figure", str]:
        return figure, Markup(to_div(figure, identifier)) if figure.panels else ""

    content = [
        {
            "id": f"study-{index}",
            "record": chapter.record,
            "own": chapter.own,
            "comparisons": [
                (name, each, drawn(of_comparison(each, "Every seed"), f"study-{index}-{place}"))
                for place, (name, each) in enumerate(chapter.comparisons.items())
                if chapter.own in (None, each)
            ],
            "findings": [] if chapter.own else findings(chapter.record),
            "figures": [drawn(each, f"study-{index}") for each in ([] if chapter.own else chapter.figures)],
            "config": chapter.config,
            "code": _code(chapter.params),
            "tags": chapter.tags,
            "address": address_of(chapter.record.name) if chapter.is_registered else "",
            "pictures": {title: base64.b64encode(data).decode("ascii") for title, data in chapter.pictures.items()},
            "unfinished": [trial for trial in chapter.record.trials if not trial.is_complete],
        }
        for index, chapter in enumerate(chapters)
    ]
    groups = []
    for index, (title, members) in enumerate(_comparable(chapters)):
        figure = compare([chapters[each].record for each in members if not chapters[each].own])
        pair = drawn(figure, f"all-{index}" if title else "all")
        groups.append((title, [content[each] for each in members], pair))
    return template().render(
        chapters=content,
        groups=groups,
        chance=chance,
        duration=duration,
        least_width=_least_width,
        format_interval=format_interval,
        format_metric=format_metric,
        format_objective=format_objective,
        values_of=values_of,
        top_trials=TOP_TRIALS,
        library=Markup(library()),
    )


def _comparable(chapters: Sequence[Chapter]) -> list[tuple[str, list[int]]]:
    """Return the studies whose values can be compared: those with the same objectives and validation data.

    Returns:
        For each group its title, which is empty if there is only one group, and the indices of its chapters.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for index, chapter in enumerate(chapters):
        groups.setdefault((chapter.record.objectives, chapter.record.validation_data), []).append(index)
    counts = Counter(objectives for objectives, _ in groups)
    titles = [objectives if counts[objectives] == 1 else f"{objectives}, {data}" for objectives, data in groups]
    return list(zip(titles if len(groups) > 1 else [""], groups.values(), strict=True))


def _least_width(figure: "Figure") -> float:
    """Return the width in rem below which a figure is scrolled, so that panels and names below an axis have room."""
    if figure.columns > 1:
        return SEVERAL
    return min(WIDEST, max(NAME * len(panel.x_ticks or ()) for panel in figure.panels))


def _code(params: Mapping[str, str]) -> str:
    """Return Python code for the best trial's optimizer, schedule and average; empty if the library lacks one.

    A LightningModule, which has no loss of the library's, creates them itself.
    """
    from tuner.config.registry import KINDS

    lines, names = list[str](), list[str]()
    kinds = ("optimizer", "schedule", *(["averaging"] if _section(params, "averaging") else []))
    for kind in kinds:
        values, classes = _section(params, kind), KINDS[kind]
        name = str(values.pop("name", ""))
        if name not in classes or any(isinstance(value, dict | list) or "." in key for key, value in values.items()):
            return ""
        names.append(classes[name].__name__)
        arguments = ", ".join(f"{key}={value!r}" for key, value in sorted(values.items()) if key.isidentifier())
        lines.append(f"{kind} = {names[-1]}({arguments})")
    if any(key.partition(".")[0] == "loss" for key in params):
        averaging = ", averaging=averaging" if "averaging" in kinds else ""
        names.append("Classifier")
        lines.append(f"module = Classifier(your_network, optimizer, schedule{averaging})")
    return "\n".join([f"from lightning_modules import {', '.join(sorted(names))}", "", *lines])


def _section(params: Mapping[str, str], section: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, text in params.items():
        if key.startswith(f"{section}.") and not key.endswith(".relative"):  # the length as written in the study file
            try:
                values[key.partition(".")[2]] = json.loads(text)
            except ValueError:
                values[key.partition(".")[2]] = text
    return values
