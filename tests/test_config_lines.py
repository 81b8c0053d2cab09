"""A line of a study file that is wrong is reported in full."""

import pytest

from tests.study_texts import EXPLODES, MANY, SCHEDULE_NAMES, edited, faults
from tuner.config import registry
from tuner.config.sampler_options import PRUNERS, SAMPLERS
from tuner.process import user_module_folders

pytestmark = pytest.mark.usefixtures("folder_of_studies")

SAMPLER_NAMES, PRUNER_NAMES = (", ".join(sorted(options)) for options in (SAMPLERS, PRUNERS))
OPTIMIZER_NAMES = ", ".join(sorted(registry.KINDS["optimizer"]))

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
    "a section of trial outside it": (
        ("budget:", "optimizer: {name: adam}"),
        ["3: optimizer: <unknown key>. It belongs in trial."],
    ),
    "an objective function outside trial": (
        ("budget:", 'objective_function: "a:b"'),
        ['3: objective_function: <unknown key>. Write trial: {objective_function: "a:b"}.'],
    ),
    "an objective function in another section": (
        ("budget:", "study: {objective-function: 1}"),
        ['3: study.objective-function: <unknown key>. Write trial: {objective_function: "..."}.'],
    ),
    "a misspelt objective function": (
        ("  trainer:", "  objective_funtion: 'a:b'"),
        ["11: trial.objective_funtion: <unknown key>. <near> objective_function?"],
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
        [f'4: sampler.name: unknown sampler "tpee". Known: {SAMPLER_NAMES}. <near> tpe?'],
    ),
    "a list for a sampler": (
        ("sampler:", "sampler: {name: [tpe]}"),
        [f'4: sampler.name: unknown sampler ["tpe"]. Known: {SAMPLER_NAMES}.'],
    ),
    "a sampler that is only a name": (
        ("sampler:", "sampler: tpee"),
        [f'4: sampler.name: unknown sampler "tpee". Known: {SAMPLER_NAMES}. <near> tpe?'],
    ),
    "a sampler without its mapping": (
        ("sampler:", "sampler: [tpe]"),
        ['4: sampler: <component> (got ["tpe"]).'],
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
        [f'5: pruner.name: unknown pruner "medain". Known: {PRUNER_NAMES}. <near> median?'],
    ),
    "a pruner with nothing in it": (
        ("pruner:", "pruner: {name: }"),
        [f"5: pruner.name: unknown pruner null. Known: {PRUNER_NAMES}."],
    ),
    "an option for no pruner": (
        ("pruner:", "pruner: {name: none, interval_steps: 1}"),
        ["5: pruner.interval_steps: none <no argument> interval_steps. There are none."],
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
        ['7: trial.data: <component> (got "mnist_5k"): write {name: mnist_5k}.'],
    ),
    "no data set": (("  data:", "  data:"), [
        "7: trial.data: <component> (got null)."
    ]),
    "a second seed": (
        ("  data:", "  data: {name: mnist_5k, seed: 3, batch_size: 0.5}"),
        ["7: trial.data.seed: remove it: the only seed of a trial is trial.seed.",
         "7: trial.data.batch_size: <whole number> (got 0.5)."],
    ),
    "an empty batch": (
        ("  data:", "  data: {name: mnist_5k, batch_size: 0}"),
        ["7: trial.data.batch_size: batch_size >= 1 <rule> batch_size=0."],
    ),
    # model
    "a model that cannot be imported": (
        ("  model:", "  model: {name: 'zebra:Net'}"),
        ["8: trial.model.name: <no import> \"zebra:Net\": No module named 'zebra'. Looked in {places} "
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
        [f"8: trial.model: {EXPLODES}."],
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
        ["8: trial.model.channels: channels must be three widths >= 1, but got channels=(4, 0, 4)."],
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
    "a number in quotes": (
        ("  optimizer:", '  optimizer: {name: adam, initial_lr: "1e-2"}'),
        ['9: trial.optimizer.initial_lr: <number> (got "1e-2"). In quotes it is text: write 1e-2.'],
    ),
    "a number in quotes where a list belongs": (
        ("  model:", '  model: {name: mnist_cnn, channels: "8"}'),
        ['8: trial.model.channels: <list> of 3 whole numbers (got "8").'],
    ),
    "a number in quotes that is out of range": (
        ("budget:", 'budget: {trials: "0"}'),
        [f'3: budget.trials: {MANY} (got "0").'],
    ),
    "a number in quotes in another section": (
        ("budget:", 'budget: {trials: "10"}'),
        [f'3: budget.trials: {MANY} (got "10"). In quotes it is text: write 10.'],
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
        ["10: trial.schedule.gamma: constant <no argument> gamma. There are none."],
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
        ["10: trial.schedule.parts[1].name: plateau cannot be used inside another schedule."],
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
        ["10: trial.schedule.boundaries: boundaries must be increasing, but got boundaries=(160, 160)."],
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
        ["10: trial.schedule.monitor: monitor must be train/acc, train/loss, val/acc or val/loss, but got "
         "monitor='test/loss'. <near> train/loss?"],
    ),
    "a plateau inside a plateau": (
        ("  schedule:", "  schedule: {name: plateau, schedule: {name: plateau}}"),
        ["10: trial.schedule.schedule.name: plateau cannot be used inside another schedule."],
    ),
    "a name for a schedule inside a plateau": (
        ("  schedule:", "  schedule: {name: plateau, schedule: constant}"),
        ['10: trial.schedule.schedule: <component> (got "constant"): write {name: constant}.'],
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
