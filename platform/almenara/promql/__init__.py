"""A part of Prometheus' query language over stored samples, for Grafana and other clients.

https://prometheus.io/docs/prometheus/latest/querying/basics/
"""
