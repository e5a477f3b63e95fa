"""Remote write: samples are also sent to a Prometheus, VictoriaMetrics or Mimir."""
