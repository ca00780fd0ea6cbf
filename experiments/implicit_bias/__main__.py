"""`python -m experiments.implicit_bias`."""

from research.experiment import main

main("experiments.implicit_bias")
