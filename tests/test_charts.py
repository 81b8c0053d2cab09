"""The plots of a study, from any record."""

import io
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import plotly.graph_objects
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from lightning_modules import SCHEDULES, CosineRestarts
from tuner.analysis.comparison import Comparison, Repeated
from tuner.analysis.findings import answer
from tuner.analysis.record import StudyRecord, TrialRecord, simplified
from tuner.direction import Direction
from tuner.visualization.charts import PLOTS, draw
from tuner.visualization.comparisons import of_comparison
from tuner.visualization.confusion import confusion_png, mistakes, most_confused
from tuner.visualization.figure import Figure, Scale
from tuner.visualization.landscape import contour, isolation, rank, slices
from tuner.visualization.matplotlib_backend import canvas, png
from tuner.visualization.parameters import MAX_AXES, parallel_coordinates
from tuner.visualization.parts import ACCENT, MAX_CURVES
from tuner.visualization.plotly_backend import drawing, to_div

FAMILIES = ("constant", "exponential", "cosine_restarts")
STEPS = 90


def trial(
    number: int, *, state: str = "complete", value: float | None = None, family: str = "", **changes
) -> TrialRecord:
    """Return a trial as in a study with one schedule of each family."""
    family = family or FAMILIES[number % 3]
    value = 0.9 + 0.05 * math.sin(number) if value is None else value
    initial_lr = 10 ** (-3 + number % 5 / 4)
    schedule = {
        "constant": SCHEDULES["constant"](),
        "exponential": SCHEDULES["exponential"](decay_rate=0.5, decay_steps=20),
        "cosine_restarts": CosineRestarts(restart_period=30),
    }.get(family, SCHEDULES["constant"]())
    params = {"optimizer.initial_lr": initial_lr, "schedule.name": family, "model.init": ("a", "b")[number % 2]}
    if family == "exponential":
        params["schedule.exponential.decay_steps"] = 20 + number
    steps = STEPS if state == "complete" else STEPS // 3
    curves = {"lr": [(step, initial_lr * schedule(step)) for step in range(steps)]}
    for key in ("train/acc", "val/acc"):
        curves[key] = [(step, value * (1 - math.exp(-step / 30))) for step in (30, 60, 90) if step <= steps]
    for key in ("train/loss", "val/loss"):
        curves[key] = [(step, math.exp(-step / 30)) for step in (30, 60, 90) if step <= steps]
    made = TrialRecord(
        number, state, family, value, steps // 30, 1.5, 2.0 * number + 2, params, family == "constant", "", curves
    )
    reported = [(step // 30, reached) for step, reached in curves["val/acc"]]
    return replace(made, **{"began": 2.0 * number, "reported": reported, **changes})


def study(trials: Sequence[TrialRecord], **changes) -> StudyRecord:
    importances = {"optimizer.initial_lr": 0.7, "schedule.name": 0.2, "schedule.exponential.decay_steps": 0.1}
    return replace(
        StudyRecord("some", "val/acc", Direction.MAXIMIZE, trials, {"optimizer.initial_lr": True}, importances),
        **changes,
    )


HOSTILE = "<img src=x onerror=alert(1)>$\\frac{"
RECORDS = {
    "usual": study(
        [trial(number, state=("complete", "complete", "pruned")[number % 4 % 3]) for number in range(24)],
        validation_images=500,
    ),
    "no trial": study([], importances={}),
    "one trial": study([trial(0)], importances={}),
    "two trials": study([trial(0), trial(1)], importances={}),
    "all pruned": study([trial(number, state="pruned") for number in range(4)], importances={}),
    "all failed at once": study([trial(0, state="failed", value=math.nan, curves={}, params={})], importances={}),
    "all of the same value": study([trial(number, value=0.5) for number in range(6)]),
    "one far worse": study([*(trial(number) for number in range(9)), trial(9, value=0.1)]),
    "a loss": study([trial(number) for number in range(9)], metric="val/loss", direction=Direction.MINIMIZE),
    "no curves": study([trial(number, curves={}) for number in range(6)]),
    "an lr of zero": study([trial(number, curves={"lr": [(0, 0.0), (1, 0.0)]}) for number in range(3)]),
    "one schedule, nothing searched": study([trial(number, family="constant", params={}) for number in range(3)]),
    "a choice of numbers and words": study(
        [trial(number, params={"x": value}) for number, value in enumerate([None, True, 1, "one", 1.5])]
    ),
    "one value near the largest float": study([trial(number, value=1.7e308 if number else 1.0) for number in range(6)]),
    "values at both ends": study([trial(number, value=(number - 2) * 8e307) for number in range(5)]),
    "values near zero": study([trial(number, value=5e-324 * 1000**number) for number in range(6)]),
    "hostile names": study([trial(number, family=HOSTILE, params={HOSTILE: HOSTILE}) for number in range(8)]),
}


def figure(name: str, record: StudyRecord) -> Figure:
    return next(figure for figure in draw(record) if figure.name == name)


def values_in(figure: Figure, mark: str) -> list[float]:
    return [y for panel in figure.panels for series in panel.series if series.mark == mark for y in series.y]


@pytest.mark.parametrize("kind", RECORDS)
def test_every_plot_takes_any_study_or_says_why_it_is_missing(kind: str):
    figures = draw(RECORDS[kind])
    assert len({figure.name for figure in figures}) == len(PLOTS)
    for figure in figures:
        assert figure.caption.endswith(".")
        if figure.panels:
            assert re.search(r"Plotly\.newPlot\(", to_div(figure))
        else:
            with pytest.raises(ValueError, match="nothing to draw"):
                png(figure)


def test_plotly_knows_every_property_of_a_figure():
    for figure in draw(RECORDS["usual"]):
        plotly.graph_objects.Figure(drawing(figure))  # raises a ValueError for another one


@pytest.mark.parametrize("name", [figure.name for figure in draw(RECORDS["usual"])])
def test_every_figure_can_be_rendered_as_a_picture(name: str):
    pixels = imread(io.BytesIO(png(figure(name, RECORDS["usual"]))))
    assert min(pixels.shape[:2]) > 200
    colors = (pixels * 255).astype(np.int64) @ (1, 1 << 8, 1 << 16, 1 << 24)
    assert len(np.unique(colors)) > 50, "nothing is drawn in it"


@pytest.mark.parametrize(("kind", "name"), [("hostile names", "families"), ("an lr of zero", "lr_curves")])
def test_names_that_look_like_formulas_and_rates_of_zero_can_be_drawn(kind: str, name: str):
    assert png(figure(name, RECORDS[kind])).startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["one value near the largest float", "values at both ends", "values near zero"])
@pytest.mark.parametrize("name", ["top_trials", "intermediate_values", "best_so_far", "parallel_coordinates"])
def test_values_of_any_size_can_be_drawn(kind: str, name: str):
    assert png(figure(name, RECORDS[kind])).startswith(b"\x89PNG")


def test_the_seeds_of_values_of_any_size_can_be_drawn():
    values = {"a": [1.7e308, -1.7e308, 1.0], "b": [1.6e308, 1.7e308, 1.5e308], "c": [5e-324, 0.0, 1e-310]}
    repeated = [Repeated(name, dict(enumerate(found))) for name, found in values.items()]
    drawn = of_comparison(Comparison("loss", Direction.MINIMIZE, repeated), "title")
    assert png(drawn).startswith(b"\x89PNG")
    assert "newPlot" in to_div(drawn)


def test_a_seed_that_is_far_worse_is_at_the_edge_of_a_comparison():
    usual = [Repeated(name, {seed: 0.97 - 0.01 * seed for seed in range(4)}) for name in "ab"]
    drawn = of_comparison(Comparison("acc", Direction.MAXIMIZE, [*usual, Repeated("c", {0: 0.97, 1: 0.1})]), "title")
    (panel,) = drawn.panels
    assert panel.x_range[0] > 0.5
    arrows = [series for series in panel.series if series.symbol == "triangle-left" and series.hover]
    assert "c\nseed 1: 0.1000" in [text for series in arrows for text in series.hover]
    assert all(set(series.x) == {panel.x_range[0]} for series in arrows)
    assert "beyond the axis" in [series.label for series in panel.series]
    assert "At the edge: 1 seed of c" in drawn.caption
    assert "At the edge" not in of_comparison(Comparison("acc", Direction.MAXIMIZE, usual), "title").caption


def test_the_error_of_the_validation_data_is_a_band_and_unknown_for_a_loss():
    record = study([trial(number) for number in range(9)], validation_images=500)
    for name in ("families", "isolation", "slices", "best_so_far", "top_trials", "winner"):
        (band, *_) = [each for panel in figure(name, record).panels for each in panel.series if each.mark == "band"]
        error = math.sqrt(record.best.value * (1 - record.best.value) / 500)
        assert max(band.upper) - min(band.y) >= 2 * error * 0.999
        assert "standard error" in band.label
    losses = replace(record, metric="val/loss", direction=Direction.MINIMIZE)
    assert not values_in(figure("families", losses), "band")


def test_each_curve_has_its_own_dashes_and_each_schedule_its_own_symbol():
    record = RECORDS["usual"]
    upper, lower = figure("top_trials", record).panels
    assert len({each.dash for each in upper.series}) == len(upper.series)
    assert [each.dash for each in upper.series] == [each.dash for each in lower.series if each.mark == "line"]
    (panel,) = figure("families", record).panels
    symbols = {each.label: each.symbol for each in panel.series if each.mark == "points"}
    assert len(set(symbols.values())) == len(FAMILIES)
    assert 'dash":"dot' in to_div(figure("lr_curves", record)), "pruned trials"


def test_a_straight_decay_is_a_curve_on_a_log_axis_and_ends_at_the_axis():
    high, low = ({"lr": [(0, lr), (STEPS - 1, 0.0)]} for lr in (0.1, 0.001))
    record = study([trial(0, curves=high), trial(3, curves=low)])
    (panel,) = figure("lr_curves", record).panels
    assert panel.log_y
    for series in panel.series:
        assert len(series.x) > 10
        assert list(series.x) == sorted(series.x)
        expected = [series.y[0] * (1 - step / (STEPS - 1)) for step in series.x]
        assert series.y == pytest.approx(expected)
        assert min(series.y) <= 1.5 * panel.y_range[0]


def test_every_epoch_of_every_trial_is_shown_also_of_pruned_ones():
    record = RECORDS["usual"]
    (panel,) = figure("intermediate_values", record).panels
    lines = [series for series in panel.series if series.mark == "line"]
    assert len(lines) == len(record.trials)
    assert {series.label for series in panel.series} == {"", f"best: #{record.best.number}", "pruned"}
    shown = sorted(y for series in lines for y in series.y)
    assert shown == sorted(value for each in record.trials for _, value in each.reported)


def test_isolation_joins_the_best_trials_of_each_part_of_a_range():
    record = RECORDS["usual"]
    (panel,) = [panel for panel in figure("isolation", record).panels if panel.x_label == "initial_lr"]
    (line,) = [series for series in panel.series if series.mark == "line"]
    lrs = {each.params["optimizer.initial_lr"] for each in record.ranking}
    assert list(line.x) == sorted(lrs)
    for lr, value in zip(line.x, line.y, strict=True):
        assert value == max(each.value for each in record.ranking if each.params["optimizer.initial_lr"] == lr)


@pytest.mark.parametrize(("drawn", "values"), [(contour, "val/acc"), (rank, "rank")])
def test_any_two_parameters_are_drawn_with_the_values_or_ranks_of_their_trials(drawn: Callable, values: str):
    trials = [trial(number) for number in range(12)]
    params = [each.params | {"a": number % 4 / 3, "b": 10.0 ** -(number // 4)} for number, each in enumerate(trials)]
    trials = [replace(each, params=values) for each, values in zip(trials, params, strict=True)]
    record = study(trials, searched={"b": True})
    found = drawn(record, "a", "b")
    (panel,) = found.panels
    assert (panel.x_label, panel.y_label, panel.log_x, panel.log_y) == ("a", "b", False, True)
    assert sum(len(series.x) for series in panel.series) == 12
    assert found.scale.label == values
    assert (panel.surface is None) == (values == "rank")
    assert len({color for series in panel.series for color in series.colors}) > 3
    assert [len(each.panels) for each in (drawn(record, "a", "model.init"), drawn(record))] == [1, 3]


def test_of_too_few_trials_charts_say_so_instead_of_showing_them():
    few = replace(RECORDS["usual"], trials=RECORDS["usual"].ranking[:3], importances={})
    wanting = {figure.name: figure.caption for figure in draw(few) if not figure.panels}
    assert {"importance", "isolation", "slices", "contour", "rank", "parallel_coordinates"} == wanting.keys()
    assert wanting["rank"] == "Too few trials: this needs 8 completed ones, and there are 3."


def test_the_timeline_shows_when_each_trial_ran_and_how_it_ended():
    record = RECORDS["usual"]
    (panel,) = figure("timeline", record).panels
    ends = {series.label: len(series.x) for series in panel.series if series.mark == "points"}
    assert ends == {state: sum(each.state == state for each in record.trials) for state in ("complete", "pruned")}
    spans = {
        (x, y) for series in panel.series if series.mark == "line" for x, y in zip(series.x, series.y, strict=True)
    }
    assert {(each.began, each.number) for each in record.trials} <= spans
    waited = replace(record, trials=[replace(record.trials[0], spans=[(1.0, 2.0), (8.0, 9.0)], ended=100.0)])
    line = next(series for series in figure("timeline", waited).panels[0].series if series.mark == "line")
    assert [x for x in line.x if x == x] == [1.0, 2.0, 8.0, 9.0], "without the time that it waited at a rung"


def test_nothing_is_left_out_without_a_word_on_where_to_find_it():
    curves = {"lr": [(0, 1.0), (50, 1e-7)]}
    low = study([trial(0, curves=curves), trial(3, curves={"lr": [(0, 0.1), (50, 0.1)]})])
    assert "Beyond the axis: learning rates below 0.0007; a double-click" in figure("lr_curves", low).caption
    names = [f"p{number}" for number in range(16)]
    many = study([trial(number, params=dict.fromkeys(names, number)) for number in range(8)], importances={})
    assert re.search("Left out, as the least important: .*p15", figure("parallel_coordinates", many).caption)
    assert re.search(r"For other pairs, including .*p15: result\.plot_contour", figure("contour", many).caption)


def test_with_few_curves_the_axes_show_their_first_epochs():
    reached = [(0.83, 0.87, 0.885), (0.84, 0.885, 0.9), (0.85, 0.86, 0.87), (0.85,), (0.84,)]
    curves = [[(epoch + 1, value) for epoch, value in enumerate(values)] for values in reached]
    few = study(
        [
            replace(trial(number), value=curve[-1][1], reported=curve, curves={"lr": [(0, 0.1)], "val/acc": curve})
            for number, curve in enumerate(curves)
        ]
    )
    for name in ("intermediate_values", "top_trials"):
        drawn = figure(name, few)
        low, high = drawn.panels[-1].y_range
        assert low < 0.83 < 0.9 < high, name
        assert "Beyond the" not in drawn.caption


def test_a_caption_names_all_that_is_beyond_its_axes_once():
    collapsed = study(
        [
            trial(number, curves={"lr": [(0, 1.0 if number else 0.1), (50, 1e-7)], "val/acc": [(9, low), (18, 0.9)]})
            for number, low in enumerate((0.91, 0.92, 0.9, 0.01))
        ]
    )
    caption = figure("top_trials", collapsed).caption
    named = " Beyond the axes: values that are far worse and learning rates below 0.0007; a double-click on the chart"
    assert caption.count("eyond the ax") == caption.count(named) == 1


def test_positive_values_over_many_powers_of_ten_are_on_a_log_axis():
    values = [10.0**-number for number in range(9)]
    record = study([trial(number, value=value) for number, value in enumerate(values)], direction=Direction.MINIMIZE)
    drawn = figure("best_so_far", record)
    for panel in drawn.panels:
        assert panel.log_y
        assert panel.y_range[0] < 1e-8 < 1.0 < panel.y_range[1]
    assert values_in(drawn, "crosses") == []
    assert png(drawn)
    assert to_div(drawn)
    assert not any(panel.log_y for panel in figure("best_so_far", RECORDS["a loss"]).panels)


def test_a_colour_bar_says_that_it_leaves_out_the_worst_quarter():
    assert figure("lr_curves", RECORDS["usual"]).scale.title == "val/acc, without the worst quarter"
    assert figure("lr_curves", RECORDS["two trials"]).scale.title == "val/acc"


def test_a_usual_study_has_every_plot():
    assert all(figure.panels for figure in draw(RECORDS["usual"]))


def test_a_picture_shows_the_curve_of_the_best_trial():
    pixels = imread(io.BytesIO(png(figure("lr_curves", RECORDS["usual"]))))[..., :3]
    accent = np.array([int(ACCENT[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    assert (np.abs(pixels - accent).max(axis=2) < 0.02).sum() > 100


def test_there_is_a_panel_for_each_schedule_and_the_best_trial_stands_out():
    record = RECORDS["usual"]
    panels = figure("lr_curves", record).panels
    assert {panel.title.split()[0] for panel in panels} == set(FAMILIES)
    (best,) = [series for panel in panels for series in panel.series if series.label]
    assert best.label == f"best: #{record.best.number}"
    assert best.color == ACCENT
    assert set(record.best.curves["lr"]) <= set(zip(best.x, best.y, strict=True))


def test_an_lr_that_jumps_is_drawn_as_a_jump_and_one_that_is_known_at_few_steps_as_a_line_between_them():
    curve = [(0, 0.1), (49, 0.1), (50, 0.01), (99, 0.0)]
    (panel,) = figure("lr_curves", study([trial(0, family="constant", curves={"lr": curve})])).panels
    assert list(zip(panel.series[0].x, panel.series[0].y, strict=True)) == [
        (0, 0.1), (49, 0.1), (50, 0.1), (50, 0.01), (99, 0.0)
    ]  # fmt: skip


def test_an_lr_that_falls_at_each_step_is_not_drawn_as_stairs():
    falling = [(0, 0.4), (6, 0.1), (7, 0.06), (8, 0.02), (9, 0.001)]
    (panel,) = figure("lr_curves", study([trial(0, family="cosine", curves={"lr": falling})])).panels
    assert list(zip(panel.series[0].x, panel.series[0].y, strict=True)) == falling


@pytest.mark.parametrize("best", [1.0, 0.999, 0.0])
def test_no_band_reaches_beyond_the_accuracies_that_are_possible(best: float):
    curves = {"lr": [(0, 0.1), (9, 0.1)], "val/acc": [(5, best), (10, best)]}
    record = study([trial(each, value=best, curves=curves) for each in range(9)], validation_images=30)
    bands = [each for drawn in draw(record) for panel in drawn.panels for each in panel.series if each.mark == "band"]
    assert bands
    assert all(0.0 <= y <= 1.0 for each in bands for y in (*each.y, *each.upper))


def test_steps_epochs_and_trials_have_whole_numbers_on_their_axes():
    """Of a single trial with one epoch, a library would label the tenths around it."""
    curves = {"lr": [(0, 0.1), (8, 0.1)], "val/acc": [(9, 0.4)], "train/acc": [(9, 0.3)]}
    record = study([trial(0, curves=curves, reported=[(1, 0.4)])], importances={})
    for name, parts in (("intermediate_values", "x"), ("winner", "x"), ("timeline", "y")):
        axes = canvas(figure(name, record)).axes
        axis = getattr(axes[0], f"{parts}axis")
        inside = [tick for tick in axis.get_majorticklocs() if min(axis.get_view_interval()) <= tick]
        assert inside
        assert all(tick == round(tick) for tick in inside), name
        assert '"dtick":1' in to_div(figure(name, record))
    all_or_none = study([trial(each, value=float(each % 2), curves={}) for each in range(6)])
    assert '"dtick":1' not in to_div(figure("families", all_or_none)), "an accuracy has tenths"
    one_epoch = [trial(number, curves={"lr": [(0, 0.1), (84, 0.0)], "val/acc": [(84, 0.9)]}) for number in range(3)]
    assert '"dtick":1' not in to_div(figure("top_trials", study(one_epoch))), "the lr above spans 84 steps"


def test_of_one_value_there_is_no_colour_bar():
    one = study([trial(0)], importances={})
    assert len(canvas(figure("lr_curves", one)).axes) == 1
    assert "colorbar" not in to_div(figure("lr_curves", one))
    assert "colorbar" in to_div(figure("lr_curves", RECORDS["usual"]))


def test_names_below_an_axis_do_not_touch_each_other():
    kinds = ("relu", "tanh", "leaky_relu_with_a_long_name", *(f"kind {index}" for index in range(9)))
    for count in (2, 3, 12):
        trials = [trial(each, params={"model.kind": kinds[each % count], "x": each / 12}) for each in range(12)]
        drawn = canvas(slices(study(trials)))
        drawn.draw_without_rendering()
        (axis,) = (each for each in drawn.axes if each.get_xlabel() == "kind")
        labels = axis.get_xticklabels()
        boxes = [label.get_window_extent() for label in labels]
        if labels[0].get_rotation() == 0:
            assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
        else:
            assert count > 2
            assert all(right.x1 - left.x1 > labels[0].get_fontsize() for left, right in itertools.pairwise(boxes))
        assert axis.get_xlim() == (-0.5, count - 0.5), "with room for the first and the last"


@pytest.mark.parametrize("high", [1.15, 2.0, 3.0, 5.1, 12.0, 700.0])
def test_a_log_axis_of_any_length_has_several_ticks(high: float):
    names = ["a", "b", "c", "d"]
    trials = [trial(each, params={"x": 0.81 * (high / 0.81) ** (each / 3)}) for each, _ in enumerate(names)]
    drawn = slices(study(trials, searched={"x": True}))
    axis = canvas(drawn).axes[0]
    low, top = axis.get_xlim()
    assert sum(low <= tick <= top for tick in axis.get_xticks()) >= 2
    layout = to_div(drawn)
    assert len(json.loads(re.search(r'"tickvals":(\[.*?\])', layout)[1])) >= 2 if "tickvals" in layout else high > 80


def test_a_box_is_the_same_in_the_browser_as_in_a_picture():
    values = [0.0595, 0.0613, 0.0653, 0.0691, 0.361]
    trials = [trial(each, family="constant", value=value) for each, value in enumerate(values)]
    div = to_div(figure("families", study(trials, metric="val/loss", direction=Direction.MINIMIZE)))
    assert '"q1":[0.0613]' in div
    assert '"median":[0.0653]' in div
    assert '"q3":[0.0691]' in div
    assert '"upperfence":[0.0691]' in div, "0.361 is an outlier"


def test_long_names_of_classes_do_not_overlap_in_the_picture_of_mistakes():
    name = "white-throated rhinoceros hornbill"
    drawn = mistakes(np.zeros((13, 8, 8)), [f"{name},\nnot {name}\n(84%)"] * 13, "worst mistakes")
    drawn.draw_without_rendering()
    boxes = [text.get_window_extent() for axis in drawn.axes for text in axis.texts]
    assert len(boxes) == 13
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= drawn.bbox.x1


def test_of_a_thousand_classes_the_confusion_matrix_shows_those_with_the_most_mistakes():
    counts = np.diag(np.full(1000, 50))
    counts[3, 7] = counts[998, 2] = 5
    pixels = imread(io.BytesIO(confusion_png(counts.tolist(), "many")))
    assert max(pixels.shape[:2]) < 3000
    assert {2, 3, 7, 998} <= set(most_confused(counts.tolist()))


def test_a_schedule_has_one_colour_in_all_charts_that_show_schedules():
    record = study([trial(number) for number in range(3)])
    of_each = {each.label.split()[1]: each.color for each in figure("best_of_each", record).panels[0].series}
    points = {each.label: each.color for each in figure("families", record).panels[0].series if each.label}
    assert of_each == points
    assert ACCENT not in points.values(), "it is for the best trial"


def test_a_parameter_with_one_value_has_one_label():
    record = study([trial(number) for number in range(4)])
    notes = [text for *_, text in figure("parallel_coordinates", record).panels[0].notes]
    assert notes.count("21") == 1


def test_pruned_trials_are_grey_and_as_long_as_they_were():
    record = study([trial(0), trial(3, state="pruned")])
    (panel,) = figure("lr_curves", record).panels
    assert [(series.color, len(series.x)) for series in panel.series if not series.label] == [
        ("#8a919c", STEPS // 3),
        ("#21918c", STEPS),
    ]


def test_of_many_trials_the_worst_curves_are_left_out_with_a_remark():
    record = study([trial(number, value=number / 1000) for number in range(MAX_CURVES + 10)])
    drawn = figure("lr_curves", record)
    assert sum(len(panel.series) for panel in drawn.panels) == MAX_CURVES + 1
    assert "the 10 worst trials" in drawn.caption


@pytest.mark.parametrize("kind", ["usual", "a loss"])
def test_the_best_so_far_only_gets_better_and_ends_at_the_best(kind: str):
    record = RECORDS[kind]
    for panel in figure("best_so_far", record).panels:
        (line,) = [series for series in panel.series if series.mark == "steps"]
        badness = [record.direction.sort_key(value) for value in line.y]
        assert badness == sorted(badness, reverse=True)
        assert line.y[-1] == record.best.value
        assert list(line.x) == sorted(line.x)


def test_a_trial_far_worse_than_the_others_is_a_cross_at_the_edge_and_does_not_press_them_together():
    drawn = figure("families", RECORDS["one far worse"])
    assert len(values_in(drawn, "points")) == 9
    (cross,) = values_in(drawn, "crosses")
    low, high = drawn.panels[0].y_range
    assert cross == low > 0.5
    assert all(low < value < high for value in values_in(drawn, "points"))
    assert "1 trial far worse" in drawn.caption


def test_a_parameter_that_a_schedule_does_not_have_is_at_the_bottom():
    record = RECORDS["usual"]
    panel = figure("parallel_coordinates", record).panels[0]
    (column,) = [at for at, name in panel.x_ticks.items() if name == "exponential\ndecay_steps"]
    for series in panel.series:
        if series.hover:
            has_it = "exponential" in series.hover[0].partition("\n")[0]
            assert (series.y[int(column)] >= 0) == has_it


def test_the_slice_of_a_parameter_holds_only_the_trials_that_have_it():
    record = RECORDS["usual"]
    (panel,) = [panel for panel in figure("slices", record).panels if panel.x_label == "exponential decay_steps"]
    having = [trial for trial in record.ranking if trial.family == "exponential"]
    assert sum(len(series.x) for series in panel.series if series.mark == "points") == len(having) > 1


def test_html_in_names_is_shown_literally():
    markup = "".join(to_div(drawn) for drawn in draw(RECORDS["hostile names"]) if drawn.panels)
    texts = [json.loads(text) for text in re.findall(r'"[^"]*img src[^"]*"', markup)]
    assert len(texts) > 20
    assert all("&lt;img" in text and "<img" not in text for text in texts)
    assert "<img" not in markup


def test_a_record_survives_json():
    record = RECORDS["usual"]
    again = StudyRecord.from_json(json.loads(json.dumps(record.values())))
    assert [figure.caption for figure in draw(again)] == [figure.caption for figure in draw(record)]
    assert [trial.number for trial in again.ranking] == [trial.number for trial in record.ranking]


def test_of_equal_values_the_earlier_trial_ranks_first_and_pruned_ones_never():
    record = study([trial(0, value=0.5), trial(1, value=0.9, state="pruned"), trial(2, value=0.7), trial(3, value=0.7)])
    assert [trial.number for trial in record.ranking] == [2, 3, 0]
    assert [trial.number for trial in replace(record, direction=Direction.MINIMIZE).ranking] == [0, 2, 3]


def test_colors_are_those_of_the_scale_in_both_directions():
    assert Scale("x", 0.0, 1.0).color(1.0) == Scale("x", 1.0, 0.0).color(0.0) == Scale.STOPS[-1]
    assert Scale("x", 0.0, 1.0).color(0.5) == Scale.STOPS[2]
    assert Scale("x", 0.5, 0.5).color(0.5) == Scale.STOPS[2]


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60), st.floats(0.001, 0.2))
def test_a_simplified_curve_is_close_to_the_curve_everywhere(values: list[float], tolerance: float):
    curve = list(enumerate(values))
    kept = simplified(curve, tolerance)
    assert set(kept) <= set(curve)
    between = np.interp([step for step, _ in curve], [step for step, _ in kept], [value for _, value in kept])
    assert np.all(np.abs(between - values) <= tolerance * np.array(values) * (1 + 1e-9) + 1e-12)


def test_of_a_schedule_in_steps_only_the_corners_are_kept():
    curve = [(step, 0.1 * 0.5 ** (step // 50)) for step in range(150)]
    assert simplified(curve, 0) == [(0, 0.1), (49, 0.1), (50, 0.05), (99, 0.05), (100, 0.025), (149, 0.025)]


def test_of_hundreds_of_categories_an_axis_names_some():
    def named(count: int) -> StudyRecord:
        return study([trial(each, params={**trial(each).params, "model.kind": f"k{each:03}"}) for each in range(count)])

    for chart in (slices, isolation, parallel_coordinates):
        figure = chart(named(200))
        labels = [[*(panel.x_ticks or {}).values(), *(text for *_, text in panel.notes)] for panel in figure.panels]
        kinds = [[text for text in each if re.fullmatch(r"k\d+", text)] for each in labels]
        (kinds,) = filter(None, kinds)
        assert len(kinds) == 10
        assert (min(kinds), max(kinds)) == ("k000", "k199")
        assert "10 have a label; point at a trial for its own." in figure.caption
        few = chart(named(30))
        assert "have a label" not in few.caption
        assert sum(text == "k017" for panel in few.panels for text in (
            *(panel.x_ticks or {}).values(), *(text for *_, text in panel.notes))) == 1  # fmt: skip


def test_a_caption_says_nothing_about_categories_that_its_chart_does_not_show():
    record = study([trial(each, params={**trial(each).params, "model.kind": f"k{each:03}"}) for each in range(200)])
    assert "have a label" not in contour(record).caption
    assert "10 have a label" in rank(record, "model.kind", "optimizer.initial_lr").caption
    numbers = {f"model.n{index}": 0.01 for index in range(MAX_AXES)}
    many = replace(
        study([replace(each, params={**each.params, **numbers}) for each in record.trials]),
        importances=dict.fromkeys([*numbers, "optimizer.initial_lr", "schedule.name"], 0.05),
    )
    figure = parallel_coordinates(many)
    assert "kind" in figure.caption.partition("Left out, as the least important: ")[2]
    assert "have a label" not in figure.caption


def test_a_trial_that_ties_in_the_sentences_lies_in_the_band_of_the_charts():
    trials = [trial(number, value=value) for number, value in enumerate((0.9, 0.873, 0.872))]
    record = study(trials, validation_images=500)
    assert answer(record).endswith("in a tie with #1 exponential: differences up to 0.027 may be chance.")
    panels = [panel for figure in draw(record) for panel in figure.panels]
    bands = [series for panel in panels for series in panel.series if "a tie with the best" in series.label]
    assert len(bands) >= 3
    for band in bands:
        assert min(band.y) == pytest.approx(0.873)
