"""Runs a study for the commands and for `tuner.Study`, from its file to its summary."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tuner import timings
from tuner.errors import BadInputError
from tuner.runner.open_study import OpenStudy, Outcome, checked, checking, opened, opened_engine
from tuner.runner.options import StudyOptions

if TYPE_CHECKING:
    from tuner.config.study import StudyConfig
    from tuner.storage.study_store import StudyStore

__all__ = ["run"]


def run(
    options: StudyOptions,
    load: "Callable[[Sequence[str]], StudyConfig] | None" = None,
    on_trial: "Callable[[OpenStudy[StudyStore], int], None] | None" = None,
) -> Outcome:
    """Run a study to its end, or as far as time and signals allow.

    Args:
        options: Which study, and how. Where `load` is given, `options.study` only names it in messages.
        load: Checks the study, with overrides as of `load_study`; None to load `options.study`.
        on_trial: Called with the open study and the number of a trial when the trial is finished and recorded.

    Raises:
        TunerError: If the input is bad, the study is already running, or it failed.
    """
    if options.timings:
        timings.start()
    timings.phase("imports of torch and Lightning")
    overrides = list(options.set)
    if options.trials is not None:
        overrides.append(f"budget.trials={options.trials}")
    if options.timeout is not None:
        overrides.append(f"budget.timeout={options.timeout}")
    if options.start_from:
        overrides.append(f"start.studies={json.dumps(list(options.start_from))}")
    with opened_engine(options) as engine:
        from rich.console import Console
        from rich.markup import escape

        console = Console(quiet=options.quiet)
        remarks: list[str] = []
        with checking(console, options.study):
            timings.phase("imports of Optuna")
            from tuner.config import by_value
            from tuner.config.loader import load_study
            from tuner.console import print_line
            from tuner.runner.last_trainings import LastTrainings
            from tuner.runner.rehearsal import rehearse
            from tuner.runner.summary import print_plan, print_summary
            from tuner.storage.starts import read_starts
            from tuner.storage.study_store import StudyStore
            from tuner.tracking.system_metrics import check_packages

            timings.phase("checks and import of MLflow")
            config = load(overrides) if load else load_study(options.study, overrides, folder=options.folder)
            remarks += filter(None, [by_value.note(config.held)])
            plan = dataclasses.replace(
                checked(config, engine, options),
                review=options.review,
                system_metrics=options.system_metrics,
                retry_failed=options.retry_failed,
            )
            config = plan.config
            if config.start and not plan.begun:
                earlier, notes = read_starts(config, plan.storage)
                remarks += notes
                again = load(overrides) if load else load_study(options.study, overrides, folder=options.folder)
                config = again.with_earlier(earlier)  # loaded again, because the other studies have other modules
                plan = dataclasses.replace(plan, config=config)
            if plan.system_metrics:
                check_packages([slot.device for slot in engine.slots])
            must_rehearse = options.dry_run or (options.rehearse and not plan.begun)
            timings.phase("rehearsal")
            rehearsal = None
            if must_rehearse:
                rehearsal = rehearse(
                    config, engine, plan.storage, remarks.append, lambda text: print_line(console, escape(text))
                )
        if options.dry_run and rehearsal:
            print_plan(console, plan, engine.slots, remarks)
            if faults := [*rehearsal.faults, *dict.fromkeys(rehearsal.deaths)]:
                raise BadInputError(faults)
            print_line(console, f"no errors found: {rehearsal.described(config, len(engine.slots))}")
            return Outcome(config.name, plan.storage, plan.uri)
        timings.phase("Optuna's database")
        with opened(plan, console, StudyStore) as study:
            print_plan(console, plan, engine.slots, remarks)
            last = LastTrainings(plan, options, console)
            outcome = study.train(engine, on_trial, last.run)
            timings.phase("summary")
            is_answered = last.print()
            print_summary(console, config, study.store, outcome, is_answered)
        timings.phase("end")
        return outcome
