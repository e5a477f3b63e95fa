"""Processors: run the parts of plugins that derive signals from the log."""
