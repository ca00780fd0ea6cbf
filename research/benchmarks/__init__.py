"""How fast a sweep is, measured against its rivals side by side; `python -m experiments.throughput` runs it all."""
