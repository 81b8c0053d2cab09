"""The installed packages, and the devices, stores and folders that a study could use on this machine."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tuner.config.study_files import schema_file
from tuner.console import printable
from tuner.engines.fork_server import call_in_fork
from tuner.engines.machine import VISIBLE, cores, processor_quota, visible_gpus
from tuner.errors import TunerError, in_a_line, needs_extra
from tuner.files import network_file_system
from tuner.runner.environment import PACKAGES
from tuner.storage.database import Database, state_directory
from tuner.storage.inventory import listed_studies
from tuner.text import pluralize
from tuner.tracking.store import tracking_uri
from tuner.training.conditions import gpu_names, processor, versions
from tuner.urls import storage_url, without_password, without_passwords

__all__ = ["Check", "diagnose"]

EXTRAS = {
    "optimizers": ("pytorch_optimizer",),
    "cli": ("jsonargparse",),
    "ray": ("ray",),
    "postgresql": ("psycopg",),
    "system-metrics": ("psutil", "pynvml"),
}
"""The modules that the extras of the package install."""
MORE_PACKAGES = ("torchvision", "numpy", "pandas", "scipy", "sqlalchemy", "pydantic", "rich", "plotly", "matplotlib")
VARIABLES = ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI", VISIBLE, "XDG_CACHE_HOME", "PGHOST", "SLURM_JOB_ID")
GIGABYTE = 2**30


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Args:
        what: Its name.
        found: A version, a number, or the reason why it cannot be used.
        is_fine: Whether it can be used.
    """

    what: str
    found: str
    is_fine: bool = True


def diagnose(storage: str | None = None, uri: str | None = None) -> list[Check]:
    """Check everything that a study needs, without changing anything.

    Args:
        storage: URL of Optuna's database; None for the default.
        uri: MLflow's tracking URI; None for the default.
    """
    installed = versions((*PACKAGES, *MORE_PACKAGES))
    return [
        *(Check(name, version) for name, version in installed.items()),
        *(_extra(name, modules) for name, modules in EXTRAS.items()),
        Check("system", f"{platform.platform()}, {sys.executable}", sys.platform != "win32"),
        Check("processor", _processor()),
        _checked("GPUs", _gpus),
        Check("schema of study files", str(schema_file()), schema_file().exists()),
        _checked("this folder", lambda: _folder(storage_url(storage))),
        _checked("Optuna's database", lambda: _optuna(storage_url(storage))),
        _checked("MLflow's store", lambda: _mlflow(uri, storage_url(storage))),
        Check("environment", ", ".join(filter(None, map(_variable, VARIABLES))) or "no variable it reads is set"),
    ]


def _checked(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, printable(look()))
    except TunerError as error:
        return Check(what, " ".join(without_passwords(str(error)).split()), is_fine=False)
    except Exception as error:  # from a driver or a library: the user wants to see it
        return Check(what, without_passwords(printable(in_a_line(error))), is_fine=False)


def _extra(name: str, modules: tuple[str, ...]) -> Check:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return Check(f"[{name}]", f"not installed; {needs_extra(name)}" if missing else "installed")


def _processor() -> str:
    quota = processor_quota()
    limit = "" if quota is None else f", a quota of {quota:g}"
    count = len(cores()) or os.cpu_count() or 1
    return f"{processor()}, {pluralize(count, 'core')} of {os.cpu_count()}{limit}, {_memory()}"


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return "memory unknown"
    return f"{size / GIGABYTE:.1f} GiB of memory"


def _gpus() -> str:
    import torch

    gpus = visible_gpus()
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built without CUDA"
    names = call_in_fork(gpu_names, gpus) if gpus else []
    return f"{', '.join(f'{gpu}: {name}' for gpu, name in zip(gpus, names, strict=True)) or 'none'}; {built}"


def _folder(storage: str) -> str:
    here = Path.cwd()
    Database.check(storage, "doctor")
    free = shutil.disk_usage(here).free / GIGABYTE
    kind = network_file_system(here)
    text = f"{here}, can be written, {free:.1f} GiB free"
    folder = state_directory(storage, "doctor").parent
    return f"{text}, on {kind or 'a local disk'}; state of studies in {folder}"


def _optuna(storage: str) -> str:
    studies = listed_studies(storage)
    running = sum(each.is_running for each in studies)
    return (
        f"{without_password(storage)}: {len(studies)} {'study' if len(studies) == 1 else 'studies'}, {running} running"
        if studies
        else (f"{without_password(storage)}: no study yet")
    )


def _mlflow(uri: str | None, storage: str) -> str:
    return f"{without_password(tracking_uri(uri, storage=storage))}: can be used"


def _variable(name: str) -> str:
    value = os.environ.get(name)
    return "" if value is None else f"{name}={without_password(value)}"
