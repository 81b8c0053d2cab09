"""``lr-tuner show``: print the findings of a study, its best trials and the results of its confirmations."""

import argparse
from collections.abc import Sequence

from tuner.cli import Parser, add_storage, command, make_parser
from tuner.process import leave
from tuner.urls import refuse_passwords, storage_url

__all__ = ["main", "parser"]

MOST_FAILED = 5


def parser() -> Parser:
    """Return the parser of the command."""
    made = make_parser(
        "show",
        "Print the findings of a study, its best trials, and the results of its confirmations, as in the report.",
        {
            "show quickstart": "",
            "show quickstart-confirm": "a confirmation",
            "show quickstart --top 50": "the 50 best trials",
        },
        {0: "done", 2: "bad input"},
        "It reads only Optuna's database, and works while the study runs. lr-tuner list names the studies.",
    )
    made.add_argument("name", metavar="NAME", help="name of a study")
    made.add_argument("--top", type=int, metavar="K", default=10, help="how many of its best trials (default: 10)")
    add_storage(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a study and return the exit code."""
    options = parser().parse_args(arguments)
    return command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> int:
    refuse_passwords({"--storage": options.storage})

    from rich.console import Console
    from rich.markup import escape

    from tuner.analysis.findings import answer, findings
    from tuner.console import print_line
    from tuner.runner.summary import print_ranking
    from tuner.runner.verdict import print_comparison
    from tuner.storage.inventory import comparisons, listed_studies, with_fresh_seeds
    from tuner.storage.reader import open_study, record_of

    console, storage = Console(), storage_url(options.storage)
    with open_study(storage, options.name) as study:
        record = with_fresh_seeds(record_of(study), study)
        found = comparisons(study)
    all_listed = {each.name: each for each in listed_studies(storage)}
    listed = all_listed[options.name]
    asked = f" of {listed.asked}" if listed.asked else ""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(listed.ends.items())) or "none finished"
    print_line(
        console, f"[bold]{record.name}[/bold]: {escape(listed.state)}, {listed.finished}{asked} trials ({counts})"
    )
    if options.name in found:  # the study is a confirmation
        print_comparison(console, found.pop(options.name))
        return 0
    found_here = findings(record)
    if record.best and not record.answer:
        found_here[0] = answer(record)
    for sentence in found_here:
        print_line(console, escape(sentence))
    print_ranking(console, record, options.top, "--top K")
    failed = [trial for trial in record.trials if trial.state == "failed"]
    for trial in failed[:MOST_FAILED]:
        print_line(console, f"[red]#{trial.number} failed:[/red] {escape(trial.message)}")
    if len(failed) > MOST_FAILED:
        print_line(console, f"and {len(failed) - MOST_FAILED} more failed")
    for name, comparison in found.items():
        runs = all_listed[name]
        done = f", {runs.finished} of {runs.asked} runs done" if runs.asked and runs.finished < runs.asked else ""
        print_line(console, f"\n[bold]{escape(name)}[/bold], retrained with fresh seeds{done}:")
        print_comparison(console, comparison)
    return 0


if __name__ == "__main__":
    leave(main())
