"""Small problems in NumPy for the tests of the oracles."""

import numpy as np


def regression(seed=0, samples=8, features=20):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, features)), random.normal(size=samples)


def classification(seed=0, samples=12, features=6):
    random = np.random.default_rng(seed)
    X = random.normal(size=(samples, features))
    return X, np.sign(X @ random.normal(size=features))


def overlapping(seed=0, samples=60, features=4):
    random = np.random.default_rng(seed)
    X = random.normal(size=(samples, features))
    return X, np.sign(X @ random.normal(size=features) + 2 * random.normal(size=samples))
