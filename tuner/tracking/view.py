"""The view of a study's trials in MLflow: which columns and charts its page of runs opens with.

MLflow keeps the views that its users save in tags of the experiment. A study saves one, which the page's menu of saved
views lists, and links to it.
"""

import base64
import json
import uuid
import zlib
from typing import Any

from mlflow.entities import Run

from tuner.analysis.record import FAMILY
from tuner.config.search_space import Choices, Range, searched_in_runs
from tuner.config.study import StudyConfig
from tuner.direction import Direction
from tuner.tracking.names import Names, fitting
from tuner.tracking.trial_run import SECONDS_TAG, TRIAL_TAG

__all__ = ["renamed", "saved_view", "view_key", "view_tag"]

TAG = "mlflow.sharedViewState."
LONGEST_NAME = 60
COUNTED = 100  # largest number of runs in a scatter plot
SCATTERED = 6  # largest number of parameters with a scatter plot
PARENT_TAG = "mlflow.parentRunId"
OF_STUDIES = ("best_value", "trials_done", "fresh_mean", "fresh_low", "fresh_high")


def view_key(parent_id: str) -> str:
    """Return the key of a study's view, as in the address of MLflow's page."""
    return f"trials-{parent_id}"


def view_tag(parent_id: str) -> str:
    """Return the tag of the experiment that holds a study's view."""
    return f"{TAG}{view_key(parent_id)}"


def saved_view(parent: Run, config: StudyConfig, names: Names) -> str:
    """Return the value of the tag of a study's view.

    Its table has the objective and the searched values, the best trial first; its charts are the lr on a log axis, the
    objective, and the objective over the searched numbers. Metrics that only the tested trial has get no chart.

    Args:
        parent: The study's run.
        config: The study.
        names: The names of its metrics in MLflow.
    """
    objectives, study = [names[each.metric] for each in config.objectives], config.name
    objective = objectives[0]
    specs: dict[str, Range | Choices] = {}
    for path, spec in searched_in_runs(config.trial):
        specs.setdefault(path, spec)
    paths = sorted(specs, key=lambda path: (path != "optimizer.initial_lr", path != FAMILY))
    numbers = [path for path in paths if isinstance(specs[path], Range)]
    metrics = [each for each in names.stored if each not in OF_STUDIES and not each.startswith("system/")]
    tests = [each for each in metrics if each.startswith("test/")]
    main, more = (_uuid(f"{study} {title}") for title in ("main", "more"))
    charts = [
        _line("lr", main, scaleType="log", displayName="lr (log axis)"),
        _line(objective, main),
        *(_scatter(each, objective, main, "METRIC") for each in objectives[1:]),
        *(_scatter(each, objective, main) for each in numbers[:SCATTERED]),
        *(_line(each, more) for each in metrics if each not in ("lr", objective, *tests)),
        *(_card("BAR", each, more, metricKey=each, deleted=True) for each in tests),
    ]
    columns = [
        *(f"metrics.`{each}`" for each in objectives),
        *(f"params.`{path}`" for path in paths),
        f"tags.`{SECONDS_TAG}`",
    ]
    state = {
        "searchFilter": f"tags.`{PARENT_TAG}` = '{parent.info.run_id}' and tags.`{TRIAL_TAG}` LIKE '%'",
        "orderByKey": f"metrics.`{objective}`",
        "orderByAsc": config.objective.direction is Direction.MINIMIZE,
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [_section(main, "lr and objective"), _section(more, "Other metrics")],
        "compareRunCharts": charts,
        "isAccordionReordered": True,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    began = parent.info.start_time
    return json.dumps({"name": _title(study), "createdAt": began, "updatedAt": began, "state": f"deflate;{packed}"})


def renamed(view: str, study: str) -> str:
    """Return the value of a view's tag after its study was renamed."""
    return json.dumps({**json.loads(view), "name": _title(study)})


def _title(study: str) -> str:
    return fitting(f"Trials of {study}", LONGEST_NAME)


def _section(identifier: str, name: str) -> dict[str, Any]:
    return {
        "uuid": identifier,
        "name": name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }


def _card(kind: str, name: str, section: str, **options: Any) -> dict[str, Any]:
    """Return the settings of a chart."""
    common = {
        "uuid": _uuid(f"{kind} {name}"),
        "type": kind,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
    }
    return {**common, "runsCountToCompare": COUNTED, **options}


def _line(metric: str, section: str, **options: Any) -> dict[str, Any]:
    fixed = {"metricKey": metric, "selectedMetricKeys": [metric], "xAxisKey": "step", "lineSmoothness": 0}
    return _card("LINE", metric, section, **fixed, **{"scaleType": "linear", **options})


def _scatter(key: str, objective: str, section: str, kind: str = "PARAM") -> dict[str, Any]:
    axes = {"xaxis": {"key": key, "type": kind}, "yaxis": {"key": objective, "type": "METRIC"}}
    return _card("SCATTER", key, section, **axes)


def _uuid(text: str) -> str:
    """Return an identifier that is the same at every writing."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text))
