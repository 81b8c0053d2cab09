"""Trains random configurations of a study and writes their values after each epoch as a table.

    python benchmarks/tables/train.py competing.json.gz --trials 1000

The tuner trains them in fused groups, and all begin with the same weights. `run.py --trained` reads the file.
"""

import argparse
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from tuner import Study
from tuner.storage.reader import open_study

STUDY = Path(__file__).with_name("competing.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the table to write, compressed with gzip")
    parser.add_argument("--study", type=Path, default=STUDY, help="its study file (default competing.yaml)")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the configurations")
    parser.add_argument("--fuse", type=int, default=50)
    options = parser.parse_args()
    random = [f"sampler={{name: random, seed: {options.seed}}}", "pruner={name: none}", "final={trials: 0}"]
    with tempfile.TemporaryDirectory(prefix="table-") as folder:
        storage, uri = (f"sqlite:///{folder}/{name}.db" for name in ("optuna", "mlflow"))
        where: dict[str, Any] = {"engine": "inline", "devices": "cpu", "per_device": 1}
        study = Study.from_yaml(options.study, f"budget={{trials: {options.trials}}}", *random)
        study.run(**where, fuse=options.fuse, storage=storage, tracking_uri=uri, review=False, rehearse=False)
        with open_study(storage, study.name) as stored:
            trials = [trial for trial in stored.trials if trial.state.is_finished()]
    epochs = max(len(trial.intermediate_values) for trial in trials)
    losses = [[trial.intermediate_values.get(epoch) for epoch in range(1, epochs + 1)] for trial in trials]
    content = {"params": [trial.params for trial in trials], "losses": losses}
    options.file.write_bytes(gzip.compress(json.dumps(content).encode()))


if __name__ == "__main__":
    main()
