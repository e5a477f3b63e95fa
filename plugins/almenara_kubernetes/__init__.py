"""Kubernetes: pods, workloads, nodes and the rest as resources, what happens to them as events."""
