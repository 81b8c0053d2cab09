"""The findings of a study, as sentences."""

import math
from dataclasses import replace

import pytest

from tests.test_charts import study, trial
from tuner.analysis.findings import answer, at_edge, findings, open_questions
from tuner.analysis.record import Retrained
from tuner.direction import Direction


def text_of(*trials, **changes) -> str:
    return "\n".join(findings(study(list(trials), **changes)))


def test_the_winner_is_reported_with_its_values_and_its_margins():
    text = text_of(
        trial(0, value=0.90, family="constant"),
        trial(1, value=0.98, family="exponential"),
        trial(2, value=0.97, family="exponential"),
        *(trial(number, value=0.99 - number / 100, family="cosine_restarts") for number in (3, 4, 5)),
    )
    assert "The best is #1 exponential: val/acc 0.9800 after epoch 3" in text
    assert "0.0100 better than the runner-up, #2 exponential (0.9700)" in text
    assert "0.0200 better than the best of another schedule, #3 cosine_restarts (0.9600)" in text
    assert "0.0800 better than the best constant lr, #0 constant (0.9000)" in text


def test_a_plateau_that_never_lowered_the_lr_is_a_constant_lr():
    plateau = replace(trial(0, value=0.98, family="plateau"), constant_lr=True)
    others = [trial(1, value=0.97, family="exponential"), trial(2, value=0.96, family="plateau")]
    text = text_of(plateau, *others)
    assert "The lr of #0 plateau never changed (e.g. a plateau that never triggered)" in text
    assert "No constant lr" not in text
    behind = text_of(replace(plateau, value=0.95), *others)
    assert "0.0200 better than the best constant lr, #0 plateau (0.9500)" in behind
    assert "never changed" in behind
    assert "never changed" not in text_of(*others, trial(3, family="constant"))


def test_schedules_that_were_tried_too_little_are_named_and_not_called_worse():
    def tried(number: int, family: str, lr: float, value: float = 0.9):
        return trial(number, value=value, family=family, params={"optimizer.initial_lr": lr})

    best = [tried(0, "one_cycle", 0.03, 0.98), tried(1, "one_cycle", 0.02, 0.97)]
    far = [tried(number, "cosine", 1e-4 * number) for number in (2, 3, 4, 5)]
    near = [tried(number, "step", 0.01 * number) for number in (6, 7, 8)]
    text = text_of(*best, *far, replace(tried(9, "linear", 0.03), state="diverged"), *near)
    says = "Tried too seldom, or too far from the best initial_lr, 0.03, to be ruled out: "
    assert f"{says}cosine (4 times, at 0.0002 to 0.0005) and linear (once, at 0.03)." in text
    assert "the best of another schedule" not in text_of(*best, *far)
    assert "the best of another schedule" in text_of(*best, *near)
    assert "Tried too seldom" not in text_of(*best, *near)
    assert "Tried too seldom" in text_of(*best, *far, answer=["The answer is #0 one_cycle."]), "it is of others"


@pytest.mark.parametrize(
    ("constant", "says"),
    [
        ([1e-4], "The search tried a constant lr once, at 0.0001 (the best trial has 0.03), so it says little about"),
        ([0.03, 0.01], "a constant lr twice, at 0.01 and 0.03 (the best trial has 0.03), so it says little about"),
        ([1e-4, 2e-4, 1e-3, 5e-3], " 4 times, at 0.0001 to 0.005 (the best trial has 0.03), so it says little"),
        ([1e-4, 1e-3, 0.02], " 3 times, at 0.0001, 0.001 and 0.02 (the best trial has 0.03)."),
    ],
)
def test_it_says_how_often_and_where_a_constant_lr_was_tried(constant: list[float], says: str):
    trials = [trial(0, value=0.96, family="one_cycle", params={"optimizer.initial_lr": 0.03})]
    for number, lr in enumerate(constant, start=1):
        state = "complete" if number == 1 else "pruned"
        trials.append(trial(number, value=0.7, state=state, family="constant", params={"optimizer.initial_lr": lr}))
    assert says in text_of(*trials)
    is_enough = says.endswith(".")
    for winner in ("#0 one_cycle", "#1 constant"):
        retrained = Retrained(winner, 0.95, 3)
        answered = text_of(*trials, answer=[f"The answer is {winner}."], retrained=retrained)
        assert ("tried a constant lr" in answered) == (not is_enough and winner == "#0 one_cycle")
    (caveat,) = [each for each in open_questions(study(trials)) if "tried a constant lr" in each] or [""]
    assert bool(caveat) != is_enough
    if caveat:
        answered = text_of(*trials, answer=["The answer is #0 one_cycle.", caveat])
        assert answered.count(caveat) == 1, "the final runs say it next to their constant lr"


def test_the_importance_of_parameters_is_stated_from_30_completed_trials_on():
    trials = [trial(number) for number in range(30)]
    assert "The parameters that separate good trials from bad ones: initial_lr (70%)" in text_of(*trials)
    assert "initial_lr (" not in text_of(*trials[:29], trial(29, state="pruned"))


def test_without_a_constant_lr_it_says_that_the_schedule_s_share_is_unknown():
    text = text_of(trial(0, family="exponential"), trial(1, family="exponential"))
    assert "The search tried no constant lr, so it says little about the benefit of the schedule itself." in text
    says = "The answer is #1 exponential: it is really better than #1 at a constant lr."
    more = ["Its mean val/acc is 0.9700."]
    answered = text_of(trial(0, family="exponential"), trial(1, family="exponential"), answer=[says, *more])
    assert answered.startswith(
        f"With fresh seeds: t{says[1:]}\n{more[0]}\nThe best single run of the search is #1 exponential"
    )
    assert "No constant lr" not in answered
    assert "No constant lr" not in text_of(trial(0, family="constant"), trial(1, family="constant"))


def test_the_doubt_is_the_binomial_standard_error_of_the_validation_images():
    text = text_of(trial(0, value=0.98), trial(1, value=0.976), trial(2, value=0.97), validation_images=5000)
    error = math.sqrt(0.98 * 0.02 / 5000)
    assert f"On 5,000 validation examples the standard error of such an accuracy is {error:.4f}" in text
    assert f"up to {2 * error:.3f} count as a tie. By that measure, #1 exponential ties with it." in text


def test_a_difference_of_one_standard_error_is_a_tie():
    assert "ties with it" in text_of(trial(0, value=0.9), trial(1, value=0.873), validation_images=500)
    assert "it is ahead of all others" in text_of(trial(0, value=0.9), trial(1, value=0.872), validation_images=500)


def test_a_best_trial_without_a_mistake_is_not_certain():
    text = text_of(trial(0, value=1.0), trial(1, value=0.98), validation_images=50)
    assert "standard error of such an accuracy is 0.0200" in text
    assert "#1 exponential ties with it" in text


def test_a_single_trial_has_no_lead():
    assert "ahead" not in text_of(trial(0, value=0.9), validation_images=500)


def test_families_and_choices_that_were_never_tried_are_named():
    choices = {
        "schedule.name": ["constant", "exponential", "step", "plateau"],
        "model.init": ["a", "b"],
        "schedule.exponential.staircase": [False, True],
        "trainer.max_epochs": [*range(12)],
    }
    assert "Never tried" not in text_of(trial(0), trial(1), choices={"model.init": ["a", "b"]})
    (told,) = (line for line in text_of(trial(0), trial(1), choices=choices).splitlines() if "Never" in line)
    assert told == (
        "Never tried: schedule step and plateau; exponential staircase False and True; "
        "max_epochs 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more."
    )
    assert "Never tried: init b." in text_of(trial(0, state="failed"), choices={"model.init": ["a", "b"]})


def test_families_of_which_no_trial_was_trained_to_its_end_are_named():
    trials = [
        trial(0, family="one_cycle"),
        trial(1, family="constant", state="pruned", epochs=1),
        trial(2, family="cosine", state="pruned", epochs=2),
        trial(3, family="one_cycle", state="pruned", epochs=1),
        trial(4, family="step", state="failed"),
    ]
    stopped = "was stopped within 2 of 3 epochs, so"
    last = text_of(*trials).splitlines()[-1]
    assert last == f"Every trial of constant and cosine {stopped} they were not compared with the best."
    last = text_of(*trials, answer=["The answer is #0."]).splitlines()[-1]
    assert last == f"Every trial of cosine {stopped} it was not compared with the best."
    assert "was stopped within" not in text_of(*trials[:1], *trials[3:])


def test_many_trials_that_diverge_are_named_with_their_lrs():
    lr = "optimizer.initial_lr"
    stable = [replace(trial(number), params={lr: 0.01 * (number + 1)}) for number in range(2)]
    lost = [replace(trial(number, state="diverged"), params={lr: value}) for number, value in ((2, 3.0), (3, 0.5))]
    assert (
        "2 of 4 trials diverged, at an initial_lr of 0.5 to 3; the highest that did not is 0.02. "
        "Search lower values of initial_lr; if those runs diverge as well, look for NaN in the data."
    ) in text_of(*stable, *lost).splitlines()
    assert "1 of 1 trial diverged, at an initial_lr of 3. Search lower" in text_of(lost[0], trial(1, state="failed"))
    assert "1 of 1 trial diverged. Lower initial_lr; if" in text_of(replace(lost[0], params={}))
    assert "Search lower" not in text_of(*stable, lost[0])


def test_a_loss_has_no_such_error_and_the_smaller_one_wins():
    text = text_of(
        trial(0, value=0.3),
        trial(1, value=0.1),
        metric="val/loss",
        direction=Direction.MINIMIZE,
        validation_images=5000,
    )
    assert "The best is #1 exponential: val/loss 0.1000" in text
    assert "0.2000 better than the runner-up" in text
    assert "standard error" not in text
    assert "one seed" in text


def test_equal_values_have_no_margin():
    assert "no better than the runner-up" in text_of(trial(0, value=0.9), trial(1, value=0.9))


def test_a_study_without_a_finished_trial_says_so():
    assert "no best trial" in text_of()
    assert "no best trial" in text_of(trial(0, state="pruned"), importances={})


def test_a_single_trial_is_compared_with_nothing():
    assert "nothing to compare it with" in text_of(trial(0), importances={})


def test_how_trials_ended_and_how_long_they_took_is_reported():
    trials = [trial(0), replace(trial(1, state="pruned"), seconds=100.0), trial(2, state="failed", value=math.nan)]
    text = text_of(*trials)
    assert "3 trials (1 trained to the end, 1 pruned early, 1 failed), 1 min 43 s of training in total." in text


def test_of_a_share_that_is_minimized_only_close_values_tie():
    trials = [trial(0, value=0.02, family="cosine"), trial(1, value=0.022, family="step"), trial(2, value=0.3)]
    record = study(trials, metric="val_top1_error", direction=Direction.MINIMIZE, validation_images=5000)
    assert "in a tie with #1 step: differences" in answer(record)


def test_the_answer_says_in_one_sentence_whether_others_tie_with_the_best():
    trials = [trial(0, value=0.98, family="cosine"), trial(1, value=0.976, family="step"), trial(2, value=0.9)]
    tie = answer(study(trials, validation_images=5000))
    assert tie == "The best is #0 cosine, val/acc 0.9800, in a tie with #1 step: differences up to 0.004 may be chance."
    ahead = answer(study([trials[0], trials[2]], validation_images=5000))
    error = "two standard errors (of 5,000 validation examples, not of seeds)"
    assert ahead == f"The best is #0 cosine, val/acc 0.9800, ahead of all others by more than {error}."
    unknown = answer(study(trials, validation_images=None))
    assert unknown.endswith("0.9800; #1 step is 0.0040 behind, and whether that is chance was not measured.")
    assert answer(study(trials[:1])).endswith("0.9800, the only trial that ran to completion.")
    assert answer(study([replace(trials[0], state="failed")])) == "No trial ran to completion."


def test_before_the_study_is_over_the_headline_begins_with_how_far_it_is():
    record = study([trial(0, value=0.9, family="cosine")], so_far="2 of 6 trials")
    assert answer(record).startswith("After 2 of 6 trials, the best is #0 cosine, val/acc 0.9000")
    assert findings(record)[0].startswith("After 2 of 6 trials, the best is #0 cosine: val/acc 0.9000")
    diverged = replace(record, trials=[trial(0, state="diverged")])
    assert answer(diverged) == "After 2 of 6 trials, no trial ran to completion."
    assert answer(replace(record, trials=[])) == "No trial has finished yet."


def test_values_at_the_edge_of_their_range_are_named():
    lr, width = "optimizer.initial_lr", "model.width"
    best = replace(trial(0, value=0.98), params={lr: 0.028, width: 50, "schedule.name": "cosine"})
    record = study([best], searched={lr: True, width: False}, ranges={lr: (1e-4, 0.03), width: (0, 100)})
    at, advice = "At the edge of its range", "a study with a wider range may find a better value"
    assert at_edge(record) == f"{at}: initial_lr 0.028 (searched from 0.0001 to 0.03); {advice}."
    inside = replace(best, params={lr: 0.01, width: 4})
    assert at_edge(replace(record, trials=[inside])) == f"{at}: width 4 (searched from 0 to 100); {advice}."
    assert at_edge(replace(record, trials=[replace(inside, params={lr: 0.01, width: 50})])) == ""
    assert at_edge(replace(record, trials=[])) == ""


def test_of_very_many_values_the_sentence_has_the_most_important_ones():
    params = {"schedule.name": "constant", **{f"model.width_{index}": index for index in range(25)}}
    importances = {"model.width_20": 0.6, "model.width_3": 0.4}
    sentence = findings(study([trial(0, params=params)], importances=importances))[0]
    assert "with width_20 20, width_3 3, width_0 0, width_1 1," in sentence
    assert sentence.endswith("width_8 8 and 15 more values (see the table of trials).")
    few = {name: params[name] for name in list(params)[:21]}
    assert "more values" not in findings(study([trial(0, params=few)]))[0]
