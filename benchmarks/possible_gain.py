"""Compares the bound that `budget.until` uses with the true regret, on tables of trained configurations.

    python benchmarks/possible_gain.py taskset_adam8p.json.gz --draws 5

The file has `configurations`, rows of values of `hyperparameters`, and for each task in `valid_loss` a row of losses of
every configuration. Of each task, configurations are drawn at random as the trials of a study; the regret is the best
loss among them minus the best of the task. Losses above the 90% quantile are cut to it: most of them diverged.
"""

import argparse
import gzip
import json
import warnings
from statistics import median

import numpy as np
import optuna

from tuner.storage.possible_gain import possible_gain

COUNTS = (20, 40, 80, 120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with gzip.open(options.file) as file:
        table = json.load(file)
    rows = np.array(table["configurations"])
    for index, name in enumerate(table["hyperparameters"]):
        rows[:, index] = np.log10(1 - rows[:, index] + 1e-9 if name.startswith("beta") else rows[:, index])
    spaces: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(float(rows[:, index].min()), float(rows[:, index].max()))
        for index, name in enumerate(table["hyperparameters"])
    }
    print("| trials | bounds above the regret | median regret | median bound |\n|---|---|---|---|")
    for count in COUNTS:
        pairs = []
        for curves in table["valid_loss"].values():
            losses = np.array(curves, float)[:, -1]
            losses = np.minimum(np.nan_to_num(losses, nan=np.inf), np.nanquantile(losses, 0.9))
            for draw in range(options.draws):
                study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
                for number in np.random.default_rng(draw).permutation(len(losses))[:count]:
                    values = dict(zip(spaces, map(float, rows[number]), strict=True))
                    study.add_trial(
                        optuna.trial.create_trial(params=values, distributions=spaces, value=float(losses[number]))
                    )
                pairs.append((study.best_value - float(losses.min()), possible_gain(study, draw)))
        above = sum(bound >= regret for regret, bound in pairs)
        regret, bound = (median(pair[place] for pair in pairs) for place in (0, 1))
        print(f"| {count} | {above} of {len(pairs)} | {regret:.4f} | {bound:.4f} |")


if __name__ == "__main__":
    main()
