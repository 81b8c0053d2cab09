"""Prints the plan of a study before it runs, and the summary afterwards."""

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.segment import Segments
from rich.table import Table

from tuner.analysis.findings import answer, open_questions
from tuner.analysis.lint import lint_families
from tuner.analysis.lr_curves import Family, rising, schedule_families
from tuner.analysis.record import FAMILY, StudyRecord
from tuner.config.opening_notes import opening_notes
from tuner.config.search_space import described, lowest, searched
from tuner.config.study import StudyConfig
from tuner.console import print_line, printable
from tuner.errors import BadInputError
from tuner.process import own_command
from tuner.protocol import Slot
from tuner.runner.open_study import Outcome, Plan
from tuner.storage.study_store import StudyStore
from tuner.storage.trial_ends import state_of
from tuner.text import cut, fitting, format_metric, format_objective, format_value, join_names, pluralize, two_columns
from tuner.training.results import TRACEBACK_FILE
from tuner.urls import storage_url, without_password

__all__ = ["exports", "print_next", "print_plan", "print_ranking", "print_summary", "print_table"]

DEFAULT_TRACKING, TRACKING = "sqlite:///mlflow.db", "MLFLOW_TRACKING_URI"
LINTED_SAMPLES = 20  # as many as a preview draws
TOP_TRIALS = 5
MOST_OF_FRONT = 12
AS_REPORT = "everything in one HTML file"
WHOLE_LINE = 80  # columns of a table where there is no terminal, at least
SHORTEST_WRAPPED = 16
NARROW, OBJECTIVE = 60, 14
"""Columns of a terminal below which a ranking has no column of schedules, and those that a further objective adds.

The values begin with the schedule then.
"""
MOST_DROPPED = 9  # importance of a column that is dropped before any other


def print_plan(console: Console, plan: Plan, slots: Sequence[Slot], remarks: Sequence[str] = ()) -> None:
    """Print what the study will do, and where it is recorded."""
    config, fuse = plan.config, plan.fuse
    devices = sorted({slot.device for slot in slots})
    places = f"{pluralize(len(slots), 'slot')} on {', '.join(devices)}"
    if devices == ["cpu"]:
        places += f", {pluralize(slots[0].threads, 'thread')} each"
    if fuse.most > 1:
        places += f", each training up to {fuse.most} trials as one model"
    if fuse.is_measured:
        places += " (the fastest number is measured)"
    pruner = "no pruner" if config.pruner.name == "none" else f"{config.pruner.name} pruner"
    if config.rungs:
        pruner = f"rungs ({config.rungs.describe(config.longest)})"
    print_line(
        console,
        f"[bold]{config.name}[/bold]: {config.budget} for the {_objectives(config)}, "
        f"{config.sampler.name} sampler, {pruner}, {places}",
    )
    for path, spec in searched(config.trial):
        print_line(console, f"  [dim]{escape(path)}: {escape(described(spec))}[/dim]")
    print_line(console, f"  [dim]Optuna: {escape(_shown(plan.storage))}, MLflow: {escape(_shown(plan.uri))}[/dim]")
    families, faults = _families(config)
    for sentence in (*opening_notes(config), *_compared_later(config, families)):
        print_line(console, f"  [dim]{escape(sentence)}[/dim]")
    for finding in (*faults, *lint_families(families), *remarks):
        print_line(console, f"  [yellow]note:[/yellow] [dim]{escape(finding)}[/dim]")


def _objectives(config: StudyConfig) -> str:
    names = [objective.metric for objective in config.objectives]
    return f"Pareto front of {join_names(names, MOST_OF_FRONT)}" if config.further else f"best {names[0]}"


def _families(config: StudyConfig) -> tuple[Sequence[Family], Sequence[str]]:
    """Return the lr curves of possible trials, or why there are none."""
    try:
        return schedule_families(config, LINTED_SAMPLES), ()
    except BadInputError as error:  # the length of a run is unknown, or some values are not a valid schedule
        return (), error.faults


def _compared_later(config: StudyConfig, families: Sequence[Family]) -> list[str]:
    """Return a sentence about the families whose lr rises at a rung, where a trial is not compared."""
    if not config.rungs or not families:
        return []
    interval = int(lowest(config.trial["trainer"].get("val_check_interval", 0)))
    names = rising(families, config.rungs.epochs, interval)
    if not names:
        return []
    later = "a trial whose lr is still rising at a rung keeps training and is compared later"
    return [f"{later}; this can happen with {join_names(names, MOST_OF_FRONT)}"]


def print_summary(
    console: Console, config: StudyConfig, store: StudyStore, outcome: Outcome, is_answered: bool = False
) -> None:
    """Print the results, and where to look further.

    Args:
        console: Prints them.
        config: The study.
        store: The study in Optuna.
        outcome: How it ended.
        is_answered: Whether the result of its final runs is already printed.
    """
    finished, record = store.finished(), store.record()
    top = store.front or store.ranking()[:1]
    print_line(console, "" if is_answered else f"\n[bold]{config.name}: {escape(answer(record))}[/bold]")
    states = Counter(state_of(trial) for trial in finished)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none finished"
    # Failed trials should be retried first, and more of the same do not help if all have diverged.
    may_grow = bool(states["complete"]) and not states["failed"]
    if outcome.is_over and config.until and (gain := store.possible_gain()) < config.until:
        has = f"stopped after {pluralize(len(finished), 'trial')} ({counts})"
        why = f"the expected gain of one more is {gain:.3g}; lower budget.until to continue"
        print_line(console, f"{config.name} {has}: {why}")
    elif config.allowance is not None:
        _print_spent(console, config, store, counts, outcome.is_over, may_grow)
    elif len(finished) >= config.trials:
        has = f"has {'its only trial' if config.trials == 1 else f'all its {config.trials} trials'} ({counts})"
        if len(finished) > config.trials:
            has = f"has {pluralize(len(finished), 'trial')} ({counts}), more than the {config.trials} requested"
        print_line(console, f"{config.name} {has}{'; raise --trials to add more' if may_grow else ''}")
    else:
        print_line(
            console,
            f"{config.name} has {len(finished)} of {pluralize(config.trials, 'trial')} ({counts}); "
            f"run the same command again to continue{_cut_short(store)}",
        )
    if top:
        most = max(TOP_TRIALS, min(len(store.front), MOST_OF_FRONT))
        print_ranking(console, record, most, _command("show", config.name, outcome))
    if top and not store.front:
        tested = store.attributes.tested()
        if tested and tested.trial == top[0].number and tested.metrics:
            metrics = ", ".join(
                f"{escape(cut(key))} {format_metric(value)}" for key, value in sorted(tested.metrics.items())
            )
            which = f"trial #{top[0].number}"
            which = f"{which} as run in the search," if record.answer else f"best {which}"
            print_line(console, f"{which} on the test data: {metrics}")
        if config.kind.trains:
            weights = store.trial_directory(top[0].number) / "model.ckpt"
            there = escape(str(weights)) if weights.exists() else "not on this machine"
            print_line(console, f"its weights: {there}")
    failed = [trial.number for trial in finished if state_of(trial) == "failed"]
    _print_failed(console, store, failed, _command("retry", config.name, outcome))
    for sentence in open_questions(record):
        print_line(console, escape(sentence))
    for sentence in outcome.missing:
        print_line(console, f"[yellow]{escape(sentence)}.[/yellow]")
    name = config.name
    if store.front:
        exported = {f"export --trial {top[0].number}": "a trial of the front as a folder"}
        after = {**(exported if config.can_export else {"show": "its trials"}), "report": AS_REPORT}
    elif top:
        if not outcome.is_over or (config.final and not is_answered):
            after = {"show": "what is known so far"}
        elif not record.answer:
            after = {"confirm": "is the winner really better? test it with fresh seeds"}
        else:
            exported = exports(record, record.retrained.name) if config.can_export and record.retrained else {}
            after = exported or {"show": "its findings"}
        after["report"] = AS_REPORT
    else:
        after = {"show": "what is known so far"}
    there = "lr curves and accuracies" if config.kind.trains else "every trial and its values"
    print_next(console, outcome, name, {"dashboard": f"{there}, in MLflow", **after})


def print_next(console: Console, outcome: Outcome, name: str, commands: Mapping[str, str]) -> None:
    """Print the next commands.

    Args:
        console: Prints them.
        outcome: How the study ended.
        name: Its name.
        commands: What each of them is for; options can follow its name.
    """
    print_line(console, "\nnext:")
    lines = {_command(each, name, outcome): text for each, text in commands.items()}
    uri = outcome.tracking_uri
    if uri.startswith("http"):
        lines = {f"{without_password(uri)}/{outcome.runs_page}": "", **dict(list(lines.items())[1:])}
    for line in two_columns(lines, console.width if console.is_terminal else WHOLE_LINE):
        print_line(console, escape(line), whole=True)


def exports(record: StudyRecord, winner: str) -> dict[str, str]:
    """Return the command that exports a winner, and what it writes; empty if the winner is not a trial of the study.

    Args:
        record: The study.
        winner: The name of the winning configuration; it can also be the study's default or a constant lr.
    """
    number = next((trial.number for trial in record.ranking if trial.name == winner), None)
    if number is None:
        return {}
    is_best = record.best is not None and record.best.number == number
    return {"export" if is_best else f"export --trial {number}": f"the winner, {winner}, as a folder"}


def _command(command: str, name: str, outcome: Outcome) -> str:
    """Return a command with the name of the study; its own options follow the name."""
    command, *further = command.split(" ", 1)
    return f"{' '.join([own_command(), command, name, *further])}{_stores(command, outcome)}"


def _stores(command: str, outcome: Outcome) -> str:
    """Return the options that a command needs to find a study that is not in the usual stores."""
    options = ""
    if command != "dashboard" and outcome.storage != storage_url(None):
        options += f" --storage {shlex.quote(_shown(outcome.storage))}"
    uri = _shown(outcome.tracking_uri)
    if command != "show" and uri not in (DEFAULT_TRACKING, without_password(os.environ.get(TRACKING, ""))):
        options += f" --tracking-uri {shlex.quote(uri)}"
    return options


def print_ranking(console: Console, record: StudyRecord, most: int, rest: str) -> None:
    """Print the best trials of a study as a table; with several objectives, a star marks those of the Pareto front.

    Args:
        console: Prints them.
        record: The study.
        most: How many, at most.
        rest: The command, or its option, that shows the others.
    """
    top = record.ranking[:most]
    front = {trial.number for trial in record.front}
    drawn = [[(path, value) for path, value in trial.params.items() if path != FAMILY] for trial in top]
    values = [
        ", ".join(
            f"{cut(path.removesuffix('.name').rpartition('.')[2])} {cut(format_value(each))}" for path, each in of
        )
        for of in drawn
    ]
    has_schedules = not record.of_function
    if has_schedules and console.is_terminal and console.width < NARROW + OBJECTIVE * len(record.further):
        values = [f"{trial.family}, {text}".removesuffix(", ") for trial, text in zip(top, values, strict=True)]
        has_schedules = False
    if top:
        print_table(
            console,
            ("", 0, [f"#{trial.number}" for trial in top]),
            (record.metric, 0, [format_metric(trial.value) for trial in top]),
            *(
                (metric, index, [format_objective(trial.further[index]) for trial in top])
                for index, (metric, _) in enumerate(record.further)
            ),
            *(
                [("front", MOST_DROPPED, ["*" if trial.number in front else "" for trial in top])]
                if record.further
                else []
            ),
            *([("schedule", 0, [trial.family for trial in top])] if has_schedules else []),
            ("searched values", 0, values),
        )
    if (left := len(record.ranking) - most) > 0:
        print_line(console, f"... {left} more: {escape(rest)}", whole=True)


def print_table(console: Console, *columns: tuple[str, int, Sequence[str]]) -> None:
    """Print a table without its empty columns. In a narrow terminal, it also lacks the least important ones.

    The last column is wrapped.

    Args:
        console: Prints it.
        columns: The heading, the importance and the cells of each; see `tuner.text.fitting`.
    """
    columns = tuple(
        (heading, importance, list(map(printable, cells)))
        for heading, importance, cells in columns
        if importance == 0 or any(cells)
    )
    widths = [max(len(text) for text in (heading, *cells)) for heading, _, cells in columns]
    least = [*widths[:-1], min(widths[-1], SHORTEST_WRAPPED)]
    available = console.width if console.is_terminal else max(WHOLE_LINE, sum(widths) + 2 * len(widths))
    kept = fitting(least, [importance for _, importance, _ in columns], available)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index in kept:
        is_last = index == len(columns) - 1
        table.add_column(escape(columns[index][0]), no_wrap=not is_last, overflow="fold" if is_last else "ellipsis")
    for row in zip(*(columns[index][2] for index in kept), strict=True):
        table.add_row(*map(escape, row))
    options = console.options.update_width(available)  # Console.print would limit it to the width of the console
    console.print(Segments(console.render(table, options)), end="", soft_wrap=True)


def _print_spent(
    console: Console, config: StudyConfig, store: StudyStore, counts: str, is_done: bool, may_grow: bool
) -> None:
    """Print how much of a budget in epochs or steps is used."""
    allowance = config.allowance
    if allowance is None:
        return
    of = f"the {allowance} of its search" if config.final else str(allowance)
    if cut_short := store.cut_short:
        counts = f"{counts}, {cut_short} not finished" if store.count else "none finished"
    has = f"has used {store.trained} of {of} in {pluralize(store.count + cut_short, 'trial')} ({counts})"
    if is_done and may_grow:
        reached = ["--trials"] if config.limits_trials and store.count >= config.trials else []
        if not reached or allowance.amount - store.trained < allowance.longest:
            reached.append(f"budget.{allowance.unit}")
        has += f"; raise {' and '.join(reached)} to add more"
    elif not is_done:
        has += f"; run the same command again to continue{_cut_short(store)}"
    print_line(console, f"{config.name} {has}")


def _cut_short(store: StudyStore) -> str:
    """Return that some trials were interrupted and will be continued; empty if there are none."""
    count = store.cut_short
    return f", including the {pluralize(count, 'interrupted trial')}" if count else ""


def _print_failed(console: Console, store: StudyStore, numbers: Sequence[int], retry: str) -> None:
    """Print where the tracebacks of failed trials are, and the command that retries them; nothing if none failed."""
    if not numbers:
        return
    traces = [store.trial_directory(number) / TRACEBACK_FILE for number in numbers]
    text, is_one = f"{pluralize(len(numbers), 'trial')} failed", len(numbers) == 1
    if there := [str(trace) for trace in traces if trace.exists()]:
        whose = "its traceback" if is_one else "their tracebacks"
        text += f"; {whose}: {', '.join(there[:3])}{' ...' if len(there) > 3 else ''}"
    print_line(console, escape(text))
    them = "it" if is_one else "them"
    print_line(console, escape(f"to retry {them} once the cause is fixed: {retry}"), whole=True)


def _shown(uri: str) -> str:
    """Return a URI without its password, and without this folder if it lies in it."""
    return without_password(uri).replace(f"sqlite:///{Path.cwd()}/", "sqlite:///")
