"""Judging images and models: features, distances with intervals, plots, drift tests."""
