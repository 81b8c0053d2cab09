"""``python -m tuner.export``: write a trial as a folder: configuration, weights, lr table, script, model card.

Only a study's best trial has stored weights; any other trial is trained again, as `tuner.replay` does.
"""

import argparse
import contextlib
import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.cli import add_stores, command
from tuner.direction import Direction
from tuner.errors import BadInputError, StudyFailedError, in_a_line, place_of
from tuner.interrupts import temporary_folder
from tuner.process import leave
from tuner.runner.run import status
from tuner.text import counted
from tuner.urls import refuse_passwords, storage_url

if TYPE_CHECKING:
    from tuner.config.study import TrialConfig
    from tuner.storage.reader import Trial
    from tuner.storage.stored_study import StoredStudy

__all__ = ["main"]

WEIGHTS, CONFIG, TABLE, SCRIPT, CARD = "weights.ckpt", "best.yaml", "lr.csv", "train.py", "README.md"

MODEL_CARD = """\
# {title}

A `{model}` trained on `{data}` with `{optimizer}` under the schedule `{schedule}`: trial #{number} of the study
`{study}`, which searched for the {goal} {metric} in {trials}.

| metric | value | meaning |
|---|---|---|
{metrics}

{doubt}

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
| `{config}` | every value of the trial; `python -m lightning_modules fit --config {config}` trains it again |
| `{table}` | the lr of every step |
| `{script}` | the training; it writes its weights to `trained.ckpt` |

Data: `{data}`, digest `{digest}`. Trained with {setup}.
"""

EPILOG = """\
examples:
  python -m tuner.export quickstart                              its best trial, into quickstart-0 or the like
  python -m tuner.export quickstart --trial 2 --to my_network    another one, trained again for its weights

exit codes:
  0 done   1 the study failed   2 bad input
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the folder and return the exit code."""
    options = _parse(arguments)
    return command(lambda: _run(options))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tuner.export",
        description="Write a trial as a folder: configuration, weights, lr table, training script, model card.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", metavar="NAME", help="name of a study that was run, or its study file")
    parser.add_argument("--trial", type=int, metavar="N", help="number of the trial (default: the best)")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="folder to create (default: <study>-<N>)")
    add_stores(parser)
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})

    # Imported here: --help and a wrong option should not wait for torch.
    from rich.console import Console

    from tuner.storage.stored_study import StoredStudy
    from tuner.tracking.reader import MlflowStudy
    from tuner.tracking.store import tracking_uri

    console = Console(stderr=True)
    uri = tracking_uri(options.tracking_uri, must_exist=True)
    with status(console, f"reading {options.study}"):
        past = StoredStudy.load(options.study, storage_url(options.storage))
        trial = past.trial(options.trial)
        if trial.value is None:
            state = trial.user_attrs.get("state", trial.state.name.lower())
            raise BadInputError([f"--trial: #{trial.number} is {state}: it was not trained to its end."])
        to: Path = options.to or Path(f"{past.config.name}-{trial.number}")
        if to.exists():
            raise BadInputError([f"--to: {to} already exists; name another folder."])
        rates = MlflowStudy(uri, past.identifier).points(trial.number).get("lr", ())
    with contextlib.ExitStack() as stack:
        try:
            temporary = stack.enter_context(temporary_folder(to.absolute().parent, ".tuner-"))
        except OSError as error:
            raise BadInputError([f"--to: {to}: cannot be written ({error.strerror})."]) from error
        try:
            folder = temporary / "export"
            folder.mkdir()
            with console.status("collecting"):
                _fill(folder, past, trial, rates)
            folder.rename(to)
        except OSError as error:  # from the disk, the stores, or the trial's own data
            reason = f"{in_a_line(error)}{place_of(error)}"
            raise StudyFailedError(f"trial #{trial.number} cannot be exported: {reason}") from error
    print(to)  # noqa: T201
    return 0


def _fill(folder: Path, past: "StoredStudy", trial: "Trial", rates: Sequence[tuple[int, float]]) -> None:
    from tuner.config.yaml_reader import as_yaml
    from tuner.followup.replaying import train_again
    from tuner.followup.script import training_script
    from tuner.training.lightning_cli import lightning_config
    from tuner.training.run import MODEL_FILE

    config, setup = past.config_of(trial), trial.user_attrs.get("setup", {})
    weights = past.directory(trial.number) / MODEL_FILE
    with temporary_folder() as temporary:
        if not weights.exists() or not rates:
            result = train_again(past, trial, temporary, lambda text: None)
            weights = temporary / MODEL_FILE
            rates = [(step, lr) for key, step, lr in result.points if key == "lr"]
        shutil.copy(weights, folder / WEIGHTS)
    described = lightning_config(config, past.config.objective, setup)
    (folder / CONFIG).write_text(as_yaml(described), encoding="utf-8")
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "lr"])
        writer.writerows(rates)
    title = f"{past.config.name} #{trial.number}"
    script = training_script(config, past.config.objective, setup, title)
    (folder / SCRIPT).write_text(script, encoding="utf-8")
    (folder / CARD).write_text(_card(past, trial, config, setup, title), encoding="utf-8")


def _card(past: "StoredStudy", trial: "Trial", config: "TrialConfig", setup: Mapping[str, Any], title: str) -> str:
    from tuner.followup.replaying import how_trained
    from tuner.followup.script import network_expression, own_modules

    objective, confirmed = past.config.objective, past.confirmed(trial)
    rows = [f"| {objective.metric} | {trial.value:.4f} | this network, on the validation data |"]
    one = confirmed.configurations[0] if confirmed else None
    bounds = confirmed.interval(one) if confirmed and one else None
    if one and bounds:
        seeds = counted(len(one.values), "fresh seed")
        rows.append(
            f"| {objective.metric} | {one.mean:.4f} | mean over {seeds}, 95% confidence interval "
            f"{bounds[0]:.4f} to {bounds[1]:.4f} |"
        )
    if past.record.best and past.record.best.number == trial.number:
        rows += [
            f"| {key} | {value:.4f} | this network, on the test data, which were used for no decision |"
            for key, value in sorted(past.record.test.items())
        ]
    doubt = (
        "The mean is what to expect from training with another seed, within the interval."
        if bounds
        else "It was trained with one seed, and the best of many trials is partly luck: "
        f"`python -m tuner.confirm {past.config.name}` estimates how much."
    )
    epoch = "the last epoch"
    if objective.epoch == "best":
        reached = min(number for number, value in trial.intermediate_values.items() if value == trial.value)
        epoch = f"epoch {reached}, the best of {len(trial.intermediate_values)}"
    own = ", ".join(f"`{module}`" for module in own_modules(config))
    imports, build = network_expression(config)
    digest = " ".join(dict.fromkeys(digest for _, digest in past.config.measure_data()[0]))
    return MODEL_CARD.format(
        title=title,
        number=trial.number,
        study=past.config.name,
        goal="highest" if objective.direction is Direction.MAXIMIZE else "lowest",
        metric=objective.metric,
        trials=counted(len(past.trials), "trial"),
        metrics="\n".join(rows),
        doubt=doubt,
        imports=imports,
        build=build,
        expectation=how_trained(setup),
        epoch=epoch,
        own=f", and {own}, which must be in the same folder or on `PYTHONPATH`" if own else "",
        model=config.model.name,
        data=config.data.name,
        optimizer=config.optimizer.name,
        schedule=config.schedule.name,
        digest=digest,
        setup=", ".join(f"{key} {value}" for key, value in setup.items()) or "versions that were not recorded",
        weights=WEIGHTS,
        config=CONFIG,
        table=TABLE,
        script=SCRIPT,
    )


if __name__ == "__main__":
    leave(main())
