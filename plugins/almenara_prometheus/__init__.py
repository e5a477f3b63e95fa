"""Prometheus: what any `/metrics` page says, as samples and resources."""
