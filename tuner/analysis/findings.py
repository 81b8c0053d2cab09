"""The findings of a study in sentences, and how reliable they are."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from tuner.analysis.record import (
    CONSTANT,
    FAMILY,
    INITIAL_LR,
    MIN_FOR_IMPORTANCE,
    ROUNDING,
    StudyRecord,
    TrialRecord,
    resolution,
)
from tuner.text import format_metric, format_objective, format_value, join_names, pluralize

__all__ = [
    "answer",
    "at_edge",
    "doubt",
    "duration",
    "findings",
    "objectives_of",
    "open_questions",
    "own_name",
    "standard_error",
    "tie_margin",
    "untuned_constant_lr",
    "values_of",
]

ENDS = {
    "complete": "trained to the end",
    "pruned": "pruned early",
    "diverged": "diverged",
    "failed": "failed",
}
MOST_NAMED = 10
MOST_VALUES = 20
EDGE = 0.05  # share of a range that counts as its edge
FEWEST_FOR_IMPORTANCE = 30  # completed trials below which importances are drawn, but not stated
FEWEST_TRIED, NEAR = 3, 3.0  # how many trials, and how near to the best lr, show what a schedule is worth


def findings(record: StudyRecord) -> list[str]:
    """Return sentences about the best trial, the reliability of its lead, important parameters, and all trials.

    The result with fresh seeds comes first, if there is one.
    """
    if record.front:
        important = filter(None, [_important(record)])
        return [*_tradeoffs(record), *important, _tried(record), *_open_questions(record)]
    best = record.best
    if best is None:
        sentences = [_tried(record), f"No trial {_came(record)}, so there is no best trial."]
        return [*sentences, *_open_questions(record)]
    best_is = "The best single run of the search is" if record.answer else _so_far(record, "The best is")
    sentences = [
        f"{best_is} {best.name}: {record.metric} {format_metric(best.value)}{_after(best, record)}"
        f"{_with(best, record)}.",
        _margin(record, best),
        _unchanged(record),
    ]
    if record.answer:
        first, *others = filter(None, record.answer)  # earlier versions stored an empty one if nothing was trained
        sentences = [f"With fresh seeds: {first[0].lower()}{first[1:]}", *others, *sentences]
    else:
        luck = f"Each trial is one {_what(record)} with one seed, and the best of many is partly luck."
        sentences.append(f"{luck} {doubt(record)}".rstrip())
    if record.test:
        reached = ", ".join(f"{metric} {format_metric(value)}" for metric, value in sorted(record.test.items()))
        which = f"{best.name} of the search" if record.answer else "it"
        sentences.append(f"On the test data, which were not used for any decision, {which} reaches {reached}.")
    sentences.append(_important(record))
    if record.prediction:
        sentences.append(f"{record.prediction[0].upper()}{record.prediction[1:]}.")
    return [*filter(None, sentences), _tried(record), *_open_questions(record)]


def _important(record: StudyRecord) -> str:
    """Return which parameters matter most for the (first) objective; empty if the trials are too few to tell."""
    if len(record.ranking) < FEWEST_FOR_IMPORTANCE:
        return ""
    if not record.importances:
        return no_importance(record) if record.searched else ""
    shares = sorted(record.importances.items(), key=lambda item: -item[1])[:3]
    mattered = ", ".join(f"{short_name(name)} ({share:.0%})" for name, share in shares if share >= 0.05)
    which = f"good trials from bad ones by {record.metric}" if record.further else "good trials from bad ones"
    return f"The parameters that separate {which}: {mattered}."


def _tradeoffs(record: StudyRecord) -> list[str]:
    """Return sentences about the Pareto front of several objectives, a sentence for each of its trials."""
    front = record.front
    sentences = [
        answer(record),
        *(f"{trial.name}: {objectives_of(trial, record)}{_with(trial, record)}." for trial in front[:MOST_NAMED]),
    ]
    if len(front) > MOST_NAMED:
        sentences.append(f"{len(front) - MOST_NAMED} more trials of the front are in the table of trials.")
    luck = f"Each trial is one {_what(record)} with one seed, so a trial can be on the front by luck, or just miss it."
    return [*sentences, luck]


def objectives_of(trial: TrialRecord, record: StudyRecord) -> str:
    """Return the values of all objectives of a complete trial."""
    values = (trial.value, *trial.further)
    return ", ".join(
        f"{metric} {format_objective(value)}" for metric, value in zip(record.metrics, values, strict=True)
    )


def values_of(trial: TrialRecord, names: Iterable[str] | None = None) -> str:
    """Return searched values of a trial, except its schedule.

    Args:
        trial: The trial.
        names: Their names in Optuna; None for all.
    """
    shown = trial.params if names is None else names
    drawn = [f"{own_name(name)} {format_value(trial.params[name])}" for name in shown if name != FAMILY]
    return ", ".join(drawn) or "nothing searched"


def _with(trial: TrialRecord, record: StudyRecord) -> str:
    """Return the searched values of a trial after a comma; empty if only its schedule, which its name has."""
    return "" if set(trial.params) == {FAMILY} else f", with {_values(trial, record)}"


def _values(trial: TrialRecord, record: StudyRecord) -> str:
    """Return the searched values of a trial for a sentence; of very many, the most important ones."""
    names = [name for name in trial.params if name != FAMILY]
    if len(names) <= MOST_VALUES:
        return values_of(trial)
    first = sorted(names, key=lambda name: -record.importances.get(name, 0.0))[:MOST_NAMED]
    return f"{values_of(trial, first)} and {len(names) - len(first)} more values (see the table of trials)"


def own_name(parameter: str) -> str:
    """Return the name of a parameter where the schedule of the trial is named already."""
    return parameter.rpartition(".")[2] if parameter.startswith("schedule.") else short_name(parameter)


def duration(seconds: float) -> str:
    """Return a duration as text.

    >>> duration(42.4), duration(200), duration(5000)
    ('42 s', '3 min 20 s', '1 h 23 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _tried(record: StudyRecord) -> str:
    ends = Counter(trial.state for trial in record.trials)
    names = {} if record.of_function else ENDS
    parts = ", ".join(f"{count} {names.get(state, state)}" for state, count in ends.most_common())
    seconds, work = sum(trial.seconds for trial in record.trials), "computing" if record.of_function else "training"
    trials = pluralize(len(record.trials), "trial")
    sentences = [f"{trials}{f' ({parts})' if parts else ''}, {duration(seconds)} of {work} in total."]
    if begun := record.unfinished:
        epochs = f"{pluralize(begun.epochs, 'report' if record.of_function else 'epoch')} so far"
        took = f", {duration(begun.seconds)}" if begun.seconds else ""
        sentences.append(f"{pluralize(begun.trials, 'trial')} not finished: {epochs}{took}.")
    if record.final:
        runs = pluralize(record.final.trials, "call" if record.of_function else "run")
        sentences.append(f"The final {runs} took another {duration(record.final.seconds)}.")
    return " ".join(sentences)


def _came(record: StudyRecord) -> str:
    return "completed" if record.of_function else "ran to completion"


def _what(record: StudyRecord) -> str:
    return "call" if record.of_function else "run"


def _after(trial: TrialRecord, record: StudyRecord) -> str:
    return "" if record.of_function else f" after epoch {trial.epochs}"


def _margin(record: StudyRecord, best: TrialRecord) -> str:
    others = record.ranking[1:]
    if not others:
        return f"No other trial {_came(record)}, so there is nothing to compare it with."
    parts = [f"{_gap(best, others[0])} the runner-up, {others[0].name} ({format_metric(others[0].value)})"]
    constant = next((trial for trial in others if trial.constant_lr), None)
    other = next((trial for trial in others if trial.family != best.family), None)
    if other is not None and other not in (others[0], constant) and not _hardly_tried(other.family, record, best):
        parts.append(f"{_gap(best, other)} the best of another schedule, {other.name} ({format_metric(other.value)})")
    if constant is not None and constant is not others[0]:
        which = "another" if best.constant_lr else "the best"
        parts.append(f"{_gap(best, constant)} {which} constant lr, {constant.name} ({format_metric(constant.value)})")
    text = f"That is {', and '.join(parts)}."
    if caveat := _caveat(record):
        return f"{text} {caveat}"
    if best.constant_lr or record.answer or record.of_function:
        return text
    return f"{text} {_constant_lrs(record, best)}."


def _caveat(record: StudyRecord) -> str:
    """Return `untuned_constant_lr`, unless the winner has a constant lr or the answer says it."""
    best = record.best
    if best is None:
        return ""
    is_constant = re.search(rf"\b{CONSTANT}\b", record.retrained.name) if record.retrained else best.constant_lr
    caveat = "" if is_constant else untuned_constant_lr(record)
    return "" if caveat in record.answer else caveat


def untuned_constant_lr(record: StudyRecord) -> str:
    """Return that the trials with a constant lr do not show what a schedule is worth; empty if they do."""
    best = record.best
    if best is None or record.of_function or _shows_its_worth(_constant(record), best):
        return ""
    return f"{_constant_lrs(record, best)}, so it says little about the benefit of the schedule itself."


def _constant(record: StudyRecord) -> list[TrialRecord]:
    """Return the trials with a constant lr, except those that failed, and plateaus cut short."""
    constant = [each for each in record.trials if each.constant_lr and each.state != "failed"]
    return [each for each in constant if each.is_complete or each.family == CONSTANT]


def _constant_lrs(record: StudyRecord, best: TrialRecord) -> str:
    """Return how often a constant lr was tried, and at which lrs, without a full stop."""
    tried = _constant(record)
    if not tried:
        return "The search tried no constant lr"
    own = best.params.get(INITIAL_LR)
    at = f"{_at_lrs(tried)} (the best trial has {format_value(own)})" if own and _lrs(tried) else ""
    return f"The search tried a constant lr {_times(len(tried))}{at}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _lrs(trials: Iterable[TrialRecord]) -> list[float]:
    return sorted(each.params[INITIAL_LR] for each in trials if INITIAL_LR in each.params)


def _at_lrs(trials: Iterable[TrialRecord]) -> str:
    """Return the initial lrs of trials, for a sentence; empty if they were not searched."""
    shown = list(dict.fromkeys(map(format_value, _lrs(trials))))
    if not shown:
        return ""
    return f", at {join_names(shown) if len(shown) <= FEWEST_TRIED else f'{shown[0]} to {shown[-1]}'}"


def _shows_its_worth(trials: Sequence[TrialRecord], best: TrialRecord) -> bool:
    """Return whether trials of a schedule are several, and one has an initial lr near that of the best trial."""
    own, lrs = best.params.get(INITIAL_LR), _lrs(trials)
    is_near = not own or not lrs or any(1 / NEAR <= lr / own <= NEAR for lr in lrs)
    return len(trials) >= FEWEST_TRIED and is_near


def _hardly_tried(family: str, record: StudyRecord, best: TrialRecord) -> str:
    """Return how often a schedule was tried and at which lrs, if that does not show its worth; otherwise empty."""
    trials = [each for each in record.trials if each.family == family and each.state != "failed"]
    return "" if _shows_its_worth(trials, best) else f"{family} ({_times(len(trials))}{_at_lrs(trials)})"


def hardly_tried(record: StudyRecord) -> str:
    """Return which schedules were tried too seldom, or too far from the best lr, to be ruled out; empty if none."""
    best = record.best
    if best is None or record.of_function:
        return ""
    compared = (each for each in record.trials if each.state in ("complete", "diverged") and not each.constant_lr)
    families = dict.fromkeys(each.family for each in compared)
    found = [_hardly_tried(each, record, best) for each in families if each not in (best.family, CONSTANT)]
    named, own = [each for each in found if each], best.params.get(INITIAL_LR)
    far = f", or too far from the best initial_lr, {format_value(own)}," if own else ""
    return f"Tried too seldom{far} to be ruled out: {join_names(named, MOST_NAMED)}." if named else ""


def _unchanged(record: StudyRecord) -> str:
    """Name the trials whose schedule never changed the lr; the best trial may be one of them."""
    trials = [trial for trial in record.ranking if trial.constant_lr and trial.family != CONSTANT]
    if not trials:
        return ""
    names = join_names([trial.name for trial in trials])
    return f"The lr of {names} never changed (e.g. a plateau that never triggered), so the lr was constant."


def _gap(best: TrialRecord, other: TrialRecord) -> str:
    gap = _distance(best, other)
    return f"{format_metric(gap)} better than" if gap else "no better than"


def _distance(one: TrialRecord, other: TrialRecord) -> float:
    """Return the distance between two values; 0 if they differ by rounding only."""
    gap = abs(one.value - other.value)
    return gap if gap > ROUNDING * max(abs(one.value), abs(other.value)) else 0.0


def doubt(record: StudyRecord) -> str:
    """Return how reliable the lead of the best trial is, with one run each; empty if there is no best trial."""
    best, images = record.best, record.validation_images
    if best is None:
        return ""
    error = standard_error(record)
    if error is None:
        return "The difference between seeds was not measured, so small differences may be chance."
    text = (
        f"On {images:,} validation examples the standard error of such an accuracy is {format_metric(error)}: without "
        f"more seeds or examples, differences up to {tie_margin(error):.3f} count as a tie."
    )
    if len(record.ranking) == 1:
        return text
    ties = [trial.name for trial in _tied(record, error)]
    verdict = f"{join_names(ties)} tie{'s' if len(ties) == 1 else ''} with it" if ties else "it is ahead of all others"
    return f"{text} By that measure, {verdict}."


def answer(record: StudyRecord) -> str:
    """Return the best trial and whether others tie with it, in one sentence."""
    return record.answer[0] if record.answer and record.best else _so_far(record, _standing(record))


def _so_far(record: StudyRecord, sentence: str) -> str:
    """Return a sentence that begins with how far the study is, unless it is over or has not finished a trial."""
    if not record.trials:
        return sentence
    return f"After {record.so_far}, {sentence[0].lower()}{sentence[1:]}" if record.so_far else sentence


def _standing(record: StudyRecord) -> str:
    best, others = record.best, record.ranking[1:]
    if record.front:
        names = join_names([trial.name for trial in record.front], MOST_NAMED)
        goals = zip(record.metrics, [record.direction, *(each for _, each in record.further)], strict=True)
        whose = join_names([f"{metric} ({direction.value})" for metric, direction in goals], MOST_NAMED)
        if len(record.front) == 1:
            return f"The best in all of {whose} is {names}."
        return f"The best by {whose} are {len(record.front)} trials, the Pareto front: {names}."
    if best is None:
        return f"No trial {_came(record)}." if record.trials else "No trial has finished yet."
    text = f"The best is {best.name}, {record.metric} {format_metric(best.value)}"
    if not others:
        return f"{text}, the only trial that {_came(record)}."
    error = standard_error(record)
    if error is None:
        gap = _distance(best, others[0])
        if not gap:
            return f"{text}; {others[0].name} has the same value."
        return f"{text}; {others[0].name} is {format_metric(gap)} behind, and whether that is chance was not measured."
    ties = _tied(record, error)
    if not ties:
        images = f"{record.validation_images:,} validation examples, not of seeds"
        return f"{text}, ahead of all others by more than two standard errors (of {images})."
    names = join_names([trial.name for trial in ties])
    return f"{text}, in a tie with {names}: differences up to {tie_margin(error):.3f} may be chance."


def standard_error(record: StudyRecord) -> float | None:
    """Return the standard error of the best trial's accuracy on the validation images; None if it is unknown."""
    best, images = record.best, record.validation_images
    step = resolution(record.metric, [best.value], images) if best else 0.0
    if best is None or not images or not step:
        return None
    return max(math.sqrt(best.value * (1 - best.value) / images), step)  # an accuracy of 1 has an error, too


def tie_margin(error: float) -> float:
    """Return up to which difference trials tie, given the standard error: two of them, as the sentences round it."""
    return max(round(2 * error, 3), 0.001)


def _tied(record: StudyRecord, error: float) -> list[TrialRecord]:
    """Return the trials that tie with the best one."""
    best, *others = record.ranking
    return [trial for trial in others if round(_distance(best, trial), 6) <= tie_margin(error)]


def open_questions(record: StudyRecord) -> list[str]:
    """Return sentences about what the trials do not show."""
    return [*filter(None, [_caveat(record)]), *_open_questions(record)]


def _open_questions(record: StudyRecord) -> list[str]:
    """Return the open questions, except that about a constant lr, which belongs to the lead of the best trial."""
    found = (_different_code, _diverged, never_tried, hardly_tried, stopped_families, at_edge)
    return [*filter(None, (sentence(record) for sentence in found))]


def _diverged(record: StudyRecord) -> str:
    """Return how many trials diverged and at which lrs, if they are at least half of the trials that did not fail."""
    trained = [trial for trial in record.trials if trial.state != "failed"]
    diverged = [trial for trial in trained if trial.state == "diverged"]
    if record.of_function or not diverged or 2 * len(diverged) < len(trained):
        return ""
    lrs, others = _lrs(diverged), _lrs(trial for trial in trained if trial.state != "diverged")
    text = f"{len(diverged)} of {pluralize(len(trained), 'trial')} diverged"
    lower = "Lower initial_lr"
    if lrs:
        lower = "Search lower values of initial_lr"
        between = format_value(lrs[0]) if len(lrs) == 1 else f"{format_value(lrs[0])} to {format_value(lrs[-1])}"
        text += f", at an initial_lr of {between}"
        text += f"; the highest that did not is {format_value(others[-1])}" if others else ""
    return f"{text}. {lower}; if those runs diverge as well, look for NaN in the data."


def _different_code(record: StudyRecord) -> str:
    """Return which trials ran with different versions of the user's own modules; empty if all ran with the same."""
    if len(record.versions) < 2:
        return ""
    finished = [trial.number for trial in record.trials]
    parts = [f"{_runs(each, finished)} with version {index}" for index, each in enumerate(record.versions, 1)]
    files = f"{len(record.versions)} versions of {join_names(record.changed_files, MOST_NAMED)}"
    return f"The trials ran with {files}, and may differ for this reason: {join_names(parts, MOST_NAMED)}."


def _runs(numbers: Sequence[int], finished: Sequence[int]) -> str:
    """Return numbers of trials as text; those that follow each other among the finished ones as a range.

    >>> _runs([0, 1, 3, 7], [0, 1, 3, 5, 7])
    '#0 to #3 and #7'
    """
    places = {number: place for place, number in enumerate(finished)}
    runs: list[list[int]] = []
    for number in numbers:
        if runs and places[number] == places[runs[-1][-1]] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return join_names([f"#{run[0]} to #{run[-1]}" if len(run) > 1 else f"#{run[0]}" for run in runs], MOST_NAMED)


def stopped_families(record: StudyRecord) -> str:
    """Return which families have trials, but none that ran to completion and could be compared with the best one."""
    if record.best is None:
        return ""
    compared = {trial.family for trial in record.ranking} | ({CONSTANT} if record.answer else set())
    stopped = [trial for trial in record.trials if trial.state == "pruned" and trial.family not in compared]
    if not stopped:
        return ""
    most = f"within {max(trial.epochs for trial in stopped)} of {record.best.epochs} epochs"
    families = sorted({trial.family for trial in stopped})
    so = f"so {'it was' if len(families) == 1 else 'they were'} not compared with the best"
    return f"Every trial of {join_names(families, MOST_NAMED)} was stopped {most}, {so}."


def at_edge(record: StudyRecord) -> str:
    """Return the values of the best trial that lie at an end of their range, within a twentieth; empty if none does."""
    best = record.best
    if best is None:
        return ""
    parts = []
    for name, (low, high) in record.ranges.items():
        value = best.params.get(name)
        if not isinstance(value, int | float) or low == high:
            continue
        scale = math.log if record.searched.get(name) else float
        share = (scale(value) - scale(low)) / (scale(high) - scale(low))
        if not EDGE < share < 1 - EDGE:
            limits = f"{format_value(low)} to {format_value(high)}"
            parts.append(f"{short_name(name)} {format_value(value)} (searched from {limits})")
    advice = "a study with a wider range may find a better value"
    return f"At the edge of its range: {'; '.join(parts)}; {advice}." if parts else ""


def never_tried(record: StudyRecord) -> str:
    """Return which families and choices no finished trial had; empty if all were tried."""
    tried = {(name, value) for trial in record.trials for name, value in trial.params.items() if name in record.choices}
    missing = {
        name: [format_value(each) for each in choices if (name, each) not in tried]
        for name, choices in record.choices.items()
    }
    parts = [f"{_choice(name)} {join_names(values, MOST_NAMED)}" for name, values in missing.items() if values]
    where = "In no finished trial" if record.unfinished else "Never tried"
    return f"{where}: {'; '.join(parts)}." if parts else ""


def _choice(name: str) -> str:
    """Return the name of a choice and of its family."""
    return short_name(name).removesuffix(" name")


def short_name(parameter: str) -> str:
    """Return a short name of a parameter.

    >>> short_name("schedule.name"), short_name("optimizer.eps"), short_name("schedule.exponential.decay_rate")
    ('schedule', 'eps', 'exponential decay_rate')
    >>> short_name("loss")
    'loss'
    """
    parts = parameter.split(".")
    if len(parts) == 2:
        return parts[0] if parts[1] == "name" else parts[1]
    return " ".join(parts[1:]) or parameter


def no_importance(record: StudyRecord) -> str:
    """Return why the importance of parameters is unknown."""
    missing = MIN_FOR_IMPORTANCE - len(record.ranking)
    if missing > 0:
        return f"Parameter importance needs {pluralize(missing, 'more completed trial')}."
    return "The importance of parameters is unknown: the values or the results of the trials are too similar."
