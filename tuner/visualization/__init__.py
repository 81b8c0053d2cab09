"""Figures of studies, and the two back ends that draw them: matplotlib and plotly."""
