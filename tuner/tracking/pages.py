"""MLflow's pages of a study: their addresses, and the description at the top of the study's page."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tuner.config.search_space import described, searched
from tuner.config.study import StudyConfig
from tuner.text import format_value, pluralize

__all__ = ["ALIAS", "address_of", "model_note", "runs_page", "standing", "trials_page", "with_network"]

ALIAS = "champion"
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


def standing(
    config: StudyConfig,
    pages: Mapping[str, str],
    finished: int,
    best: Mapping[str, Any] | None,
    answer: str,
    found: Sequence[str],
) -> str:
    """Return the findings and the progress of a study as Markdown: the first part of its description.

    Args:
        config: The study.
        pages: MLflow's pages, by their titles.
        finished: Number of finished trials.
        best: Number of the best trial, and its `params`, the values of what is searched; None if there is none.
        answer: The best trial, and whether others tie with it.
        found: The findings, as sentences.
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
    return "\n".join(parts)[:LONGEST_STANDING]


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
