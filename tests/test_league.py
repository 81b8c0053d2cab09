"""`python -m tuner.league`: every contender under the same conditions, and the resulting table."""

import csv
import io
from pathlib import Path

import optuna
import pytest

from tests.studies import INLINE, StudyFolder
from tuner.config.contenders import Contender, read_contenders, unsearched, unused_sections
from tuner.config.loader import load_study
from tuner.errors import BadInputError
from tuner.followup.league import fresh_name
from tuner.league import main as league
from tuner.report import main as report

ROOT = Path(__file__).parent.parent
SHIPPED = [*sorted((ROOT / "studies" / "league").glob("*.yaml")), ROOT / "examples" / "linear_regression.yaml"]
MINI = """\
budget: {trials: 1}
sampler: {name: random, seed: 1}
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
CONTENDERS = """\
contenders:
  averaged: {averaging: {name: ema, decay: 0.5}}
  plain: {optimizer: {name: sgd, momentum: {low: 0.0, high: 0.9}, initial_lr: {choices: [0.1, 0.2]}}}
"""
SMALL = ("--shapes", "2", "--lrs", "2", "--search-seeds", "2", "--seeds", "2", *INLINE)
STUDIES = (
    "select study_name, count(*) from trials join studies using (study_id) group by study_name order by study_name"
)


def contenders(tmp_path: Path, text: str, lrs: int = 3) -> dict[str, Contender]:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return {each.name: each for each in read_contenders(load_study(str(path)), str(path), lrs)}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Return a folder in which a league was run."""
    folder = StudyFolder(tmp_path_factory.mktemp("league"))
    (folder.path / "mini.yaml").write_text(MINI + CONTENDERS)
    folder.output = folder.command(league, "mini.yaml", *SMALL)  # type: ignore[attr-defined]
    return folder


def test_every_shape_has_every_base_lr_and_seed_and_the_best_of_each_has_fresh_ones(played: StudyFolder):
    search, fresh = sorted(dict(played.optuna(STUDIES)).items(), key=lambda item: -item[1])
    assert search == ("mini-search", (1 + 2 + 1 + 2) * 2 * 2)
    assert fresh[0].startswith("mini-fresh-")
    assert fresh[1] == 4 * 2
    seeds = played.optuna(
        "select distinct study_name, param_value from trial_params join trials using (trial_id) "
        "join studies using (study_id) where param_name = 'seed'"
    )
    assert len(seeds) == 4
    assert len({seed for _, seed in seeds}) == 4, "selection and evaluation use different seeds"


def test_the_configuration_with_the_best_median_is_trained_with_fresh_seeds(played: StudyFolder):
    rows = list(csv.DictReader(io.StringIO((played.path / "mini-league-trainings.csv").read_text())))
    table = list(csv.DictReader(io.StringIO((played.path / "mini-league.csv").read_text())))
    assert {row["contender"] for row in table} == {"constant", "warmup", "averaged", "plain"}
    for line in table:
        tried: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            if (row["part"], row["contender"]) == ("search", line["contender"]):
                tried.setdefault((row["shape"], row["initial_lr"]), []).append(float(row["val/acc"]))
        medians = {key: sum(values) / 2 for key, values in tried.items()}  # of two values
        assert medians[max(medians, key=lambda key: medians[key])] == max(
            median for (_, lr), median in medians.items() if float(lr) == float(line["initial_lr"])
        )
    means = {
        name: [float(row["val/acc"]) for row in rows if (row["part"], row["contender"]) == ("fresh", name)]
        for name in ("constant", "plain")
    }
    for line in table:
        if line["contender"] in means:
            assert float(line["mean"]) == pytest.approx(sum(means[line["contender"]]) / 2)


def test_the_table_is_written_to_files_and_to_mlflow(played: StudyFolder):
    page = (played.path / "mini-league.md").read_text()
    assert page in played.output
    assert (played.path / "mini-league.png").read_bytes().startswith(b"\x89PNG")
    notes = played.mlflow("select count(*) from tags where key = 'mlflow.note.content' and value like '# mini%'")
    assert notes == [(1,)]
    assert played.mlflow("select name from experiments where name like 'mini%'") == [("mini",)]


def test_it_tells_before_it_starts_what_it_does_not_use(played: StudyFolder):
    assert "the median pruner is ignored: every run trains to completion" in played.output
    assert "note: a league does not use budget" in played.output


def test_what_is_the_same_for_all_contenders_is_not_searched(tmp_path: Path):
    text = f"{MINI}  model.neurons: {{low: 2, high: 20}}\n"
    found = contenders(tmp_path, text.replace("random", "tpe"))
    assert unsearched(found["warmup"].study) == [], "the contender's own study has no such range"
    (tmp_path / "s.yaml").write_text(text)
    assert unsearched(load_study(str(tmp_path / "s.yaml"))) == ["model.neurons"]
    assert {shape.model.arguments["neurons"] for shape in found["warmup"].shapes(3, seed=0)} == {8}


def test_a_league_says_that_it_does_not_use_constraints(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text(MINI + 'constraints: ["optimizer.initial_lr < 1"]\n')
    assert unused_sections(load_study(str(path))) == ["budget", "constraints"]


def test_the_same_command_trains_nothing_and_writes_the_same_table(played: StudyFolder):
    before = (played.path / "mini-league.csv").read_text(), played.optuna("select * from trials order by 1")
    played.command(league, "mini.yaml", *SMALL)
    assert ((played.path / "mini-league.csv").read_text(), played.optuna("select * from trials order by 1")) == before


def test_fewer_seeds_than_are_there_can_be_told(played: StudyFolder, tmp_path: Path):
    few = ("--shapes", "2", "--lrs", "2", "--search-seeds", "2", "--seeds", "1", "--output", str(tmp_path), *INLINE)
    played.command(league, "mini.yaml", *few)
    told = list(csv.DictReader(io.StringIO((tmp_path / "mini-league.csv").read_text())))
    assert {row["seeds"] for row in told} == {"1"}


def test_a_league_in_two_parts_has_the_result_of_one(played: StudyFolder, folder: StudyFolder):
    (folder.path / "mini.yaml").write_text(MINI + CONTENDERS)
    few = ("--shapes", "2", "--lrs", "2", "--search-seeds", "1", "--seeds", "1", *INLINE)
    folder.command(league, "mini.yaml", *few)
    folder.command(league, "mini.yaml", *SMALL)
    for name in ("mini-league.csv", "mini-league-trainings.csv"):
        assert (folder.path / name).read_text() == (played.path / name).read_text()


@pytest.mark.slow
def test_a_killed_league_has_the_result_of_an_undisturbed_one(played: StudyFolder, folder: StudyFolder):
    (folder.path / "mini.yaml").write_text(MINI + CONTENDERS)
    process = folder.start(*SMALL, study="mini.yaml", module="tuner.league")
    finished = "select count(*) from trials where state = 'COMPLETE'"
    folder.wait_for(lambda: (folder.path / "optuna.db").exists() and folder.optuna(finished)[0][0] >= 5, process)
    process.kill()
    process.wait()
    assert folder.optuna(finished)[0][0] < 32
    folder.command(league, "mini.yaml", *SMALL)
    assert (folder.path / "mini-league-trainings.csv").read_text() == (
        played.path / "mini-league-trainings.csv"
    ).read_text()


def test_a_league_with_other_configurations_needs_another_name(played: StudyFolder):
    more = ("--shapes", "2", "--lrs", "3", "--search-seeds", "2", "--seeds", "2", *INLINE)
    output = played.command(league, "mini.yaml", *more, expect=2)
    assert 'league "mini-search" was begun with 12 configurations, and now it would have 16' in output
    assert "Give it another name (--set name=...)." in output


def test_a_report_of_the_fresh_trainings_compares_the_contenders(played: StudyFolder):
    (name,) = [each for each in dict(played.optuna(STUDIES)) if "-fresh-" in each]
    page = (played.path / played.command(report, name).strip()).read_text()
    trained = played.optuna(
        "select avg(value) from trial_params join trial_values using (trial_id) join trials using (trial_id) "
        f"join studies using (study_id) where study_name = '{name}' and param_name = 'configuration' "
        "group by param_value"
    )
    assert len(trained) == 4
    for (mean,) in trained:
        assert f"<td>2</td><td>{mean:.4f}</td>" in page
    assert "The best is" not in page
    assert "separate good trials" not in page


def test_the_study_of_the_fresh_trainings_is_named_after_the_league():
    assert fresh_name("cnn-final-2", {}).startswith("cnn-final-2-fresh-")


def test_a_dry_run_says_how_many_trainings_are_left_and_trains_none(played: StudyFolder, folder: StudyFolder):
    text = "24 runs (2 seeds) select a shape and a base lr for each ({} left); 8 runs (2 fresh seeds)"
    output = played.command(league, "mini.yaml", "--dry-run", *SMALL).replace("\n", " ")
    assert text.format(0) in output
    (folder.path / "mini.yaml").write_text(MINI + CONTENDERS)
    output = folder.command(league, "mini.yaml", "--dry-run", *SMALL).replace("\n", " ")
    assert f"{text.format(24)} then decide the result: 32 runs in total; at least " in output
    assert "warmup: 2 shapes of schedule.schedule.decay_steps (%); initial_lr 0.001, 0.03" in output
    assert [path.name for path in folder.path.iterdir()] == ["mini.yaml"]


def test_a_league_of_an_earlier_version_stays_as_it_is(folder: StudyFolder):
    (folder.path / "mini.yaml").write_text(MINI)
    optuna.create_study(study_name="mini-sensitivity", storage=f"sqlite:///{folder.path}/optuna.db")
    output = folder.command(league, "mini.yaml", "--dry-run", *SMALL).replace("\n", " ")
    assert "an earlier version ran mini with a different protocol. This league starts from scratch" in output


def test_a_study_without_families_is_a_league_against_a_constant_lr(tmp_path: Path):
    text = MINI.split("search_space")[0].replace(
        "trial:\n", "trial:\n  schedule: {name: step, decay_steps: 2, decay_rate: 0.5}\n"
    )
    found = contenders(tmp_path, text)
    assert list(found) == ["step", "constant"]
    assert found["step"].initial_lrs == [0.005, 0.01, 0.02]


def test_choices_of_several_components_are_combined(tmp_path: Path):
    found = contenders(tmp_path, f"{MINI}  averaging: {{one_of: {{none: {{}}, ema: {{decay: 0.9}}}}}}\n")
    assert list(found) == ["constant, none", "constant, ema", "warmup, none", "warmup, ema"]
    (shape,) = found["constant, ema"].shapes(3, seed=0)
    assert shape.averaging is not None
    assert (shape.schedule.name, shape.averaging.arguments) == ("constant", {"decay": 0.9})


def test_a_contender_has_its_own_range_of_base_lrs_or_that_of_the_file(tmp_path: Path):
    found = contenders(tmp_path, MINI + CONTENDERS)
    assert found["plain"].initial_lrs == [0.1, 0.2]
    assert found["averaged"].initial_lrs == [0.001, 0.005477, 0.03]
    assert found["plain"].searched == ["optimizer.momentum"]
    fixed = contenders(tmp_path, f"{MINI}contenders: {{lr-free: {{optimizer: {{name: adam, initial_lr: 1.0}}}}}}\n")
    assert fixed["lr-free"].initial_lrs == [1.0]


def test_shapes_are_the_middle_and_draws_that_more_shapes_do_not_change(tmp_path: Path):
    warmup = contenders(tmp_path, MINI)["warmup"]
    shapes = warmup.shapes(4, seed=0)
    assert shapes[0].relative["schedule.schedule.decay_steps"] == "70.0 %"
    assert len({shape.digest for shape in shapes}) == len(shapes)
    assert warmup.shapes(2, seed=0) == shapes[:2]
    assert {shape.optimizer.arguments["initial_lr"] for shape in shapes} == {0.001}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contenders: 5\n", "contenders: must be {NAME: {schedule: ..., optimizer: ...}} (got 5)."),
        ("contenders: {a: {model: {name: mlp}}}\n", "contenders.a: cannot replace model, which is the same for all"),
        ("contenders: {a: {schedule: cosine}}\n", "contenders.a: schedule must be {name: ..., argument: ...}"),
        ("contenders: {constant: {averaging: {name: ema}}}\n", "search_space already has a contender of"),
        ("contenders: {a: {schedule: {name: cosin}}}\n", "contender a: trial.schedule.name"),
        ('contenders: {"a: b": {schedule: {name: constant}}}\n', 'must be text without ": "'),
    ],
)
def test_contenders_that_are_none_are_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(BadInputError) as error:
        contenders(tmp_path, MINI + text)
    assert message in str(error.value)


def test_a_fault_of_what_contenders_share_is_reported_once(tmp_path: Path):
    text = MINI.split("  schedule:")[0].replace("iris,", "fashion_mnist, root: nowhere,")
    parts = [f"{name}: {{averaging: {{name: tail, start: {start}%}}}}" for name, start in (("a", 50), ("b", 60))]
    with pytest.raises(BadInputError) as error:
        contenders(tmp_path, f"{text}contenders: {{{', '.join(parts)}, c: {{schedule: {{name: cosin}}}}}}\n")
    shared, own = (fault.removeprefix(f"{tmp_path / 's.yaml'}: ") for fault in error.value.faults)
    assert shared.startswith("trial.data: ")
    assert own.startswith("contender c: trial.schedule.name: ")


def test_a_single_contender_is_refused(tmp_path: Path):
    with pytest.raises(BadInputError, match="there is only one"):
        contenders(tmp_path, MINI.split("search_space")[0])


def test_bad_options_are_refused(folder: StudyFolder):
    (folder.path / "mini.yaml").write_text(MINI)
    assert "--lrs: must be from 1 to 1000 (got 0)." in folder.command(league, "mini.yaml", "--lrs", "0", expect=2)
    assert "--tolerance: must be above 0" in folder.command(league, "mini.yaml", "--tolerance", "-1", expect=2)
    name = ("--set", "name=" + "x" * 60)
    assert "is not a valid name" in folder.command(league, "mini.yaml", *name, *INLINE, expect=2)
    assert [path.name for path in folder.path.iterdir()] == ["mini.yaml"]


def test_a_path_without_a_study_file_is_refused(folder: StudyFolder):
    assert "contains no study file (*.yaml)" in folder.command(league, ".", *INLINE, expect=2)
    assert "nothing.yaml: no such file" in folder.command(league, "nothing.yaml", *INLINE, expect=2)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_leagues_have_contenders_with_different_shapes(path: Path):
    found = read_contenders(load_study(str(path)), str(path), 3)
    assert len(found) >= 10
    assert "constant" in [each.name for each in found]
    for each in found:
        assert len(each.shapes(2, seed=0)) == (2 if each.searched else 1)


IN_A_LIST = """\
      join:
        schedules: [{name: constant}, {name: exponential, decay_rate: {low: 0.1, high: 0.5}, decay_steps: 3}]
        starts: [{choices: [2, 3]}]
      plateau:
        patience: {low: 1, high: 3}
        schedule: {one_of: {constant: , cosine: {decay_steps: 4}}}
"""


def test_ranges_inside_lists_and_nested_choices_are_drawn(tmp_path: Path):
    found = contenders(tmp_path, MINI + IN_A_LIST)
    join = found["join"].shapes(3, seed=0)
    assert {shape.schedule.arguments["starts"][0] for shape in join} <= {2, 3}
    assert all(0.1 <= shape.schedule.arguments["schedules"][1]["decay_rate"] <= 0.5 for shape in join)
    plateaus = found["plateau"].shapes(6, seed=0)
    assert {shape.schedule.arguments["schedule"]["name"] for shape in plateaus} == {"constant", "cosine"}
