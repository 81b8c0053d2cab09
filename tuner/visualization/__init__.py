"""Figures of studies, and the two back ends that draw them: matplotlib and plotly.

The charts of a study are listed in ``charts.py``, and defined by topic: lr curves in ``curves.py``, the objective over
one or two parameters in ``landscape.py``, all parameters at once in ``parameters.py``, the course of a study in
``progress.py``, several objectives in ``tradeoffs.py``. ``figure.py`` has the panels and series that they return;
``study_plots.py`` has the charts as methods of `Result`.
"""
