"""What the published theorems predict, computed without the runs.

An oracle shares nothing with a run but the data: closed form, linear or convex program, root or quadrature in
float64 NumPy and SciPy, and no JAX anywhere. It is certified before it judges: it measures its own optimality (a
primal-dual gap, a stationarity or fixed-point residual) against the bound in its docstring and returns NaN in every
entry where the bound is not met or the problem has no solution, so that a finding built on it becomes void. NaN in the
data gives NaN; any other input that an oracle cannot take raises ValueError with the argument's name.

The annotations are the labels: the dimension names in them are how an oracle is lifted over a labelled data set.
"""
