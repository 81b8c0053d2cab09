"""A study's best trials, trained again with fresh seeds.

The best of many trainings is flattered by luck. Each of the best few, the study's default and a constant lr are trained
with the same seeds, which the study has not used, as long as in the study and without pruning;
`tuner.analysis.comparison` says what that proves. It is a study of its own, in the run of the first one in MLflow, and
is continued in the same way.

The constant lr is that of the study's best trial with a constant schedule, since its initial lr was searched for it; if
there is none, the best trial is used with a constant lr instead of its schedule.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING

from tuner.runner.options import ExecutionOptions, check_counts, option
from tuner.runner.run import checked, checking, opened, opened_engine
from tuner.text import pluralize
from tuner.urls import storage_url

if TYPE_CHECKING:
    from rich.console import Console

    from tuner.analysis.comparison import Comparison
    from tuner.storage.replicates import ReplicationStore, ReplicationStudy
    from tuner.storage.stored_study import StoredStudy

__all__ = ["ConfirmationOptions", "confirm"]


@dataclass(frozen=True, kw_only=True)
class ConfirmationOptions(ExecutionOptions):
    """Which study is confirmed, and how."""

    study: str = option(MISSING, "name of a study that was run, or its study file", "NAME", is_positional=True)
    top: int = option(5, "how many of its best trials (default: %(default)s)", "K", int)
    seeds: int = option(10, "seeds for each, in all (default: %(default)s)", "N", int)
    name: str | None = option(None, "name of the confirmation (default: <study>-confirm)", "NAME")
    dry_run: bool = option(False, "check everything, say how many trainings that are, and start none")


def confirm(options: ConfirmationOptions, found: "Callable[[Comparison, Sequence[str]], None] | None" = None) -> int:
    """Confirm a study, print what came out, and return the exit code.

    Args:
        options: Which study, and how.
        found: Called with what came out: the comparison, and sentences on it.

    Raises:
        TunerError: If the input is bad, the confirmation is already running, or it failed.
    """
    check_counts({"--top": options.top, "--seeds": options.seeds})
    with opened_engine(options) as engine:
        from rich.console import Console

        console = Console(quiet=options.quiet)
        with checking(console, options.study):
            from tuner.runner.summary import print_line, print_next
            from tuner.runner.verdict import record_comparison
            from tuner.storage.replicates import ReplicationStore
            from tuner.storage.stored_study import StoredStudy

            past = StoredStudy.load(options.study, storage_url(options.storage))
            config, opponents = _confirmation(past, options.top, options.seeds, options.name)
            plan = checked(config, engine, options)
        print_line(
            console,
            f"[bold]{config.name}[/bold]: {pluralize(len(config.candidates), 'configuration')} of study "
            f"{past.config.name}, {pluralize(options.seeds, 'fresh seed')} each: "
            f"{_amount(past, config.trials, plan.begun, len(engine.slots))}",
        )
        if len(past.trials) < (count := past.config.trials):
            text = f"has {len(past.trials)} of {pluralize(count, 'trial')}; the best of these are confirmed"
            print_line(console, f"[yellow]note:[/yellow] {past.config.name} {text}")
        if options.dry_run:
            return 0
        with opened(plan, console, ReplicationStore) as study:
            outcome = study.train(engine)
            _show(console, config, study.store, opponents)
            after = {"export": "the winner as a folder, with a model card", "report": "all of it in one HTML file"}
            print_next(console, outcome, past.config.name, {"dashboard": "every training, in MLflow", **after})
            if found:
                comparison = study.store.comparison()
                found(comparison, comparison.findings(opponents))
            if outcome.is_delivered:
                of = past.config.name, past.identifier
                record_comparison(outcome.tracking_uri, of, study.store.identifier, study.store.comparison(), opponents)
    return outcome.exit_code


def _amount(past: "StoredStudy", trainings: int, done: int, slots: int) -> str:
    """Return the number of trainings, and an estimate of their time from the time that the study's trials took."""
    from tuner.analysis.findings import duration
    from tuner.storage.trial_ends import end_of, setup_of

    text = pluralize(trainings, "training") + (f", {min(done, trainings)} of them begun or done" if done else "")
    whole = [trial for trial in past.trials if trial.value is not None]
    times = [end_of(trial).seconds / max(1, setup_of(trial).get("fused", 1)) for trial in whole]
    left = trainings - done
    if left <= 0 or not any(times):
        return text
    seconds = max(1.0, statistics.median(times) * left / slots)
    return f"{text}; about {duration(seconds)} on {pluralize(slots, 'slot')}, at the pace of the study"


def _confirmation(
    past: "StoredStudy", top: int, count: int, name: str | None
) -> "tuple[ReplicationStudy, Mapping[str, str]]":
    """Return the study that confirms another, and the names of the default and of the constant lr in it, by role."""
    from tuner.config.study import check_name
    from tuner.storage.finalists import finalists
    from tuner.storage.replicates import ReplicationStudy, fresh_seeds

    name = name or f"{past.config.name}-confirm"
    check_name(name, "--name")
    chosen = finalists(past, top)
    used = {past.config_of(trial).seed for trial in past.trials}
    seeds = fresh_seeds(past.config.sampler.arguments.get("seed", 0), count, used)
    study = ReplicationStudy.of(past.config, name, chosen.configs, seeds, chosen.claims, confirms=past.identifier)
    return study, chosen.opponents


def _show(
    console: "Console", config: "ReplicationStudy", store: "ReplicationStore", opponents: Mapping[str, str]
) -> None:
    """Print the table and the findings."""
    from tuner.runner.summary import print_line
    from tuner.runner.verdict import print_comparison

    if store.count < config.trials:
        done = f"has {store.count} of {pluralize(config.trials, 'training')}; run the same command again to continue"
        print_line(console, f"\n[bold]{config.name}[/bold] {done}")
    print_comparison(console, store.comparison(), opponents)
