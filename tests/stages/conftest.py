"""An empty MLflow for the stages that ask it."""

from tests.mlflow_stores import root, server  # noqa: F401
