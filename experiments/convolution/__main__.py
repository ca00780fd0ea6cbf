"""`python -m experiments.convolution`."""

from research.experiment import main

main("experiments.convolution")
