"""What the chart's tests share: rendering, a root file system, nodes and releases."""
