"""The sampler and the pruner of a file that names none, and of a study that was begun with other defaults."""

from pathlib import Path

import pytest

from tests.studies import TINY
from tuner.config.loader import check_study
from tuner.config.study import StudyConfig
from tuner.config.yaml_reader import read_document
from tuner.errors import BadInputError
from tuner.storage.continuation import as_begun, check_continued
from tuner.storage.study_store import StudyStore


def loaded(*options: str) -> StudyConfig:
    """Return the tiny study with longer trainings, without budget, sampler and pruner unless they are given."""
    document = read_document(TINY)
    for section in ("budget", "sampler", "pruner"):
        del document.data[section]
    return check_study(document, ["trial.trainer.max_epochs=8", *options], "tiny")


WIDE = "search_space.optimizer.eps={low: 1e-9, high: 1e-3, log: true}"
"""With the lr, more than seven powers of ten."""


@pytest.mark.parametrize(
    ("options", "sampler", "pruner"),
    [
        (["budget={epochs: 320}", WIDE], "curve", "rungs"),
        (["budget={trials: 40}", WIDE], "curve", "median"),
        (["budget={epochs: 24}", WIDE], "curve", "median"),
        (["budget={epochs: 320}", WIDE, "trial.trainer.max_epochs=2"], "curve", "median"),
        (["budget={epochs: 320}", WIDE, "trial.trainer.check_val_every_n_epoch=8"], "curve", "median"),
        (["budget={epochs: 320}", WIDE, "sampler.seed=4"], "curve", "rungs"),
        (["budget={epochs: 320}"], "curve", "none"),
        (["budget={trials: 40}"], "curve", "none"),
        (["budget={epochs: 320}", WIDE, "sampler.multivariate=true"], "tpe", "median"),
        (["budget={epochs: 320}", WIDE, "pruner.n_warmup_steps=2"], "curve", "median"),
        (["search_space={}", "budget={trials: 2}"], "tpe", "median"),
    ],
)
def test_a_file_that_names_neither_gets_what_suits_it(options: list[str], sampler: str, pruner: str):
    config = loaded(*options)
    assert (config.sampler.name, config.pruner.name) == (sampler, pruner)
    assert (config.rungs is not None) == (pruner == "rungs")


def test_a_study_that_was_begun_with_other_defaults_continues_with_them(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    before = loaded(WIDE, "budget={epochs: 320}", "sampler={name: tpe}", "pruner={name: median}")
    with StudyStore.open(before, url, before.identity, print):
        pass
    now = as_begun(loaded(WIDE, "budget={epochs: 320}"), url)
    assert (now.sampler, now.pruner, now.rungs) == (before.sampler, before.pruner, None)
    assert check_continued(now, url, now.identity) == 0
    with StudyStore.open(now, url, now.identity, print) as store:
        assert store.ask()[0] == 0
    named = as_begun(loaded(WIDE, "budget={epochs: 320}", "sampler={name: curve}"), url)
    with pytest.raises(BadInputError, match=r'sampler\.name: was "tpe", now "curve"'):
        check_continued(named, url, named.identity)
    changed = as_begun(loaded(WIDE, "budget={epochs: 320}", "sampler.seed=3"), url)
    with pytest.raises(BadInputError, match=r"sampler\.seed: was not given, now 3"):
        check_continued(changed, url, changed.identity)


def test_a_study_keeps_its_rungs_when_its_budget_changes(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    before = loaded(WIDE, "budget={epochs: 320}")
    with StudyStore.open(before, url, before.identity, print):
        pass
    assert before.rungs is not None
    assert as_begun(loaded(WIDE, "budget={epochs: 640}"), url).rungs == before.rungs
    assert loaded(WIDE, "budget={epochs: 640}").rungs != before.rungs
    fewer = as_begun(loaded(WIDE, "budget={trials: 10}"), url)
    assert (fewer.pruner.name, fewer.rungs) == ("rungs", before.rungs)
