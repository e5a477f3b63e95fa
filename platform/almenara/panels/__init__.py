"""Panels, the channels that keep them live, and their rendering."""
