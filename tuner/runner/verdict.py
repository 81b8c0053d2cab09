"""The result of runs with several seeds: printed, and recorded in MLflow."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from tuner.analysis.comparison import Comparison, chance
from tuner.console import print_line
from tuner.interrupts import temporary_folder
from tuner.runner.summary import print_table
from tuner.text import format_interval, format_metric

__all__ = ["print_comparison", "record_comparison"]


def print_comparison(
    console: Console,
    comparison: Comparison,
    opponents: Mapping[str, str] | None = None,
    further: Sequence[str] = (),
) -> None:
    """Print a comparison of configurations: the table and the findings.

    Args:
        console: Prints it.
        comparison: The comparison.
        opponents: Names of configurations that the findings mention, by their roles.
        further: Further findings.
    """
    first, *others = [*comparison.findings(opponents or {}), *further]
    print_line(console, f"\n[bold]{escape(first)}[/bold]")
    rows = comparison.rows()
    intervals = ["" if row["low"] is None else format_interval((row["low"], row["high"])) for row in rows]
    chances = [
        "" if row["behind the winner"] is None else chance(row["probability that the winner is better"]) for row in rows
    ]
    print_table(
        console,
        ("", 0, [row["configuration"] for row in rows]),
        ("seeds", 3, [str(row["seeds"]) for row in rows]),
        ("mean", 0, [format_metric(row["mean"]) for row in rows]),
        ("95% interval", 2, intervals),
        ("study", 4, [format_metric(row["in the study"]) for row in rows]),
        ("winner better", 1, chances),
        ("parameters", 5, [row["parameters"] for row in rows]),
    )
    print_line(console, f"[dim]{comparison.caption}[/dim]\n")
    for sentence in others:
        print_line(console, escape(sentence))


def record_comparison(
    uri: str,
    study: tuple[str, str],
    of: str,
    comparison: Comparison,
    opponents: Mapping[str, str],
    further: Sequence[str] = (),
) -> None:
    """Store the table, the values and the picture in their MLflow run, and the findings in the study's run.

    Args:
        uri: MLflow's tracking URI.
        study: Name and identifier of the study that they belong to.
        of: Identifier of the study that consists of them.
        comparison: The comparison.
        opponents: Names of configurations that the findings mention, by their roles.
        further: Further findings.
    """
    # Imported here: printing alone should not wait for MLflow and matplotlib.
    from tuner.tracking.reader import MlflowStudy
    from tuner.visualization.comparisons import of_comparison
    from tuner.visualization.matplotlib_backend import png

    name, identifier = study
    found = [*comparison.findings(opponents), *further]
    with temporary_folder() as folder:
        (folder / "confirmation.csv").write_text(comparison.csv(), encoding="utf-8")
        text = "\n".join([comparison.markdown(), "", *(f"- {sentence}" for sentence in found), ""])
        (folder / "confirmation.md").write_text(text, encoding="utf-8")
        figure = of_comparison(comparison, f"{name}: the best, retrained with fresh seeds")
        if figure.panels:
            (folder / "confirmation.png").write_bytes(png(figure))
        MlflowStudy(uri, of).add(folder)
    MlflowStudy(uri, identifier).set_tag("tuner.confirmed", " ".join(found)[:5000])
