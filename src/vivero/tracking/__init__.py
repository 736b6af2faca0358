"""What is remembered of a run: a local journal, its mirror in MLflow, and lineage."""
