"""`python -m experiments.optimizers`."""

from research.experiment import main

main("experiments.optimizers")
