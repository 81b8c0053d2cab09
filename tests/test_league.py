"""`python -m tuner.league`: every family under the same conditions, and the resulting table."""

import csv
import io
from pathlib import Path

import pytest

from tests.conftest import INLINE, StudyFolder
from tuner.analysis.comparison import Comparison, Repeated
from tuner.analysis.standings import Member, Standings
from tuner.config.loader import load_study
from tuner.config.search_space import OneOf
from tuner.direction import Direction
from tuner.league import main as league
from tuner.visualization.comparisons import of_standings

SHIPPED = Path(__file__).parent.parent / "studies" / "league" / "schedules.yaml"
MINI = """\
budget: {trials: 1}
sampler: {name: random, seed: 1}
pruner: {name: none}
trial:
  data: {name: iris, batch_size: 20, train_size: 80}
  model: {name: mlp, inputs: 4, neurons: 8}
  optimizer: {name: adam, initial_lr: 1e-2}
  trainer: {max_epochs: 1}
search_space:
  optimizer.initial_lr: {low: 1e-3, high: 3e-2, log: true}
  schedule:
    one_of:
      constant: {}
      warmup: {steps: 10%, schedule: {name: cosine, decay_steps: {low: 50%, high: 90%}}}
"""

STANDINGS = Standings(
    "which",
    Comparison(
        "val/acc",
        Direction.MAXIMIZE,
        [
            Repeated("constant", {1: 0.90, 2: 0.91, 3: 0.92}),
            Repeated("cosine", {1: 0.95, 2: 0.96, 3: 0.96}),
            Repeated("step", {1: 0.96, 2: 0.94, 3: 0.96}, failed=1),
        ],
    ),
    [
        Member("constant", "initial_lr 0.001", 0.001, [500], {0.0005: [0.90], 0.001: [0.91], 0.002: [0.8]}),
        Member("cosine", "initial_lr 0.002", 0.002, [200, 300, 400], {0.001: [0.90], 0.002: [0.96], 0.004: [0.955]}),
        Member("step", "initial_lr 0.004", 0.004, [], {0.002: [0.90], 0.004: [0.95], 0.008: [0.5]}),
    ],
    target=0.9,
    tolerance=0.01,
    conditions="All had the same.",
)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Return a folder in which a league was run."""
    folder = StudyFolder(tmp_path_factory.mktemp("league"))
    (folder.path / "leagues").mkdir()
    (folder.path / "leagues" / "mini.yaml").write_text(MINI)
    folder.output = folder.command(league, "leagues", "--seeds", "1", *INLINE)  # type: ignore[attr-defined]
    return folder


def test_every_family_has_the_same_trials_steps_and_seeds(played: StudyFolder):
    counts = dict(
        played.optuna("select study_name, count(*) from trials join studies using (study_id) group by study_name")
    )
    assert counts == {"mini-constant": 1, "mini-warmup": 1, "mini-final": 2, "mini-sensitivity": 2 * 7}
    steps = played.mlflow(
        "select distinct (select count(*) from metrics m where m.key = 'lr' and m.run_uuid = "
        "t.run_uuid) from tags t where t.key = 'tuner.trial'"
    )
    assert steps == [(4,)]
    finals = played.optuna(
        "select param_value from trial_params join trials using (trial_id) join studies using (study_id) "
        "where study_name in ('mini-final', 'mini-sensitivity') and param_name = 'seed'"
    )
    assert len(finals) == 16
    assert len(set(finals)) == 1, "the one fresh seed"


def test_the_table_is_written_in_three_forms_and_to_mlflow(played: StudyFolder):
    page = (played.path / "mini.md").read_text()
    assert page in played.output
    rows = list(csv.DictReader(io.StringIO((played.path / "mini.csv").read_text())))
    assert sorted(row["schedule"] for row in rows) == ["constant", "warmup"]
    means = [float(row["mean"]) for row in rows]
    assert means == sorted(means, reverse=True)
    trained = played.optuna(
        "select avg(value) from trial_values join trials using (trial_id) join studies using (study_id) "
        "where study_name = 'mini-final' group by number order by 1 desc"
    )
    assert means == pytest.approx([mean for (mean,) in trained])
    assert (played.path / "mini.png").read_bytes().startswith(b"\x89PNG")
    assert played.mlflow("select count(*) from tags where key = 'mlflow.note.content' and value like '# mini%'") == [
        (1,)
    ]
    assert played.mlflow("select name from experiments where name like 'mini%'") == [("mini",)]


def test_the_same_command_trains_nothing_and_writes_the_same_table(played: StudyFolder):
    before = (played.path / "mini.csv").read_text(), played.optuna("select * from trials order by 1")
    output = played.command(league, "leagues", "--seeds", "1", *INLINE)
    assert "complete" not in output
    assert ((played.path / "mini.csv").read_text(), played.optuna("select * from trials order by 1")) == before


def test_a_dry_run_says_how_many_trainings_are_left_and_trains_none(played: StudyFolder, folder: StudyFolder):
    text = "mini: 2 families with 1 trial each, the best of each with 1 fresh seed and at 7 initial lrs: 18 trainings"
    assert f"{text}, 0 of them left" in played.command(league, "leagues", "--seeds", "1", "--dry-run", *INLINE)
    (folder.path / "mini.yaml").write_text(MINI)
    output = folder.command(league, "mini.yaml", "--seeds", "1", "--dry-run", *INLINE)
    assert f"{text}, 18 of them left; at least 1 s on 1 slot, validation not counted" in output
    assert [path.name for path in folder.path.iterdir()] == ["mini.yaml"]


IN_A_LIST = """\
      join:
        schedules: [{name: constant}, {name: exponential, decay_rate: {low: 0.1, high: 0.5}, decay_steps: 3}]
        starts: [{choices: [2, 3]}]
      plateau:
        patience: {low: 1, high: 3}
        schedule: {one_of: {constant: , cosine: {decay_steps: 4}}}
"""


def test_the_study_of_a_family_is_the_one_that_its_definition_describes(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text(MINI + IN_A_LIST)
    league = load_study(str(path))
    assert league.families == ["constant", "warmup", "join", "plateau"]
    for name in league.families:
        family = league.with_family(name, f"s-{name}")
        path.write_text(family.text)
        again = load_study(str(path))
        assert again == family, name
        assert again.values == family.values


def test_a_study_of_a_family_that_was_begun_before_can_be_continued(tmp_path: Path):
    (tmp_path / "mini.yaml").write_text(MINI)
    identity = load_study(str(tmp_path / "mini.yaml")).with_family("warmup").identity
    schedule = {key: value for key, value in identity.items() if "schedule" in key}
    assert schedule == {
        "trial.schedule.steps": "10%",
        "trial.schedule.schedule.name": "cosine",
        "trial.schedule.name": "warmup",
        "search_space.schedule.schedule.decay_steps.low": "50%",
        "search_space.schedule.schedule.decay_steps.high": "90%",
    }


def test_the_shipped_league_can_be_played_by_every_family_in_it():
    config = load_study(str(SHIPPED))
    assert isinstance(config.trial["schedule"], OneOf)
    assert "constant" in config.trial["schedule"].options
    assert len(config.trial["schedule"].options) >= 14


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("pruner={name: median}", "pruner: must be {name: none}"),
        ("budget.timeout=1h", "budget.timeout: leave it out"),
        ("search_space.data.batch_size={choices: [10, 20]}", "search_space.data.batch_size: only the schedule and"),
        ("name=" + "x" * 60, "is not a valid name"),
        ("search_space.schedule=null", "search_space.schedule: a league needs {one_of: {family: ...}} there."),
    ],
)
def test_unequal_conditions_are_refused(folder: StudyFolder, assignment: str, message: str):
    (folder.path / "mini.yaml").write_text(MINI)
    assert message in folder.command(league, "mini.yaml", "--set", assignment, *INLINE, expect=2)
    assert [path.name for path in folder.path.iterdir()] == ["mini.yaml"]


def test_a_study_that_is_not_a_league_is_refused(folder: StudyFolder):
    assert "has no study file (*.yaml)" in folder.command(league, ".", *INLINE, expect=2)
    assert "nothing.yaml: no such file" in folder.command(league, "nothing.yaml", *INLINE, expect=2)


def test_the_range_of_good_initial_lrs_extends_from_the_best_until_the_value_is_worse():
    constant, cosine, step = STANDINGS.members
    assert STANDINGS.good_range(constant) == (0.0005, 0.001, True)
    assert STANDINGS.good_range(cosine) == (0.002, 0.004, True)
    assert STANDINGS.good_range(step) == (0.004, 0.004, False)
    assert STANDINGS.good_range(Member("none", "", 0.1)) is None


def test_the_table_tells_ties_and_failures():
    page = STANDINGS.markdown()
    assert "| 1 | cosine | 0.9567 | 0.9423 to 0.9710 |  | 300 | 0.002 to 0.004 (x2+) | initial_lr 0.002 |" in page
    assert "| 3 | step | 0.9533 (1 failed) |" in page
    assert "| never | 0.004 to 0.004 (x1) |" in page
    assert "| 500 (not with 2 seeds) |" in page
    assert "The seeds do not separate it from step." in STANDINGS.findings()
    places = [row["place"] for row in csv.DictReader(io.StringIO(STANDINGS.csv()))]
    assert places == ["1", "2", "3"]
    left, right = of_standings(STANDINGS).panels
    assert len(right.series) == 3
    assert list(left.y_ticks.values())[-1] == "cosine"
    assert {series.label for series in right.series} == {"cosine", "step", "constant"}
    assert {series.color for series in left.series[-3:]} == {right.series[0].color}, "one colour for a family"
