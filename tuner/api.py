"""The Python API, ``from tuner import Study``: define and run studies in scripts and notebooks."""

import copy
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from tuner.errors import BadInputError
from tuner.files import write_output
from tuner.protocol import EngineName
from tuner.results import Best, Confirmation, Result
from tuner.runner.open_study import OpenStudy
from tuner.runner.options import StudyOptions
from tuner.runner.run import run
from tuner.text import pluralize, shown
from tuner.urls import storage_url

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from tuner.config.by_value import Held
    from tuner.config.document import Document
    from tuner.config.study import StudyConfig
    from tuner.objective import Trial

__all__ = ["Best", "Confirmation", "Result", "Study"]

Callback = Callable[["Study", "FrozenTrial"], object]
"""Called with the study and a finished trial, as Optuna stores it."""
Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def _naming_keywords(method: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Return a method whose error for an unknown keyword suggests a known one."""
    known = inspect.signature(method).parameters

    @wraps(method)
    def called(*args: Parameters.args, **keywords: Parameters.kwargs) -> Returned:
        for name in keywords.keys() - known.keys():
            from tuner.config.annotations import did_you_mean

            hint = did_you_mean(name, [each for each in known if each != "self"])
            raise TypeError(f"{method.__qualname__}() has no argument {name!r}.{hint}")
        return method(*args, **keywords)

    return called


class Study:
    """A study, checked and ready to run.

    It is defined by a study file, by a mapping with the sections of one, or by keywords. Where a study file names a
    class or a function, Python code can pass it directly; where a study file has ``{name: ..., argument: ...}``, it can
    also pass a `functools.partial`, or an object: optimizer settings, a schedule, a data module, a network. Anything
    that a training process cannot import, such as a class defined in a notebook, is sent to it by value. ::

        Study(
            name="mine",
            data=MNIST5kDataModule(batch_size=64),
            model=MyNetwork,
            optimizer=AdamW(initial_lr=1e-3),
            schedule=partial(OneCycle, total_steps="100%"),
            trainer={"max_epochs": 5},
            search_space={
                "optimizer.initial_lr": {"low": 1e-4, "high": 3e-2, "log": True},
                "model.dropout": {"low": 0.0, "high": 0.5},
            },
        )

    Args:
        source: Study file, name of a shipped study, or a mapping with the sections of a study file.
        overrides: Texts ``dotted.path=value`` that replace values of the study.
        name: Name of the study; by default the name of the file or, without a file, of the network.
        model: Network or LightningModule. A network passed as an object, not a class, is copied for every trial.
        data: Data module.
        optimizer: Settings from `lightning_modules`, or a `partial` of a class of `torch.optim`.
        schedule: Schedule.
        momentum_schedule: Schedule of the momentum or beta1.
        weight_decay_schedule: Schedule of the weight decay.
        groups: Parameter groups with their own settings, by name: `lightning_modules.ParameterGroup`, or mappings as
            in a study file.
        averaging: Average of the weights that is evaluated, such as ``EMA()``.
        trainer: Settings of the Trainer, such as ``{"max_epochs": 5}``.
        loss: Loss of a network that is not a LightningModule: a name, settings such as ``CrossEntropy(...)``, or a
            function or module that takes outputs and labels.
        task: Task of such a network: "classification", "multi_label" or "regression"; by default the task of its loss.
        seed: Seed of the trials.
        search_space: The searched values, by their dotted paths: ``{"low": ..., "high": ..., "log": True}``,
            ``{"choices": [...]}``, or ``{"one_of": ...}`` with a mapping from names or classes to arguments, or with a
            list of components.
        objective: ``{"metric": ..., "direction": ..., "epoch": ...}``, or a list of several.
        budget: ``{"trials": ..., "timeout": ...}``.
        sampler: ``{"name": ..., option: value}``.
        pruner: ``{"name": ..., option: value}``.
        final: ``{"trials": ..., "seeds": ...}``: at the end, the best trials are retrained with fresh seeds.
        enqueue: Values that are known to be good, by their dotted paths; each mapping is one of the first trials.
        start: ``{"studies": [...], "trials": ...}``: earlier studies whose best trials are reused.
        constraints: Conditions that the values of every trial satisfy, such as ``"schedule.steps < 0.2 * steps"``.
        objective_function: A function of a `tuner.Trial` that returns the value of the objective, in place of
            everything that defines a training run: model, data, optimizer and so on. With several objectives, it
            returns a list or a mapping. It is called in other processes, and may be defined in a notebook.
        params: Values that an objective function gets in addition to the searched ones, by name. A value for a
            searched parameter is used in the first trial only.
        direction: Direction of a single objective, short for ``objective={"direction": ...}``.

    Raises:
        BadInputError: With every error in the study.
    """

    @_naming_keywords
    def __init__(
        self,
        source: "str | Path | Mapping[str, Any] | None" = None,
        overrides: Sequence[str] = (),
        *,
        name: str | None = None,
        model: Any = None,
        data: Any = None,
        optimizer: Any = None,
        schedule: Any = None,
        momentum_schedule: Any = None,
        weight_decay_schedule: Any = None,
        groups: Mapping[str, Any] | None = None,
        averaging: Any = None,
        trainer: Mapping[str, Any] | None = None,
        loss: Any = None,
        task: Literal["classification", "multi_label", "regression"] | None = None,
        seed: int | None = None,
        search_space: Mapping[str, Any] | None = None,
        objective: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        budget: Mapping[str, Any] | None = None,
        sampler: Mapping[str, Any] | str | None = None,
        pruner: Mapping[str, Any] | str | None = None,
        final: Mapping[str, Any] | None = None,
        enqueue: Sequence[Mapping[str, Any]] | None = None,
        start: Mapping[str, Any] | None = None,
        constraints: Sequence[str] | None = None,
        objective_function: "Callable[[Trial], Any] | str | None" = None,
        params: Mapping[str, Any] | None = None,
        direction: Literal["minimize", "maximize"] | None = None,
    ) -> None:
        parts = {
            "model": model,
            "data": data,
            "optimizer": optimizer,
            "schedule": schedule,
            "momentum_schedule": momentum_schedule,
            "weight_decay_schedule": weight_decay_schedule,
            "groups": groups,
            "averaging": averaging,
            "trainer": trainer,
            "loss": loss,
            "task": task,
            "seed": seed,
        }
        sections = {
            "name": name,
            "objective": _with_direction(objective, direction),
            "budget": budget,
            "sampler": sampler,
            "pruner": pruner,
            "search_space": search_space,
            "final": final,
            "enqueue": enqueue,
            "start": start,
            "constraints": constraints,
        }
        trial = {key: value for key, value in parts.items() if value is not None}
        if objective_function is not None or params is not None:
            trial = _of_function(objective_function, params or {}, trial)
        given = {key: value for key, value in sections.items() if value is not None} | (
            {"trial": trial} if trial else {}
        )
        if isinstance(overrides, str):
            raise BadInputError([f'Study: overrides: must be a list, such as ["{overrides}"].'])
        if isinstance(source, str | os.PathLike):
            if given:
                raise BadInputError(
                    [f"Study: {', '.join(given)}: these come from the study file; use overrides to change them."]
                )
            from tuner.config.loader import load_study

            self._open(partial(load_study, str(source)), str(source), overrides)
            return
        if not isinstance(source, Mapping | None):
            raise BadInputError([f"Study: must be a study file, or a mapping with its sections (got {shown(source)})."])
        self._define({**(source or {}), **given}, overrides)

    def _define(self, values: Mapping[str, Any], overrides: Sequence[str]) -> None:
        import lightning_modules  # noqa: F401 -- before Lightning, which it imports in less time
        from tuner.config.objects import PLACE, study_document

        document, held = study_document(values)
        self._open(partial(_checked, document, held), PLACE, overrides)

    def _open(self, load: "Callable[[Sequence[str]], StudyConfig]", source: str, overrides: Sequence[str] = ()) -> None:
        def load_again(further: "Sequence[str]") -> "StudyConfig":
            return load([*overrides, *further])

        self._load = load_again
        self._source = source
        self._stop: Callable[[], None] | None = None
        config = self._load(())
        self.name = config.name

    @classmethod
    def from_yaml(cls, source: str | Path, *overrides: str) -> "Study":
        """Read and check a study file.

        Args:
            source: Its path, or the name of a shipped study.
            overrides: Texts ``dotted.path=value`` that replace values of the file.

        Raises:
            BadInputError: With every error in the file.
        """
        return cls(source, overrides)

    @classmethod
    def load(cls, name: str, *, storage: str | None = None) -> "Study":
        """Return a study that was run, by its name.

        Args:
            name: Its name.
            storage: Optuna's database; by default as in `run`.

        Raises:
            BadInputError: If `name` is not text, there is no such study, or its definition is not kept next to the
                database.
        """
        from tuner.config.loader import load_study
        from tuner.storage.stored_study import definition_of

        if not isinstance(name, str):
            raise BadInputError([f"Study.load: name: must be the name of a study (got {shown(name)})."])
        path, folder = definition_of(name, storage_url(storage))
        study = cls.__new__(cls)
        study._open(partial(load_study, path, folder=folder), name)
        return study

    def __repr__(self) -> str:
        return f"Study({self.name!r})"

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Return the study as the text of a study file.

        Objects that are sent by value are named in it, but not included: a file with such names can be run only by its
        study's name, in the folder in which the study was run. Put such classes into a module to run the file
        elsewhere. Values that `enqueue` has added are not part of a study. A comment at the top says what the file
        lacks.

        Args:
            path: The file to write it to; None to write no file.

        Raises:
            BadInputError: If the file cannot be written.
        """
        from tuner.config import by_value
        from tuner.config.yaml_reader import as_yaml

        config = self._load(())
        lacks = [by_value.note(config.held)]
        if config.first.further:
            added = len(config.first.further)
            verb = "is" if added == 1 else "are"
            lacks.append(f"{pluralize(added, 'trial')} added by enqueue() {verb} not in this file")
        text = "".join(f"# {each}.\n" for each in lacks if each) + as_yaml(config.values, compact=True)
        if path is not None:
            write_output(Path(path), text.encode())
        return text

    def enqueue(self, values: Mapping[str, Any]) -> None:
        """Add values to try: the next trial of `run` uses them, after the study's own `trial`, `enqueue` and `start`.

        They are not part of the study's definition, so they can be added at any time; `Study(enqueue=[...])` puts
        values that are known to be good at the beginning.

        Args:
            values: By their dotted paths in a trial, as in `search_space`; the sampler suggests any that are left out.

        Raises:
            BadInputError: If they are not a mapping, or not in the search space.
        """
        from tuner.config.loader import with_further
        from tuner.config.objects import PLACE, plain_values

        if not isinstance(values, Mapping):
            raise BadInputError(
                [f"Study.enqueue: must be a mapping from dotted paths to values (got {shown(values)})."]
            )
        load = self._load
        config = load(())
        plain = plain_values(values, of_function=not config.kind.trains)
        with_further(config, plain, PLACE)

        def load_with_them(further: "Sequence[str]") -> "StudyConfig":
            return with_further(load(further), plain, PLACE)

        self._load = load_with_them

    @_naming_keywords
    def run(
        self,
        *,
        trials: int | None = None,
        timeout: str | float | None = None,
        start_from: Sequence[str] = (),
        devices: str = "auto",
        per_device: int | None = None,
        devices_per_trial: int = 1,
        fuse: str | int = "auto",
        engine: EngineName = "local",
        address: str = "auto",
        storage: str | None = None,
        tracking_uri: str | None = None,
        review: bool = True,
        system_metrics: bool = False,
        retry_failed: bool = False,
        rehearse: bool = True,
        dry_run: bool = False,
        stall_timeout: str | float = "30m",
        checkpoint_every: str | float = "30s",
        quiet: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> Result:
        """Run or continue the study, and return its result.

        Training processes are forked from this process's fork server: its preloaded modules are set for the whole
        process, and `__main__` is briefly replaced when a run starts. A program whose other threads use multiprocessing
        should run studies in separate processes.

        Args:
            trials: Total trials, including earlier runs; by default those of the study's budget.
            timeout: No trial starts after this time: 90s, 30m, 2h, 1h30m; a number is in seconds.
            start_from: Names of earlier studies, or "shipped", whose best trials are the first ones here.
            devices: auto (all GPUs, else the CPU), cpu, or GPUs such as 0,1.
            per_device: Trials at a time on each GPU (default: 1), or on the CPU (default: one for each core).
            devices_per_trial: GPUs, or processes on the CPU, that train one trial together and divide its batches.
            fuse: Number of trials per slot, trained as one model: a number, off, or auto.
            engine: local (processes of this machine), ray (a Ray cluster), or inline (this process, for debugging).
            address: Address of the Ray cluster.
            storage: Optuna's database, SQLite or PostgreSQL (default: OPTUNA_STORAGE, else sqlite:///optuna.db).
            tracking_uri: MLflow's store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db).
            review: Whether plots, report and the best model go to MLflow.
            system_metrics: Whether MLflow records the load of the machine.
            retry_failed: Whether failed trials are retried, under the same numbers.
            rehearse: Whether each network is trained for a few steps before the first trial, to find mistakes early.
            dry_run: Whether to check everything, train each network for a few steps, and start no trial.
            stall_timeout: A run that shows no activity for this time is killed, and its trial continues.
            checkpoint_every: Time after which a run is saved at the end of an epoch.
            quiet: Whether nothing is printed.
            callbacks: Called after each trial with this study and the trial, an ``optuna.trial.FrozenTrial``. `stop`
                ends the run cleanly; an error ends it at once, and is raised here. The next run continues the study.

        Raises:
            KeyboardInterrupt: If it was interrupted. It has stopped cleanly, and `run` continues from there.
            TunerError: If the input is bad, the study is already running, or it failed.
        """
        given = {key: value for key, value in locals().items() if key not in ("self", "callbacks")}
        options = StudyOptions(study=self._source, **{**given, "fuse": str(fuse)})
        if not (isinstance(callbacks, Sequence) and all(map(callable, callbacks))):
            raise BadInputError([f"callbacks: must be a list of functions (got {shown(callbacks)})."])

        def after_trial(study: OpenStudy[Any], number: int) -> None:
            self._stop = study.stop
            for callback in callbacks:
                callback(self, study.store.trial(number))

        try:
            outcome = run(options, self._load, after_trial)
        finally:
            self._stop = None
        if outcome.interrupted:
            raise KeyboardInterrupt
        return Result(outcome.name, outcome.storage, outcome.tracking_uri)

    def stop(self) -> None:
        """Stop `run` cleanly, from a callback: start nothing more, and let running trials finish their epoch."""
        if self._stop is not None:
            self._stop()

    def result(self, *, storage: str | None = None, tracking_uri: str | None = None) -> Result:
        """Return the result so far, without running anything.

        Args:
            storage: Optuna's database; by default as in `run`.
            tracking_uri: MLflow's store; by default as in `run`.

        Raises:
            BadInputError: If the study was never run, or a store cannot be used.
        """
        from tuner.storage.reader import open_study
        from tuner.tracking.store import tracking_uri as located

        database = storage_url(storage)
        with open_study(database, self.name):
            return Result(self.name, database, located(tracking_uri, must_exist=True))


def _with_direction(objective: Any, direction: str | None) -> Any:
    """Return the section ``objective`` with a direction.

    Raises:
        BadInputError: If it has one already, or there are several objectives.
    """
    if direction is None:
        return objective
    if not isinstance(objective, Mapping | None) or "direction" in (objective or {}):
        raise BadInputError(["Study: direction: remove it: with several objectives, each has its own direction."])
    return {**(objective or {}), "direction": direction}


def _of_function(function: Any, params: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``trial`` of an objective function.

    Raises:
        BadInputError: If there is no function, or something else defines a training run.
    """
    if function is None:
        raise BadInputError(["Study: params: only an objective function takes them; pass objective_function as well."])
    if others := [key for key in parts if key != "seed"]:
        rule = "remove what defines a training run: an objective function is the whole trial"
        raise BadInputError([f"Study: {', '.join(others)}: {rule}, and gets its values from params and search_space."])
    if not isinstance(params, Mapping):
        raise BadInputError([f"Study: params: must be a mapping from names to values (got {params!r})."])
    if reserved := [key for key in params if key in ("objective_function", "seed")]:
        raise BadInputError([f"Study: params: {', '.join(reserved)}: pass it to Study, not among the values."])
    return {"objective_function": function, **params, **parts}


def _checked(document: "Document", held: "Mapping[str, Held]", overrides: Sequence[str]) -> "StudyConfig":
    from tuner.config import by_value
    from tuner.config.loader import check_study

    by_value.receive(held)
    script = getattr(sys.modules["__main__"], "__file__", None)
    return check_study(copy.deepcopy(document), overrides, "", folder=Path(script).parent if script else Path.cwd())
