"""`python -m experiments.losses`."""

from research.experiment import main

main("experiments.losses")
