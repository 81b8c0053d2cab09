"""Prints the plan of a study before it, and the summary after it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tuner.analysis.findings import doubt, never_tried
from tuner.analysis.lint import lint_families
from tuner.analysis.lr_curves import schedule_families
from tuner.analysis.record import FAMILY, StudyRecord
from tuner.config.budget import longest_training
from tuner.config.search_space import described, searched
from tuner.config.study import StudyConfig
from tuner.console import printable
from tuner.errors import BadInputError
from tuner.protocol import Slot
from tuner.runner.run import Outcome, Plan
from tuner.storage.study_store import StudyStore
from tuner.storage.trial_ends import state_of
from tuner.text import cut, format_value, pluralize
from tuner.training.run import TRACEBACK_FILE
from tuner.urls import without_password

__all__ = ["print_line", "print_plan", "print_ranking", "print_summary"]

LINTED_SAMPLES = 20  # as many as a preview draws
TOP_TRIALS = 5


def print_plan(console: Console, plan: Plan, slots: Sequence[Slot], remarks: Sequence[str] = ()) -> None:
    """Print what the study will do, and where it is recorded."""
    config, fuse = plan.config, plan.fuse
    devices = sorted({slot.device for slot in slots})
    places = f"{pluralize(len(slots), 'slot')} on {', '.join(devices)}"
    if devices == ["cpu"]:
        places += f", {pluralize(slots[0].threads, 'thread')} each"
    if fuse.most > 1:
        places += f", up to {fuse.most} trials at a time as one model in each"
    if fuse.is_measured:
        places += ", as many as are fastest"
    pruner = "no pruner" if config.pruner.name == "none" else f"{config.pruner.name} pruner"
    if config.rungs:
        pruner = f"rungs ({config.rungs.describe(longest_training(config.trial['trainer']))})"
    print_line(
        console,
        f"[bold]{config.name}[/bold]: {config.budget} for the best {config.objective.metric}, "
        f"{config.sampler.name} sampler, {pruner}, {places}",
    )
    for path, spec in searched(config.trial):
        print_line(console, f"  [dim]{escape(path)}: {escape(described(spec))}[/dim]")
    print_line(console, f"  [dim]Optuna: {escape(_shown(plan.storage))}, MLflow: {escape(_shown(plan.uri))}[/dim]")
    for sentence in config.beginning:
        print_line(console, f"  [dim]{escape(sentence)}[/dim]")
    for finding in (*_findings(config), *remarks):
        print_line(console, f"  [yellow]note:[/yellow] [dim]{escape(finding)}[/dim]")


def _findings(config: StudyConfig) -> Sequence[str]:
    try:
        return lint_families(schedule_families(config, LINTED_SAMPLES))
    except BadInputError as error:  # the length of a training is unknown, or some values make no schedule
        return error.faults


def print_summary(console: Console, config: StudyConfig, store: StudyStore, outcome: Outcome) -> None:
    """Print the results, and where to look further."""
    finished, top, record = store.finished(), store.ranking()[:1], store.record()
    states = Counter(state_of(trial) for trial in finished)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none finished"
    if outcome.is_over and config.until and (gain := store.possible_gain()) < config.until:
        has = f"has ended after {pluralize(len(finished), 'trial')} ({counts}): at most {gain:.3g} can still be gained"
        print_line(console, f"\n[bold]{config.name}[/bold] {has}; lower budget.until to add more")
    elif config.allowance is not None:
        _print_spent(console, config, store, counts, outcome.is_over)
    elif len(finished) >= config.trials:
        has = f"has all its {pluralize(config.trials, 'trial')} ({counts})"
        if len(finished) > config.trials:
            has = f"has {pluralize(len(finished), 'trial')} ({counts}), more than the {config.trials} asked for"
        print_line(console, f"\n[bold]{config.name}[/bold] {has}; raise --trials to add more")
    else:
        print_line(
            console,
            f"\n[bold]{config.name}[/bold] has {len(finished)} of {pluralize(config.trials, 'trial')} ({counts}); "
            f"run the same command again to continue{_cut_short(store)}",
        )
    if top:
        print_ranking(console, record, TOP_TRIALS)
        tested = store.tested()
        if tested and tested.trial == top[0].number and tested.metrics:
            metrics = ", ".join(f"{escape(cut(key))} {value:.4f}" for key, value in sorted(tested.metrics.items()))
            print_line(console, f"best trial #{top[0].number} on the test data: {metrics}")
        weights = store.trial_directory(top[0].number) / "model.ckpt"
        print_line(console, f"its weights: {escape(str(weights)) if weights.exists() else 'are not on this machine'}")
    elif finished:
        print_line(console, "[yellow]no trial was trained to its end[/yellow]")
    _print_failed(console, store, [trial.number for trial in finished if state_of(trial) == "failed"])
    for sentence in filter(None, (doubt(record), never_tried(record))):
        print_line(console, escape(sentence))
    uri, page = outcome.tracking_uri, outcome.runs_page
    if uri.startswith("http"):
        look = f"{without_password(uri)}/{page}"
    elif _shown(uri) == "sqlite:///mlflow.db":
        look = f"lr-tuner dashboard {config.name} (or mlflow ui, then http://127.0.0.1:5000/{page})"
    else:
        look = f"lr-tuner dashboard {config.name} --tracking-uri {_shown(uri)}"
    print_line(console, f"\nlr curves and accuracies: {escape(look)}")
    for sentence in outcome.missing:
        print_line(console, f"[yellow]{escape(sentence)}.[/yellow]")


def print_ranking(console: Console, record: StudyRecord, most: int) -> None:
    """Print the best trials of a study as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", record.metric, "schedule", "searched values"):
        table.add_column(escape(column), no_wrap=column in ("", record.metric))
    for trial in record.ranking[:most]:
        values = ", ".join(
            f"{cut(path.rpartition('.')[2])} {cut(format_value(value))}"
            for path, value in trial.params.items()
            if path != FAMILY
        )
        table.add_row(f"#{trial.number}", f"{trial.value:.4f}", escape(trial.family), escape(printable(values)))
    if table.row_count:
        console.print(table, highlight=False)


def _print_spent(console: Console, config: StudyConfig, store: StudyStore, counts: str, is_done: bool) -> None:
    """Print how much of a budget in epochs or steps is used."""
    allowance = config.allowance
    if allowance is None:
        return
    has = f"has used {store.spent} of {allowance} in {pluralize(store.count, 'trial')} ({counts})"
    if is_done:
        has += f"; raise budget.{allowance.unit} to add more"
    else:
        has += f"; run the same command again to continue{_cut_short(store)}"
    print_line(console, f"\n[bold]{config.name}[/bold] {has}")


def _cut_short(store: StudyStore) -> str:
    """Return that some trials were interrupted and will be continued; empty if there are none."""
    count = store.cut_short
    return f", with the {pluralize(count, 'trial')} that {'was' if count == 1 else 'were'} cut short" if count else ""


def _print_failed(console: Console, store: StudyStore, numbers: Sequence[int]) -> None:
    """Print where the tracebacks of failed trials are, and how to train them again."""
    traces = [store.trial_directory(number) / TRACEBACK_FILE for number in numbers]
    if there := [str(trace) for trace in traces if trace.exists()]:
        whose = "its traceback" if len(numbers) == 1 else "their tracebacks"
        where = f"; {whose}: {', '.join(there[:3])}{' ...' if len(there) > 3 else ''}"
    else:
        where = ""
    if numbers:
        failed = f"{pluralize(len(numbers), 'trial')} failed{where}"
        print_line(console, f"{escape(failed)}; --retry-failed trains them again once the cause is fixed")


def print_line(console: Console, markup: str) -> None:
    """Print a line of rich markup; control characters in it are escaped."""
    console.print(printable(markup), highlight=False, soft_wrap=True)


def _shown(uri: str) -> str:
    """Return a URI without its password, and without this folder if it lies in it."""
    return without_password(uri).replace(f"sqlite:///{Path.cwd()}/", "sqlite:///")
