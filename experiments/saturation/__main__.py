"""`python -m experiments.saturation`."""

from research.experiment import main

main("experiments.saturation")
