"""Starts from experience: values in the file's queue, the best trials of earlier studies, and priors on ranges."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.studies import TINY, StudyFolder
from tuner.config.loader import load_study, with_further
from tuner.config.search_space import Range, searched
from tuner.config.shipped_starts import SHIPPED_STARTS
from tuner.config.study import StudyConfig
from tuner.errors import BadInputError
from tuner.storage.starts import read_starts
from tuner.storage.study_store import StudyStore

LEAGUE = str(Path(__file__).parent.parent / "studies/league/schedules.yaml")
PRIOR = "search_space.optimizer.initial_lr={low: 1e-3, high: 3e-2, log: true, prior: {center: 4e-3, width: 1.5}}"


def faults(*overrides: str, study: str | Path = TINY) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        load_study(str(study), overrides)
    return list(caught.value.faults)


# -- enqueue -----------------------------------------------------------------------------------------------------------


def test_queued_values_come_after_the_baseline_and_before_the_families_that_they_leave():
    queue = "{optimizer.initial_lr: 0.02, schedule: {name: cosine_restarts, restart_period: 12}}, {optimizer.eps: 1e-8}"
    eps = "search_space.optimizer.eps={low: 1e-9, high: 1e-7, log: true}"
    config = load_study(
        str(TINY), ["trial.schedule={name: plateau, factor: 0.5, patience: 0}", eps, f"enqueue=[{queue}]"]
    )
    assert [dict(each) for each in config.first.params] == [
        {"optimizer.initial_lr": 0.01, "optimizer.eps": 1e-8, "schedule.name": "plateau"},
        {
            "optimizer.initial_lr": 0.02,
            "schedule.name": "cosine_restarts",
            "schedule.cosine_restarts.restart_period": 12,
        },
        {"optimizer.eps": 1e-8},
        {"schedule.name": "exponential"},
        {"schedule.name": "plateau"},
    ], "the sampler chooses the rest"


def test_added_values_come_before_the_families_that_they_leave(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    given = "trial.schedule={name: plateau, factor: 0.5, patience: 0}"
    config = load_study(str(TINY), [given, "enqueue=[{optimizer.initial_lr: 0.02}]"])

    def run(added: Sequence[Mapping[str, Any]], trials: int) -> list[tuple[str, float]]:
        study = reduce(lambda study, values: with_further(study, values, ""), added, config)
        with StudyStore.open(study, url, dict(study.identity), pytest.fail) as store:
            for _ in range(trials):
                store.finish(store.ask()[0], TrialState.COMPLETE, 0.5, {"state": "complete"})
            params = [trial.params for trial in store.trials()]
        return [(each["schedule.name"], each["optimizer.initial_lr"]) for each in params]

    first, second = {"optimizer.initial_lr": 0.005}, {"optimizer.initial_lr": 0.003, "schedule.name": "cosine_restarts"}
    found = run([first], 3)
    assert found[0] == ("plateau", 0.01)
    assert [lr for _, lr in found[1:]] == [0.02, 0.005], "the file's own queue comes first"
    assert run([], 1)[3][0] == "exponential", "the first family"
    assert run([first, second], 3)[4] == ("cosine_restarts", 0.003)
    assert run([], 0)[5][0] == "plateau", "the family that the added values do not have"


def test_a_queued_value_outside_of_the_space_or_of_another_form_is_refused_with_all_others():
    entries = "{optimizer.initial_lr: 2, schedule: {name: cosine}}, {optimizer: {lr: 3}}, 5, {a.b: 1, a: {b: 2}}, {}"
    form = "must be values by their dotted paths in trial, {path: value, ...}"
    assert faults(f"enqueue=[{entries}]") == [
        "--set: enqueue[0]: optimizer.initial_lr is 2, not in 0.001 to 0.03 (log).",
        "--set: enqueue[0]: schedule is cosine, not one of exponential, cosine_restarts, plateau.",
        "--set: enqueue[1]: optimizer.lr is not searched, and not in trial.",
        f"--set: enqueue[2]: {form} (got 5).",
        "--set: enqueue[3]: a is given twice.",
        f"--set: enqueue[4]: {form} (got {{}}).",
    ]
    (wrong,) = faults("enqueue={optimizer.initial_lr: 0.01}")
    assert "enqueue: must be a list of values by their dotted paths" in wrong
    (wrong,) = faults("enqueue=[{schedule: {name: plateau, factor: 0.1}}]")
    assert "schedule.factor is 0.1, in search_space 0.5" in wrong


def test_the_queue_belongs_to_the_study_and_may_not_change():
    one, other = (load_study(str(TINY), [f"enqueue=[{{optimizer.initial_lr: {lr}}}]"]) for lr in (0.01, 0.02))
    assert one.identity != other.identity
    assert load_study(str(TINY)).identity == load_study(str(TINY), ["enqueue=null", "start=null"]).identity


# -- priors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_first_random_trials_are_drawn_around_the_prior(sampler: str):
    options = ["sampler={name: tpe, seed: 3, n_startup_trials: 400}"] if sampler == "tpe" else []
    config = load_study(str(TINY), [PRIOR, *options])
    drawn = [config.fixed(number)["optimizer.initial_lr"] for number in range(400)]
    assert min(drawn) >= 1e-3
    assert max(drawn) <= 3e-2
    assert median(drawn) == pytest.approx(4e-3, rel=0.1)
    inside = sum(4e-3 / 1.5 <= each <= 4e-3 * 1.5 for each in drawn) / len(drawn)
    assert inside == pytest.approx(0.68, abs=0.08), "one standard deviation"
    assert drawn[:5] == [config.fixed(number)["optimizer.initial_lr"] for number in range(5)]
    other = load_study(str(TINY), [PRIOR, "sampler.seed=77"])
    assert other.fixed(0) != config.fixed(0)


def test_a_sampler_chooses_by_itself_after_its_random_trials():
    config = load_study(str(TINY), [PRIOR, "sampler={name: tpe}"])
    assert "optimizer.initial_lr" in config.fixed(9)
    assert config.fixed(10) == {}
    for size, option in ((50, ""), (7, ", population_size: 7")):
        config = load_study(str(TINY), [PRIOR, f"sampler={{name: nsga2{option}}}"])
        assert ["optimizer.initial_lr" in config.fixed(number) for number in (size - 1, size)] == [True, False]


def test_priors_of_lengths_steps_and_whole_numbers_stay_on_their_grid():
    period = "{low: 20%, high: 60%, step: 10%, prior: {center: 30%, width: 5%}}"
    neurons = "search_space.model.neurons={low: 4, high: 64, log: true, prior: {center: 8, width: 2}}"
    config = load_study(str(TINY), [neurons, f"search_space.schedule.one_of.cosine_restarts.restart_period={period}"])
    for number in range(50):
        drawn = config.fixed(number)
        assert drawn["schedule.cosine_restarts.restart_period (%)"] in (20.0, 30.0, 40.0, 50.0, 60.0)
        assert drawn["model.neurons"] in range(4, 65)
    specs = dict(searched(config.trial))
    assert specs["schedule.cosine_restarts.restart_period (%)"] == Range(
        20.0, 60.0, step=10.0, unit="%", prior=(30.0, 5.0)
    )


@pytest.mark.parametrize(
    ("prior", "wrong"),
    [
        ("{center: 0.1, width: 2}", ".center: must be within the range, 0.001 to 0.03 (got 0.1)."),
        ("{center: 0.01, width: 1}", ".width: must be a factor above 1 when log is true (got 1)."),
        ("{center: x, width: 2}", '.center: must be a number (got "x").'),
        ("{center: 0.01}", ': must be {center: ..., width: ...} (got {"center": 0.01}).'),
        ("3", ": must be {center: ..., width: ...} (got 3)."),
    ],
)
def test_a_prior_outside_of_its_range_is_refused(prior: str, wrong: str):
    (found,) = faults(PRIOR.replace("{center: 4e-3, width: 1.5}", prior))
    assert found == f"--set: search_space.optimizer.initial_lr.prior{wrong}"


def test_a_prior_is_refused_where_nothing_is_drawn_at_random():
    (found,) = faults(PRIOR, "sampler={name: qmc}")
    assert "qmc makes no random draws, so the prior on optimizer.initial_lr has no effect" in found


# -- earlier studies ---------------------------------------------------------------------------------------------------


def attributes(folder: StudyFolder, study: str, key: str) -> Any:
    query = "select value_json from study_user_attributes join studies using (study_id)"
    rows = folder.optuna(f"{query} where study_name = '{study}' and key = '{key}'")
    return json.loads(rows[0][0]) if rows else None


def params(folder: StudyFolder, study: str) -> list[dict[str, float]]:
    rows = folder.optuna(
        "select number, param_name, param_value from trials join trial_params using (trial_id) "
        f"join studies using (study_id) where study_name = '{study}' order by number"
    )
    return [
        {name: value for number, name, value in rows if number == each} for each in sorted({row[0] for row in rows})
    ]


@pytest.fixture
def copied(short: StudyFolder, tmp_path: Path) -> StudyFolder:
    return StudyFolder(shutil.copytree(short.path, tmp_path / "copy"))


def best_of(folder: StudyFolder, study: str) -> list[int]:
    query = "select number from trials join trial_values using (trial_id) join studies using (study_id)"
    return [row[0] for row in folder.optuna(f"{query} where study_name = '{study}' order by value desc, number")]


NEXT = (
    *("--set", "name=next"),
    *("--set", "trial.schedule={name: plateau, factor: 0.5, patience: 0}"),
    *("--set", "search_space.optimizer.initial_lr={low: 1e-2, high: 3e-2, log: true}"),
    *("--set", "search_space.schedule.one_of.cosine_restarts.restart_period={low: 10%, high: 100%}"),
)


def test_a_study_starts_from_the_best_of_another_and_from_what_it_read_when_it_began(copied: StudyFolder):
    before, ranking = params(copied, "short"), best_of(copied, "short")
    output = copied.call(*NEXT, "--start-from", "short", "--trials", "2")
    assert output.count("note: the study starts from #") == 3
    recorded = attributes(copied, "next", "starts")
    assert len(recorded) == 3
    steps = 2 * 8  # of a training of the short study
    for number, known in zip(ranking, recorded, strict=True):
        old = before[number]
        lr = old["optimizer.initial_lr"]
        assert known.get("optimizer.initial_lr") == (lr if 1e-2 <= lr <= 3e-2 else None)
        if lr < 1e-2:
            assert f"#{number} of short" in output
            assert f"optimizer.initial_lr is {lr!r}, not in 0.01 to 0.03 (log)" in output.replace("\n", " ")
        if "schedule.cosine_restarts.restart_period" in old:
            period = known["schedule.cosine_restarts.restart_period (%)"]
            assert period == pytest.approx(100 * old["schedule.cosine_restarts.restart_period"] / steps)
        if "schedule.exponential.decay_rate" in old:
            assert known["schedule.exponential.decay_rate"] == old["schedule.exponential.decay_rate"]
    assert params(copied, "next")[0]["optimizer.initial_lr"] == 0.01, "the file's own trial is the first"

    copied.call(
        "--set",
        "name=short",
        "--set",
        "trial.trainer.max_epochs=2",
        "--set",
        "trial.data.train_size=80",
        "--set",
        "trial.trainer.precision=64-true",
        "--set",
        "trial.model.dropout=0.2",
        "--trials",
        "5",
    )
    output = copied.call(*NEXT, "--start-from", "short", "--trials", "5")
    assert "starts from" not in output, "it has begun"
    assert attributes(copied, "next", "starts") == recorded
    for number, known in enumerate(recorded, start=1):
        numbers = {name: value for name, value in known.items() if not isinstance(value, str)}
        drawn = params(copied, "next")[number]
        assert {name: drawn[name] for name in numbers} == numbers

    output = copied.call(*NEXT, "--trials", "5", expect=2)
    assert 'start.studies: was ["short"], now not given' in output


def test_a_start_from_a_study_that_is_not_there_or_has_no_result_is_refused(copied: StudyFolder):
    output = copied.call("--start-from", "shrot", "--set", "name=next", expect=2)
    assert 'no study "shrot"' in output
    assert "Did you mean short?" in output
    assert attributes(copied, "next", "identity") is None, "nothing is created"
    (own, odd) = faults("start={studies: [tiny, A B]}")
    assert own == "--set: start.studies[0]: is the study itself; name other studies."
    assert odd == '--set: start.studies[1]: "A B" is not the name of a study.'
    (none,) = faults("start={studies: []}")
    assert none.startswith("--set: start.studies: ")
    (grid,) = faults("start={studies: [a]}", "sampler={name: grid}", "search_space={schedule.x: {choices: [1, 2]}}")[:1]
    assert grid


# -- the list that comes with the tuner --------------------------------------------------------------------------------


def test_every_value_of_the_shipped_list_is_one_that_the_tuner_takes():
    for start in SHIPPED_STARTS:
        for optimizer in start.optimizers:
            for schedule in start.schedules:
                missing = {"end_factor": 0.0} if schedule["name"] == "polynomial" else {}
                values = {**missing, **schedule}
                config = load_study(
                    str(TINY),
                    [
                        f"trial.optimizer={json.dumps(optimizer)}",
                        f"trial.schedule={json.dumps(values)}",
                        "search_space={}",
                        "trial.trainer.max_epochs=20",
                    ],
                )
                assert isinstance(config, StudyConfig)


def test_a_study_of_many_families_starts_from_the_shipped_list():
    config = load_study(LEAGUE, ["start={studies: [shipped], trials: 20}"])
    earlier, notes = read_starts(config, "sqlite:///none.db")
    assert len(earlier) == len(notes) == len(SHIPPED_STARTS)
    started = config.with_earlier(earlier)
    families = [each["schedule.name"] for each in started.first.params]
    assert families[:3] == ["constant", "one_cycle", "one_cycle"]
    assert sorted(set(families[11:])) == sorted({*config.families} - {*families[1:11]})
    assert math.isclose(earlier[0]["optimizer.initial_lr"], 0.001308209823469072)
    assert earlier[0]["schedule.one_cycle.rise_share"] == 0.1
    assert "schedule.rise_share is 0.01, not in 0.05 to 0.5" in notes[2]


def test_values_for_adam_are_not_taken_over_for_another_optimizer():
    values = ["start={studies: [shipped]}", "trial.optimizer.name=sgd"]
    earlier, notes = read_starts(load_study(str(TINY), values), "sqlite:///none.db")
    assert earlier == []
    assert notes == ["no value of shipped is in the search space: none is used"]
