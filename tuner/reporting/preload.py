"""Prepares the process of the last update: imports modules, and does for the first time what then takes longest."""

import importlib

from tuner.process import gc_paused

with gc_paused():
    for module in (
        *("tuner.storage.reader", "tuner.tracking.tracker", "tuner.visualization.charts"),
        "tuner.visualization.confusion",
    ):
        importlib.import_module(module)

    from tuner.reporting.page import template
    from tuner.tracking.reader import prepare_to_write
    from tuner.visualization.figure import Figure, Panel, Series
    from tuner.visualization.matplotlib_backend import png
    from tuner.visualization.plotly_backend import to_div

    prepare_to_write()
    template()
    first = Figure("first", "a title", "", [Panel([Series([0.0, 1.0], [0.0, 1.0], label="a label")], "a title")])
    to_div(first)
    png(first)
