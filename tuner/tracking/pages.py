"""MLflow's pages of a study: their addresses, and the description at the top of the study's page."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tuner.config.search_space import described, searched
from tuner.config.study import StudyConfig
from tuner.text import format_value, pluralize

__all__ = [
    "ALIAS",
    "REPORT",
    "address_of",
    "description",
    "model_note",
    "runs_page",
    "study_pages",
    "trials_page",
    "with_network",
]

ALIAS = "champion"
REPORT = "report.html"
"""Name of the artifact of a study's run that holds its report."""
LONGEST_STANDING = 5000


def address_of(study: str) -> str:
    """Return the model registry URI of a study's best network."""
    return f"models:/{study}@{ALIAS}"


def runs_page(experiment_id: str, *inside: str) -> str:
    """Return the path of MLflow's page of an experiment's runs, or of one inside it, relative to MLflow's root URL."""
    path = "/".join(("experiments", experiment_id, "runs", *inside))
    return f"#/{path}?workflowType=machine_learning"  # otherwise MLflow shows its pages for language models


def trials_page(experiment_id: str, view: str, mode: Literal["TABLE", "CHART"] = "TABLE") -> str:
    """Return the path of MLflow's page of a study's trials in a saved view; see `runs_page`."""
    return f"{runs_page(experiment_id)}&compareRunsMode={mode}&viewStateShareKey={view}"


def model_note(address: str, trial: int | None = None) -> str:
    """Return instructions to load a network from the model registry, as short Markdown: MLflow folds longer texts.

    Args:
        address: Its URI in the registry.
        trial: The trial that it comes from; None to leave that out.
    """
    whose = "" if trial is None else f" of trial #{trial}"
    return (
        f'The network{whose}: `mlflow.pytorch.load_model("{address}")`, in the study\'s folder, or with a server after '
        "`mlflow.set_tracking_uri(...)`. It takes batches of the study's data module, in the shape of its signature, "
        "and is in evaluation mode: exported networks have no `train()` and `eval()`."
    )


def study_pages(experiment_id: str, run_id: str, view: str, best: str | None, has_report: bool) -> dict[str, str]:
    """Return MLflow's pages about a study, by their titles.

    Args:
        experiment_id: The experiment of its run.
        run_id: Its run.
        view: The key of the view of its trials.
        best: The run of its best trial; None if there is none.
        has_report: Whether its run has a report.
    """
    pages = {"Report with all plots": runs_page(experiment_id, run_id, "artifacts", REPORT)} if has_report else {}
    if best is not None:
        pages["The best trial"] = runs_page(experiment_id, best)
    charts = trials_page(experiment_id, view, "CHART")
    return {**pages, "All trials": trials_page(experiment_id, view), "Their charts": charts}


def description(
    config: StudyConfig,
    pages: Mapping[str, str],
    finished: int,
    best: Mapping[str, Any] | None,
    answer: str,
    found: Sequence[str],
    champion: str | None,
) -> str:
    """Return the description of a study as Markdown: its findings, its progress, and how to load its network.

    Args:
        config: The study.
        pages: MLflow's pages, by their titles.
        finished: Number of finished trials.
        best: Number of the best trial, and its `params`, the values of what is searched; None if there is none.
        answer: The result, in a sentence.
        found: The findings, as sentences.
        champion: Number of the trial whose network is in the registry; None if there is none.
    """
    links = " · ".join(f"[{name}]({page})" for name, page in pages.items())
    parts = [f"**{_plain(answer)}**\n", f"{_progress(config, finished)} · {links}\n"]  # MLflow folds the rest away
    parts += [f"- {_plain(sentence)}" for sentence in found]
    has = f"#{best['number']}, the best single run, has" if best else ""
    columns, params = ["searched", "among", *([has] if has else [])], best["params"] if best else {}
    parts += [f"\n| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for path, spec in searched(config.trial):
        cells = [path, described(spec), format_value(params[path]) if path in params else ""][: len(columns)]
        parts.append(f"| {' | '.join(map(_plain, cells))} |")
    return with_network("\n".join(parts)[:LONGEST_STANDING], config.name, champion)


def _progress(config: StudyConfig, finished: int) -> str:
    if config.allowance is None:
        return f"{finished} of {config.trials} trials"
    return f"{pluralize(finished, 'trial')} within {config.budget}"


def with_network(description: str, study: str, trial: str | None) -> str:
    """Return the description of a study with its last part: instructions to load the network in the registry.

    Args:
        description: The description, with or without this part.
        study: Name of the study.
        trial: Number of the trial whose network is in the registry; None to leave the part out.
    """
    first = re.split(r"\n\n(?=The network)", description, maxsplit=1)[0]
    return f"{first}\n\n{model_note(address_of(study), int(trial))}" if trial and trial.isdecimal() else first


def _plain(text: str) -> str:
    """Return a text escaped for Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text.replace("\n", " "))
