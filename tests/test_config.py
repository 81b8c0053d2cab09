"""Whole study files: the values of a good one, and the faults that are reported of a bad one."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules import SCHEDULES
from tests.rules import shortened
from tuner.config import registry
from tuner.config.budget import DEFAULT_TRIALS
from tuner.config.component import Component
from tuner.config.loader import load_study
from tuner.config.search_space import Choices, OneOf, Range, corners, searched, suggest
from tuner.config.study import Objective, StudyConfig
from tuner.config.study_files import shipped_studies
from tuner.config.trainer import TrainerConfig
from tuner.config.trial import TrialConfig
from tuner.errors import BadInputError
from tuner.process import user_module_folders
from tuner.text import parse_duration

FILE = Path("studies/x.yaml")

STUDY = """\
name: x
objective: {metric: val/acc, direction: maximize}
budget: {trials: 5}
sampler: {name: tpe, seed: 0}
pruner: {name: median}
trial:
  data: {name: mnist_5k, batch_size: 50}
  model: {name: mnist_cnn, channels: [4, 4, 4], hidden: [16, 16]}
  optimizer: {name: adam, initial_lr: 1e-3, eps: 1e-8}
  schedule: {name: exponential, decay_rate: 0.96, decay_steps: 500, staircase: true}
  trainer: {max_epochs: 5, precision: bf16-mixed}
search_space:
  optimizer.initial_lr: {low: 1e-4, high: 1e-1, log: true}
"""

EXAMPLE_OF_THE_DESIGN = """\
name: schedules-on-mnist
objective: {metric: val/acc, direction: maximize}
budget: {trials: 60, timeout: 2h}
sampler: {name: tpe, seed: 0}
pruner: {name: hyperband}
trial:                                   # one complete TrialConfig
  data: {name: mnist, batch_size: 50}
  model: {name: mnist_cnn}
  optimizer: {name: adam, initial_lr: 1e-3, eps: 1e-8}
  schedule: {name: exponential, decay_rate: 0.96, decay_steps: 500, staircase: true}
  trainer: {max_epochs: 5, precision: bf16-mixed}
search_space:                            # dotted paths into `trial`
  optimizer.initial_lr: {low: 1e-4, high: 1e-1, log: true}
  optimizer.eps: {low: 1e-9, high: 1.0, log: true}
  schedule:                              # a choice of families, each with its own ranges
    one_of:
      exponential: {decay_rate: {low: 0.5, high: 0.99}, decay_steps: {low: 50, high: 2000, log: true}}
      cosine_restarts: {restart_period: {low: 50, high: 1000, log: true}, period_growth: {low: 1.0, high: 2.0}}
"""

USERS_OWN = """\
from dataclasses import dataclass
from typing import Any
import torch
from pytorch_lightning import LightningDataModule, LightningModule
from lightning_modules import Schedule

Steps = int | float

@dataclass(frozen=True, kw_only=True)
class Mixed(Schedule):
    count: int = 1
    steps: Steps = 1
    rate: float = 1.0
    anything: Any = None
    parts: tuple[Schedule, ...] = ()
    boundaries: tuple[float, ...] = ()

    def _check(self):
        if list(self.boundaries) != sorted(self.boundaries):
            raise ValueError(f"rising boundaries must hold, but got boundaries={self.boundaries}")

    def _factor(self, step):
        return 1.0

class Net(torch.nn.Module):
    def __init__(self, gamma: float = 1.0, *, depth):
        super().__init__()
        if gamma > 5:
            raise RuntimeError("gamma\\n  explodes")

class Bare(LightningModule):
    def __init__(self, optimizer):
        super().__init__()

class Kwargs(LightningModule):
    def __init__(self, **options):
        super().__init__()

class Endless(LightningDataModule):
    def train_dataloader(self):
        return iter(())

class Greedy(torch.nn.Module):
    def __init__(self, width: int = 3, **others):
        super().__init__()
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "users_classes.py").write_text(USERS_OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def load(text: str, *overrides: str) -> StudyConfig:
    FILE.write_text(text)
    return load_study(str(FILE), overrides)


def faults(text: str, *overrides: str) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        load(text, *overrides)
    return [shortened(fault) for fault in caught.value.faults]


def edited(*changes: tuple[str, str]) -> str:
    """Return the study with lines changed; each replaces the line with the same first word."""
    lines = STUDY.splitlines()
    for start, line in changes:
        (index,) = [index for index, each in enumerate(lines) if each.startswith(start)]
        lines[index] = line
    return "\n".join(lines) + "\n"


def space(entry: str) -> str:
    """Return the study with this one entry in its search space, on line 13."""
    return edited(("  optimizer.initial_lr", f"  {entry}"))


def trial(section: str, content: str) -> str:
    """Return the study with another section of `trial`, on its own line."""
    return edited((f"  {section}:", f"  {section}: {content}"))


# -- good files --------------------------------------------------------------------------------------------------------


def test_the_example_of_the_design_is_read() -> None:
    config = load(EXAMPLE_OF_THE_DESIGN)
    steps = Range(50, 2000, log=True, integer=True)
    period = Range(50, 1000, log=True, integer=True)
    assert config == StudyConfig(
        name="schedules-on-mnist",
        objective=Objective("val/acc", "maximize"),
        trials=60,
        timeout=7200.0,
        sampler=Component("tpe", {"seed": 0}),
        pruner=Component("hyperband", {}),
        trial={
            "data": {"name": "mnist", "batch_size": 50},
            "model": {"name": "mnist_cnn"},
            "optimizer": {
                "name": "adam",
                "initial_lr": Range(1e-4, 1e-1, log=True),
                "eps": Range(1e-9, 1.0, log=True),
            },
            "schedule": OneOf(
                {
                    "exponential": {"decay_rate": Range(0.5, 0.99), "decay_steps": steps, "staircase": True},
                    "cosine_restarts": {"restart_period": period, "period_growth": Range(1.0, 2.0)},
                }
            ),
            "trainer": {"max_epochs": 5, "precision": "bf16-mixed"},
            "loss": "cross_entropy",
            "seed": 0,
        },
        identity=config.identity,
        text=EXAMPLE_OF_THE_DESIGN,
    )
    assert [path for path, _ in searched(config.trial)] == [
        "optimizer.initial_lr",
        "optimizer.eps",
        "schedule.name",
        "schedule.exponential.decay_rate",
        "schedule.exponential.decay_steps",
        "schedule.cosine_restarts.restart_period",
        "schedule.cosine_restarts.period_growth",
    ]


def test_every_corner_of_the_example_is_a_trial_that_comes_back_from_its_values() -> None:
    for values in corners(load(EXAMPLE_OF_THE_DESIGN).trial):
        config = TrialConfig.from_values(values)
        assert TrialConfig.from_values(json.loads(json.dumps(config.values()))) == config
        assert config.flat()["optimizer.initial_lr"] == config.optimizer.arguments["initial_lr"]
        assert config.flat()["schedule.name"] == config.schedule.name


def test_missing_values_have_their_defaults() -> None:
    text = "trial:\n" + "".join(f"{line}\n" for line in STUDY.splitlines()[6:9]) + "  trainer: {max_epochs: 2}\n"
    config = load(text)
    assert (config.name, config.trials, config.timeout) == ("x", DEFAULT_TRIALS, None)
    assert (config.objective, config.sampler.name, config.pruner.name) == (Objective(), "tpe", "median")
    values = suggest(None, config.trial)  # type: ignore[arg-type]  # nothing is searched
    assert TrialConfig.from_values(values).schedule == Component("constant")
    assert TrialConfig.from_values(values).trainer == TrainerConfig(max_epochs=2)
    assert values["seed"] == 0


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_a_shipped_study_is_found_by_its_name_and_is_good(name: str) -> None:
    config = load_study(name)
    assert config.name == name
    assert list(searched(config.trial))


def test_a_folder_does_not_hide_a_shipped_study() -> None:
    Path("quickstart").mkdir()
    assert load_study("quickstart").name == "quickstart"


def test_a_file_hides_a_shipped_study() -> None:
    Path("quickstart").write_text(STUDY)
    assert load_study("quickstart").name == "x"


@pytest.mark.parametrize("family", sorted({*SCHEDULES, "plateau"}))
def test_every_family_of_schedules_can_be_named(family: str) -> None:
    found = load_or_faults(trial("schedule", f"{{name: {family}}}"))
    assert all(re.search(r": required( by|\.)", message) for message in found)


def load_or_faults(text: str, *overrides: str) -> list[str]:
    try:
        load(text, *overrides)
    except BadInputError as error:
        return list(error.faults)
    return []


@pytest.mark.parametrize(
    ("entry", "argument", "spec"),
    [
        ("{count: {low: 1, high: 9}}", "count", Range(1, 9, integer=True)),
        ("{steps: {low: 50, high: 2000, log: true}}", "steps", Range(50, 2000, log=True, integer=True)),
        ("{steps: {low: 50, high: 2000.5}}", "steps", Range(50.0, 2000.5)),
        ("{steps: {low: 50, high: 60, step: 0.5}}", "steps", Range(50.0, 60.0, step=0.5)),
        ("{steps: {low: 1e2, high: 200}}", "steps", Range(100.0, 200.0)),
        ("{rate: {low: 1, high: 2}}", "rate", Range(1.0, 2.0)),
        ("{anything: {low: 1, high: 2}}", "anything", Range(1, 2, integer=True)),
        ("{anything: {low: 1, high: 2.5}}", "anything", Range(1.0, 2.5)),
        ("{steps: {choices: [5, 7.5]}}", "steps", Choices((5, 7.5))),
        ("{anything: {choices: [a, null]}}", "anything", Choices(("a", None))),
        ("{steps: 7}", "steps", 7),
        ("{boundaries: [{low: 1, high: 5}, 9]}", "boundaries", [Range(1.0, 5.0), 9]),
    ],
)
def test_whole_numbers_are_sampled_for_integer_types_and_bounds(entry: str, argument: str, spec: Any) -> None:
    config = load(space(f"schedule: {{one_of: {{constant: , users_classes:Mixed: {entry}}}}}"))
    found = config.trial["schedule"].options["users_classes:Mixed"][argument]
    assert found == spec
    assert repr(found) == repr(spec)  # 1 == 1.0, but they are not drawn alike


def test_a_range_can_stand_for_an_item_of_a_list() -> None:
    config = load(
        edited(
            ("  schedule:", "  schedule: {name: 'users_classes:Mixed', boundaries: [3, 9]}"),
            ("  optimizer.initial_lr", "  schedule.boundaries.0: {low: 1, high: 8}"),
        )
    )
    assert config.trial["schedule"]["boundaries"] == [Range(1.0, 8.0), 9]
    assert [path for path, _ in searched(config.trial)] == ["schedule.boundaries.0"]


def test_ranges_of_lengths_in_epochs_and_percent_keep_their_unit() -> None:
    entry = (
        "schedule: {one_of: {cosine: {decay_steps: {low: 1 epochs, high: 3 epochs, step: 0.5 epochs}}, "
        "cosine_restarts: {restart_period: {low: 10%, high: 50.5 %, log: true}}, "
        "triangular: {half_period: {choices: [40, 1 epoch, 25%]}, min_factor: 0}}}"
    )
    config = load(space(entry))
    assert dict(searched(config.trial)) == {
        "schedule.name": Choices(("cosine", "cosine_restarts", "triangular")),
        "schedule.cosine.decay_steps (epochs)": Range(1.0, 3.0, step=0.5, unit="epochs"),
        "schedule.cosine_restarts.restart_period (%)": Range(10.0, 50.5, log=True, unit="%"),
        "schedule.triangular.half_period": Choices((40, "1 epoch", "25%")),
    }


PLATEAU = "  schedule: {name: plateau, factor: 0.5, schedule: {name: exponential, decay_rate: 0.5, decay_steps: 9}}"


def test_the_schedule_inside_a_plateau_is_searched_by_its_dotted_path() -> None:
    config = load(
        edited(
            ("  schedule:", PLATEAU), ("  optimizer.initial_lr", "  schedule.schedule.decay_rate: {low: .1, high: 1}")
        )
    )
    assert config.trial["schedule"] == {
        "name": "plateau",
        "factor": 0.5,
        "schedule": {"name": "exponential", "decay_rate": Range(0.1, 1.0), "decay_steps": 9},
    }


def test_the_schedule_inside_a_plateau_can_be_one_of_several() -> None:
    config = load(
        edited(
            ("  schedule:", PLATEAU),
            ("  optimizer.initial_lr", "  schedule.schedule: {one_of: {constant: {}, exponential: {staircase: true}}}"),
        )
    )
    assert config.trial["schedule"]["schedule"] == OneOf(
        {"constant": {}, "exponential": {"decay_rate": 0.5, "decay_steps": 9, "staircase": True}}
    )
    assert [path for path, _ in searched(config.trial)] == ["schedule.schedule.name"]


def test_a_choice_can_be_a_schedule_with_its_own_ranges() -> None:
    inner = "{name: exponential, decay_rate: {low: 0.1, high: 0.9}, decay_steps: 9}"
    config = load(space(f"schedule: {{one_of: {{constant: {{}}, plateau: {{schedule: {inner}}}}}}}"))
    assert dict(searched(config.trial)) == {
        "schedule.name": Choices(("constant", "plateau")),
        "schedule.plateau.schedule.decay_rate": Range(0.1, 0.9),
    }


def test_schedules_in_a_list_are_searched_by_their_index() -> None:
    parts = "parts: [{name: constant}, {name: exponential, decay_rate: 0.5, decay_steps: 9}]"
    config = load(
        edited(
            ("  schedule:", f"  schedule: {{name: 'users_classes:Mixed', {parts}}}"),
            ("  optimizer.initial_lr", "  schedule.parts.1.decay_rate: {low: 0.1, high: 0.9}"),
        )
    )
    assert dict(searched(config.trial)) == {"schedule.parts.1.decay_rate": Range(0.1, 0.9)}
    built = TrialConfig.from_values(corners(config.trial)[0]).schedule.build("schedule")
    assert [type(part) for part in built.parts] == [SCHEDULES["constant"], SCHEDULES["exponential"]]


def test_a_choice_inherits_the_arguments_of_the_same_family_in_trial_unless_it_overrides_them() -> None:
    options = (
        load(
            space("schedule: {one_of: {constant: , exponential: {decay_rate: {low: 0.5, high: 0.9}, decay_steps: 7}}}")
        )
        .trial["schedule"]
        .options
    )
    assert options == {
        "constant": {},
        "exponential": {"decay_rate": Range(0.5, 0.9), "decay_steps": 7, "staircase": True},
    }


def test_any_component_can_be_one_of_several() -> None:
    config = load(
        space("optimizer: {one_of: {adam: {initial_lr: {low: 0.1, high: 0.2}}, torch.optim:NAdam: {initial_lr: 1}}}")
    )
    assert config.trial["optimizer"] == OneOf(
        {"adam": {"initial_lr": Range(0.1, 0.2), "eps": 1e-8}, "torch.optim:NAdam": {"initial_lr": 1}}
    )


def test_classes_of_the_user_and_of_torch_are_named_by_their_module() -> None:
    text = edited(
        ("  model:", "  model: {name: 'users_classes:Greedy', width: 3, other: [1, 2]}"),
        ("  optimizer:", "  optimizer: {name: torch.optim:NAdam, initial_lr: 1e-2, betas: [0.8, 0.9]}"),
    )
    config = TrialConfig.from_values(corners(load(text).trial)[0])
    assert config.model == Component("users_classes:Greedy", {"width": 3, "other": [1, 2]})
    assert config.optimizer.build("optimizer").keywords == {"lr": 1e-4, "betas": (0.8, 0.9)}


def test_seed_and_trainer_are_searched_like_the_rest() -> None:
    config = load(space("trainer.max_epochs: {choices: [1, 3]}\n  seed: {low: 0, high: 9}"))
    assert config.trial["trainer"]["max_epochs"] == Choices((1, 3))
    assert config.trial["seed"] == Range(0, 9, integer=True)


def test_a_grid_of_steps_and_choices_is_taken() -> None:
    text = edited(
        ("sampler:", "sampler: {name: grid}"),
        ("  optimizer.initial_lr", "  optimizer.initial_lr: {low: 0.1, high: 0.9, step: 0.2}"),
    )
    assert load(text).sampler == Component("grid")


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_line_overrides_the_file() -> None:
    config = load(
        STUDY,
        "trial.trainer.max_epochs=3",
        "search_space.optimizer.initial_lr.high=0.5",
        "search_space.optimizer.eps={low: 1e-9, high: 1, log: true}",
        "name=other",
        "budget.trials=7",
    )
    assert (config.name, config.trials, config.trial["trainer"]["max_epochs"]) == ("other", 7, 3)
    assert config.trial["optimizer"]["initial_lr"] == Range(1e-4, 0.5, log=True)
    assert config.trial["optimizer"]["eps"] == Range(1e-9, 1.0, log=True)
    assert config.text.startswith(STUDY)
    assert config.text.endswith("# --set name=other\n# --set budget.trials=7\n")
    assert config.identity["trial.trainer.max_epochs"] == 3


def test_faults_of_the_command_line_and_of_the_file_are_reported_together() -> None:
    assert faults(
        trial("optimizer", "{name: adam}"),
        "budget.trials=0",
        "search_space.schedule.decay_rat={low: 0, high: 1}",
        "name",
    ) == [
        "--set name: write it as dotted.path=value.",
        "--set: budget.trials: <whole number> from 1 to 1000000 (got 0).",
        "--set: search_space.schedule.decay_rat: exponential <no argument> decay_rat. <near> decay_rate?",
    ]


def test_a_value_of_the_command_line_that_a_range_would_replace_is_refused() -> None:
    assert faults(STUDY, "trial.optimizer.initial_lr=0.5") == [
        "--set: trial.optimizer.initial_lr: is searched; "
        "add --set search_space.optimizer.initial_lr=null to search it no more."
    ]
    config = load(STUDY, "trial.optimizer.initial_lr=0.5", "search_space.optimizer.initial_lr=null")
    assert config.trial["optimizer"]["initial_lr"] == 0.5
    assert list(searched(config.trial)) == []


# -- the identity ------------------------------------------------------------------------------------------------------


def test_trials_and_time_are_not_part_of_the_identity() -> None:
    assert load(STUDY).identity == load(STUDY, "budget={trials: 9, timeout: 3h}").identity


@pytest.mark.parametrize(
    "assignment",
    [
        "trial.trainer.max_epochs=6",
        "search_space.optimizer.initial_lr.high=0.2",
        "search_space.optimizer.eps={low: 1, high: 2}",
        "objective.direction=minimize",
        "sampler.seed=1",
        "pruner.name=none",
        "search_space.schedule={one_of: {constant: {}, cosine_restarts: {restart_period: 9}, exponential: {}}}",
    ],
)
def test_everything_that_changes_the_values_of_trials_is_part_of_the_identity(assignment: str) -> None:
    assert load(STUDY).identity != load(STUDY, assignment).identity


def test_the_choices_and_their_order_are_part_of_the_identity() -> None:
    orders = [
        "{constant: {}, plateau: {}}",
        "{plateau: {}, constant: {}}",
        "{plateau: {}, constant: {}, exponential: {}}",
    ]
    identities = [load(space(f"schedule: {{one_of: {order}}}")).identity for order in orders]
    assert identities[0] != identities[1] != identities[2]


def test_a_list_in_the_search_space_is_short_for_choices() -> None:
    short = load(space("model.dropout: [0.1, 0.3]"))
    assert short.trial["model"]["dropout"] == Choices((0.1, 0.3))
    assert faults(space("model.dropout: [0.1]")) == [
        f"{FILE}:13: search_space.model.dropout.choices: needs at least 2 different values (got [0.1])."
    ]


def test_a_length_that_is_usually_the_whole_training_is_so_by_default() -> None:
    study = load(space("schedule: {one_of: {cosine: , one_cycle: {rise_share: 0.2}, polynomial: {end_factor: 0.1}}}"))
    assert study.trial["schedule"].options == {
        "cosine": {"decay_steps": "100%"},
        "one_cycle": {"total_steps": "100%", "rise_share": 0.2},
        "polynomial": {"decay_steps": "100%", "end_factor": 0.1},
    }
    study = load(trial("schedule", "{name: cosine}"), "search_space.schedule.min_factor=[0.0, 0.1]")
    assert study.first.params[0]["schedule.min_factor"] == 0.0
    assert study.identity["trial.schedule.name"] == "cosine"
    assert "trial.schedule.decay_steps" not in study.identity
    within = "{name: warmup, steps: 5%, schedule: {name: cosine}}"
    assert faults(trial("schedule", within)) == [
        f"{FILE}:10: trial.schedule.schedule.decay_steps: required by cosine: give it here or in search_space."
    ]


# -- bad files ---------------------------------------------------------------------------------------------------------

SCHEDULE_NAMES = ", ".join(sorted({*SCHEDULES, "plateau"}))
OPTIMIZER_NAMES = ", ".join(sorted(registry.KINDS["optimizer"]))
MANY = "<whole number> from 1 to 1000000"

SECTIONS = (
    "Known: budget, constraints, contenders, enqueue, final, name, objective, pruner, sampler, search_space, start, "
    "trial."
)
BAD_LINES = {
    # the top
    "an unknown section": (
        ("budget:", "budgett: {trials: 5}"),
        ["3: budgett: <unknown key>. <near> budget?"],
    ),
    "a section like no other": (
        ("budget:", "zzz: 1"),
        [f"3: zzz: <unknown key>. {SECTIONS}"],
    ),
    "a key that is a number": (
        ("budget:", "1: 1"),
        [f"3: 1: <unknown key>. {SECTIONS}"],
    ),
    "an <unknown key>": (("budget:", "budget: {n_trails: 5}"), ["3: budget.n_trails: <unknown key>. <near> trials?"]),
    "nothing in a section": (("budget:", "budget:"), ["3: budget: <mapping> (got null)."]),
    "a list for a section": (("budget:", "budget: [1]"), ["3: budget: <mapping> (got [1])."]),
    # name
    "a path as name": (
        ("name:", "name: ../../x"),
        ["1: name: \"../../x\" <name>."],
    ),
    "a number as name": (
        ("name:", "name: 5"),
        ["1: name: 5 <name>."],
    ),
    "no name": (
        ("name:", "name:"),
        ["1: name: null <name>."],
    ),
    "a long name": (
        ("name:", f"name: {'x' * 65}"),
        [f"1: name: \"{'x' * 59}... <name>."],
    ),
    # objective
    "an unknown metric": (
        ("objective:", "objective: {metric: val_ac}"),
        ['2: objective.metric: must be train/acc, train/loss, val/acc or val/loss (got "val_ac"). '
         "<near> val/acc?"],
    ),
    "the metric of the test": (
        ("objective:", "objective: {metric: test/acc}"),
        ['2: objective.metric: must be train/acc, train/loss, val/acc or val/loss (got "test/acc").'],
    ),
    "an unknown direction": (
        ("objective:", "objective: {direction: up}"),
        ['2: objective.direction: must be maximize or minimize (got "up").'],
    ),
    "two faults in one section": (
        ("objective:", "objective: {metric: [1], direction: maximise}"),
        ["2: objective.metric: <text> (got [1]).",
         '2: objective.direction: must be maximize or minimize (got "maximise"). <near> maximize?'],
    ),
    # budget
    "no trials": (("budget:", "budget: {trials: 0}"), [f"3: budget.trials: {MANY} (got 0)."]),
    "fewer than no trials": (("budget:", "budget: {trials: -1}"), [f"3: budget.trials: {MANY} (got -1)."]),
    "one and a half trials": (("budget:", "budget: {trials: 1.5}"), [f"3: budget.trials: {MANY} (got 1.5)."]),
    "a million million trials": (
        ("budget:", "budget: {trials: 1000000000000}"), [f"3: budget.trials: {MANY} (got 1000000000000)."]
    ),
    "ten trials in words": (("budget:", "budget: {trials: ten}"), [f'3: budget.trials: {MANY} (got "ten").']),
    "a yes for trials": (("budget:", "budget: {trials: true}"), [f"3: budget.trials: {MANY} (got true)."]),
    "endless trials": (("budget:", "budget: {trials: .inf}"), ["3: budget.trials: <finite> (got .inf)."]),
    "too many digits of trials": (
        ("budget:", "budget: {trials: 99999999999999999999}"),
        ["3: budget.trials: must be less than 2**63 (got 99999999999999999999)."],
    ),
    "a timeout of no time": (
        ("budget:", "budget: {timeout: 0}"),
        ["3: budget.timeout: 0 <duration>."],
    ),
    "a timeout in words": (
        ("budget:", "budget: {timeout: soon}"),
        ['3: budget.timeout: "soon" <duration>.'],
    ),
    "a timeout of another type": (
        ("budget:", "budget: {timeout: true}"),
        ["3: budget.timeout: <text>, a number or null (got true)."],
    ),
    # sampler and pruner
    "an unknown sampler": (
        ("sampler:", "sampler: {name: tpee}"),
        ['4: sampler.name: unknown sampler "tpee". Known: cmaes, curve, gp, grid, qmc, random, tpe. <near> tpe?'],
    ),
    "a list for a sampler": (
        ("sampler:", "sampler: {name: [tpe]}"),
        ['4: sampler.name: unknown sampler ["tpe"]. Known: cmaes, curve, gp, grid, qmc, random, tpe.'],
    ),
    "a sampler without its mapping": (
        ("sampler:", "sampler: tpe"),
        ['4: sampler: <component> (got "tpe").'],
    ),
    "an option of another sampler": (
        ("sampler:", "sampler: {name: random, n_startup_trial: 3}"),
        ["4: sampler.n_startup_trial: random <no argument> n_startup_trial. Known: seed."],
    ),
    "a seed too large": (
        ("sampler:", "sampler: {seed: 4294967296}"),
        ["4: sampler.seed: <whole number> from 0 to 4294967295 (got 4294967296)."],
    ),
    "options that exclude each other": (
        ("sampler:", "sampler: {name: tpe, group: true, multivariate: false, n_startup_trials: -1}"),
        ["4: sampler.n_startup_trials: <whole number> of at least 0 (got -1).",
         "4: sampler.group: needs multivariate: true."],
    ),
    "an unknown pruner": (
        ("pruner:", "pruner: {name: medain}"),
        ['5: pruner.name: unknown pruner "medain". Known: hyperband, median, none, predicted, rungs, '
         "successive_halving, wilcoxon. <near> median?"],
    ),
    "a pruner with nothing in it": (
        ("pruner:", "pruner: {name: }"),
        ["5: pruner.name: unknown pruner null. Known: hyperband, median, none, predicted, rungs, successive_halving, "
         "wilcoxon."],
    ),
    "an option for no pruner": (
        ("pruner:", "pruner: {name: none, interval_steps: 1}"),
        ["5: pruner.interval_steps: none <no argument> interval_steps. It has none."],
    ),
    "options of a pruner out of bounds": (
        ("pruner:", "pruner: {name: hyperband, reduction_factor: 1, min_resource: 9, max_resource: 3}"),
        ["5: pruner.reduction_factor: <whole number> of at least 2 (got 1).",
         "5: pruner.min_resource: 9 must not be above max_resource (3)."],
    ),
    # data
    "an unknown data set": (
        ("  data:", "  data: {name: mnist5k}"),
        ['7: trial.data.name: unknown data "mnist5k". Known: '
         f"{', '.join(sorted(registry.KINDS['data']))}, or package.module:Name. <near> mnist_5k?"],
    ),
    "a data set without its mapping": (
        ("  data:", "  data: mnist_5k"),
        ['7: trial.data: <component> (got "mnist_5k").'],
    ),
    "no data set": (("  data:", "  data:"), [
        "7: trial.data: <component> (got null)."
    ]),
    "a second seed": (
        ("  data:", "  data: {name: mnist_5k, seed: 3, batch_size: 0.5}"),
        ["7: trial.data.seed: leave it out: the one seed of a trial is trial.seed.",
         "7: trial.data.batch_size: <whole number> (got 0.5)."],
    ),
    "an empty batch": (
        ("  data:", "  data: {name: mnist_5k, batch_size: 0}"),
        ["7: trial.data.batch_size: batch_size >= 1 <rule> batch_size=0."],
    ),
    # model
    "a model that cannot be imported": (
        ("  model:", "  model: {name: 'mymodels:Net'}"),
        ["8: trial.model.name: <no import> \"mymodels:Net\": No module named 'mymodels'. Looked in {places} "
         "and among the installed packages."],
    ),
    "a model that is none": (
        ("  model:", "  model: {name: 'users_classes:Mixed'}"),
        ['8: trial.model.name: "users_classes:Mixed" is not a torch.nn.Module.'],
    ),
    "a model that is not there": (
        ("  model:", "  model: {name: 'users_classes:Nets'}"),
        ['8: trial.model.name: users_classes has no class or function "Nets". <near> Net?'],
    ),
    "arguments that a model lacks and needs": (
        ("  model:", "  model: {name: 'users_classes:Net', gama: 1}"),
        ["8: trial.model.gama: users_classes:Net <no argument> gama. <near> gamma?",
         "8: trial.model.depth: required by users_classes:Net: give it here or in search_space."],
    ),
    "a model that raises": (
        ("  model:", "  model: {name: 'users_classes:Net', gamma: 6, depth: 1}"),
        ["8: trial.model: RuntimeError: gamma explodes."],
    ),
    "an argument that no function can have": (
        ("  model:", "  model: {name: 'users_classes:Greedy', a-b: 1}"),
        ["8: trial.model.a-b: users_classes:Greedy <no argument> a-b. Known: width."],
    ),
    "an item of the wrong type": (
        ("  model:", "  model: {name: mnist_cnn, channels: [4, x, 4.5]}"),
        ['8: trial.model.channels[1]: <whole number> (got "x").',
         "8: trial.model.channels[2]: <whole number> (got 4.5)."],
    ),
    "too few items": (
        ("  model:", "  model: {name: mnist_cnn, channels: [4, 4]}"),
        ["8: trial.model.channels: <list> of 3 whole numbers (got [4, 4])."],
    ),
    "items that break a rule": (
        ("  model:", "  model: {name: mnist_cnn, channels: [4, 0, 4]}"),
        ["8: trial.model.channels: three channels of 1 or more <rule> channels=(4, 0, 4)."],
    ),
    # optimizer
    "an unknown argument": (
        ("  optimizer:", "  optimizer: {name: adam, lr: 0.1}"),
        ["9: trial.optimizer.lr: adam <no argument> lr. <near> initial_lr?"],
    ),
    "a value of the wrong type for an optimizer of torch": (
        ("  optimizer:", "  optimizer: {name: torch.optim:NAdam, eps: abc}"),
        ["9: trial.optimizer.eps: <number> (got \"abc\")."],
    ),
    "an optimizer of torch that refuses a value": (
        ("  optimizer:", "  optimizer: {name: torch.optim:NAdam, eps: -1}"),
        ["9: trial.optimizer: Invalid epsilon value: -1."],
    ),
    "a name that is a list": (
        ("  optimizer:", "  optimizer: {name: [adam, sgd]}"),
        ['9: trial.optimizer.name: must be a name (got ["adam", "sgd"]).'],
    ),
    "a section without a name": (
        ("  optimizer:", "  optimizer: {eps: 1}"),
        [f"9: trial.optimizer.name: required. Known: {OPTIMIZER_NAMES}, or package.module:Name."],
    ),
    "a colon in a plain text": (
        ("  optimizer:", "  optimizer: {name: adam: sgd}"),
        ["9: while parsing a flow mapping (line 9): expected ',' or '}', but got ':'."],
    ),
    # schedule
    "an unknown schedule": (
        ("  schedule:", "  schedule: {name: cosin_restarts}"),
        [f'10: trial.schedule.name: unknown schedule "cosin_restarts". Known: {SCHEDULE_NAMES}, '
         "or package.module:Name. <near> cosine_restarts?"],
    ),
    "an argument that a schedule does not take": (
        ("  schedule:", "  schedule: {name: constant, gamma: 1}"),
        ["10: trial.schedule.gamma: constant <no argument> gamma. It has none."],
    ),
    "arguments that a schedule needs": (
        ("  schedule:", "  schedule: {name: exponential}"),
        ["10: trial.schedule.decay_rate: required by exponential: give it here or in search_space.",
         "10: trial.schedule.decay_steps: required by exponential: give it here or in search_space."],
    ),
    "a list that is none": (
        ("  schedule:", "  schedule: {name: 'users_classes:Mixed', parts: {name: constant}}"),
        ['10: trial.schedule.parts: <list> (got {"name": "constant"}).'],
    ),
    "a plateau in a list of schedules": (
        ("  schedule:", "  schedule: {name: 'users_classes:Mixed', parts: [{name: constant}, {name: plateau}]}"),
        ["10: trial.schedule.parts[1].name: plateau cannot stand inside another schedule."],
    ),
    "a value that breaks a rule": (
        ("  schedule:", "  schedule: {name: exponential, decay_rate: 0.5, decay_steps: 0}"),
        ["10: trial.schedule.decay_steps: decay_steps > 0 <rule> decay_steps=0."],
    ),
    "a number that is none": (
        ("  schedule:", "  schedule: {name: exponential, decay_rate: .nan, decay_steps: x}"),
        ["10: trial.schedule.decay_rate: <finite> (got .nan).",
         '10: trial.schedule.decay_steps: <length> (got "x").'],
    ),
    "lengths that are none": (
        ("  schedule:", "  schedule: {name: warmup_stable_decay, warmup_steps: abc epochs, hold_steps: -1 epochs, "
                        "decay_steps: 5 steps}"),
        ['10: trial.schedule.warmup_steps: <length> '
         '(got "abc epochs").',
         '10: trial.schedule.hold_steps: <length> or null '
         '(got "-1 epochs").',
         '10: trial.schedule.decay_steps: <length> '
         '(got "5 steps").'],
    ),
    "a length in the place of something else": (
        ("  schedule:", "  schedule: {name: exponential, decay_rate: 50%, decay_steps: 50%}"),
        ['10: trial.schedule.decay_rate: <number> (got "50%").'],
    ),
    "lengths in a list": (
        ("  schedule:", "  schedule: {name: piecewise_constant, boundaries: [1 epochs, 2 epoch s], factors: [1, 1]}"),
        ['10: trial.schedule.boundaries[1]: <length> '
         '(got "2 epoch s").'],
    ),
    "a length in the place of a list": (
        ("  schedule:", "  schedule: {name: piecewise_constant, boundaries: 1 epochs, factors: [1]}"),
        ['10: trial.schedule.boundaries: <list>, each item a number of steps, or text such as "5 epochs" or '
         '"25%" (got "1 epochs").'],
    ),
    "a length of no steps": (
        ("  schedule:", "  schedule: {name: plateau, schedule: {name: cosine, decay_steps: 0.001 epochs}}"),
        ["10: trial.schedule.schedule.decay_steps: decay_steps > 0 <rule> decay_steps=0."],
    ),
    "lengths that do not rise in the steps of this training": (
        ("  schedule:", "  schedule: {name: piecewise_constant, boundaries: [2 epochs, 40%], factors: [1, 2, 3]}"),
        ["10: trial.schedule.boundaries: rising boundaries <rule> boundaries=(160, 160)."],
    ),
    "a range outside of search_space": (
        ("  schedule:", "  schedule: {name: exponential, decay_rate: {low: 0, high: 1}, decay_steps: {choices: [1]}}"),
        ["10: trial.schedule.decay_rate: <range>.",
         "10: trial.schedule.decay_steps: <range>."],
    ),
    "a choice outside of search_space": (
        ("  schedule:", "  schedule: {one_of: {constant: {}, plateau: {}}}"),
        [f"10: trial.schedule.name: required. Known: {SCHEDULE_NAMES}, or package.module:Name."],
    ),
    "a metric that no plateau sees": (
        ("  schedule:", "  schedule: {name: plateau, monitor: test/loss}"),
        ["10: trial.schedule.monitor: monitor train/acc, train/loss, val/acc or val/loss <rule> "
         "monitor='test/loss'. <near> train/loss?"],
    ),
    "a plateau inside a plateau": (
        ("  schedule:", "  schedule: {name: plateau, schedule: {name: plateau}}"),
        ["10: trial.schedule.schedule.name: plateau cannot stand inside another schedule."],
    ),
    "a name for a schedule inside a plateau": (
        ("  schedule:", "  schedule: {name: plateau, schedule: constant}"),
        ['10: trial.schedule.schedule: <component> (got "constant").'],
    ),
    "a fault inside a plateau": (
        ("  schedule:", "  schedule: {name: plateau, schedule: {name: exponential, decay_rate: 2, decay_steps: 1}}"),
        ["10: trial.schedule.schedule.decay_rate: 0 < decay_rate <= 1 <rule> decay_rate=2."],
    ),
    # trainer and seed
    "no epochs": (("  trainer:", "  trainer: {}"), ["11: trial.trainer.max_epochs: required."]),
    "too many epochs": (
        ("  trainer:", "  trainer: {max_epochs: 1000001}"), [f"11: trial.trainer.max_epochs: {MANY} (got 1000001)."]
    ),
    "half an epoch": (("  trainer:", "  trainer: {max_epochs: 0.5}"), [
        f"11: trial.trainer.max_epochs: {MANY} (got 0.5)."
    ]),
    "everything wrong with a trainer": (
        ("  trainer:", "  trainer: {max_epoch: 3, precision: bf16, gradient_clip_val: 0, accumulate_grad_batches: 0}"),
        ["11: trial.trainer.max_epoch: <unknown key>. <near> max_epochs?",
         "11: trial.trainer.precision: must be auto, 32-true, bf16-mixed, 16-mixed, bf16-true or 64-true "
         '(got "bf16"). <near> bf16-true?',
         "11: trial.trainer.gradient_clip_val: <number> above 0 or null (got 0).",
         "11: trial.trainer.accumulate_grad_batches: <whole number> of at least 1 (got 0).",
         "11: trial.trainer.max_epochs: required."],
    ),
    "a trainer without its mapping": (
        ("  trainer:", "  trainer: 5"),
        ["11: trial.trainer: <mapping> (got 5)."],
    ),
    "an unknown section of trial": (
        ("  trainer:", "  trainer: {max_epochs: 1}\n  optimiser: {}"),
        ["12: trial.optimiser: <unknown key>. <near> optimizer?"],
    ),
    "a seed below zero": (
        ("  trainer:", "  trainer: {max_epochs: 1}\n  seed: -1"),
        ["12: trial.seed: <whole number> from 0 to 4294967295 (got -1)."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_reported_in_full(case: str) -> None:
    change, messages = BAD_LINES[case]
    found, places = faults(edited(change)), ", ".join(user_module_folders())
    assert found == [f"studies/x.yaml:{message.replace('{places}', places)}" for message in messages]


FORM = "must be {low: ..., high: ...} or {choices: [...]}"
ONE_OF = "{one_of: {name: {argument: range or value}, ...}}"
KEYS_OF_TRIAL = "data, loss, model, optimizer, schedule, seed, trainer"

BAD_ENTRIES = {
    # ranges and choices
    "a bound that is no number": (
        "optimizer.initial_lr: {low: abc, high: '0.1'}",
        ['optimizer.initial_lr.low: <number> (got "abc").',
         'optimizer.initial_lr.high: <number> (got "0.1").'],
    ),
    "a logarithm of zero": (
        "optimizer.initial_lr: {low: 0, high: 1, log: true}",
        ["optimizer.initial_lr.low: must be > 0 when log is true (got 0)."],
    ),
    "an empty range": (
        "optimizer.initial_lr: {low: 0.1, high: 0.001}",
        ["optimizer.initial_lr: low (0.1) must be below high (0.001)."],
    ),
    "an endless range": (
        "optimizer.initial_lr: {low: 1e-4, high: .inf}",
        ["optimizer.initial_lr.high: <finite> (got .inf)."],
    ),
    "a range that is not a number": (
        "optimizer.initial_lr: {low: .nan, high: x}",
        ["optimizer.initial_lr.low: <finite> (got .nan).",
         'optimizer.initial_lr.high: <number> (got "x").'],
    ),
    "a range of nothing": (
        "optimizer.initial_lr: {low: , high: }",
        ["optimizer.initial_lr.low: <number> (got null).",
         "optimizer.initial_lr.high: <number> (got null)."],
    ),
    "half a range": ("optimizer.initial_lr: {low: 1}", ["optimizer.initial_lr.high: required."]),
    "a range with another key": (
        "optimizer.initial_lr: {low: 1, high: 2, logg: true}",
        ["optimizer.initial_lr.logg: <unknown key>; <range keys>."],
    ),
    "a step and a logarithm": (
        "optimizer.initial_lr: {low: 1, high: 9, log: true, step: 1}",
        ["optimizer.initial_lr.step: cannot be used with log: true."],
    ),
    "a step larger than the range": (
        "data.batch_size: {low: 1, high: 3, step: 5}",
        ["data.batch_size.step: step (5) is larger than high - low (2)."],
    ),
    "a fraction for a whole number": (
        "data.batch_size: {low: 1.0, high: 64}",
        ["data.batch_size.low: <whole number> here (got 1.0)."],
    ),
    "no choices": (
        "data.batch_size: {choices: []}",
        ["data.batch_size.choices: needs at least 2 different values (got [])."],
    ),
    "one choice": (
        "data.batch_size: {choices: [50]}",
        ["data.batch_size.choices: needs at least 2 different values (got [50])."],
    ),
    "a choice given twice": (
        "data.batch_size: {choices: [50, 100, 50]}",
        ["data.batch_size.choices[2]: 50 is the same as choices[0]."],
    ),
    "choices of lists": (
        "model.channels: {choices: [[4, 4, 4], {a: 1}]}",
        ["model.channels.choices[0]: must be a plain value, not a list or a mapping (got [4, 4, 4]); "
         "items of a list are searched by their paths, as model.channels.0.",
         'model.channels.choices[1]: must be a plain value, not a list or a mapping (got {"a": 1}); '
         "a whole component is searched by {one_of: {name: {argument: range or value}, ...}}."],
    ),
    "more than a thousand choices": (
        f"data.batch_size: {{choices: [{', '.join(map(str, range(1, 1002)))}]}}",
        ["data.batch_size.choices: has 1001 values; the limit is 1000."],
    ),
    "choices of another type": (
        "schedule.staircase: {choices: [on, true, 1]}",
        ['schedule.staircase.choices[2]: 1 is the same as choices[1].'],
    ),
    "text among the choices of a boolean": (
        "schedule.staircase: {choices: [on, true]}",
        ['schedule.staircase.choices[0]: <boolean> (got "on").'],
    ),
    "a choice near a known one": (
        "trainer.precision: {choices: [auto, bf16-mixd]}",
        ["trainer.precision.choices[1]: must be auto, 32-true, bf16-mixed, 16-mixed, bf16-true or 64-true "
         '(got "bf16-mixd"). <near> bf16-mixed?'],
    ),
    "a range of a boolean": (
        "schedule.staircase: {low: 0, high: 1}",
        ["schedule.staircase.low: <boolean> (got 0.0).",
         "schedule.staircase.high: <boolean> (got 1.0)."],
    ),
    "a range beyond the limit": (
        "trainer.max_epochs: {low: 0, high: 1000001}",
        [f"trainer.max_epochs.low: {MANY} (got 0).", f"trainer.max_epochs.high: {MANY} (got 1000001)."],
    ),
    # corners
    "a corner that breaks a rule": (
        "schedule.decay_rate: {low: 0.5, high: 1.5}",
        ["schedule.decay_rate: 0 < decay_rate <= 1 <rule> decay_rate=1.5."],
    ),
    "two corners that break rules": (
        "schedule.decay_rate: {low: 0.5, high: 1.5}\n  schedule.decay_steps: {low: -5.0, high: 5.0}",
        ["schedule.decay_rate: 0 < decay_rate <= 1 <rule> decay_rate=1.5.",
         "14: search_space.schedule.decay_steps: decay_steps > 0 <rule> decay_steps=-5.0."],
    ),
    "a choice that breaks a rule": (
        "data.batch_size: {choices: [50, 0]}",
        ["data.batch_size: batch_size >= 1 <rule> batch_size=0."],
    ),
    "a corner at which a class of the user raises": (
        "model: {one_of: {mnist_cnn: {}, users_classes:Net: {depth: 1, gamma: {low: 1, high: 9}}}}",
        ["model.one_of.users_classes:Net: RuntimeError: gamma explodes."],
    ),
    "items that may overtake each other": (
        "schedule: {one_of: {constant: , users_classes:Mixed: {boundaries: [{low: 1, high: 9}, {low: 5, high: 20}]}}}",
        ["schedule.one_of.users_classes:Mixed.boundaries: rising boundaries <rule> boundaries=(9.0, 5.0)."],
    ),
    # places
    "nothing to search in a place": (
        "optimizer.initial_lr:",
        [f"optimizer.initial_lr: {FORM} (got null); <fixed>."],
    ),
    "a fixed value": (
        "optimizer.initial_lr: 0.1",
        [f"optimizer.initial_lr: {FORM} (got 0.1); <fixed>."],
    ),
    "a list": (
        "optimizer.initial_lr: [0.1, [0.2]]",
        ["optimizer.initial_lr.choices[1]: must be a plain value, not a list or a mapping (got [0.2]); "
         "items of a list are searched by their paths, as model.channels.0."],
    ),
    "something that is no range": (
        "optimizer.initial_lr: {min: 1, max: 2}",
        [f'optimizer.initial_lr: {FORM} (got {{"min": 1, "max": 2}}).'],
    ),
    "a nested path": (
        "optimizer: {initial_lr: {low: 1, high: 2}}",
        [f'optimizer: must be {ONE_OF} (got {{"initial_lr": {{"low": 1, "high": 2}}}}).'],
    ),
    "a place that no trial has": (
        "optimiser.eps: {low: 1, high: 2}",
        ["optimiser.eps: <no place> optimiser. <near> optimizer?"],
    ),
    "a place like no other": ("zzz: {low: 1, high: 2}", [f"zzz: <no place> zzz. Known: {KEYS_OF_TRIAL}."]),
    "a place without a name": ("'': {low: 1, high: 2}", [f": <no place> . Known: {KEYS_OF_TRIAL}."]),
    "an argument that is not there": (
        "schedule.restart_period: {low: 1, high: 2}",
        ["schedule.restart_period: exponential <no argument> restart_period. "
         "Known: decay_rate, decay_steps, staircase."],
    ),
    "a place inside a number": (
        "optimizer.eps.low: {low: 1, high: 2}",
        ["optimizer.eps.low: trial.optimizer.eps is not a mapping (got 1e-08)."],
    ),
    "a place inside the seed": (
        "seed.x: {low: 1, high: 2}",
        ["seed.x: trial.seed is not a mapping (got 0)."],
    ),
    "a schedule inside of none": (
        "schedule.schedule.decay_rate: {low: 0.1, high: 1}",
        ["schedule.schedule.decay_rate: <no place> schedule.schedule. "
         "Known: decay_rate, decay_steps, name, staircase."],
    ),
    "an item that a list does not have": (
        "model.channels.3: {low: 1, high: 2}",
        ["model.channels.3: <no place> model.channels.3. Known: 0, 1, 2."],
    ),
    "an item that has no number": (
        "model.channels.first: {low: 1, high: 2}",
        ["model.channels.first: <no place> model.channels.first. Known: 0, 1, 2."],
    ),
    "a place inside a range": (
        "optimizer.eps: {low: 1, high: 2}\n  optimizer.eps.low: {low: 1, high: 2}",
        ["14: search_space.optimizer.eps.low: optimizer.eps is searched itself: "
         "put this into search_space.optimizer.eps."],
    ),
    "the seed of the data": (
        "data.seed: {low: 1, high: 2}",
        ["data.seed: leave it out: the one seed of a trial is trial.seed."],
    ),
    "a seed out of bounds": (
        "seed: {low: -1, high: 2}",
        ["seed.low: <whole number> from 0 to 4294967295 (got -1)."],
    ),
    "a choice of seeds by name": ("seed: {one_of: {1: {}, 2: {}}}", [
        "seed: one_of is for what has a name; write {low: ..., high: ...} or {choices: [...]}."
    ]),
    "a whole trainer": (
        "trainer: {one_of: {a: {}, b: {}}}",
        ["trainer: name what is searched in it, such as trainer.max_epochs."],
    ),
    # a choice of components
    "a range for a whole schedule": (
        "schedule: {low: 1, high: 2}",
        [f'schedule: a whole schedule is searched by {ONE_OF} (got {{"low": 1, "high": 2}}).'],
    ),
    "choices of names": (
        "schedule: {choices: [constant, plateau]}",
        [f'schedule: a whole schedule is searched by {ONE_OF} (got {{"choices": ["constant", "plateau"]}}).'],
    ),
    "a name by choices": (
        "schedule.name: {choices: [constant, plateau]}",
        ['schedule.name: must be a name (got {"choices": ["constant", "plateau"]}); '
         "to search among several, use one_of."],
    ),
    "one_of nothing": (
        "schedule: {one_of: }",
        [f'schedule: a whole schedule is searched by {ONE_OF} (got {{"one_of": null}}).'],
    ),
    "one_of a list": (
        "schedule: {one_of: [constant, plateau]}",
        [f'schedule: a whole schedule is searched by {ONE_OF} (got {{"one_of": ["constant", "plateau"]}}).'],
    ),
    "one_of and more": (
        "schedule: {one_of: {constant: , plateau: }, log: true}",
        [f'schedule: a whole schedule is searched by {ONE_OF} (got {{"one_of": {{"constant": null, "plateau": null}}, '
         '"log": true}).'],
    ),
    "one_of an empty mapping": ("schedule: {one_of: {}}", ["schedule.one_of: needs 2 to 1000 choices (got 0)."]),
    "one of one": ("schedule: {one_of: {constant: {}}}", ["schedule.one_of: needs 2 to 1000 choices (got 1)."]),
    "choices that are wrong in every way": (
        "schedule: {one_of: {constant: [1], exponentia: {}, cosine_restarts: {peak_rate: 1}, plateau: {monitor: lr},"
        " exponential: {name: plateau, decay_rate: {low: 2, high: 1}}}}",
        ["schedule.one_of.constant: <mapping> of arguments (got [1]).",
         f'schedule.one_of.exponentia: unknown schedule "exponentia". Known: {SCHEDULE_NAMES}, or package.module:Name. '
         "<near> exponential?",
         "schedule.one_of.cosine_restarts.peak_rate: cosine_restarts <no argument> peak_rate. "
         "<near> peak_decay?",
         "schedule.one_of.cosine_restarts.restart_period: required by cosine_restarts: "
         "give it here or in search_space.",
         "schedule.one_of.plateau.monitor: monitor train/acc, train/loss, val/acc or val/loss <rule> "
         "monitor='lr'.",
         "schedule.one_of.exponential.name: leave it out: the name of a choice is its key.",
         "schedule.one_of.exponential.decay_rate: low (2) must be below high (1)."],
    ),
    "a range of lengths that is not in one unit": (
        "schedule: {one_of: {cosine: {decay_steps: {low: 10%, high: 2 epochs}}, "
        "step: {decay_rate: 0.5, decay_steps: {low: 40, high: 2 epochs}}}}",
        [f"schedule.one_of.{argument}: low, high and step must be numbers, or lengths in one unit: {{low: 1 epochs, "
         f"high: 3 epochs}} or {{low: 10%, high: 50%}} (got {{{got}}})."
         for argument, got in (("cosine.decay_steps", '"low": "10%", "high": "2 epochs"'),
                               ("step.decay_steps", '"low": 40, "high": "2 epochs"'))],
    ),
    "a range of lengths the wrong way round": (
        "schedule: {one_of: {constant: , cosine: {decay_steps: {low: 3 epochs, high: 1 epochs}}}}",
        ["schedule.one_of.cosine.decay_steps: low (3.0) must be below high (1.0)."],
    ),
    "lengths of no steps at the ends of ranges": (
        "schedule: {one_of: {cosine: {decay_steps: {low: 0%, high: 50%}}, "
        "step: {decay_rate: 0.5, decay_steps: {choices: [0.1%, 0.2%, 1 epochs]}}}}",
        ["schedule.one_of.cosine.decay_steps: decay_steps > 0 <rule> decay_steps=0.",
         "schedule.one_of.step.decay_steps: decay_steps > 0 <rule> decay_steps=0."],
    ),
    "a range misspelt in a choice": (
        "schedule: {one_of: {constant: {}, exponential: {decay_rate: {lo: 0.1, hi: 1}}}}",
        ["schedule.one_of.exponential.decay_rate.lo: <unknown key>; <range keys>.",
         "schedule.one_of.exponential.decay_rate.hi: <unknown key>; <range keys>.",
         "schedule.one_of.exponential.decay_rate.low: required.",
         "schedule.one_of.exponential.decay_rate.high: required."],
    ),
    "a metric among others that no plateau sees": (
        "schedule: {one_of: {constant: {}, plateau: {monitor: {choices: [val/loss, val/los, train/acc]}}}}",
        ["schedule.one_of.plateau.monitor: monitor train/acc, train/loss, val/acc or val/loss <rule> "
         "monitor='val/los'. <near> val/loss?"],
    ),
    "a schedule and a part of it": (
        "schedule.decay_rate: {low: 0.1, high: 1}\n  schedule: {one_of: {constant: , exponential: }}",
        ["schedule.decay_rate: schedule is searched itself: put this into search_space.schedule."],
    ),
    "a choice of schedules inside of a choice": (
        "schedule: {one_of: {constant: {}, plateau: {schedule: {one_of: {constant: {}, plateau: {}}}}}}",
        ["schedule.one_of.plateau.schedule.one_of.plateau: plateau cannot stand inside another schedule."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_a_bad_entry_of_the_search_space_is_reported_in_full(case: str) -> None:
    entry, messages = BAD_ENTRIES[case]
    expected = [message if message.startswith("14:") else f"13: search_space.{message}" for message in messages]
    assert faults(space(entry)) == [f"studies/x.yaml:{message}" for message in expected]


def test_lengths_are_tried_with_every_training_that_there_can_be() -> None:
    changes = [
        ("  schedule:", "  schedule: {name: piecewise_constant, boundaries: [90, 1 epochs], factors: [1, 2, 3]}"),
        ("  optimizer.initial_lr", "  data.batch_size: {choices: [40, 50]}"),
    ]
    assert faults(edited(*changes)) == [
        "studies/x.yaml:10: trial.schedule.boundaries: rising boundaries <rule> boundaries=(90, 80)."
    ]


FALLS_BELOW_ZERO = "a finite factor >= 0 <rule> -0.00390625 at step=257 from Lambda"


@pytest.mark.parametrize(
    "schedule",
    [
        "{name: lambda, function: 1 - step / 256}",
        "{name: plateau, schedule: {name: warmup, steps: 0, schedule: {name: lambda, function: 1 - step / 256}}}",
        "{name: join, schedules: [{name: constant}, {name: lambda, function: 1 - step / 256}], starts: [20%]}",
    ],
)
def test_a_formula_that_falls_below_zero_within_the_training_is_refused(schedule: str) -> None:
    (fault,) = faults(trial("schedule", schedule), "trial.data.batch_size=40")  # 500 steps
    assert fault.startswith(f"studies/x.yaml:10: trial.schedule: {FALLS_BELOW_ZERO}")
    load(trial("schedule", schedule), "trial.trainer.max_epochs=3")


def test_a_formula_is_not_tried_where_it_is_not_used() -> None:
    parts = "[{name: lambda, function: 1 - step / 256}, {name: constant}]"
    load(trial("schedule", f"{{name: join, schedules: {parts}, starts: [256]}}"))


def test_a_formula_is_tried_at_its_beginning_where_the_length_of_the_training_is_not_known() -> None:
    endless = ("  data:", "  data: {name: 'users_classes:Endless'}")
    load(edited(endless, ("  schedule:", "  schedule: {name: lambda, function: 1 - step / 256}")))
    (fault,) = faults(edited(endless, ("  schedule:", "  schedule: {name: lambda, function: 1 - step * 2}")))
    assert "<rule> -1.0 at step=1" in fault


def test_data_that_cannot_be_measured_are_reported_where_they_are_named() -> None:
    schedule = ("  schedule:", "  schedule: {name: cosine, decay_steps: 50%}")
    endless = ("  data:", "  data: {name: 'users_classes:Endless'}")
    assert faults(edited(schedule, endless)) == [
        "studies/x.yaml:7: trial.data: its loader does not tell how many batches it has, so lengths must be in steps."
    ]
    (missing,) = faults(edited(schedule, ("  data:", "  data: {name: mnist, root: nowhere}")))
    assert missing.startswith("studies/x.yaml:7: trial.data: ")
    assert "nowhere" in missing


def test_data_are_not_loaded_for_steps_alone_nor_for_a_file_with_faults() -> None:
    absent = ("  data:", "  data: {name: mnist, root: nowhere}")
    load(edited(absent))
    schedule = ("  schedule:", "  schedule: {name: cosine, decay_steps: 50%}")
    (fault,) = faults(edited(absent, schedule, ("  optimizer:", "  optimizer: {name: adam, initial_lr: 1, eps: -1}")))
    assert "eps >= 0 <rule>" in fault


@pytest.mark.parametrize("content", ["", "5", "[1, 2]", "text"])
@pytest.mark.parametrize(("section", "line"), [("trial", 6), ("search_space", 12)])
def test_a_section_that_is_not_a_mapping_is_reported_once(section: str, line: int, content: str) -> None:
    head = STUDY[: STUDY.index(f"{section}:")]
    tail = "" if section == "search_space" else STUDY[STUDY.index("search_space:") :]
    shown = json.dumps({"": None, "5": 5, "[1, 2]": [1, 2], "text": "text"}[content])
    assert faults(f"{head}{section}: {content}\n{tail}") == [
        f"studies/x.yaml:{line}: {section}: <mapping> (got {shown})."
    ]


def test_a_study_without_a_trial_lists_all_required_sections() -> None:
    names = {kind: ", ".join(sorted(registry.KINDS[kind])) for kind in ("data", "model", "optimizer")}
    assert faults("name: x\nbudget: {trials: 1}\n") == [
        *(
            f"studies/x.yaml:1: trial.{kind}.name: required. Known: {names[kind]}, or package.module:Name."
            for kind in names
        ),
        "studies/x.yaml:1: trial.trainer.max_epochs: required.",
    ]


def test_a_missing_argument_is_reported_at_the_component_that_lacks_it() -> None:
    text = edited(("  optimizer:", "  optimizer:\n    name: torch.optim:NAdam"), ("  optimizer.initial_lr", "  {}"))
    assert faults(text) == [
        "studies/x.yaml:9: trial.optimizer.initial_lr: required by torch.optim:NAdam: give it here or in search_space."
    ]


def test_every_fault_of_a_file_is_reported_at_once_in_the_order_of_its_lines() -> None:
    text = edited(
        ("name:", "name: X"),
        ("budget:", "budget: {trials: 0, timeout: x}"),
        ("pruner:", "pruner: {name: medain}"),
        ("  data:", "  data: {name: mnist_5k, batch_size: 0}"),
        ("  model:", "  model: {name: mnist_cnn, dropout: .inf}"),
        ("  optimizer:", "  optimizer: {name: adam, eps: x, eps: 1}"),
        ("  schedule:", "  schedule: {name: cosine_restarts}"),
        ("  trainer:", "  trainer: {max_epochs: 0}\n  seed: x"),
        ("  optimizer.initial_lr", "  optimizer.initial_lr: {low: 2, high: 1}\n  schedule.decay_rate: 3"),
    )
    assert [fault.split(":")[1] + ":" + fault.split(":")[2] for fault in faults(text)] == [
        "1: name",
        "3: budget.trials",
        "3: budget.timeout",
        "5: pruner.name",
        "7: trial.data.batch_size",
        "8: trial.model.dropout",
        "9: trial.optimizer.eps",
        "9: trial.optimizer.eps",
        "10: trial.schedule.restart_period",
        "11: trial.trainer.max_epochs",
        "12: trial.seed",
        "14: search_space.optimizer.initial_lr",
        "15: search_space.schedule.decay_rate",
    ]


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (  # a model without a name: what its arguments are is not known, how a range is written is
            (
                ("  model:", "  model: {hidden: [4, 4]}"),
                ("  optimizer.initial_lr", "  model.dropout: {low: 2, high: 1}"),
            ),
            ["8: trial.model.name: required.", "13: search_space.model.dropout: low (2) must be below high (1)."],
        ),
        (
            (
                ("  optimizer:", "  optimizer: {name: adm}"),
                ("  trainer:", "  trainer: {max_epochs: 1, foo: 2}"),
                ("  optimizer.initial_lr", "  optimizer.initial_lr: {low: 0, high: 1, log: true}"),
            ),
            [
                "9: trial.optimizer.name: unknown optimizer",
                "11: trial.trainer.foo: <unknown key>.",
                "13: search_space.optimizer.initial_lr.low: must be > 0 when log is true (got 0).",
            ],
        ),
        (
            (
                ("  data:", "  data: 5"),
                (
                    "  optimizer.initial_lr",
                    "  data.batch_size: {choices: [3]}\n"
                    "  schedule: {one_of: {cosin: {decay_steps: {low: 90%, high: 10%}}, constant: {x: 1}}}",
                ),
            ),
            [
                "7: trial.data: <component>",
                "13: search_space.data.batch_size.choices: needs at least 2 different values (got [3]).",
                "14: search_space.schedule.one_of.cosin: unknown schedule",
                "14: search_space.schedule.one_of.constant.x: constant <no argument> x.",
                "14: search_space.schedule.one_of.cosin.decay_steps: low (90.0) must be below high (10.0).",
            ],
        ),
        (
            (
                (
                    "  optimizer.initial_lr",
                    "  optimiser.eps: {low: 3, high: 1}\n  schedule.gamma: {low: 1 epochs, high: 9%}",
                ),
            ),
            [
                "13: search_space.optimiser.eps: <no place> optimiser.",
                "13: search_space.optimiser.eps: low (3) must be below high (1).",
                "14: search_space.schedule.gamma: exponential <no argument> gamma.",
                "14: search_space.schedule.gamma: low, high and step must be numbers, or lengths in one unit",
            ],
        ),
    ],
)
def test_faults_of_the_search_space_are_reported_with_those_of_an_incomplete_trial(
    changes: Sequence[tuple[str, str]], messages: Sequence[str]
) -> None:
    found = faults(edited(*changes))
    assert len(found) == len(messages)
    assert all(fault.startswith(f"studies/x.yaml:{message}") for fault, message in zip(found, messages, strict=True))


def test_a_section_of_trial_that_is_missing_hides_no_fault_of_the_search_space() -> None:
    text = "\n".join(line for line in STUDY.splitlines() if not line.startswith("  model:"))
    (model, space) = faults(text.replace("low: 1e-4", "low: 1"))
    assert model.startswith("studies/x.yaml:6: trial.model.name: required.")
    assert space == "studies/x.yaml:12: search_space.optimizer.initial_lr: low (1) must be below high (0.1)."


@pytest.mark.parametrize("model", ["users_classes:Bare", "users_classes:Kwargs", "users_classes:Nope", "mnist_cn"])
@pytest.mark.parametrize("metric", ["val_acc", "val/f1"])
def test_metrics_and_monitors_of_an_unknown_model_are_not_checked(model: str, metric: str) -> None:
    changes = [
        ("  model:", f"  model: {{name: '{model}'}}"),
        ("objective:", f"objective: {{metric: {metric}}}"),
        ("  schedule:", "  schedule: {name: plateau, monitor: val_loss}"),
        ("  optimizer.initial_lr", "  optimizer.eps: {low: 1e-9, high: 1e-3}"),
    ]
    (fault,) = faults(edited(*changes))
    assert fault.startswith("studies/x.yaml:8: trial.model.name: ")


@pytest.mark.parametrize(("key", "value"), [("limit_val_batches", "0.5"), ("min_epochs", "1"), ("strategy", "ddp")])
def test_an_argument_of_lightnings_trainer_alone_gets_no_suggestion(key: str, value: str) -> None:
    rule = (
        f"trainer.{key}: <unknown key>: Lightning's Trainer has it, but a study does not set it. "
        "Known: accumulate_grad_batches, callbacks, check_val_every_n_epoch, gradient_clip_algorithm, "
        "gradient_clip_val, limit_train_batches, max_epochs, max_steps, max_time, precision, val_check_interval."
    )
    assert faults(trial("trainer", f"{{max_epochs: 1, {key}: {value}}}")) == [f"studies/x.yaml:11: trial.{rule}"]
    assert faults(space(f"trainer.{key}: {{low: 1, high: 2}}")) == [f"studies/x.yaml:13: search_space.{rule}"]


def test_a_misspelled_loss_and_one_with_a_wrong_argument_are_refused() -> None:
    (fault,) = faults(STUDY.replace("  trainer:", "  loss: {name: cross_entropy, weight: [1, 2]}\n  trainer:"))
    assert fault == "studies/x.yaml:11: trial.loss.weight: cross_entropy <no argument> weight. <near> class_weights?"
    (slip,) = faults(STUDY.replace("  trainer:", "  loss: cros_entropy\n  trainer:"))
    assert slip.endswith("or package.module:Name. <near> cross_entropy?")


def test_a_section_of_trial_that_a_choice_replaces_is_checked_but_may_be_incomplete() -> None:
    text = edited(
        ("  schedule:", "  schedule: {name: exponential, staircase: maybe, decay: 1}"),
        ("  optimizer.initial_lr", "  schedule: {one_of: {constant: {}, plateau: {}}}"),
    )
    assert faults(text) == [
        'studies/x.yaml:10: trial.schedule.staircase: <boolean> (got "maybe").',
        "studies/x.yaml:10: trial.schedule.decay: exponential <no argument> decay. <near> decay_rate?",
    ]
    unnamed = edited(
        ("  schedule:", "  schedule: {staircase: true}"),
        ("  optimizer.initial_lr", "  schedule: {one_of: {constant: {}, plateau: {}}}"),
    )
    assert faults(unnamed) == [
        f"studies/x.yaml:10: trial.schedule.name: required. Known: {SCHEDULE_NAMES}, or package.module:Name."
    ]


def test_a_file_whose_name_is_not_a_study_name_needs_a_name() -> None:
    Path("studies/My Study.yaml").write_text(STUDY.replace("name: x\n", ""))
    with pytest.raises(BadInputError) as caught:
        load_study("studies/My Study.yaml")
    assert caught.value.faults == (
        'studies/My Study.yaml:1: name: "My Study", the name of the file, is not a valid name. '
        "Use a-z, 0-9, '.', '_', '-', at most 64 characters, starting with a letter or digit.",
    )


GRID = edited(("sampler:", "sampler: {name: grid}"))


def test_a_grid_needs_steps_everywhere() -> None:
    rule = "studies/x.yaml:4: sampler: grid needs step or choices for every parameter"
    text = f"{GRID}  data.batch_size: {{low: 1, high: 9}}\n  schedule.staircase: {{choices: [true, false]}}\n"
    assert faults(text) == [f"{rule}; data.batch_size has neither.", f"{rule}; optimizer.initial_lr has neither."]


def test_a_grid_needs_a_point_for_every_trial_and_not_too_many() -> None:
    steps = "  optimizer.initial_lr: {low: 0.1, high: 0.4, step: 0.1}"
    assert faults(GRID.replace(GRID.splitlines()[-1], steps)) == [
        "studies/x.yaml:3: budget.trials: must not be above the 4 points of the grid (got 5)."
    ]
    steps = "  optimizer.initial_lr: {low: 1, high: 1000001, step: 1.0}"
    assert faults(GRID.replace(GRID.splitlines()[-1], steps)) == [
        "studies/x.yaml:4: sampler: the grid has 1000001 points; the limit is 1000000."
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("studies/y.yaml", "studies/y.yaml: no such file."),
        ("quickstrt", "quickstrt: no such file, and no shipped study ({shipped}). Did you mean quickstart?"),
        ("zzz", "zzz: no such file, and no shipped study ({shipped})."),
        ("studies", "studies: is a directory; name a study file in it."),
        ("", ".: is a directory; name a study file in it."),
        ("studies/x.yaml/y", "studies/x.yaml/y: no such file, and no shipped study ({shipped})."),
        ("x" * 5000, f"{'x' * 5000}: cannot be read (File name too long)."),
        ("x\0.yaml", "x\0.yaml: cannot be read (embedded null byte)."),
    ],
)
def test_a_study_that_does_not_exist_is_reported_by_its_name(source: str, message: str) -> None:
    FILE.write_text(STUDY)
    with pytest.raises(BadInputError) as caught:
        load_study(source)
    assert caught.value.faults == (message.format(shipped=", ".join(sorted(shipped_studies()))),)


# -- durations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90s", 90), ("90", 90), (90, 90), (1.5, 1.5), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1d12h", 129600),
     ("0.5h", 1800), (" 5m ", 300), ("1h30s", 3630)],
)  # fmt: skip
def test_a_duration_is_read_in_seconds(value: str | float, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "h", "0", 0, -5, "-5m", "1h30", "30m1h", "1:30", "5 m", "5M", "1e3", "ten", "inf", "nan", "9" * 400,
              "1.s", "\u0663m", True],
)  # fmt: skip
def test_a_text_that_is_not_a_duration_is_refused(value: str | float) -> None:
    with pytest.raises(ValueError, match=r" is not a duration; write 90s, 30m, 2h or 1h30m$"):
        parse_duration(value)


# -- anything at all ---------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "name": "x",
    "objective": {"metric": "val/acc", "direction": "maximize"},
    "budget": {"trials": 5, "timeout": "2h"},
    "sampler": {"name": "grid", "seed": 0},
    "pruner": {"name": "hyperband", "min_resource": 1, "max_resource": 3},
    "trial": {
        "data": {"name": "mnist_5k", "batch_size": 50},
        "model": {"name": "mnist_cnn", "channels": [4, 4, 4], "hidden": [16, 16]},
        "optimizer": {"name": "adam", "initial_lr": 1e-3},
        "schedule": {"name": "plateau", "schedule": {"name": "exponential", "decay_rate": 0.5, "decay_steps": 9}},
        "trainer": {"max_epochs": 5},
        "seed": 0,
    },
    "search_space": {
        "optimizer.initial_lr": {"low": 1, "high": 9, "step": 2},
        "trainer.max_epochs": {"choices": [1, 2]},
        "schedule": {
            "one_of": {
                "exponential": {"decay_rate": {"low": 0.5, "high": 0.9, "step": 0.1}, "decay_steps": 5},
                "plateau": {"factor": 0.5, "schedule": {"name": "cosine_restarts", "restart_period": 9}},
            }
        },
    },
}

names = st.sampled_from(
    ["", "name", "seed", "data", "schedule.schedule", "schedule.schedule.decay_rate", "optimizer.eps", "data.seed",
     "optimizer.eps.x", "model.channels.0", "model.channels.-1", "trainer", "one_of", "low", "choices", "step", "log",
     "..", "é"]
)  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(
        [0, -1, 1.5, 10**12, 10**40, 1e300, 2**53, "x", "tpe", "constant", "plateau", "a:b", "torch.optim:NAdam"]
    )
    | st.text("a.:é\u2028", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.just("constant"), inner, max_size=3),
    max_leaves=5,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, each in entries for place in places(each, (*path, key)))]


@st.composite
def studies(draw: st.DrawFn) -> Any:
    """Return a good study with a few values replaced, removed or added."""
    study = json.loads(json.dumps(BASE))
    for _ in range(draw(st.integers(1, 3))):
        *outer, last = ("", *draw(st.sampled_from(places(study))))
        whole = {"": study}
        node: Any = whole
        for key in outer:
            node = node[key]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "add" and isinstance(node[last], dict):
            node[last][draw(names)] = draw(values)
        elif change == "remove" and isinstance(node, dict) and len(outer) > 0:
            del node[last]
        else:
            node[last] = draw(values)
        study = whole[""]
    return study


@given(studies())
def test_any_study_is_read_or_refused_with_a_place_for_every_fault(study: Any) -> None:
    found = load_or_faults(json.dumps(study, ensure_ascii=False))
    assert all(re.match(r"studies/x\.yaml(:\d+)?: ", message) for message in found)
    assert all(message.endswith((".", "?")) for message in found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("wrong", "space", "message"),
    [
        (
            ("  optimizer:", "  optimizer: {name: adam, initial_lr: fast}"),
            "  optimizer.initial_lr: {low: 1e-4, high: 1e-1, log: true}",
            'x.yaml:9: trial.optimizer.initial_lr: <number> (got "fast").',
        ),
        (
            ("  data:", "  data: {name: mnist_5k, batch_size: -1}"),
            "  data.batch_size: {low: 10, high: 100}",
            "x.yaml:7: trial.data.batch_size: batch_size >= 1 <rule> batch_size=-1.",
        ),
    ],
)
def test_a_wrong_value_is_reported_though_the_search_space_replaces_it(
    wrong: tuple[str, str], space: str, message: str
) -> None:
    assert faults(edited(wrong, ("  optimizer.initial_lr:", space))) == [f"studies/{message}"]
