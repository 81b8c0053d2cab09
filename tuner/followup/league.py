"""A league: which contender is best, with the base lr factored out.

The protocol follows Naganuma et al., "What do near-optimal learning rate schedules look like?", 2026 (arXiv
2603.10301): every shape of every contender is trained with a whole list of base lrs and several seeds, and counts with
the base lr whose median over the seeds is best. The best shape of each contender is then trained with other seeds,
which decide the result.

Both parts are studies of given configurations, which `tuner.runner` trains like any other: if the league is killed, the
same command continues it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import BadInputError, StudyFailedError
from tuner.interrupts import temporary_folder
from tuner.runner.open_study import Outcome, checked, checking, opened, opened_engine
from tuner.runner.options import ExecutionOptions, check_counts, option
from tuner.text import join_names, pluralize

if TYPE_CHECKING:
    from tuner.analysis.standings import Standings
    from tuner.followup.league_result import PartRuns
    from tuner.protocol import Engine
    from tuner.storage.replicates import LeagueStudy

__all__ = ["League", "LeagueOptions", "fresh_name", "run_leagues"]

EARLIER = "sensitivity"
"""The last part of a league by the protocol of earlier versions."""


@dataclass(frozen=True, kw_only=True)
class LeagueOptions(ExecutionOptions):
    """The options of a league."""

    league: Path = option(MISSING, "study file, or a folder of study files", "PATH", Path, is_positional=True)
    shapes: int = option(4, "shapes of each contender that has something to search (default: %(default)s)", "N", int)
    lrs: int = option(7, "base lrs of each shape, unless the study file lists them (default: %(default)s)", "N", int)
    search_seeds: int = option(
        3, "seeds of each shape and base lr, for selecting the configurations (default: %(default)s)", "N", int
    )
    seeds: int = option(10, "fresh seeds of each chosen configuration (default: %(default)s)", "N", int)
    target: float | None = option(
        None, "target for counting steps (default: the median of a constant lr, else of the last contender)", "V", float
    )
    tolerance: float | None = option(
        None,
        "differences up to this are treated as negligible (default: 0.01 of an accuracy, else 5%% of the best median)",
        "V",
        float,
    )
    output: Path = option(Path(), "folder for the table (default: current)", "FOLDER", Path)
    set: Sequence[str] = option((), "replace a value of the study file; repeatable", "PATH=VALUE")
    dry_run: bool = option(False, "check everything, report the number of runs, and start none")


def fresh_name(league: str, configurations: Mapping[str, Any]) -> str:
    """Return the name of the study of a league's runs with fresh seeds.

    Args:
        league: The name of the league.
        configurations: The values of the chosen configurations, by their names.
    """
    from tuner.config.study_name import final_name

    return "-fresh-".join(final_name(league, configurations).rsplit("-final-", 1))


def run_leagues(files: Sequence[Path], options: LeagueOptions) -> int:
    """Check all leagues and print how much there is to train, run them one after the other, and return the exit code.

    Args:
        files: Their study files.
        options: The options of the command.

    Raises:
        TunerError: If the input is bad, a study of a league is already running, or a league failed.
    """
    counts = {"--shapes": options.shapes, "--lrs": options.lrs}
    check_counts({**counts, "--search-seeds": options.search_seeds, "--seeds": options.seeds})
    if options.tolerance is not None and options.tolerance <= 0:
        raise BadInputError([f"--tolerance: must be above 0 (got {options.tolerance:g})."])
    leagues = [League(file, options) for file in files]
    for league in leagues:
        league.announce()
    for league in () if options.dry_run else leagues:
        if code := league.run():
            return code
    return 0


class League:
    """One league.

    Args:
        file: Its study file.
        options: The options of the command.

    Raises:
        BadInputError: If the study file cannot be a league.
    """

    def __init__(self, file: Path, options: LeagueOptions) -> None:
        from rich.console import Console

        self._file, self._options = str(file), options
        self._console: Console = Console(quiet=options.quiet)
        self._is_delivered = True
        with checking(self._console, self._file):
            from tuner.config.contenders import read_contenders
            from tuner.config.loader import load_study
            from tuner.config.study_name import check_name
            from tuner.followup.league_search import LeagueSearch

            self._config = load_study(self._file, options.set)
            self._config.check_trains("a league compares training runs")
            self._config.check_single("a league")
            check_name(f"{self._config.name}-fresh-000000", "name")
            contenders = read_contenders(self._config, self._file, options.lrs)
            self._search = LeagueSearch(self._config, contenders, options.shapes, options.search_seeds)

    def announce(self) -> None:
        """Check that its studies can be run or continued, and print how many runs are left and their least time.

        Raises:
            BadInputError: If they cannot.
        """
        from rich.markup import escape

        from tuner.analysis.findings import duration
        from tuner.console import print_line
        from tuner.storage.reader import finished_counts

        search, options, contenders = self._search, self._options, self._search.contenders
        with opened_engine(options) as engine:
            with checking(self._console, self._file):
                plan = checked(search.study, engine, options)
                counts = finished_counts(plan.storage)
                left = max(0, search.study.trials - counts.get(search.study.name, 0))
                seconds = self._least_seconds(engine, plan.storage, left) if left else 0.0
            slots = pluralize(len(engine.slots), "slot")
        shapes = f"{pluralize(sum(map(len, search.shapes.values())), 'shape')} in total"
        fresh = len(contenders) * options.seeds
        least = f"; at least {duration(max(1.0, seconds))} on {slots}, not including validation" if seconds else ""
        print_line(
            self._console,
            f"[bold]{escape(self._config.name)}[/bold]: {pluralize(len(contenders), 'contender')} with {shapes}. "
            f"{pluralize(search.study.trials, 'run')} ({pluralize(search.seeds, 'seed')}) select a shape and a base lr "
            f"for each ({left} left); {pluralize(fresh, 'run')} ({pluralize(options.seeds, 'fresh seed')}) then decide "
            f"the result: {pluralize(search.study.trials + fresh, 'run')} in total{least}",
        )
        for each in contenders:
            lrs = ", ".join(f"{lr:g}" for lr in each.initial_lrs)
            searched = f" of {', '.join(each.searched)}" if each.searched else ""
            text = f"{each.name}: {pluralize(len(search.shapes[each.name]), 'shape')}{searched}; initial_lr {lrs}"
            print_line(self._console, f"  [dim]{escape(text)}[/dim]")
        for text in self._remarks(counts):
            self._note(text)

    def _remarks(self, counts: Mapping[str, int]) -> list[str]:
        """Return notes on the study file and on an earlier league of the same name."""
        from tuner.config.contenders import unsearched, unused_sections

        name, pruner, sampler = self._config.name, self._config.pruner.name, self._config.sampler.name
        remarks = []
        if pruner != "none":
            remarks.append(f"the {pruner} pruner is ignored: every run trains to completion")
        if sampler != "random":
            remarks.append(f"shapes are drawn at random, with the seed of the {sampler} sampler")
        if unused := unused_sections(self._config):
            remarks.append(f"a league does not use {join_names(unused, len(unused))}")
        if fixed := unsearched(self._config):
            which = f"{join_names(fixed, len(fixed))} {'is' if len(fixed) == 1 else 'are'}"
            value = "value" if len(fixed) == 1 else "values"
            remarks.append(f"{which} not searched: all contenders use the {value} in trial")
        if f"{name}-{EARLIER}" in counts:
            remarks.append(
                f"an earlier version ran {name} with a different protocol. This league starts from scratch; "
                f"the studies of the earlier one ({name}-final, {name}-{EARLIER}, one per family) remain for show and "
                "report"
            )
        return remarks

    def _least_seconds(self, engine: "Engine", storage: str, left: int) -> float:
        """Return the least time of the rest of the search and of the fresh runs; 0 if it is unknown.

        Args:
            engine: Its slots try each optimizer.
            storage: URL of Optuna's database.
            left: Number of runs of the search that are left.
        """
        from tuner.runner.rehearsal import rehearse

        search = self._search
        seconds: dict[str, float] = {}  # seconds of a step, by contender
        total = 0.0
        for contender in search.contenders:
            trial = search.shapes[contender.name][0]
            if trial.optimizer.name not in seconds:
                seconds[trial.optimizer.name] = rehearse(contender.study, engine, storage, self._note).seconds
            try:
                steps = contender.study.probe.length(trial.values()).steps
            except BadInputError:  # the data module does not report its number of batches
                return 0.0
            trainings = search.trainings_of(contender) * left / search.study.trials + self._options.seeds
            total += seconds[trial.optimizer.name] * steps * trainings
        return total / len(engine.slots)

    def run(self) -> int:
        """Train, and write the table; return the exit code."""
        from tuner.storage.replicates import LeagueStudy, fresh_seeds

        search = self._search
        outcome, found = self._train(search.study)
        if outcome.interrupted:
            return outcome.exit_code
        choices = search.choices(found.comparison)
        if not choices:
            raise StudyFailedError("no run of any contender was completed.")
        configs = {name: each.config for name, each in choices.items()}
        name = fresh_name(self._config.name, {name: config.values() for name, config in configs.items()})
        seeds = fresh_seeds(search.seed, self._options.seeds, search.study.seeds)
        fresh = LeagueStudy.of(self._config, name, configs, seeds, {})
        outcome, evaluated = self._train(fresh)
        if outcome.interrupted:
            return outcome.exit_code
        self._publish(found, evaluated)
        return int(not self._is_delivered)

    def _train(self, config: "LeagueStudy") -> "tuple[Outcome, PartRuns]":
        """Run a study, and return its outcome and its results."""
        from tuner.console import print_line
        from tuner.followup.league_result import PartRuns
        from tuner.storage.replicates import ReplicationStore

        with opened_engine(self._options) as engine:
            plan = checked(config, engine, self._options)
            with opened(plan, self._console, ReplicationStore) as study:
                print_line(self._console, f"[bold]{config.name}[/bold]: {pluralize(config.trials, 'run')}")
                outcome, store = study.train(engine), study.store
                evaluated = PartRuns(
                    config.counted(store.finished()), store.comparison(), store.identifier, outcome.tracking_uri
                )
        self._is_delivered = self._is_delivered and not outcome.missing
        return outcome, evaluated

    def _note(self, text: str) -> None:
        from rich.markup import escape

        from tuner.console import print_line

        print_line(self._console, f"[yellow]note:[/yellow] {escape(text)}")

    def _print(self, standings: "Standings", page: str) -> None:
        """Print the result: the page in Markdown or, in a terminal, with a table that fits."""
        from rich.markup import escape

        from tuner.console import print_line
        from tuner.runner.summary import print_table

        if not self._console.is_terminal:
            print_line(self._console, escape(f"\n{page}"))
            return
        print_line(self._console, f"\n[bold]{escape(standings.name)}[/bold]: {escape(standings.conditions)}")
        for sentence in standings.findings():
            print_line(self._console, f"- {escape(sentence)}")
        print_table(self._console, *standings.columns())

    def _publish(self, found: "PartRuns", evaluated: "PartRuns") -> None:
        """Write the table to files named after the league and to the MLflow run of the fresh runs, and print it.

        Args:
            found: The runs of the search.
            evaluated: The runs with fresh seeds.
        """
        from rich.markup import escape

        from tuner.console import print_line
        from tuner.followup.league_result import files_of, standings_of, trainings_csv, write
        from tuner.tracking.reader import MlflowStudy

        search, options = self._search, self._options
        choices = search.choices(found.comparison)
        standings = standings_of(search, choices, evaluated, options.target, options.tolerance)
        files = files_of(standings, trainings_csv(search, found.comparison, evaluated.comparison))
        paths = write(options.output, f"{standings.name}-league", files)
        page = files[".md"].decode()
        self._print(standings, page)
        print_line(self._console, f"written to {', '.join(escape(str(path)) for path in paths)}")
        if not self._is_delivered:
            self._note("Some records did not reach MLflow; run the same command again when it is up")
            return
        with temporary_folder() as temporary:
            write(temporary, "league", files)
            tracked = MlflowStudy(evaluated.uri, evaluated.identifier)
            tracked.add(temporary)
            tracked.set_tag("mlflow.note.content", page[:8000])
