"""Alerting: notifications about the alerts on the bus."""
