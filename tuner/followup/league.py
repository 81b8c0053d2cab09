"""A league: every family of schedules under the same conditions, and then the best of each again.

A league is a study file whose `search_space.schedule` is a choice of families. Each family becomes a study of its own,
with as many trials as the file says, of equally many steps, on the same data, with the same optimizer and seed. The
best of each is trained again with fresh seeds, as `tuner.confirm` does it, and once more with other initial lrs and
nothing else changed. All of them are studies: if one is killed, the same command continues it.
"""

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import BadInputError, StudyFailedError
from tuner.interrupts import temporary_folder
from tuner.runner.options import ExecutionOptions, option
from tuner.runner.run import Outcome, checked, checking, opened, opened_engine
from tuner.text import format_value, pluralize

if TYPE_CHECKING:
    from tuner.analysis.comparison import Comparison
    from tuner.analysis.standings import Standings
    from tuner.config.study import StudyConfig, TrialConfig
    from tuner.storage.reader import Trial
    from tuner.storage.study_store import StudyStore

__all__ = ["League", "LeagueOptions", "run_leagues"]

FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
SWEPT_SEEDS = 2
INITIAL_LR = "initial_lr"


@dataclass(frozen=True, kw_only=True)
class LeagueOptions(ExecutionOptions):
    """The options of a league."""

    league: Path = option(
        MISSING, "study file with a choice of schedules, or a folder", "PATH", Path, is_positional=True
    )
    seeds: int = option(10, "fresh seeds for each best (default: %(default)s)", "N", int)
    target: float | None = option(
        None, "count the steps to this value (default: what a constant lr ends at)", "V", float
    )
    tolerance: float = option(
        0.01, "a good initial lr is at most this much worse than the best one (default: %(default)s)", "V", float
    )
    output: Path = option(Path(), "where the table goes (default: here)", "FOLDER", Path)
    set: Sequence[str] = option((), "replace a value of the study file; repeatable", "PATH=VALUE")
    dry_run: bool = option(False, "check everything, say how many trainings that are, and start none")


def run_leagues(files: Sequence[Path], options: LeagueOptions) -> int:
    """Check all leagues and print how much there is to train, run one after the other, and return the exit code.

    Args:
        files: Their study files.
        options: The options of the command.

    Raises:
        TunerError: If the input is bad, a study of a league is already running, or a league failed.
    """
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
    """

    def __init__(self, file: Path, options: LeagueOptions) -> None:
        from rich.console import Console

        self._file, self._options = str(file), options
        self._console: Console = Console(quiet=options.quiet)
        self._is_delivered = True
        with checking(self._console, self._file):
            from tuner.config.loader import load_study

            self._config = load_study(self._file, options.set)
            _check(self._config, self._file)
            self._families = {name: self._family(name) for name in self._config.families}
            self._final, self._sensitivity = map(self._name_of, ("final", "sensitivity"))

    def announce(self) -> None:
        """Check that its studies can be run or continued, and print how many trainings are left and their least time.

        Raises:
            BadInputError: If they cannot.
        """
        from tuner.analysis.findings import duration
        from tuner.runner.rehearsal import rehearse
        from tuner.runner.summary import print_line
        from tuner.storage.reader import finished_counts

        config, seeds, families = self._config, self._options.seeds, len(self._families)
        with opened_engine(self._options) as engine:
            with checking(self._console, self._file):
                plans = [checked(family, engine, self._options) for family in self._families.values()]
                trainings = families * (config.trials + seeds + len(FACTORS) * min(SWEPT_SEEDS, seeds))
                counts = finished_counts(plans[0].storage)
                names = [*(family.name for family in self._families.values()), self._final, self._sensitivity]
                left = trainings - sum(counts.get(name, 0) for name in names)
                rehearsal = rehearse(config, engine, plans[0].storage, self._note) if left > 0 else None
            slots = len(engine.slots)
        text = (
            f"[bold]{config.name}[/bold]: {families} families with {pluralize(config.trials, 'trial')} each, the best "
            f"of each with {pluralize(seeds, 'fresh seed')} and at {len(FACTORS)} initial lrs: "
            f"{pluralize(trainings, 'training')}, {max(0, left)} of them left"
        )
        if rehearsal is not None:
            with contextlib.suppress(BadInputError):  # the data module does not report its number of batches
                least = duration(rehearsal.seconds_of(config, left, slots))
                text += f"; at least {least} on {pluralize(slots, 'slot')}, validation not counted"
        print_line(self._console, text)

    def run(self) -> int:
        """Train, and write the table; return the exit code."""
        from tuner.storage.reader import config_of
        from tuner.storage.replicates import ReplicationStore, ReplicationStudy, fresh_seeds, of_lr, with_lr
        from tuner.storage.study_store import StudyStore

        best: dict[str, TrialConfig] = {}
        values: dict[str, str] = {}
        for name, config in self._families.items():
            outcome, found = self._train(config, StudyStore)
            if outcome.interrupted:
                return outcome.exit_code
            if found.best is None:
                self._note(f"no trial of {name} was trained to its end, so it is left out")
                continue
            best[name] = config_of(config, found.best.params)
            drawn = found.best.params.items()
            values[name] = ", ".join(f"{path.rpartition('.')[2]} {format_value(value)}" for path, value in drawn)
        if not best:
            raise StudyFailedError("no trial of any family was trained to its end.")
        used = {config.seed for config in best.values()}
        seeds = fresh_seeds(self._config.sampler.arguments.get("seed", 0), self._options.seeds, used)
        final = ReplicationStudy.of(self._config, self._final, best, seeds, {})
        outcome, finals = self._train(final, ReplicationStore)
        if outcome.interrupted:
            return outcome.exit_code
        swept = {of_lr(name, factor): with_lr(config, factor) for name, config in best.items() for factor in FACTORS}
        sweep = ReplicationStudy.of(self._config, self._sensitivity, swept, seeds[:SWEPT_SEEDS], {}, has_winner=False)
        outcome, sweeps = self._train(sweep, ReplicationStore)
        if outcome.interrupted:
            return outcome.exit_code
        self._publish(self._standings(best, values, finals, sweeps), finals)
        return int(not self._is_delivered)

    def _family(self, family: str) -> "StudyConfig":
        """Return the study of one family."""
        name = self._name_of(re.sub("[^a-z0-9._-]", "-", family.lower()))
        return dataclasses.replace(self._config.with_family(family, name), experiment=self._config.name)

    def _name_of(self, part: str) -> str:
        """Return the name of one of the league's studies.

        Raises:
            BadInputError: If no study can have it, as it is too long.
        """
        from tuner.config.study import check_name

        name = f"{self._config.name}-{part}"
        check_name(name, "name")
        return name

    def _train(self, config: "StudyConfig", kind: "type[StudyStore]") -> "tuple[Outcome, _Found]":
        """Run a study, and return its outcome and its results."""
        from tuner.runner.summary import print_line
        from tuner.storage.replicates import ReplicationStore

        with opened_engine(self._options) as engine:
            plan = checked(config, engine, self._options)
            with opened(plan, self._console, kind) as study:
                print_line(self._console, f"[bold]{config.name}[/bold]: {pluralize(config.trials, 'training')}")
                outcome, store = study.train(engine), study.store
                comparison = store.comparison() if isinstance(store, ReplicationStore) else None
                found = _Found(store.best, store.finished(), comparison, store.identifier, outcome.tracking_uri)
        self._is_delivered = self._is_delivered and not outcome.missing
        return outcome, found

    def _note(self, text: str) -> None:
        from rich.markup import escape

        from tuner.runner.summary import print_line

        print_line(self._console, f"[yellow]note:[/yellow] {escape(text)}")

    def _standings(
        self, best: Mapping[str, "TrialConfig"], values: Mapping[str, str], finals: "_Found", sweeps: "_Found"
    ) -> "Standings":
        from tuner.analysis.standings import Member, Standings
        from tuner.storage.replicates import of_lr

        comparison = finals.comparison
        if comparison is None or sweeps.comparison is None:
            raise StudyFailedError("the finals have no result.")
        means = {each.name: each.mean for each in comparison.ranking}
        target = self._options.target
        if target is None:
            target = means.get("constant", means[comparison.ranking[-1].name] if means else 0.0)
        swept = {each.name: list(each.values.values()) for each in sweeps.comparison.configurations}
        members = [
            Member(
                name,
                values[name],
                config.optimizer.arguments[INITIAL_LR],
                self._reached(name, config, finals.trials, target),
                {config.optimizer.arguments[INITIAL_LR] * factor: swept[of_lr(name, factor)] for factor in FACTORS},
            )
            for name, config in best.items()
        ]
        return Standings(
            self._config.name, comparison, members, target, self._options.tolerance, self._conditions(best)
        )

    def _conditions(self, best: Mapping[str, "TrialConfig"]) -> str:
        one = next(iter(best.values()))
        steps = self._config.probe.length(one.values()).steps
        seeds, trials = pluralize(self._options.seeds, "fresh seed"), pluralize(self._config.trials, "trial")
        return (
            f"{trials} of {steps:,} steps for each family, with {one.model.name} on {one.data.name}, "
            f"{one.optimizer.name}, {self._config.sampler.name} sampler; then the best of each with {seeds}."
        )

    def _reached(self, name: str, config: "TrialConfig", trials: Sequence["Trial"], target: float) -> list[int]:
        """Return the steps at which the trainings of a family came to the target first."""
        from tuner.storage.attributes import CONFIGURATION

        steps = self._config.probe.length(config.values()).steps_per_epoch
        better = self._config.objective.direction.better
        epochs = [
            min((epoch for epoch, value in trial.intermediate_values.items() if not better(target, value)), default=0)
            for trial in trials
            if trial.params[CONFIGURATION] == name
        ]
        return [epoch * steps for epoch in epochs if epoch]

    def _publish(self, standings: "Standings", finals: "_Found") -> None:
        """Write the table to files named after the study and to the finals' run in MLflow, and print it."""
        from rich.markup import escape

        from tuner.runner.summary import print_line
        from tuner.tracking.reader import MlflowStudy
        from tuner.visualization.comparisons import of_standings
        from tuner.visualization.matplotlib_backend import png

        page = standings.markdown()
        files = {".md": page.encode(), ".csv": standings.csv().encode(), ".png": png(of_standings(standings))}
        paths = {ending: self._options.output / f"{standings.name}{ending}" for ending in files}
        try:
            for ending, content in files.items():
                paths[ending].write_bytes(content)
        except OSError as error:
            raise BadInputError([f"--output: {self._options.output}: cannot be written ({error.strerror})."]) from error
        self._console.print("", page, markup=False, highlight=False, soft_wrap=True)
        print_line(self._console, f"written to {', '.join(escape(str(path)) for path in paths.values())}")
        if not self._is_delivered:
            self._note("MLflow did not take all records; run the same command again when it is up")
            return
        with temporary_folder() as temporary:
            for ending, content in files.items():
                (temporary / f"league{ending}").write_bytes(content)
            tracked = MlflowStudy(finals.uri, finals.identifier)
            tracked.add(temporary)
            tracked.set_tag("mlflow.note.content", page[:8000])


@dataclass(frozen=True)
class _Found:
    """What a study found.

    Args:
        best: Its best trial.
        trials: All of its trials.
        comparison: What the seeds say, if it was a study of seeds.
        identifier: What tells it from others.
        uri: MLflow's tracking URI.
    """

    best: "Trial | None"
    trials: "Sequence[Trial]"
    comparison: "Comparison | None"
    identifier: str
    uri: str


def _check(config: "StudyConfig", file: str) -> None:
    """Find out whether all families would have the same conditions.

    Raises:
        BadInputError: If not.
    """
    from tuner.config.search_space import OneOf, searched

    faults = []
    if not isinstance(config.trial["schedule"], OneOf):
        faults.append("search_space.schedule: a league needs {one_of: {family: ...}} there.")
    if config.pruner.name != "none":
        faults.append("pruner: must be {name: none}, or some families would get fewer steps.")
    if config.timeout is not None:
        faults.append("budget.timeout: leave it out, or some families would get fewer trials.")
    faults += [
        f"{key}: leave it out, or some families would begin with values that are known to be good."
        for key in ("enqueue", "start")
        if config.values.get(key)
    ]
    if config.final:
        faults.append("final: write {trials: 0}; a league trains the best of each family with fresh seeds by itself.")
    elsewhere = sorted(
        path
        for path, _ in searched({key: value for key, value in config.trial.items() if key != "schedule"})
        if not path.startswith("optimizer.") or isinstance(config.trial["optimizer"], OneOf)
    )
    faults += [
        f"search_space.{path}: only the schedule and numbers of the optimizer can be searched." for path in elsewhere
    ]
    if faults:
        raise BadInputError([f"{file}: {fault}" for fault in faults])
