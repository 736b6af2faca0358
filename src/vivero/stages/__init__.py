"""One module per stage: `python -m vivero.stages.NAME` reads params.yaml and runs it."""
