"""HTTP: checks of URLs as resources, samples, and events when they change."""
