"""An entry of a search space that is wrong is reported in full."""

import pytest

from tests.study_texts import EXPLODES, MANY, SCHEDULE_NAMES, faults, space

pytestmark = pytest.mark.usefixtures("folder_of_studies")

FORM = "must be {low: ..., high: ...} or {choices: [...]}"
ONE_OF = "{one_of: {name: {argument: range or value}, ...}}"
KEYS_OF_TRIAL = "data, loss, model, optimizer, schedule, seed, trainer"

BAD_ENTRIES = {
    # ranges and choices
    "a bound that is no number": (
        "optimizer.initial_lr: {low: abc, high: '0.1'}",
        ['optimizer.initial_lr.low: <number> (got "abc").',
         'optimizer.initial_lr.high: <number> (got "0.1"). In quotes it is text: write 0.1.'],
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
         "items of a list are searched by their paths, such as model.channels.0.",
         'model.channels.choices[1]: must be a plain value, not a list or a mapping (got {"a": 1}); '
         "to search a whole component, write {one_of: {name: {argument: range or value}, ...}}."],
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
        [f"model.one_of.users_classes:Net: {EXPLODES} (tried with gamma 9)."],
    ),
    "items that may overtake each other": (
        "schedule: {one_of: {constant: , users_classes:Mixed: {boundaries: [{low: 1, high: 9}, {low: 5, high: 20}]}}}",
        ["schedule.one_of.users_classes:Mixed.boundaries: boundaries must be increasing, but got "
         "boundaries=(9.0, 5.0)."],
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
         "items of a list are searched by their paths, such as model.channels.0."],
    ),
    "something that is no range": (
        "optimizer.initial_lr: {min: 1, max: 2}",
        [f'optimizer.initial_lr: {FORM} (got {{"min": 1, "max": 2}}).'],
    ),
    "a nested path": (
        "optimizer: {initial_lr: {low: 1, high: 2}}",
        [f'optimizer: must be {ONE_OF} (got {{"initial_lr": {{"low": 1, "high": 2}}}}); '
         'write optimizer.initial_lr: {"low": 1, "high": 2}.'],
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
    "a setting of which another is misspelt": (
        "trainer.a: {low: 1, high: 2}\n  trainer.b.c: {low: 1, high: 2}",
        [
            "trainer.a: <unknown key>. Known: accumulate_grad_batches, callbacks, check_val_every_n_epoch, "
            "gradient_clip_algorithm, gradient_clip_val, limit_train_batches, max_epochs, max_steps, max_time, "
            "precision, val_check_interval.",
            "14: search_space.trainer.b.c: <no place> trainer.b. Known: max_epochs, precision.",
        ],
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
        ["14: search_space.optimizer.eps.low: optimizer.eps itself is searched: put this into "
         "search_space.optimizer.eps."],
    ),
    "the seed of the data": (
        "data.seed: {low: 1, high: 2}",
        ["data.seed: remove it: the only seed of a trial is trial.seed."],
    ),
    "a seed out of bounds": (
        "seed: {low: -1, high: 2}",
        ["seed.low: <whole number> from 0 to 4294967295 (got -1)."],
    ),
    "a choice of seeds by name": ("seed: {one_of: {1: {}, 2: {}}}", [
        "seed: one_of is for named components; write {low: ..., high: ...} or {choices: [...]}."
    ]),
    "a whole trainer": (
        "trainer: {one_of: {a: {}, b: {}}}",
        ["trainer: name what is searched within it, such as trainer.max_epochs."],
    ),
    # a choice of components
    "a range for a whole schedule": (
        "schedule: {low: 1, high: 2}",
        [f'schedule: to search a whole schedule, write {ONE_OF} (got {{"low": 1, "high": 2}}).'],
    ),
    "choices of names": (
        "schedule: {choices: [constant, plateau]}",
        [f'schedule: to search a whole schedule, write {ONE_OF} (got {{"choices": ["constant", "plateau"]}}).'],
    ),
    "a name by choices": (
        "schedule.name: {choices: [constant, plateau]}",
        ['schedule.name: must be a name (got {"choices": ["constant", "plateau"]}); '
         "to search among several, use one_of."],
    ),
    "one_of nothing": (
        "schedule: {one_of: }",
        [f'schedule: to search a whole schedule, write {ONE_OF} (got {{"one_of": null}}).'],
    ),
    "one_of a list": (
        "schedule: {one_of: [constant, plateau]}",
        [f'schedule: to search a whole schedule, write {ONE_OF} (got {{"one_of": ["constant", "plateau"]}}): '
         "write {one_of: {constant: {}, plateau: {}}}."],
    ),
    "one_of and more": (
        "schedule: {one_of: {constant: , plateau: }, log: true}",
        [f'schedule: to search a whole schedule, write {ONE_OF} '
         '(got {"one_of": {"constant": null, "plateau": null}, '
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
         "schedule.one_of.plateau.monitor: monitor must be train/acc, train/loss, val/acc or val/loss, but got "
         "monitor='lr'.",
         "schedule.one_of.exponential.name: remove it: the name of a choice is its key.",
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
    "a path that begins with the section": (
        "trial.optimizer.initial_lr: {low: 0.1, high: 1}",
        ["trial.optimizer.initial_lr: <no place> trial. Paths begin within it: write optimizer.initial_lr."],
    ),
    "schedules without one_of": (
        "schedule: {constant: {}, cosine: {}}",
        [f'schedule: must be {ONE_OF} (got {{"constant": {{}}, "cosine": {{}}}}); put them under one_of.'],
    ),
    "a plateau that takes a rising accuracy for a worse one": (
        "schedule: {one_of: {constant: {}, plateau: {monitor: val/acc}}}",
        ["schedule.one_of.plateau: val/acc is better when it rises: write mode: max."],
    ),
    "a metric among others that no plateau sees": (
        "schedule: {one_of: {constant: {}, plateau: {monitor: {choices: [val/loss, val/los, train/loss]}}}}",
        ["schedule.one_of.plateau.monitor: monitor must be train/acc, train/loss, val/acc or val/loss, but got "
         "monitor='val/los'. <near> val/loss?"],
    ),
    "a schedule and a part of it": (
        "schedule.decay_rate: {low: 0.1, high: 1}\n  schedule: {one_of: {constant: , exponential: }}",
        ["schedule.decay_rate: schedule itself is searched: put this into search_space.schedule."],
    ),
    "a choice of schedules inside of a choice": (
        "schedule: {one_of: {constant: {}, plateau: {schedule: {one_of: {constant: {}, plateau: {}}}}}}",
        ["schedule.one_of.plateau.schedule.one_of.plateau: plateau cannot be used inside another schedule."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_a_bad_entry_of_the_search_space_is_reported_in_full(case: str) -> None:
    entry, messages = BAD_ENTRIES[case]
    expected = [message if message.startswith("14:") else f"13: search_space.{message}" for message in messages]
    assert faults(space(entry)) == [f"studies/x.yaml:{message}" for message in expected]
