"""Notes for the user about the trials that a study begins and ends with."""

from collections.abc import Iterator

from tuner.config.annotations import parse_length
from tuner.config.finite_space import is_finite
from tuner.config.search_space import Range, grid_size, grid_values, searched
from tuner.config.study import StudyConfig
from tuner.text import join_names, pluralize

__all__ = ["opening_notes"]


def opening_notes(config: StudyConfig) -> list[str]:
    """Return notes for the user about the fixed trials and the final runs of a study, a line for each."""
    sentences = []
    if config.first.outside:
        known = config.first.queued or config.first.earlier
        begins = "each family once" if config.first.params else "what the sampler draws"
        begins = "the values that are known to be good" if known else begins
        why = f"the file's trial is outside the search space ({config.first.outside})"
        sentences.append(f"the study begins with {begins}: {why}")
    families = [[turn for turn in each.items() if turn[0].endswith(".name")] for each in config.first.params]
    fewest, known_first = config.fewest_trials, config.first.known.stop
    reachable = families[: max(min(known_first, fewest), fewest - len(config.first.further))]
    reached = {turn for each in reachable for turn in each}
    late = dict.fromkeys(turn for each in families for turn in each if turn not in reached)
    if late:
        names = join_names([f"{path.removesuffix('.name')} {name}" for path, name in late], 10)
        trials = pluralize(config.fewest_trials, "trial")
        sentences.append(f"the budget ({trials}) cannot cover every family; these may be skipped: {names}")
    for path, spec in searched(config.trial):
        if isinstance(spec, Range) and spec.is_guess and not spec.step:
            why = "is a whole number, because the bounds of its range are"
            sentences.append(f"{path} {why}; for any number, write low: {float(spec.low)}")
    size = grid_size(config.trial) if config.can_repeat and is_finite(config.trial) else 0
    if 1 < size < config.fewest_trials:
        trials = pluralize(config.fewest_trials, "trial")
        sentences.append(f"the search space has only {size} configurations: with {trials}, some are repeated")
    if size == 1 < config.fewest_trials and config.sampler.name != "grid":
        trials = pluralize(config.fewest_trials, config.kind.noun)
        sentences.append(f"nothing is searched: the {trials} are all the same, with the same seed")
    sentences += filter(None, [_inactive(config)])
    if config.final:
        amount = pluralize(config.final.trainings, config.kind.noun)
        if config.allowance:
            amount = f"{config.final.trainings * config.allowance.longest} {config.allowance.unit}"
        best = "its best trial" if config.final.trials == 1 else f"its best {config.final.trials} trials"
        which = f"{best}, its own trial and a constant lr" if config.kind.trains else f"it for {best} and its own"
        verb = "retrain" if config.kind.trains else "call"
        again = "" if config.kind.trains else " again"
        seeds = pluralize(config.final.seeds, "fresh seed")
        sentences.append(f"the study reserves {amount} to {verb} {which}{again} with {seeds}")
    return [*sentences, *(_repeated_lengths(config) if config.sampler.name == "grid" else ())]


def _inactive(config: StudyConfig) -> str:
    """Return a sentence about a pruner whose options keep it from ever stopping a trial; empty if there is none."""
    pruner, longest = config.pruner, config.longest
    for option in ("n_warmup_steps", "n_startup_steps", "min_resource"):
        if config.kind.trains and 0 < longest <= pruner.arguments.get(option, 0):
            value = pruner.arguments[option]
            return f"the pruner cannot stop a trial: its {option} ({value}) is not below the {longest} epochs of a run"
    if (count := pruner.arguments.get("n_startup_trials", 0)) >= config.fewest_trials > 1:
        return f"the pruner cannot stop a trial: its n_startup_trials ({count}) is not below the number of trials"
    return ""


def _repeated_lengths(config: StudyConfig) -> Iterator[str]:
    """Yield a line for each length in a grid whose values are not all different numbers of steps."""
    trainings = config.kind.trainings(config.trial)
    for path, spec in searched(config.trial):
        values = grid_values(spec)
        if not any(map(parse_length, values)):
            continue
        for length in map(config.probe.length, trainings):
            steps = {length.in_steps(value) if parse_length(value) else value for value in values}
            if len(steps) < len(values):
                yield (
                    f"the grid repeats runs: in {length.steps} steps, the {len(values)} values of {path} are "
                    f"only {len(steps)} different lengths"
                )
                break
