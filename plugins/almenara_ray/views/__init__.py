"""What the panels of the plugin display: a `prepare` function for each template."""
