"""Kubernetes: what runs, where, how well, and what just changed."""
