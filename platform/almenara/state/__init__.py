"""Current state: the latest known resources and their samples."""
