"""Figures of studies, and the two libraries that draw them."""
