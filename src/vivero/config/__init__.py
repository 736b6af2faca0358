"""Settings: the schema of params.yaml, the environment, and where things lie."""
