"""Time to open the pages of a study of a thousand trials in Chromium, and to make its plots and report.

The study is in real stores, written by the tuner's own store and tracker: parameters from the sampler, each trial's lr
at every step, and values from a formula (nothing is trained). Then `python -m tuner.dashboard` serves it, and each page
is opened several times in a new, empty browser. A page is "usable" when its main content is there:

- runs: the study is in the list, its trials are counted;
- study: the findings and the links to the trials are there;
- trial: the lr curve is drawn;
- report: all its plots are drawn.

Run it on an idle machine:  python benchmarks/many_trials.py --trials 1000
"""

import argparse
import contextlib
import hashlib
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from optuna.trial import TrialState
from playwright.sync_api import Browser, Page, sync_playwright

from tuner.analysis.findings import answer, findings
from tuner.config.loader import load_study
from tuner.config.study import StudyConfig
from tuner.config.trainings import as_training
from tuner.config.trial import TrialConfig
from tuner.protocol import TrialResult
from tuner.reporting.review import Review
from tuner.storage.study_store import StudyStore
from tuner.tracking.tracker import Tracker

NAME = "many-trials"
EPOCHS = 5
STORAGE, TRACKING = "sqlite:///optuna.db", "sqlite:///mlflow.db"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
MINUTE = 60_000


def study(trials: int) -> StudyConfig:
    return load_study(
        str(Path(__file__).parent / "four_schedules.yaml"),
        [f"name={NAME}", f"budget.trials={trials}", "sampler={name: random, seed: 0}", "pruner={name: none}"],
    )


def result_of(number: int, config: TrialConfig, steps: int) -> TrialResult:
    """Return a plausible result of a trial: best at an initial lr of 1.5e-3, with some noise."""
    schedule, initial_lr = config.schedule.build("schedule"), config.optimizer.arguments["initial_lr"]
    factor = getattr(schedule, "schedule", schedule)
    points = [("lr", step, initial_lr * factor(step)) for step in range(steps)]
    noise = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:4]) / 2**32
    worse = 0.004 * math.log10(initial_lr / 1.5e-3) ** 2 + 0.004 * noise
    for epoch in range(1, EPOCHS + 1):
        at, error = epoch * steps // EPOCHS, worse + 0.05 / epoch**2
        points += [("train/acc", at, 1 - 1.2 * error), ("val/acc", at, 1 - error)]
        points += [("train/loss", at, 3.5 * error), ("val/loss", at, 3 * error)]
    return TrialResult("complete", points[-3][2], EPOCHS, 60.0, points=points, device="none")


def build(trials: int, steps: int) -> None:
    """Write the study to the stores in this folder."""
    config = study(trials)
    with StudyStore.open(config, STORAGE, config.identity, print) as store:
        tracker = Tracker(config, TRACKING, store.identifier, print)
        table = []
        for _ in range(trials):
            number, trial = store.ask()
            result = result_of(number, as_training(trial), steps)
            attributes = {"state": "complete", "epochs": EPOCHS, "seconds": result.seconds}
            store.finish(number, TrialState.COMPLETE, result.value, attributes)
            tracker.start_trial(number, trial)
            tracker.finish_trial(number, trial, result)
            table.append({"number": number, "state": "complete", "value": result.value})
        best = store.ranking()[0]
        summary = {"number": best.number, "params": best.params, "config": store.config_of(best).values()}
        record = store.record()
        tracker.log_study(table, summary, answer(record), findings(record))
        if not tracker.close("FINISHED", patience=600):
            raise SystemExit("MLflow did not take all records")


@contextlib.contextmanager
def dashboard() -> Iterator[str]:
    """Serve MLflow and return the address of the study's page."""
    command = [sys.executable, "-m", "tuner.dashboard", NAME, "--no-open", "--tracking-uri", TRACKING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise SystemExit("no output")
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def seconds_to_open(browser: Browser, address: str, usable: Callable[[Page], object], rounds: int) -> list[float]:
    """Return the times that a page takes to open in an empty browser."""
    seconds = []
    for _ in range(rounds):
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        context.set_default_timeout(5 * MINUTE)
        page = context.new_page()
        began = time.perf_counter()
        page.goto(address)
        usable(page)
        seconds.append(time.perf_counter() - began)
        context.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=500, help="steps of each trial")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder of the study, which is kept (default: a temporary folder)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    rows: list[tuple[str, list[float]]] = []
    if not Path("mlflow.db").exists():
        began = time.perf_counter()
        build(options.trials, options.steps)
        rows.append(("write the study into the stores", [time.perf_counter() - began]))
    state = Path(".tuner", NAME)
    for _ in range(options.rounds):
        began = time.perf_counter()
        if notes := Review(STORAGE, NAME, TRACKING, state).finish(None, "measured"):
            raise SystemExit(str(notes))
        rows.append(("draw all plots and the report, and put them into MLflow", [time.perf_counter() - began]))
    (report,) = Path("mlruns").rglob("report.html")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright, dashboard() as study_page:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        run = study_page.partition("?")[0]
        runs = run.rpartition("/")[0]
        pages: dict[str, tuple[str, Callable[[Page], object]]] = {
            "runs": (runs, lambda page: page.get_by_text("matching runs").filter(has_text="1").wait_for()),
            "study": (study_page, lambda page: page.get_by_text("better than").first.wait_for()),
            "trial": (
                f"{runs}/{trial_run(0)}/model-metrics",
                lambda page: page.locator(".scatterlayer path.js-line").first.wait_for(),
            ),
            "report in MLflow": (
                f"{run}/artifacts/report.html",
                lambda page: page.frame_locator("iframe").locator("[data-plot=best_so_far] .main-svg").first.wait_for(),
            ),
            "report": (
                report.resolve().as_uri(),
                lambda page: page.locator("[data-plot=best_so_far] .main-svg").first.wait_for(),
            ),
        }
        for name, (address, usable) in pages.items():
            rows.append((name, seconds_to_open(browser, address, usable, options.rounds)))
        browser.close()
    print(f"{options.trials} trials of {options.steps} steps; report.html has {report.stat().st_size / 1e6:.1f} MB\n")
    print("| | median s | lowest | highest |\n|---|---|---|---|")
    for name in dict(rows):
        seconds = [each for label, values in rows if label == name for each in values]
        print(f"| {name} | {statistics.median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f} |")
    if options.folder is None:
        shutil.rmtree(folder)


def trial_run(number: int) -> str:
    """Return the id of a trial's run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=TRACKING)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.`tuner.trial` = '{number}'")
    return str(run.info.run_id)


if __name__ == "__main__":
    main()
