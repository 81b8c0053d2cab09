"""``lr-tuner replay``: train a trial again under its recorded conditions, and compare every metric.

The values, seed, order of the data, precision and number of threads are the recorded ones. The objective and every
point of every metric, including the lr of each step, are compared with Optuna and MLflow to the last bit. Nothing is
written to either.
"""

import argparse
from collections.abc import Sequence

from tuner.cli import Parser, add_stores, command, existing_store, make_parser
from tuner.interrupts import temporary_folder
from tuner.process import leave
from tuner.runner.open_study import status
from tuner.text import format_metric, pluralize
from tuner.urls import refuse_passwords, storage_url

__all__ = ["main", "parser"]


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "replay",
        "Retrain a trial exactly as it was trained, and compare every number with those stored.",
        {
            "replay quickstart": "its best trial",
            "replay quickstart --trial 2": "another one",
            "replay studies/mine.yaml": "a study given by its file, as on a machine that did not run it",
        },
        {0: "the same to the last bit", 1: "something differs", 2: "bad input"},
    )
    made.add_argument("study", metavar="NAME", help="name of a study that was run, or its study file")
    made.add_argument("--trial", type=int, metavar="N", help="number of the trial (default: the best)")
    add_stores(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a trial again and return the exit code."""
    options = parser().parse_args(arguments)
    return command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--storage": options.storage, "--tracking-uri": options.tracking_uri})

    # Imported here: --help and a wrong option should not wait for torch.
    from rich.console import Console
    from rich.markup import escape

    from tuner.config.objectives import TIME
    from tuner.console import print_line
    from tuner.followup.replaying import different_points, different_setup, how_trained, train_again
    from tuner.storage.stored_study import StoredStudy
    from tuner.storage.trial_ends import setup_of, state_of, value_of
    from tuner.tracking.reader import MlflowStudy

    console = Console(quiet=options.quiet)
    uri = existing_store(options.tracking_uri, storage_url(options.storage), [options.study])
    with status(console, f"reading {options.study}"):
        past = StoredStudy.load(options.study, storage_url(options.storage))
        past.config.check_trains("replay repeats a training run")
        trial = past.trial(options.trial)
        tracked = MlflowStudy(uri, past.identifier)
        points, of_study = tracked.points(trial.number), tracked.own_metrics
    setup = setup_of(trial)
    print_line(console, f"[bold]{past.config.name} #{trial.number}[/bold]: {escape(how_trained(setup))}")
    with temporary_folder() as directory, console.status("training it again"):
        result = train_again(past, trial, directory, lambda text: print_line(console, escape(text)))

    again = [point for point in result.points if point[0] != TIME]
    trained = {key for key, _, _ in again} | (points.keys() - of_study)  # others were logged by the test alone
    stored = {key: curve for key, curve in points.items() if key in trained and key != TIME}
    differences = []
    if result.state != (state := state_of(trial)):
        differences.append(f"it was {state}, now {result.state} {result.message}".rstrip())
    elif (before := value_of(trial)) is not None and result.value != before:
        differences.append(f"{past.config.objective.metric}: was {before!r}, now {result.value!r}")
    if stored:
        differences += different_points(stored, again)
    else:
        print_line(console, "[yellow]note:[/yellow] MLflow has no run of this trial, so its curves are not compared")
    if not differences:
        count = sum(map(len, stored.values()))
        value = "" if result.value is None else f"{past.config.objective.metric} {format_metric(result.value)}, "
        print_line(
            console, f"the same to the last bit: {value}{pluralize(count, 'point')} of {', '.join(sorted(stored))}"
        )
        return 0
    print_line(console, "[yellow]not the same:[/yellow]")
    for difference in differences:
        print_line(console, f"  {escape(difference)}")
    if changed := [*different_setup(setup, result.setup), *past.changed_sources(trial)]:
        print_line(console, "conditions that have changed since:")
        for change in changed:
            print_line(console, f"  {escape(change)}")
    return 1


if __name__ == "__main__":
    leave(main())
