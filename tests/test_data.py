"""The planted structure is really there, in both widths, and the claims about the real sets hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from research import data

KEY = jax.random.key(0)


def separates(X, y):
    """Whether some w has y (x·w) > 0 on every sample: the widest margin with every |w| <= 1, by a linear program."""
    signed_inputs = np.asarray(X, float) * np.asarray(y, float)[:, None]
    samples, features = X.shape
    program = linprog(
        np.append(np.zeros(features), -1),
        A_ub=np.column_stack([-signed_inputs, np.ones(samples)]),
        b_ub=np.zeros(samples),
        bounds=[(-1, 1)] * features + [(None, None)],
    )
    assert program.status == 0, program.message
    return (signed_inputs @ program.x[:-1]).min() > 1e-5


@pytest.fixture(params=[False, True], ids=["float32", "float64"])
def width(request):
    with jax.enable_x64(request.param):
        yield jnp.float64 if request.param else jnp.float32


def draw_all(key, number=0.2, ratio=3.0):
    X = jax.random.normal(key, (4, 3))
    return {
        "independent": data.gaussian_regression(key, 6, 4),
        "regression": data.gaussian_regression(key, 6, 9, condition_number=ratio, noise=number),
        "separable": data.separable_classification(key, 6, 4, margin=number, condition_number=ratio),
        "overlapping": data.overlapping_classification(key, 6, 2, flipped=number, margin=number),
        "matrix": data.low_rank_matrix(key, 5, 4, 2, condition_number=ratio),
        "mask": data.observed_mask(key, 5, 4, 7),
        "features": data.random_features(key, X, 5, bandwidth=ratio),
        "subset": data.balanced_subset(key, np.arange(40) % 2, 9),
    }


def test_planted_problems_follow_the_default_width(width):
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(draw_all, KEY))]
    assert {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)} == {jnp.dtype(width)}


def test_planted_problems_are_pure_and_trace_over_key_and_floats():
    one, other = jax.random.split(KEY)
    keys = jnp.stack([one, one, other, one])
    numbers, ratios = jnp.array([0.1, 0.1, 0.1, 0.3]), jnp.array([3.0, 3.0, 3.0, 10.0])
    jax.eval_shape(jax.vmap(draw_all), keys, numbers, ratios)
    with_floats = ("regression", "separable", "overlapping", "matrix", "features")
    draw = jax.vmap(lambda *given: {name: draw_all(*given)[name] for name in with_floats})
    drawn = jax.jit(draw)(keys, numbers, ratios)
    for leaf in jax.tree.leaves(drawn):
        np.testing.assert_array_equal(leaf[0], leaf[1])
    for problem in drawn.values():
        first = jax.tree.leaves(problem)[0]
        assert not np.array_equal(first[0], first[2])
    alignments = {
        name: drawn[name].y * np.einsum("lsf,lf->ls", drawn[name].X, drawn[name].weights)
        for name in ("separable", "overlapping")
    }
    np.testing.assert_allclose(alignments["separable"].min(axis=1), numbers, atol=1e-6)
    np.testing.assert_array_equal(np.sum(alignments["overlapping"] < 0, axis=1), [1, 1, 1, 2])
    for spectra, count in ((drawn["regression"].X, 6), (drawn["matrix"], 2)):
        values = np.linalg.svd(spectra, compute_uv=False)[:, :count]
        np.testing.assert_allclose(values[:, 0] / values[:, -1], ratios, rtol=1e-4)
    noise = drawn["regression"].y - np.einsum("lsf,lf->ls", drawn["regression"].X, drawn["regression"].weights)
    np.testing.assert_allclose(noise[3], 3 * noise[0], atol=1e-5)
    assert not np.array_equal(drawn["features"][0], drawn["features"][3])


def test_regression_has_the_support_and_noise_it_was_asked_for():
    plain = data.gaussian_regression(KEY, 30, 50, support=4)
    assert np.count_nonzero(plain.weights) == 4
    assert np.linalg.norm(plain.weights) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(plain.y, plain.X @ plain.weights, atol=1e-5)
    assert np.mean(np.square(plain.X)) == pytest.approx(1, abs=0.15)
    assert np.count_nonzero(data.gaussian_regression(KEY, 30, 50).weights) == 50
    noisy = data.gaussian_regression(KEY, 30, 50, support=4, noise=0.5)
    np.testing.assert_array_equal(noisy.X, plain.X)
    assert np.std(noisy.y - plain.y) == pytest.approx(0.5, rel=0.35)


@pytest.mark.parametrize(("samples", "features", "rank"), [(30, 50, None), (50, 30, 5)])
def test_regression_has_the_spectrum_it_was_asked_for(samples, features, rank):
    def values(**options):
        problem = data.gaussian_regression(KEY, samples, features, rank=rank, **options)
        return np.linalg.svd(np.asarray(problem.X, float), compute_uv=False)

    count = rank or 30
    low, shaped = values(), values(condition_number=100.0)
    assert np.sum(low > 1e-4 * low[0]) == count
    expected = (np.sqrt(30) + np.sqrt(50)) * np.geomspace(1, 1 / 100, count)
    np.testing.assert_allclose(shaped[:count], expected, rtol=1e-3)
    assert np.all(shaped[count:] < 1e-4)


def test_low_rank_entries_have_unit_variance_over_draws():
    draw = jax.jit(jax.vmap(lambda key: data.gaussian_regression(key, 6, 8, rank=2).X))
    X = draw(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(jnp.mean(X**2, axis=0), 1, atol=0.15)


@pytest.mark.parametrize("ratio", [1.0, 100.0])
@pytest.mark.parametrize("margin", [0.001, 0.1, 0.9])
def test_separable_classes_have_exactly_the_stated_margin(width, margin, ratio):
    X, y, weights = data.separable_classification(KEY, 20, 50, margin=margin, condition_number=ratio)
    exact = 4 * float(jnp.finfo(width).eps)
    assert (y * (X @ weights)).min() == pytest.approx(margin, abs=exact)
    assert np.linalg.norm(X, axis=1).max() == pytest.approx(1, abs=exact)
    assert np.linalg.norm(weights) == pytest.approx(1, abs=exact)
    assert (set(y.tolist()), float(y.sum())) == ({-1.0, 1.0}, 0.0)


def test_the_ratio_is_that_of_the_feature_scales():
    X = data.separable_classification(KEY, 20_000, 3, margin=1e-6, condition_number=16.0).X
    deviations = X.std(axis=0)
    np.testing.assert_allclose(deviations / deviations[0], [1, 1 / 4, 1 / 16], rtol=0.05)


def test_l1_and_l_infinity_margin_directions_are_apart():
    X, y, _ = data.separable_classification(KEY, 20, 50, condition_number=10.0)
    signed_inputs, (samples, features) = np.asarray(X * y[:, None], float), X.shape
    sparse = linprog(
        np.ones(2 * features), A_ub=-np.hstack([signed_inputs, -signed_inputs]), b_ub=-np.ones(samples)
    ).x.reshape(2, features)
    bound = np.vstack([np.eye(features), -np.eye(features)])
    flat = linprog(
        np.append(np.zeros(features), 1),
        A_ub=np.block([[-signed_inputs, np.zeros((samples, 1))], [bound, -np.ones((2 * features, 1))]]),
        b_ub=np.append(-np.ones(samples), np.zeros(2 * features)),
        bounds=(None, None),
    ).x[:-1]
    cosine = (sparse[0] - sparse[1]) @ flat / np.linalg.norm(sparse[0] - sparse[1]) / np.linalg.norm(flat)
    assert cosine < 0.8


@pytest.mark.parametrize("flipped", [0.0, 0.03, 0.2, 0.5])
def test_no_direction_separates_overlapping_classes(flipped):
    samples = 20
    X, y, weights = data.overlapping_classification(KEY, samples, 50, flipped=flipped, margin=0.3)
    assert separates(*data.separable_classification(KEY, samples, 50)[:2])
    assert not separates(X, y)
    contradicted = np.flatnonzero(y * (X @ weights) < 0)
    assert (y * (X @ weights))[: contradicted[0]].min() > 0.299
    count = max(1, round(flipped * samples))
    np.testing.assert_array_equal(contradicted, np.arange(samples - count, samples))
    np.testing.assert_array_equal(2 * X[-count:], X[:count][::-1])
    np.testing.assert_array_equal(y[-count:], -y[:count][::-1])


def test_enough_flips_leave_no_direction_that_is_even_weakly_right():
    X, y, _ = data.overlapping_classification(KEY, 20, 4, flipped=0.2)
    cone = np.asarray(X * y[:, None], float)
    # By Stiemke's lemma: weights of at least 1 on every sample that sum to zero, and samples that span the space.
    program = linprog(np.ones(20), A_eq=cone.T, b_eq=np.zeros(4), bounds=(1, None))
    assert program.status == 0
    assert np.linalg.matrix_rank(cone) == 4


@pytest.mark.parametrize(("rank", "ratio"), [(3, 10.0), (1, 10.0), (4, 1.0)])
def test_low_rank_matrix_has_the_stated_spectrum(rank, ratio):
    values = np.linalg.svd(data.low_rank_matrix(KEY, 6, 4, rank, condition_number=ratio), compute_uv=False)
    expected = np.geomspace(1, 1 / ratio, rank) if rank > 1 else np.ones(1)
    np.testing.assert_allclose(values[:rank], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_allclose(values[rank:], 0, atol=1e-6)


def test_mask_sees_exactly_what_was_asked_and_every_entry_alike():
    masks = jax.vmap(lambda key: data.observed_mask(key, 3, 5, 6))(jax.random.split(KEY, 3000))
    assert masks.dtype == bool
    assert set(masks.sum(axis=(1, 2)).tolist()) == {6}
    np.testing.assert_allclose(masks.mean(axis=0), 6 / 15, atol=0.05)


def test_random_features_estimate_the_gaussian_kernel():
    X = jax.random.normal(KEY, (6, 3))
    features = data.random_features(KEY, X, 40_000, bandwidth=1.5)
    squares = np.square(X[:, None, :] - X[None, :, :]).sum(axis=-1)
    np.testing.assert_allclose(features @ features.T, np.exp(-squares / (2 * 1.5**2)), atol=0.03)
    apart = data.random_features(KEY, X[2:4], 40_000, bandwidth=1.5)
    np.testing.assert_allclose(apart, features[2:4], atol=1e-5)


def test_balanced_subset_takes_as_many_of_every_class_and_none_twice():
    labels = data.digits().labels
    chosen = np.asarray(data.balanced_subset(KEY, labels, 100))
    assert len(set(chosen.tolist())) == 1000
    np.testing.assert_array_equal(labels[chosen], np.tile(np.arange(10), 100))


def test_real_sets_are_what_was_published():
    digits, some = data.digits(), data.digits((3, 8))
    assert digits.inputs.shape == (1797, 64)
    assert (digits.inputs.min(), digits.inputs.max()) == (0, 1)
    assert np.bincount(some.labels).tolist() == [0, 0, 0, 183, 0, 0, 0, 0, 174]
    np.testing.assert_array_equal(some.inputs, digits.inputs[np.isin(digits.labels, [3, 8])])
    assert data.breast_cancer().inputs.shape == (569, 30)
    assert np.bincount(data.breast_cancer().labels).tolist() == [212, 357]
    for degree, columns in ((1, 10), (2, 64)):
        inputs, targets = data.diabetes(degree)
        assert inputs.shape == (442, columns)
        assert np.linalg.matrix_rank(inputs) == columns
        for array in (inputs, targets[:, None]):
            np.testing.assert_allclose([array.mean(axis=0), array.std(axis=0) - 1], 0, atol=1e-12)
    for array in (*digits, *some, *data.breast_cancer(), *data.diabetes(2)):
        assert not array.flags.writeable
        assert array.dtype in (np.float64, np.int64)
    assert data.digits((3, 8)) is some


@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
def test_real_classes_are_linearly_separable_through_the_origin_with_a_constant_feature(name):
    if name == "digits":
        inputs, labels = data.digits((3, 8))
        inputs, y = data.with_constant(inputs), data.signed(labels, 8)
    else:
        inputs, labels = data.breast_cancer()
        inputs, y = data.with_constant(data.standardized(inputs)), data.signed(labels, 1)
    assert (inputs[:, -1] == 1).all()
    assert separates(inputs, y)
    assert not separates(inputs, np.where(np.arange(len(y)) == 0, -y, y) * np.sign(np.arange(len(y)) - 150.5))


def test_standardized_turns_constant_columns_into_zeros():
    inputs = np.column_stack([np.full(10, 0.1), np.zeros(10), np.arange(10.0), 1e9 + np.arange(10.0)])
    assert (inputs - inputs.mean(axis=0))[0, 0] != 0
    columns = data.standardized(inputs)
    assert (columns[:, :2] == 0).all()
    np.testing.assert_allclose(columns[:, 2].std(), 1)
    np.testing.assert_allclose(columns[:, 3], columns[:, 2], rtol=1e-6)


def test_signed_takes_one_class_or_several():
    labels = np.array([0, 1, 2, 1])
    np.testing.assert_array_equal(data.signed(labels, 1), [-1, 1, -1, 1])
    np.testing.assert_array_equal(data.signed(labels, (0, 2)), [1, -1, 1, -1])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: data.gaussian_regression(KEY, 0, 4), "samples is 0"),
        (lambda: data.gaussian_regression(KEY, 5, 4, rank=5), "rank is 5"),
        (lambda: data.gaussian_regression(KEY, 5, 4, support=0), "support is 0"),
        (lambda: data.gaussian_regression(KEY, 5, 4, condition_number=0.5), "condition_number is 0.5"),
        (lambda: data.gaussian_regression(KEY, 5, 4, noise=-1.0), "noise is -1.0"),
        (lambda: data.separable_classification(KEY, 5, 1), "features is 1"),
        (lambda: data.separable_classification(KEY, 5, 4, margin=1.0), "margin is 1.0"),
        (lambda: data.separable_classification(KEY, 5, 4, margin=float("nan")), "margin is nan"),
        (lambda: data.overlapping_classification(KEY, 5, 4, flipped=0.6), "flipped is 0.6"),
        (lambda: data.overlapping_classification(KEY, 1, 4), "samples is 1"),
        (lambda: data.low_rank_matrix(KEY, 5, 4, 5), "rank is 5"),
        (lambda: data.observed_mask(KEY, 5, 4, 21), "observed is 21"),
        (lambda: data.random_features(KEY, jnp.ones((2, 2)), 3, bandwidth=0.0), "bandwidth is 0.0"),
        (lambda: data.balanced_subset(KEY, np.array([0, 1, 1]), 2), "per_class is 2"),
        (lambda: data.digits((3, 10)), r"classes is \(3, 10\)"),
        (lambda: data.digits(()), r"classes is \(\)"),
        (lambda: data.diabetes(3), "degree is 3"),
        (lambda: data.signed(np.array([0, 1]), 2), "positive is 2"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call()
