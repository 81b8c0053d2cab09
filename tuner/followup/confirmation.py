"""A study's best trials, retrained with fresh seeds.

The best of many runs is partly luck. So the best few, the study's default and a constant lr are trained with the same
seeds, which the study has not used, for as long as in the study and without pruning; `tuner.analysis.comparison` judges
the results. A confirmation is a separate study, nested in the run of the original in MLflow, and is continued like any
study.

With longer runs (``--epochs``), the winners of a short study are retrained for longer, each with several initial lrs,
and `tuner.analysis.transfer` says whether the ranking held.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import MISSING, dataclass, replace
from typing import TYPE_CHECKING

from tuner.errors import BadInputError
from tuner.runner.open_study import checked, checking, opened, opened_engine, status
from tuner.runner.options import ExecutionOptions, check_counts, option
from tuner.text import join_names, pluralize
from tuner.urls import storage_url

if TYPE_CHECKING:
    from rich.console import Console

    from tuner.analysis.comparison import Comparison
    from tuner.analysis.transfer import Transfer
    from tuner.config.trial import AnyTrial
    from tuner.storage.finalists import Finalists
    from tuner.storage.replicates import ReplicationStudy
    from tuner.storage.stored_study import StoredStudy

__all__ = ["ConfirmationOptions", "confirm"]

MOST_EPOCHS = 1_000_000
LEAST_LR = 0.001


@dataclass(frozen=True, kw_only=True)
class ConfirmationOptions(ExecutionOptions):
    """The options of a confirmation."""

    study: str = option(MISSING, "name of a study that was run, or its study file", "NAME", is_positional=True)
    top: int = option(5, "number of its best trials to confirm (default: %(default)s)", "K", int)
    seeds: int = option(10, "seeds for each, in total (default: %(default)s)", "N", int)
    epochs: int | None = option(
        None, "train for N epochs (default: as long as in the study); lengths of schedules are scaled", "N", int
    )
    lrs: Sequence[float] = option(
        (1.0,), "factors to multiply the initial lr by (default: 1)", "F", float, takes_several=True
    )
    name: str | None = option(
        None, "name of the confirmation (default: <study>-confirm, or <study>-<N>-epochs with --epochs)", "NAME"
    )
    dry_run: bool = option(False, "check everything, report the number of runs, and start none")
    retry_failed: bool = option(False, "retry failed runs, once the cause is fixed")


def confirm(options: ConfirmationOptions, found: "Callable[[Comparison, Sequence[str]], None] | None" = None) -> int:
    """Confirm a study, print the result, and return the exit code.

    Args:
        options: Which study, and how.
        found: Called with the result: the comparison, and its findings.

    Raises:
        TunerError: If the input is bad, the confirmation is already running, or it failed.
    """
    check_counts({"--top": options.top, "--seeds": options.seeds})
    _check(options)
    with opened_engine(options) as engine:
        from rich.console import Console
        from rich.markup import escape

        console = Console(quiet=options.quiet)
        with checking(console, options.study):
            from tuner.console import print_line
            from tuner.runner.summary import exports, print_next
            from tuner.runner.verdict import print_comparison, record_comparison
            from tuner.storage.replicates import ReplicationStore
            from tuner.storage.stored_study import StoredStudy

            past = StoredStudy.load(options.study, storage_url(options.storage))
            past.config.check_single("a confirmation")
            config, carried = _confirmation(past, options)
            plan = replace(checked(config, engine, options), retry_failed=options.retry_failed)
        print_line(
            console,
            f"[bold]{config.name}[/bold]: {pluralize(len(config.candidates), 'configuration')} of study "
            f"{past.config.name}, {pluralize(options.seeds, 'fresh seed')} each: "
            f"{_amount(past, config.trials, plan.begun, len(engine.slots), options.epochs)}",
        )
        if past.config.allowance is None and len(past.trials) < (count := past.config.trials):
            text = f"has {len(past.trials)} of {pluralize(count, 'trial')}; the best of these are confirmed"
            print_line(console, f"[yellow]note:[/yellow] {past.config.name} {text}")
        for sentence in [*carried.changes, *carried.notes]:
            print_line(console, f"[yellow]note:[/yellow] {escape(sentence)}")
        if options.dry_run:
            return 0
        with opened(plan, console, ReplicationStore) as study:
            outcome = study.train(engine)
            comparison = replace(study.store.comparison(), caveat=carried.caveat)
            opponents, further = carried.opponents(comparison), carried.transfer(comparison).findings()
            if study.store.count < config.trials:
                left = f"has {study.store.count} of {pluralize(config.trials, config.kind.noun)}"
                print_line(console, f"\n[bold]{config.name}[/bold] {left}; run the same command again to continue")
            print_comparison(console, comparison, opponents, further)
            after = {"dashboard": f"every {config.kind.noun}, in MLflow"}
            if outcome.best and config.kind.trains:
                _, weights = outcome.best
                winner = comparison.ranking[0].name
                exported = exports(past.record, winner) if options.epochs is None else {}
                after |= exported if config.can_export else {}
                if not exported and weights.exists():  # `export` writes trials of the study, and this is none
                    print_line(console, escape(f"The weights of {winner} with the first fresh seed: {weights}"))
            print_next(console, outcome, past.config.name, {**after, "report": "everything in one HTML file"})
            if found:
                found(comparison, [*comparison.findings(opponents), *further])
            if outcome.is_delivered:
                of = past.config.name, past.identifier
                record_comparison(outcome.tracking_uri, of, study.store.identifier, comparison, opponents, further)
                for note in [] if outcome.interrupted else _update_original(past, outcome.tracking_uri, console):
                    print_line(console, f"[yellow]note:[/yellow] {escape(note)}")
    return outcome.exit_code


def _check(options: ConfirmationOptions) -> None:
    """Reject invalid lengths and lrs.

    Raises:
        BadInputError: If there are any.
    """
    faults = []
    if options.epochs is not None and not 1 <= options.epochs <= MOST_EPOCHS:
        faults.append(f"--epochs: must be from 1 to {MOST_EPOCHS} (got {options.epochs}).")
    if len(set(options.lrs)) < len(options.lrs) or not all(LEAST_LR <= each <= 1 / LEAST_LR for each in options.lrs):
        got = " ".join(f"{each:g}" for each in options.lrs)
        faults.append(f"--lrs: must be different factors from {LEAST_LR} to {1 / LEAST_LR:g} (got {got}).")
    if faults:
        raise BadInputError(faults)


def _amount(past: "StoredStudy", trainings: int, done: int, slots: int, epochs: int | None) -> str:
    """Return the number of runs, and an estimate of their time from that of the trials that were trained to the end."""
    from tuner.analysis.findings import duration
    from tuner.storage.trial_ends import end_of, is_complete, setup_of

    text = pluralize(trainings, past.config.kind.noun) + (
        f", {min(done, trainings)} of them started or done" if done else ""
    )
    whole = [trial for trial in past.trials if is_complete(trial)]
    scales = [epochs / max(1, end_of(trial).epochs) if epochs else 1.0 for trial in whole]
    alone = [end_of(trial).seconds / max(1, setup_of(trial).get("fused", 1)) for trial in whole]
    times = [seconds * scale for seconds, scale in zip(alone, scales, strict=True)]
    left = trainings - done
    if left <= 0 or not any(times):
        return text
    seconds = max(1.0, statistics.median(times) * left / slots)
    return f"{text}; about {duration(seconds)} on {pluralize(slots, 'slot')}, at the pace of the study"


def _update_original(past: "StoredStudy", uri: str, console: "Console") -> list[str]:
    """Write what the confirmation shows to the MLflow run of the study: its description and, if it has one, its report.

    Returns:
        Messages for the user.
    """
    from tuner.reporting.review import Review, state_of, state_of_trials
    from tuner.storage.database import state_directory
    from tuner.storage.inventory import comparisons, with_fresh_seeds
    from tuner.storage.reader import open_study, record_of
    from tuner.tracking.reader import MlflowStudy

    name, tracked = past.config.name, MlflowStudy(uri, past.identifier)
    with open_study(past.storage, name) as study:
        record, found = with_fresh_seeds(record_of(study), study), comparisons(study)
    tracked.describe(past.config, record)
    before, state = tracked.reviewed, state_of(record, found)
    if state == before or not tracked.has_report:
        return []
    is_complete = before.startswith(state_of_trials(record))  # otherwise, the study's next run registers its model
    with (
        status(console, f"writing the report of {name}"),
        closing(Review(past.storage, name, uri, state_directory(past.storage, name))) as review,
    ):
        return review.finish(None, state if is_complete else before)


@dataclass(frozen=True)
class _Carried:
    """The values that a confirmation takes over from a study.

    Args:
        variants: Names of the trained configurations, by their names in the study and the factor of the initial lr.
        before: The study's values of its best configurations, if its runs had another length.
        roles: The study's names of its default and of the constant lr, by their roles.
        notes: Sentences about lengths that were scaled.
        changes: Sentences about the user's own modules that have changed since its best configurations were trained.
        caveat: A sentence on how little the constant lr was tuned; empty if it was tuned enough, also by the factors.
    """

    variants: Mapping[str, Mapping[float, str]]
    before: Mapping[str, float]
    roles: Mapping[str, str]
    notes: Sequence[str]
    changes: Sequence[str]
    caveat: str = ""

    def transfer(self, comparison: "Comparison") -> "Transfer":
        """Return whether what the study found holds here."""
        from tuner.analysis.transfer import Transfer

        return Transfer(comparison, self.variants, self.before)

    def opponents(self, comparison: "Comparison") -> dict[str, str]:
        """Return the names of the default and of the constant lr, each with its best initial lr, by their roles."""
        transfer = self.transfer(comparison)
        return {role: transfer.best_of(name) for role, name in self.roles.items()}


def _confirmation(past: "StoredStudy", options: ConfirmationOptions) -> "tuple[ReplicationStudy, _Carried]":
    """Return the study that confirms another, and the values it takes from it."""
    from tuner.analysis.findings import FEWEST_TRIED
    from tuner.config.study_name import check_name
    from tuner.config.trainings import as_training
    from tuner.followup.longer import lengthened
    from tuner.storage.finalists import finalists
    from tuner.storage.replicates import ReplicationStudy, fresh_seeds, of_lr, with_lr

    end = "confirm" if options.epochs is None else f"{options.epochs}-epochs"
    name = options.name or f"{past.config.name}-{end}"
    check_name(name, "--name")
    if options.epochs is not None or any(factor != 1 for factor in options.lrs):
        past.config.check_trains("--epochs and --lrs change training runs")
    chosen = finalists(past, options.top)
    notes: list[str] = []
    configs: dict[str, AnyTrial] = {}
    variants: dict[str, dict[float, str]] = {}
    for label, config in chosen.configs.items():
        if options.epochs is not None:
            config, changes = lengthened(past.config, label, as_training(config), options.epochs)
            notes += changes
        variants[label] = {factor: label if factor == 1 else of_lr(label, factor) for factor in options.lrs}
        configs |= {variant: with_lr(config, factor) for factor, variant in variants[label].items()}
    is_longer = options.epochs is not None
    used = {past.config_of(trial).seed for trial in past.trials}
    seeds = fresh_seeds(past.config.sampler.arguments.get("seed", 0), options.seeds, used)
    claims = {} if is_longer else chosen.claims
    study = ReplicationStudy.of(
        past.config, name, configs, seeds, claims, sources=chosen.sources, confirms=past.identifier
    )
    before = chosen.claims if is_longer else {}
    caveat = chosen.caveat if len(options.lrs) < FEWEST_TRIED else ""
    return study, _Carried(variants, before, chosen.opponents, notes, _changes(past, chosen), caveat)


def _changes(past: "StoredStudy", chosen: "Finalists") -> list[str]:
    """Return sentences about the user's own modules that have changed since trials of the study."""
    now = past.config.sources
    trials: dict[str, list[str]] = {}
    for name, before in chosen.sources.items():
        for change in before.changed(replace(before, commit="", files=now)):
            trials.setdefault(change, []).append(name)
    return [
        f"{change} since {join_names(names)} {'was' if len(names) == 1 else 'were'} trained in the study"
        for change, names in trials.items()
    ]
