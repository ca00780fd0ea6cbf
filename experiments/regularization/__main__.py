"""`python -m experiments.regularization`."""

from research.experiment import main

main("experiments.regularization")
