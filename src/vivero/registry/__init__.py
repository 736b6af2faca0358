"""Bundles, model cards, the gate, and the MLflow registry with its aliases."""
