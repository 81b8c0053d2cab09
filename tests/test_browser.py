"""MLflow's pages of a study, and its report, in a real browser."""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.launcher import Command
from tests.studies import StudyFolder
from tests.test_charts import study as study_of
from tests.test_charts import trial as recorded
from tests.test_report import make_hostile, report
from tests.test_review import artifacts
from tuner.direction import Direction
from tuner.reporting.page import Chapter, render
from tuner.visualization.charts import draw

SECONDS = 60_000
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        path = next((found for name in NAMES if (found := shutil.which(name))), str(own) if own.exists() else None)
        if path is None:
            reason = "no Chromium on this machine: apt-get install chromium, or playwright install chromium"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Return a context whose pages share a cache: MLflow's pages load megabytes of scripts."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(SECONDS)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    page = context.new_page()
    yield page
    page.close()


@pytest.fixture(scope="module")
def dashboard(reviewed: StudyFolder) -> Iterator[str]:
    """Return the URL of the study's run that `python -m tuner.dashboard tiny` prints."""
    # Another process of the tests may start a dashboard at the same time, and find the usual port free, too.
    options = ["tiny", "--no-open", "--port", "0", "--tracking-uri", "sqlite:///mlflow.db"]
    process = Command("tuner.dashboard", options, reviewed.path, os.environ)
    yield next(line.strip() for line in process.stdout if line.startswith("http"))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def runs(reviewed: StudyFolder) -> dict[str, str]:
    """Return the ids of the runs, by their names."""
    return {name: run for run, name in reviewed.mlflow("select run_uuid, name from runs")}


def best_name(runs: dict[str, str], reviewed: StudyFolder) -> str:
    ((best,),) = reviewed.mlflow("select value from tags where key = 'tuner.best_run_id'")
    return next(name for name, run in runs.items() if run == best)


@pytest.fixture(scope="module")
def listed(dashboard: str) -> str:
    """Return the page that lists all runs."""
    return dashboard.partition("?")[0].rpartition("/")[0]


@pytest.mark.slow
def test_the_list_of_runs_has_the_study_and_its_trials(page: Page, listed: str, runs: dict[str, str]):
    page.goto(listed)
    expect(page.get_by_text("matching runs")).to_contain_text("5", timeout=SECONDS)
    study = page.locator(".ag-cell-wrapper", has=page.get_by_role("link", name="tiny", exact=True))
    study.get_by_role("button").click()  # the plus before its name
    for name in runs:
        expect(page.get_by_text(name, exact=True).last).to_be_visible(timeout=SECONDS)


def test_the_study_s_run_describes_the_winner_and_links_to_it(
    page: Page, dashboard: str, runs: dict[str, str], reviewed: StudyFolder
):
    page.goto(dashboard)
    expect(page.get_by_text("better than the runner-up")).to_be_visible(timeout=SECONDS)
    expect(page.get_by_text("one run with one seed")).to_be_visible()
    for name in runs.keys() - {"tiny"}:
        expect(page.get_by_role("link", name=name)).to_be_visible()
    page.goto(page.get_by_role("link", name="The best trial").evaluate("link => link.href"))  # it opens a tab
    expect(page.get_by_role("heading", name=best_name(runs, reviewed))).to_be_visible(timeout=SECONDS)


@pytest.mark.slow
def test_all_trials_are_a_click_away_the_best_first(
    page: Page, dashboard: str, runs: dict[str, str], reviewed: StudyFolder
):
    page.goto(dashboard)
    page.goto(page.get_by_role("link", name="All trials").evaluate("link => link.href"))
    for column in ("val/acc", "optimizer.initial_lr", "schedule.name", "schedule.decay_rate"):
        expect(page.get_by_role("columnheader", name=column, exact=True).first).to_be_visible(timeout=SECONDS)
    page.goto(dashboard)
    page.goto(page.get_by_role("link", name="Their charts").evaluate("link => link.href"))
    names = page.locator(".ag-cell-wrapper").get_by_role("link", name=re.compile("^#"))
    expect(names).to_have_count(len(runs) - 1, timeout=SECONDS)
    shown = sorted(names.all(), key=lambda name: name.bounding_box()["y"])
    assert shown[0].inner_text() == best_name(runs, reviewed)
    charts = page.locator(".js-plotly-plot")
    expect(charts.first).to_be_visible(timeout=SECONDS)
    expect(page.get_by_text("lr and objective")).to_be_visible()
    expect(page.get_by_text("Trials of tiny")).to_be_visible()
    ticks = [float(text) for text in charts.first.locator(".ytick").all_text_contents()]
    assert {1, 2, 5} == {int(f"{tick:.0e}"[0]) for tick in ticks}, "the lr is on a log axis"
    expect(page.get_by_text("test/acc")).to_have_count(0)  # of one point


@pytest.mark.slow
def test_a_trial_s_run_draws_its_lr_and_its_accuracy(
    page: Page, listed: str, runs: dict[str, str], reviewed: StudyFolder
):
    page.goto(f"{listed}/{runs[best_name(runs, reviewed)]}/model-metrics")
    search = page.get_by_placeholder("Search metric charts")
    for metric in ("lr", "val/acc"):
        search.fill(f"^{metric}$")
        chart = page.locator(".js-plotly-plot")
        expect(chart).to_have_count(1, timeout=SECONDS)
        line = chart.locator(".scatterlayer .trace path.js-line").first
        expect(line).to_have_attribute("d", re.compile(r"^M.*[LHV].*"), timeout=SECONDS)  # a curve, not a point


@pytest.mark.slow
def test_the_artifacts_of_the_study_s_run_are_pictures_and_a_report(page: Page, listed: str, runs: dict[str, str]):
    page.goto(f"{listed}/{runs['tiny']}/artifacts")
    page.get_by_text("plots", exact=True).click()
    page.get_by_text(re.compile(r"_lr_curves\.png$")).first.click()
    picture = page.locator("img[src*='lr_curves'], img[src^='blob:']").first
    expect(picture).to_be_visible(timeout=SECONDS)
    page.wait_for_function("image => image.naturalWidth > 500", arg=picture.element_handle())
    page.get_by_text("report.html", exact=True).first.click()
    frame = page.frame_locator("iframe").first
    expect(frame.get_by_role("heading", name="Leaderboard")).to_be_visible(timeout=SECONDS)
    expect(frame.locator(".js-plotly-plot").first).to_be_visible(timeout=SECONDS)


@pytest.mark.slow
def test_the_registered_model_is_the_champion(page: Page, dashboard: str):
    page.goto(f"{dashboard.partition('/#/')[0]}/#/models/tiny")
    expect(page.get_by_text("@ champion")).to_be_visible(timeout=SECONDS)


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "dark"),
        pytest.param(1400, "light", marks=pytest.mark.slow),
        pytest.param(1400, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)
def test_a_report_can_be_read_offline_in_light_and_dark_and_on_a_phone(
    browser: Browser, reviewed: StudyFolder, scheme: str, width: int
):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((artifacts(reviewed) / "report.html").as_uri())
    expect(page.locator("h1", has_text="tiny")).to_be_visible()
    drawn = page.locator("section.plot .js-plotly-plot")
    assert drawn.count() >= 6
    for index in range(drawn.count()):
        assert drawn.nth(index).locator(".trace path").count() > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    chart = page.locator("[data-plot=families] .js-plotly-plot")
    chart.scroll_into_view_if_needed()
    chart.locator(".scatterlayer .point").first.hover(force=True)
    expect(page.locator(".hoverlayer .hovertext").first).to_contain_text(re.compile(r"#\d .* val/acc 0\.\d"))
    assert complaints == []
    context.close()


def test_hostile_names_are_harmless_in_a_browser(page: Page, reviewed: StudyFolder, tmp_path: Path):
    name = make_hostile(reviewed, tmp_path)
    (tmp_path / "hostile.html").write_text(report(StudyFolder(tmp_path), name))
    page.goto((tmp_path / "hostile.html").as_uri())
    expect(page.locator("h1", has_text="onerror")).to_be_visible()
    page.locator("[data-plot=families] .scatterlayer .point").first.hover(force=True)
    assert page.title() != "taken"


@pytest.mark.parametrize(("objectives", "of_function"), [(1, False), (1, True), (4, False)])
def test_no_number_in_a_leaderboard_is_broken_on_a_phone(page: Page, objectives: int, of_function: bool):
    params = {"optimizer.eps": 3.011e-11, "model.activation": "relu", "optimizer.initial_lr": 0.0123}
    trials = [recorded(each, family="warmup_stable_decay", params=params) for each in range(100, 112)]
    further = [
        ("parameters", Direction.MINIMIZE),
        ("train/seconds", Direction.MINIMIZE),
        ("val/loss", Direction.MINIMIZE),
    ]
    trials = [replace(each, further=(18442.0, 1.2848, 0.1488)[: objectives - 1]) for each in trials]
    record = study_of(trials, further=further[: objectives - 1], of_function=of_function)
    page.set_viewport_size({"width": 400, "height": 900})
    page.set_content(render([Chapter(record, {}, "", {}, {}, False, draw(record))]))
    cells = page.locator(".leaderboard tbody td:not(.values), .leaderboard td.values span")
    assert cells.count() >= 12 * 8
    lines = cells.evaluate_all(
        """cells => cells.map(cell => { const range = document.createRange(); range.selectNodeContents(cell);
        return [cell.innerText, new Set([...range.getClientRects()].map(each => Math.round(each.top))).size]; })"""
    )
    assert not [text for text, count in lines if count > 1 and "warmup" not in text]


def test_every_category_below_the_last_panel_of_a_row_has_its_label(page: Page):
    choices = {
        "model.init": ("a", "b"),
        "model.activation": ("relu", "tanh"),
        "model.norm": ("constant", "one_cycle", "exponential", "warmup_stable_decay"),
    }
    trials = [
        recorded(each, params={name: names[each % len(names)] for name, names in choices.items()}) for each in range(8)
    ]
    record = study_of(trials)
    figures = [figure for figure in draw(record) if figure.name in ("isolation", "slices")]
    page.set_content(render([Chapter(record, {}, "", {}, {}, False, figures)]))
    for figure in figures:
        assert list((figure.panels[2].x_ticks or {}).values()) == sorted(choices["model.norm"])
        labels = page.locator(f'[data-plot="{figure.name}"] .x3tick text')
        expect(labels).to_have_count(4)
        for index in range(4):
            expect(labels.nth(index)).to_be_visible()
