"""How good a configuration different searches find in tables of training runs, and with how many epochs.

No training is done: a trial reports the values of a row of the table (`simulation.py`). Samplers, pruners and rungs are
the tuner's. There are two kinds of tables: published ones from TaskSet (Metz et al., 2020), with very wide ranges, and
tables from `train.py`, in which ranges are sane and schedules compete (`read.py` describes both). Of published language
models (Schaipp et al., 2025), which differ in schedule and lr, a study trains all runs of one kind in random order: how
many of the best five does a pruner stop, and which share of all steps is trained?

    python benchmarks/tables/run.py --taskset taskset_adam8p.json.gz --draws 10
    python benchmarks/tables/run.py --trained competing.json.gz --draws 20
    python benchmarks/tables/run.py --llama llama_schedules.json.gz --draws 10
    python benchmarks/tables/run.py --taskset taskset_adam8p.json.gz --only "curve, whole" --marks 32 128 --group 32

Budgets are in full runs: the epochs that so many runs take. The rank found is the rank, in the whole table, of the best
configuration that was trained to the end, and the excess is its value minus the best value in the table. "lost" counts
the draws in which the best configuration tried within the largest budget was stopped. With `--start N`, each study
begins with N of the best rows of the other tables. With `--out`, every result is added to a file, from which `draw.py`
makes a picture.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from lost import BEST, PRUNERS, stopped  # noqa: E402
from read import read_llama, read_taskset, read_trained  # noqa: E402
from simulation import Search, Table, TableRows, simulate  # noqa: E402

from tuner.config.loader import load_study  # noqa: E402

CONTENDERS = {
    "tpe, median from a third": ("tpe", "median"),
    "tpe, median from the first epoch": ("tpe", "median, n_warmup_steps: 0"),
    "tpe, hyperband": ("tpe", "hyperband, min_resource: 1"),
    "tpe, asynchronous halving": ("tpe", "successive_halving, min_resource: 1"),
    "tpe, whole": ("tpe", "none"),
    "random, whole": ("random", "none"),
    "random, rungs": ("random", "rungs"),
    "curve, whole": ("curve", "none"),
    "curve, median from a third": ("curve", "median"),
    "curve, rungs": ("curve", "rungs"),
    "curve, rungs of the starts": ("curve", "rungs, applies_to: starts"),
}
"""Sampler and pruner."""


LR = "optimizer.initial_lr"


@dataclass(frozen=True)
class Draw:
    """A contender's studies on a table with one seed.

    Args:
        ranks: The rank found within each budget [budgets].
        excess: The value found minus the best value in the table [budgets]; infinity if nothing was found.
        is_lost: Whether the best configuration that was tried was stopped.
        seconds: Duration of the study with the largest budget.
    """

    ranks: list[int]
    excess: list[float]
    is_lost: bool
    seconds: float


def draw(
    contender: str,
    study: Path,
    table: Table,
    seed: int,
    starts: Sequence[Mapping[str, Any]],
    marks: Sequence[float],
    overrides: Sequence[str] = (),
    group: int = 1,
    ahead: bool = False,
) -> Draw:
    """Run a contender's studies on a table with one seed.

    Args:
        contender: The contender.
        study: The study file.
        table: The table.
        seed: The seed of the sampler.
        starts: Values for the first trials.
        marks: The budgets in full runs.
        overrides: Changes to the study file.
        group: Number of trials asked for at once.
        ahead: Whether they are asked for when the group before begins, rather than when it has ended.
    """
    sampler, pruner = CONTENDERS[contender]
    ranks, finals = table.ranks, table.finals
    found: list[int] = []
    excess: list[float] = []
    search, seconds = Search([], [], 0), 0.0
    depends_on_budget = pruner.startswith("rungs")
    for mark in marks:
        budget = round(mark * table.losses.shape[1])
        if depends_on_budget or not search.tried:
            longest = budget if depends_on_budget else round(marks[-1] * table.losses.shape[1])
            options = [f"budget={{epochs: {longest}}}", "final={trials: 0}"]
            options += [f"sampler={{name: {sampler}}}", f"pruner={{name: {pruner}}}", *overrides]
            options += [f"start={{studies: [others], trials: {len(starts)}}}"] if starts else []
            started = time.perf_counter()
            config = load_study(str(study), options)
            runs = TableRows(table, config)
            search = simulate(config, runs, longest, seed, starts=starts, group=group, ahead=ahead)
            seconds = time.perf_counter() - started
        rows = [row for spent, row in search.trace if spent <= budget]
        found.append(min((int(ranks[row]) for row in rows), default=len(ranks)))
        excess.append(min((float(finals[row]) for row in rows), default=np.inf) - float(finals.min()))
    return Draw(found, excess, min(int(ranks[row]) for row in search.tried) < found[-1], seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taskset", type=Path, help="a file of TaskSet")
    parser.add_argument("--trained", type=Path, help="a table that train.py has written")
    parser.add_argument("--llama", type=Path, help="a file of language models")
    parser.add_argument("--draws", type=int, default=10, help="seeds of each search (default 10)")
    parser.add_argument("--marks", type=float, nargs="+", default=[6.4, 11.2, 25.6], help="budgets in full runs")
    parser.add_argument("--start", type=int, default=0, help="first trials of a study from the other tables")
    parser.add_argument("--lrs", type=float, nargs=2, help="lowest and highest lr; on TaskSet, only the lr is searched")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--group", type=int, default=1, help="trials that are asked for at once (default 1)")
    parser.add_argument("--ahead", action="store_true", help="ask for a group when the group before begins")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="file to which each result is appended as a line")
    options = parser.parse_args()
    kinds = [
        ("taskset", options.taskset, read_taskset, HERE / "taskset.yaml"),
        ("competing", options.trained, read_trained, HERE / "competing.yaml"),
    ]
    for kind, path, read, study in kinds:
        if path is None:
            continue
        tables, overrides = dict(read(path, options.lrs)), []
        if options.lrs:
            low, high = options.lrs
            others = {name for table in tables.values() for name in table.params[0]} - {LR} if kind == "taskset" else ()
            overrides = [f"search_space.{name}=null" for name in sorted(others)]
            overrides.append(f"search_space.{LR}={{low: {low!r}, high: {high!r}, log: true}}")
        count = len(next(iter(tables.values())).losses)
        print(f"\n{kind}: {len(tables)} of {count} rows, {options.draws} draws; mean rank found, and mean excess\n")
        print("| | " + " | ".join(f"{mark:g} runs" for mark in options.marks) + " | best lost, % | seconds per study |")
        print("|" + "---|" * (3 + len(options.marks)))
        with ProcessPoolExecutor(options.processes) as pool:
            for contender in options.only:
                jobs = [
                    (table, seed, best_of_others(tables, name, options.start))
                    for name, table in tables.items()
                    for seed in range(options.draws)
                ]
                how = {"marks": options.marks, "group": options.group, "ahead": options.ahead}
                run = partial(draw, contender, study, overrides=overrides, **how)
                done = list(pool.map(run, *zip(*jobs, strict=True)))
                print(row(contender, done), flush=True)
                if options.out:
                    labels = {"kind": kind, "contender": contender, **how}
                    with options.out.open("a") as file:
                        for each in done:
                            file.write(json.dumps({**labels, **vars(each)}) + "\n")
    if options.llama:
        print_stopped(options.llama, options.draws, options.processes)


def print_stopped(path: Path, draws: int, processes: int) -> None:
    """Print how many of the best runs of each kind the pruners stop.

    Args:
        path: A file of language models.
        draws: Random orders of the runs.
        processes: Studies at the same time.
    """
    for runs in read_llama(path):
        print(f"\n{runs.name}: {len(runs.curves)} runs, {draws} orders\n")
        print(f"| | stopped of the best {BEST} | best one stopped, % | steps, % | seconds per study |")
        print("|---|---|---|---|---|")
        with ProcessPoolExecutor(processes) as pool:
            for name in PRUNERS:
                started = time.perf_counter()
                done = list(pool.map(partial(stopped, name, runs), range(draws)))
                seconds = (time.perf_counter() - started) * processes / draws
                best, winner, trained = (np.mean([getattr(each, key) for each in done]) for key in vars(done[0]))
                print(f"| {name} | {best:.2f} | {100 * winner:.0f} | {100 * trained:.0f} | {seconds:.1f} |", flush=True)


def best_of_others(tables: Mapping[str, Table], name: str, count: int) -> list[Mapping[str, Any]]:
    """Return the values of the best rows of the other tables in turn, as ``start`` does for studies."""
    others = [table for other, table in tables.items() if other != name]
    rankings = [[table.params[row] for row in table.ranks.argsort()] for table in others]
    return list(itertools.islice(itertools.chain.from_iterable(zip(*rankings, strict=True)), count))


def row(contender: str, draws: list[Draw]) -> str:
    """Return a contender's row of the printed table: mean and standard error of the rank, and the mean excess."""
    ranks, excess = (np.array([getattr(each, name) for each in draws], float) for name in ("ranks", "excess"))
    errors = ranks.std(0, ddof=1) / len(ranks) ** 0.5 if len(ranks) > 1 else np.zeros(ranks.shape[1])
    cells = [
        f"{mean:.1f} ± {error:.1f} ({above:.4f})"
        for mean, error, above in zip(ranks.mean(0), errors, excess.mean(0), strict=True)
    ]
    lost = 100 * np.mean([each.is_lost for each in draws])
    return f"| {contender} | {' | '.join(cells)} | {lost:.0f} | {np.mean([each.seconds for each in draws]):.1f} |"


if __name__ == "__main__":
    main()
