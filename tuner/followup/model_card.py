"""The files of an exported trial: configuration, weights, lr table, training script, model card."""

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.config.objectives import MEASURED
from tuner.config.sources import OwnFile, own_files
from tuner.config.trial import TrialConfig
from tuner.config.yaml_reader import as_yaml
from tuner.direction import Direction
from tuner.errors import StudyFailedError
from tuner.followup.replaying import how_trained, train_again
from tuner.followup.script import network_expression, own_modules, training_script
from tuner.interrupts import temporary_folder
from tuner.storage.reader import Trial
from tuner.storage.stored_study import StoredStudy
from tuner.storage.trial_ends import end_of, setup_of, value_of
from tuner.text import format_interval, format_metric, format_objective, join_names, pluralize
from tuner.training.lightning_cli import lightning_config, unannotated
from tuner.training.results import MODEL_FILE

__all__ = ["copy_modules", "write_model"]

WEIGHTS, CONFIG, TABLE, SCRIPT, CARD = "weights.ckpt", "best.yaml", "lr.csv", "train.py", "README.md"

WITH_OLD_WEIGHTS = (
    "The export has the present code, and weights and values of the earlier code: the weights may not fit the network, "
    "and training it again may give other values."
)
AFTER_RETRAINING = "It was retrained, so the weights and its own values are those of the present code."

MODEL_CARD = """\
# {title}

A `{model}` trained on `{data}` with `{optimizer}` under the schedule `{schedule}`{averaging}: trial #{number} of the
study `{study}`, which searched for the {goals} in {trials}.

| metric | value | meaning |
|---|---|---|
{metrics}

{doubt}{warning}

## Load

```python
import torch
{imports}

model = {build}
model.load_state_dict(torch.load("{weights}", weights_only=True)["state_dict"])
model.eval()
```

## Train again

`python {script}` needs torch, pytorch-lightning and lightning_modules{own}. {expectation}

## Files

| file | content |
|---|---|
| `{weights}` | the weights after {epoch}, without code |
| `{config}` | every value of the trial; `python -m lightning_modules fit --config {config}` trains it again{unless} |
| `{table}` | the lr of every step |
| `{script}` | the training; it writes its weights to `trained.ckpt` |{copies}

Data: `{data}`, digest `{digest}`. Trained with {setup}.
"""


def write_model(folder: Path, past: StoredStudy, trial: Trial, rates: Sequence[tuple[int, float]]) -> list[str]:
    """Write the files of a trial into a folder: configuration, weights, lr table, training script, model card.

    A trial without stored weights or lr is trained again. If that gives other values, the model card has these.

    Args:
        folder: The folder; it exists.
        past: The study.
        trial: One that ran to completion.
        rates: Steps and lr, as MLflow has them; may be empty.

    Returns:
        Notes: the study's own modules that have changed since the trial, and how its values differ from those in the
        study.

    Raises:
        StudyFailedError: If the trial has to be trained again, and cannot be.
        OSError: If a file cannot be written.
    """
    config, setup = past.training_of(trial), setup_of(trial)
    weights, values, difference = past.directory(trial.number) / MODEL_FILE, trial.values, ""
    is_retrained = not weights.exists() or not rates
    warning = _warning(past, trial, is_retrained)
    with temporary_folder() as temporary:
        if is_retrained:
            result = train_again(past, trial, temporary, lambda text: None)
            weights = temporary / MODEL_FILE
            rates = [(step, lr) for key, step, lr in result.points if key == "lr"]
            if result.value is None:
                raise StudyFailedError(f"its retraining ended as {result.state}: {result.message or 'no value'}")
            values = [result.value, *result.further]
            difference = _difference(past, trial, values)
        shutil.copy(weights, folder / WEIGHTS)
    epochs = end_of(trial).epochs
    described = lightning_config(config, past.config.objective, setup, epochs)
    (folder / CONFIG).write_text(as_yaml(described), encoding="utf-8")
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "lr"])
        writer.writerows(rates)
    title = f"{past.config.name} #{trial.number}"
    script = training_script(config, past.config.objective, setup, title, epochs)
    (folder / SCRIPT).write_text(script, encoding="utf-8")
    copies = copy_modules(own_modules(config), folder)
    is_best = past.record.best is not None and past.record.best.number == trial.number
    tested = past.record.test if is_best and not difference else {}
    card = _card(past, trial, values, tested, config, setup, title, copies, warning, is_retrained)
    (folder / CARD).write_text(card, encoding="utf-8")
    return [*filter(None, (warning.removesuffix("."), difference))]


def _unless(config: TrialConfig) -> str:
    """Return on what condition LightningCLI can train the trial, if its own module does not meet it."""
    if not (missing := unannotated(config)):
        return ""
    types = {"optimizer": "Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]", "schedule": "Schedule"}
    needed = join_names([f"`{key}: {types[key]}`" for key in missing])
    return f" once `__init__` of `{config.model.name}` has type annotations: {needed}"


def _warning(past: StoredStudy, trial: Trial, is_retrained: bool) -> str:
    """Return what the changes of the study's own modules since a trial mean; empty if there are none."""
    changes = past.changed_sources(trial)
    meaning = AFTER_RETRAINING if is_retrained else WITH_OLD_WEIGHTS
    return f"{', and '.join(changes)} since trial #{trial.number}. {meaning}" if changes else ""


def _difference(past: StoredStudy, trial: Trial, values: Sequence[float]) -> str:
    """Return how the values of a retrained trial differ from those in the study; empty if they do not."""
    changed = [
        f"{each.metric} is {format_objective(value)} instead of {format_objective(before)}"
        for each, before, value in zip(past.config.objectives, trial.values, values, strict=True)
        if each.metric not in MEASURED and value != before
    ]
    if not changed:
        return ""
    why = f"lr-tuner replay {past.config.name} --trial {trial.number} shows what has changed"
    return f"trial #{trial.number} had no stored weights and was retrained: {join_names(changed)}; {why}"


def copy_modules(modules: Sequence[str], folder: Path) -> list[OwnFile]:
    """Copy the user's own files of modules, and of what they import, into the folder, and return them.

    Raises:
        StudyFailedError: If the folder has a file of that name.
    """
    copied = own_files(modules)
    for file in copied:
        to = folder / file.name
        if to.exists():
            reason = f"{file.path} has the same name as a file of the export; rename it and run the study again"
            raise StudyFailedError(f"the module {file.module} cannot be copied: {reason}")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file.path, to)
    return copied


def _card(
    past: StoredStudy,
    trial: Trial,
    values: Sequence[float],
    tested: Mapping[str, float],
    config: TrialConfig,
    setup: Mapping[str, Any],
    title: str,
    copies: Sequence[OwnFile],
    warning: str,
    is_retrained: bool,
) -> str:
    objective, confirmed = past.config.objective, past.confirmed(trial)
    objectives, validation = past.config.objectives, "this network, on the validation data"
    rows = [
        f"| {each.metric} | {format_objective(value)} | {MEASURED.get(each.metric, validation)} |"
        for each, value in zip(objectives, values, strict=True)
    ]
    goals = [f"{'highest' if each.direction is Direction.MAXIMIZE else 'lowest'} {each.metric}" for each in objectives]
    one = confirmed.configurations[0] if confirmed else None
    bounds = confirmed.interval(one) if confirmed and one else None
    if one and bounds:
        seeds = pluralize(len(one.values), "fresh seed")
        rows.append(
            f"| {objective.metric} | {format_metric(one.mean)} | mean over {seeds}, 95% confidence interval "
            f"{format_interval(bounds)} |"
        )
    rows += [
        f"| {key} | {format_metric(value)} | this network, on the test data, which were not used for any decision |"
        for key, value in sorted(tested.items())
    ]
    doubt = (
        "The mean is what to expect from training with another seed, within the interval."
        if bounds
        else "It was trained with one seed, and the best of many trials is partly luck"
        + ("." if past.config.further else f": `lr-tuner confirm {past.config.name}` estimates how much.")
    )
    epoch = "the last epoch"
    if objective.epoch == "best":
        reached = min(number for number, value in trial.intermediate_values.items() if value == value_of(trial))
        epoch = f"epoch {reached}, the best of {end_of(trial).epochs}"
    packages = {each.name.partition("/")[0].removesuffix(".py") for each in copies}
    missing = sorted({module.partition(".")[0] for module in own_modules(config)} - packages)
    own = f", and {join_names([f'`{each}`' for each in missing], len(missing))}" if missing else ""
    own += "; the study's own modules are copied here, without the files that they read" if copies else ""
    imports, build = network_expression(config)
    digest = " ".join(dict.fromkeys(digest for _, digest in past.config.measure_data()[0]))
    return MODEL_CARD.format(
        title=title,
        number=trial.number,
        study=past.config.name,
        goals=" and the ".join(goals),
        trials=pluralize(len(past.trials), "trial"),
        metrics="\n".join(rows),
        doubt=doubt,
        imports=imports,
        build=build,
        expectation=how_trained(setup) if is_retrained or not warning else warning,
        warning=f"\n\nNote: {warning}" if warning else "",
        epoch=epoch,
        own=own,
        copies="".join(f"\n| `{each.name}` | a copy of the study's own module `{each.module}` |" for each in copies),
        model=config.model.name,
        data=config.data.name,
        optimizer=config.optimizer.name,
        schedule=config.schedule.name,
        averaging=f", its weights averaged by `{config.averaging.name}`" if config.averaging else "",
        digest=digest,
        setup=", ".join(f"{key} {value}" for key, value in setup.items()) or "versions that were not recorded",
        weights=WEIGHTS,
        config=CONFIG,
        unless=_unless(config),
        table=TABLE,
        script=SCRIPT,
    )
