"""MLflow's pages of a study: their addresses, and the description that MLflow shows first."""

import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from tuner.config.search_space import described, searched
from tuner.config.study import StudyConfig
from tuner.text import brief

__all__ = ["ALIAS", "address_of", "model_note", "runs_page", "standing", "trials_page", "with_network"]

ALIAS = "champion"
LONGEST_STANDING = 5000
PARENT_TAG = "mlflow.parentRunId"


def address_of(study: str) -> str:
    """Return where the best network of a study is in the model registry."""
    return f"models:/{study}@{ALIAS}"


def runs_page(experiment_id: str, *inside: str) -> str:
    """Return where MLflow shows the runs of an experiment, or what lies inside, behind its address and a slash."""
    path = "/".join(("experiments", experiment_id, "runs", *inside))
    return f"#/{path}?workflowType=machine_learning"  # else MLflow shows its pages for language models


def trials_page(experiment_id: str, parent_id: str, metric: str, direction: str) -> str:
    """Return where MLflow shows the trials of a study, the best first, with their charts; see `runs_page`.

    Args:
        experiment_id: The study's experiment.
        parent_id: The study's run.
        metric: Name of the objective in MLflow.
        direction: Whether large or small values of it are good.
    """
    settings = {
        "compareRunsMode": "CHART",
        "searchFilter": f"tags.`{PARENT_TAG}` = '{parent_id}'",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": str(direction == "minimize").lower(),
    }
    more = urllib.parse.urlencode(settings, quote_via=urllib.parse.quote, safe="")
    return f"{runs_page(experiment_id)}&{more}"


def model_note(address: str, trial: int | None = None) -> str:
    """Return how to get a network from the model registry, in Markdown, in a sentence: pages fold what is longer.

    Args:
        address: Where it is in the registry.
        trial: The trial that it is of, if that has to be said.
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
    params: Mapping[str, Any],
    found: Sequence[str],
) -> str:
    """Return how a study stands, in Markdown: the first part of its description.

    Args:
        config: The study.
        pages: MLflow's pages, by their titles.
        finished: How many of its trials are.
        params: What the best trial has of what is searched.
        found: What came out, in sentences.
    """
    links = " · ".join(f"[{name}]({page})" for name, page in pages.items())
    parts = [f"**{finished} of {config.trials} trials.** {links}\n"]  # MLflow folds all but a few lines away
    parts += [f"- {_plain(sentence)}" for sentence in found]
    parts += ["\n| searched | among | the best has |", "|---|---|---|"]
    for path, spec in searched(config.trial):
        value = brief(params[path]) if path in params else ""
        parts.append(f"| {_plain(path)} | {_plain(described(spec))} | {_plain(value)} |")
    return "\n".join(parts)[:LONGEST_STANDING]


def with_network(description: str, study: str, trial: str | None) -> str:
    """Return the description of a study with its last part: how to get the network that is in the registry.

    Args:
        description: What it is, with or without this part.
        study: Name of the study.
        trial: Number of the trial whose network that is; None for no such part.
    """
    first = re.split(r"\n\n(?=The network)", description, maxsplit=1)[0]
    return f"{first}\n\n{model_note(address_of(study), int(trial))}" if trial and trial.isdecimal() else first


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text.replace("\n", " "))
