"""Whole study files: the values of a good one, the command line, and the identity."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lightning_modules import SCHEDULES
from tests.study_texts import FILE, STUDY, edited, faults, load, load_or_faults, space, trial
from tuner.config.budget import DEFAULT_TRIALS
from tuner.config.component import Component
from tuner.config.loader import load_study
from tuner.config.search_space import Choices, OneOf, Range, corners, searched, suggest
from tuner.config.study import Objective, StudyConfig
from tuner.config.study_files import shipped_studies
from tuner.config.trainer import TrainerConfig
from tuner.config.trial import TrialConfig
from tuner.text import parse_duration

pytestmark = pytest.mark.usefixtures("folder_of_studies")

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


@pytest.mark.parametrize(
    ("entry", "argument", "spec"),
    [
        ("{count: {low: 1, high: 9}}", "count", Range(1, 9, integer=True)),
        ("{steps: {low: 50, high: 2000, log: true}}", "steps", Range(50, 2000, log=True, integer=True, is_guess=True)),
        ("{steps: {low: 50, high: 2000.5}}", "steps", Range(50.0, 2000.5)),
        ("{steps: {low: 50, high: 60, step: 0.5}}", "steps", Range(50.0, 60.0, step=0.5)),
        ("{steps: {low: 1e2, high: 200}}", "steps", Range(100.0, 200.0)),
        ("{rate: {low: 1, high: 2}}", "rate", Range(1.0, 2.0)),
        ("{anything: {low: 1, high: 2}}", "anything", Range(1, 2, integer=True, is_guess=True)),
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
        "trainer.max_epochs=20",
    ) == [
        "--set name: write it as dotted.path=value.",
        "--set: trainer: <unknown key>. It belongs in trial: write trial.trainer.max_epochs.",
        "--set: budget.trials: <whole number> from 1 to 1000000 (got 0).",
        "--set: search_space.schedule.decay_rat: exponential <no argument> decay_rat. <near> decay_rate?",
    ]


def test_a_value_of_the_command_line_that_a_range_would_replace_is_refused() -> None:
    assert faults(STUDY, "trial.optimizer.initial_lr=0.5") == [
        "--set: trial.optimizer.initial_lr: is searched; "
        "add --set search_space.optimizer.initial_lr=null to stop searching it."
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
        "objective={metric: val/loss, direction: minimize}",
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
