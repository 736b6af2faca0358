"""An empty MLflow for the registry."""

from tests.mlflow_stores import root, server  # noqa: F401
