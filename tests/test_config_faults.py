"""The faults of whole study files: which are reported together, where, and when data are loaded."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.study_texts import FILE, SCHEDULE_NAMES, STUDY, edited, faults, load, space, trial
from tuner.config import registry
from tuner.config.loader import load_study
from tuner.config.study_files import shipped_studies
from tuner.errors import BadInputError

pytestmark = pytest.mark.usefixtures("folder_of_studies")


def test_lengths_are_tried_with_every_training_that_there_can_be() -> None:
    changes = [
        ("  schedule:", "  schedule: {name: piecewise_constant, boundaries: [90, 1 epochs], factors: [1, 2, 3]}"),
        ("  optimizer.initial_lr", "  data.batch_size: {choices: [40, 50]}"),
    ]
    assert faults(edited(*changes)) == [
        "studies/x.yaml:10: trial.schedule.boundaries: boundaries must be increasing, but got boundaries=(90, 80)."
    ]


FALLS_BELOW_ZERO = "the factor <finite> and >= 0, but got -0.00390625 at step=257 from Lambda"


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


def test_a_mistake_in_a_formula_is_reported_with_the_other_mistakes() -> None:
    schedule = "{name: lambda, function: 1 - stp / total * power, total: 100%, power: [1]}"
    used = "{name: lambda, function: 1 - step / total, total: 100%, power: 2}"
    found = [faults(trial("schedule", each), "trial.trainer.max_epoch=3") for each in (schedule, used)]
    typed, unused = ("\n".join(each) for each in found)
    assert "max_epoch: <unknown key>. <near> max_epochs?" in typed
    assert "trial.schedule.function: function='1 - stp / total * power' contains 'stp', which is not allowed" in typed
    assert "tanh. <near> step?" in typed
    assert "trial.schedule.power: <length>" in typed
    assert "max_epoch: <unknown key>. <near> max_epochs?" in unused
    assert "trial.schedule.power: power must be used in the formula" in unused


def test_a_formula_is_not_tried_where_it_is_not_used() -> None:
    parts = "[{name: lambda, function: 1 - step / 256}, {name: constant}]"
    load(trial("schedule", f"{{name: join, schedules: {parts}, starts: [256]}}"))


def test_a_formula_is_tried_at_its_beginning_where_the_length_of_the_training_is_not_known() -> None:
    endless = ("  data:", "  data: {name: 'users_classes:Endless'}")
    load(edited(endless, ("  schedule:", "  schedule: {name: lambda, function: 1 - step / 256}")))
    (fault,) = faults(edited(endless, ("  schedule:", "  schedule: {name: lambda, function: 1 - step * 2}")))
    assert "but got -1.0 at step=1" in fault


def test_data_that_cannot_be_measured_are_reported_where_they_are_named() -> None:
    schedule = ("  schedule:", "  schedule: {name: cosine, decay_steps: 50%}")
    endless = ("  data:", "  data: {name: 'users_classes:Endless'}")
    assert faults(edited(schedule, endless)) == [
        "studies/x.yaml:7: trial.data: its loader does not report its number of batches, so lengths must be in steps."
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
