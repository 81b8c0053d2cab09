"""A study's best trials, trained again with fresh seeds.

The best of many trainings is flattered by luck. Each of the best few, the study's default and a constant lr are trained
with the same seeds, which the study has not used, as long as in the study and without pruning;
`tuner.analysis.comparison` says what that proves. It is a study of its own, in the run of the first one in MLflow, and
is continued in the same way.

The constant lr is that of the study's best trial with a constant schedule, since its initial lr was searched for it; if
there is none, the best trial is used with a constant lr instead of its schedule.
"""

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING

from tuner.interrupts import temporary_folder
from tuner.runner.options import ExecutionOptions, option
from tuner.runner.run import checked, checking, opened, opened_engine
from tuner.text import format_metric, pluralize
from tuner.urls import storage_url

if TYPE_CHECKING:
    from rich.console import Console

    from tuner.analysis.comparison import Comparison
    from tuner.config.study import TrialConfig
    from tuner.followup.replicates import ReplicationStore, ReplicationStudy
    from tuner.storage.stored_study import StoredStudy

__all__ = ["ConfirmationOptions", "confirm", "print_comparison"]


@dataclass(frozen=True, kw_only=True)
class ConfirmationOptions(ExecutionOptions):
    """Which study is confirmed, and how."""

    study: str = option(MISSING, "name of a study that was run, or its study file", "NAME", is_positional=True)
    top: int = option(5, "how many of its best trials (default: %(default)s)", "K", int)
    seeds: int = option(10, "seeds for each, in all (default: %(default)s)", "N", int)
    name: str | None = option(None, "name of the confirmation (default: <study>-confirm)", "NAME")
    dry_run: bool = option(False, "check everything, say how many trainings that are, and start none")


def confirm(options: ConfirmationOptions) -> int:
    """Confirm a study, print what came out, and return the exit code.

    Raises:
        TunerError: If the input is bad, the confirmation is already running, or it failed.
    """
    with opened_engine(options) as engine:
        from rich.console import Console

        console = Console(quiet=options.quiet)
        with checking(console, options.study):
            from tuner.followup.replicates import ReplicationStore
            from tuner.runner.summary import print_line
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
            if outcome.is_delivered:
                _record(past, study.store, outcome.tracking_uri, opponents)
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
    from tuner.config.component import Component
    from tuner.config.study import check_name
    from tuner.followup.replicates import ReplicationStudy, fresh_seeds
    from tuner.storage.stored_study import label

    name = name or f"{past.config.name}-confirm"
    check_name(name, "--name")
    ranking = [trial.number for trial in past.ranking()]
    configs = {trial.number: past.config_of(trial) for trial in past.trials}
    values = {trial.number: float(trial.value or 0) for trial in past.trials}
    labels = {number: label(number, configs[number]) for number in ranking}
    candidates: dict[str, TrialConfig] = {}
    claims: dict[str, float] = {}
    opponents: dict[str, str] = {}

    def same(config: "TrialConfig") -> str | None:
        """Return the candidate that differs in the seed only, which is replaced."""
        pairs = candidates.items()
        return next((name for name, known in pairs if dataclasses.replace(known, seed=config.seed) == config), None)

    for trial in ranking:
        if len(candidates) < top and same(configs[trial]) is None:
            candidates[labels[trial]], claims[labels[trial]] = configs[trial], values[trial]

    def add(role: str, name: str, config: "TrialConfig") -> None:
        opponents[role] = same(config) or name
        candidates.setdefault(opponents[role], config)

    first = past.config.first
    baseline = first.params[0] if first.params and not first.outside else None
    twin = next((trial.number for trial in past.trials if trial.number in labels and trial.params == baseline), None)
    if twin is not None:
        add("the study's default", labels[twin], configs[twin])
        claims.setdefault(labels[twin], values[twin])
    elif default := past.default():
        add("the study's default", f"default {default.schedule.name}", default)
    constant = next((number for number in ranking if configs[number].schedule.name == "constant"), None)
    if constant is not None:
        add("a constant lr", labels[constant], configs[constant])
        claims.setdefault(labels[constant], values[constant])
    else:
        best = ranking[0]
        taken = dataclasses.replace(configs[best], schedule=Component("constant"), relative={})
        add("a constant lr", f"#{best} at a constant lr", taken)
    used = {config.seed for config in configs.values()}
    seeds = fresh_seeds(past.config.sampler.arguments.get("seed", 0), count, used)
    study = ReplicationStudy.of(past.config, name, candidates, seeds, claims, confirms=past.identifier)
    return study, opponents


def _show(
    console: "Console", config: "ReplicationStudy", store: "ReplicationStore", opponents: Mapping[str, str]
) -> None:
    """Print the table and the findings."""
    from tuner.runner.summary import print_line

    if store.count < config.trials:
        done = f"has {store.count} of {pluralize(config.trials, 'training')}; run the same command again to continue"
        print_line(console, f"\n[bold]{config.name}[/bold] {done}")
    print_comparison(console, store.comparison(), opponents)


def print_comparison(console: "Console", comparison: "Comparison", opponents: Mapping[str, str] | None = None) -> None:
    """Print a comparison of configurations: the table and the findings.

    Args:
        console: Prints it.
        comparison: The comparison.
        opponents: Names of configurations that the findings mention, by their roles.
    """
    from rich.markup import escape
    from rich.table import Table

    from tuner.analysis.comparison import chance
    from tuner.console import printable
    from tuner.runner.summary import print_line

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "seeds", "mean", "95% interval", "study", "winner better"):
        table.add_column(column, no_wrap=True)
    for row in comparison.rows():
        table.add_row(
            escape(printable(row["configuration"])),
            str(row["seeds"]),
            format_metric(row["mean"]),
            "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}",
            format_metric(row["in the study"]),
            "" if row["behind the winner"] is None else chance(row["probability that the winner is better"]),
        )
    console.print("", table, highlight=False)
    print_line(console, f"[dim]{comparison.caption}[/dim]\n")
    for sentence in comparison.findings(opponents or {}):
        print_line(console, escape(sentence))


def _record(past: "StoredStudy", store: "ReplicationStore", uri: str, opponents: Mapping[str, str]) -> None:
    """Store the table, the values and the picture in the confirmation's run, and the findings in the study's."""
    from tuner.tracking.reader import MlflowStudy
    from tuner.visualization.comparisons import of_comparison
    from tuner.visualization.matplotlib_backend import png

    comparison = store.comparison()
    found = comparison.findings(opponents)
    with temporary_folder() as folder:
        (folder / "confirmation.csv").write_text(comparison.csv(), encoding="utf-8")
        text = "\n".join([comparison.markdown(), "", *(f"- {sentence}" for sentence in found), ""])
        (folder / "confirmation.md").write_text(text, encoding="utf-8")
        figure = of_comparison(comparison, f"{past.config.name}: the best, trained again with fresh seeds")
        if figure.panels:
            (folder / "confirmation.png").write_bytes(png(figure))
        MlflowStudy(uri, store.identifier).add(folder)
    MlflowStudy(uri, past.identifier).set_tag("tuner.confirmed", " ".join(found)[:5000])
