"""The Optuna study: opened under a lock, asked and told by one coordinator.

A trial that was cut short keeps its number. It goes back to WAITING with its parameters and reports, and Optuna's own
queue hands it out again, so a study of N trials has N rows however often it was killed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuner.config import StudyConfig, TrialConfig
from tuner.errors import BadInputError, StudyFailedError, StudyRunningError
from tuner.search_space import Choices, Range, highest, searched, suggest

__all__ = ["StudyStore", "check_continued", "make_pruner", "make_sampler", "state_directory", "without_password"]

IDENTITY = "identity"
IDENTIFIER = "identifier"


def state_directory(url: str, study: str) -> Path:
    """Return the folder of a study's lock, checkpoints and results: beside an SQLite database, else in this folder."""
    base = Path.cwd()
    if url.startswith("sqlite:///"):
        base = Path(url.removeprefix("sqlite:///")).resolve().parent
    return base / ".tuner" / study


def make_sampler(config: StudyConfig, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler for one trial.

    It is made anew for every trial, seeded from the study's seed and the trial's number: a study that is continued then
    draws what it would have drawn, instead of its first trials again.

    Raises:
        ValueError: If Optuna refuses an option.
    """
    options = dict(config.sampler.arguments)
    seed = options.pop("seed", 0)
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match config.sampler.name:
            case "tpe":
                return optuna.samplers.TPESampler(seed=own_seed, **options)
            case "random":
                return optuna.samplers.RandomSampler(seed=own_seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=own_seed, **options)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=own_seed, **options)
            case "qmc":  # one sequence, of which each trial takes the next point
                return optuna.samplers.QMCSampler(seed=seed, scramble=True, **options)
            case "grid":
                grid = {path: _grid_values(spec) for path, spec in searched(config.trial)}
                return optuna.samplers.GridSampler(grid, seed=seed)
            case name:
                raise ValueError(f"unknown sampler {name}")


def _grid_values(spec: Range | Choices) -> list[Any]:
    if isinstance(spec, Choices):
        return list(spec.values)
    step = spec.step or 1
    count = int((spec.high - spec.low) / step + 1e-9) + 1
    return [spec.low + index * step for index in range(count)]


def make_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    """Return the pruner.

    Where the study file leaves it open, no trial is pruned in the first third of its epochs.

    Raises:
        ValueError: If Optuna refuses an option.
    """
    options: dict[str, Any] = dict(config.pruner.arguments)
    epochs = int(highest(config.trial["trainer"]["max_epochs"]))
    third = max(1, -(-epochs // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match config.pruner.name:
            case "none":
                return optuna.pruners.NopPruner()
            case "median":
                return optuna.pruners.MedianPruner(**{"n_warmup_steps": third, **options})
            case "hyperband":
                return optuna.pruners.HyperbandPruner(**{"min_resource": third, "max_resource": epochs, **options})
            case "successive_halving":
                return optuna.pruners.SuccessiveHalvingPruner(**{"min_resource": third, **options})
            case "wilcoxon":
                return optuna.pruners.WilcoxonPruner(**{"n_startup_steps": third, **options})
            case name:
                raise ValueError(f"unknown pruner {name}")


class StudyStore:
    """A study in Optuna's storage, held by this process alone.

    Attributes:
        study: Optuna's study.
        directory: Folder of the lock, the checkpoints and the results.
        continued: Whether the study was there before.
    """

    def __init__(self, study: optuna.Study, storage: optuna.storages.BaseStorage, config: StudyConfig, directory: Path):
        self.study = study
        self.directory = directory
        self.continued = bool(study.get_trials(deepcopy=False))
        self._storage = storage
        self._config = config
        self._asked: dict[int, optuna.Trial] = {}

    @classmethod
    @contextlib.contextmanager
    def open(cls, config: StudyConfig, url: str, identity: Mapping[str, Any]) -> Iterator["StudyStore"]:
        """Create or reopen a study, under its lock.

        Args:
            config: The study.
            url: SQLAlchemy URL of Optuna's database.
            identity: What may not change when a study is continued, under dotted paths.

        Raises:
            StudyRunningError: If another process holds the study.
            BadInputError: If the study was begun with another identity.
            StudyFailedError: If the database cannot be used.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        directory = state_directory(url, config.name)
        with _lock(directory, config.name):
            try:
                storage = optuna.storages.RDBStorage(url)
                study = optuna.create_study(
                    storage=storage,
                    study_name=config.name,
                    direction=config.objective.direction,
                    sampler=make_sampler(config, 0),
                    pruner=make_pruner(config),
                    load_if_exists=True,
                )
            except Exception as error:  # SQLAlchemy's, the driver's or Optuna's
                raise StudyFailedError(f"cannot open the study in {without_password(url)}: {error}") from error
            _compare(study.user_attrs, identity, config.name)
            study.set_user_attr(IDENTITY, dict(identity))
            if IDENTIFIER not in study.user_attrs:
                study.set_user_attr(IDENTIFIER, uuid.uuid4().hex)
            yield cls(study, storage, config, directory)

    @property
    def identifier(self) -> str:
        """Return what tells this study from others of the same name, in other databases."""
        return str(self.study.user_attrs[IDENTIFIER])

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in the given states, or all, in the order of their numbers."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that will not be trained any more."""
        return self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

    def best(self) -> FrozenTrial | None:
        """Return the best trial that was trained to its end."""
        return next(iter(self.ranking()), None)

    def ranking(self) -> list[FrozenTrial]:
        """Return the trials that were trained to their end, the best first."""
        sign = -1 if self._config.objective.direction == "maximize" else 1
        return sorted(
            self.trials(TrialState.COMPLETE), key=lambda trial: (sign * cast(float, trial.value), trial.number)
        )

    def trial_directory(self, number: int) -> Path:
        """Return the folder of a trial's checkpoints, result and output."""
        return self.directory / f"trials-{self.identifier[:8]}" / str(number)  # not those of a deleted database

    def config_of(self, trial: FrozenTrial) -> TrialConfig:
        """Return the values of a trial whose parameters are drawn."""
        return TrialConfig.from_values(suggest(_Replay(trial.params), self._config.trial))

    def ask(self) -> optuna.Trial:
        """Return the next trial: one that was cut short, if there is any, or a new one."""
        waiting = self.trials(TrialState.WAITING)
        number = waiting[0].number if waiting else len(self.trials())
        self.study.sampler = make_sampler(self._config, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self.study.ask()
        self._asked[trial.number] = trial
        return trial

    def report(self, number: int, epoch: int, value: float, may_prune: bool) -> bool:
        """Record an epoch of an asked trial and return whether to prune it."""
        trial = self._asked[number]
        if epoch not in self.trials()[number].intermediate_values:  # an epoch done again after a kill
            trial.report(value, epoch)
        return may_prune and trial.should_prune()

    def finish(self, number: int, state: TrialState, value: float | None, attributes: Mapping[str, Any]) -> None:
        """Give a trial its final state; a trial that has one keeps it."""
        frozen = self.trials()[number]
        self._asked.pop(number, None)
        if frozen.state.is_finished():
            return
        for key, attribute in attributes.items():
            self.set_attribute(number, key, attribute)
        self.study.tell(number, value if state is TrialState.COMPLETE else None, state)

    def suspend(self, number: int) -> None:
        """Put a trial back into the queue, with its number, parameters and reports."""
        self._asked.pop(number, None)
        self._storage.set_trial_state_values(self.trials()[number]._trial_id, TrialState.WAITING)

    def set_attribute(self, number: int, key: str, value: Any) -> None:
        """Attach a value to a trial that is not finished."""
        self._storage.set_trial_user_attr(self.trials()[number]._trial_id, key, value)


class _Replay:
    """Gives the values that a trial drew, in the way of an Optuna trial."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._params[name])

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._params[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._params[name]


@contextlib.contextmanager
def _lock(directory: Path, study: str) -> Iterator[None]:
    """Hold a study; the kernel lets go of it when this process ends, however that happens."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise StudyRunningError(
                f'study "{study}" is already being run by {holder}. Wait, or stop that process.'
            ) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on host {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield


def check_continued(config: StudyConfig, url: str, identity: Mapping[str, Any]) -> None:
    """Find out, without changing anything, whether a study can be begun or continued.

    Raises:
        BadInputError: If it was begun with another identity.
        StudyFailedError: If the database cannot be read.
    """
    file = url.removeprefix("sqlite:///")
    if file != url and not Path(file).exists():
        return
    try:
        storage = optuna.storages.RDBStorage(url, skip_compatibility_check=True, skip_table_creation=True)
        attributes = storage.get_study_user_attrs(storage.get_study_id_from_name(config.name))
    except KeyError:
        return
    except Exception as error:  # SQLAlchemy's, the driver's or Optuna's
        raise StudyFailedError(f"cannot read {without_password(url)}: {error}") from error
    _compare(attributes, identity, config.name)


def _compare(attributes: Mapping[str, Any], now: Mapping[str, Any], study: str) -> None:
    if IDENTITY not in attributes:
        return
    before = attributes[IDENTITY]
    now = json.loads(json.dumps(dict(now)))
    changes = [
        f"  {key}: was {json.dumps(before[key]) if key in before else 'not given'}, "
        f"now {json.dumps(now[key]) if key in now else 'not given'}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changes:
        raise BadInputError(
            [
                f'study "{study}" was started with other settings:',
                *changes,
                "Put them back, or give the study a new name (--set name=...). "
                "The number of trials, the time and the devices may change.",
            ]
        )


def without_password(url: str) -> str:
    """Return a URL that can be shown."""
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}{separator}{credentials.partition(':')[0]}{at}{host}"
