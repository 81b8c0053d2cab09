"""Chooses a short list of configurations, so that on each workload one of the first few is good.

    python benchmarks/greedy_starts.py algoperf_trials.json.gz

The file has a list of trials, each with submission, workload, trial, hparams, metric and the best value that it reached
(`points`: pairs of seconds and value). Only submissions of NAdamW with a warmup and a cosine decay to zero are used.
On each workload the configurations are ranked; the list begins with the configuration with the best mean rank, and
continues with the one that lowers the mean of the best ranks most.
"""

import argparse
import gzip
import json
from collections import defaultdict
from statistics import fmean

SUBMISSIONS = ("baseline", "generalized_adam")
LARGER_IS_BETTER = ("accuracy", "ssim", "bleu", "precision")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--count", type=int, default=6)
    options = parser.parse_args()
    with gzip.open(options.file) as file:
        trials = [each for each in json.load(file)["trials"] if each["submission"] in SUBMISSIONS and each["points"]]
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        name = json.dumps([trial["submission"], trial["hparams"]], sort_keys=True)
        sign = -1 if trial["metric"].endswith(LARGER_IS_BETTER) else 1
        workload = trial["workload"].removesuffix("_jax").removesuffix("_pytorch")
        values[workload][name].append(min(sign * value for _, value in trial["points"]))
    ranks: dict[str, dict[str, int]] = {}
    for workload, found in values.items():
        ordered = sorted(found, key=lambda name: fmean(found[name]))
        ranks[workload] = {name: rank for rank, name in enumerate(ordered, start=1)}
    names = sorted({name for found in ranks.values() for name in found})
    worst = 1 + max(len(found) for found in ranks.values())
    print(f"{len(names)} configurations on {len(ranks)} workloads")
    chosen: list[str] = []
    while len(chosen) < min(options.count, len(names)):
        best = min(
            (name for name in names if name not in chosen),
            key=lambda name: fmean(min(found.get(each, worst) for each in [*chosen, name]) for found in ranks.values()),
        )
        chosen.append(best)
        reached = fmean(min(found.get(each, worst) for each in chosen) for found in ranks.values())
        print(f"{len(chosen)}: mean best rank {reached:.2f}: {best}")


if __name__ == "__main__":
    main()
