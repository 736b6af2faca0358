"""Images on disk: sources, shards, the manifest and its contract, splits, prepared arrays."""
