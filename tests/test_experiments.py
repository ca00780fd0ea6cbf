"""Every experiment at smoke size: its findings hold, its control fails, a broken oracle is noticed, it is drawn."""

import functools
import importlib
import pkgutil

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import experiments
from research import report
from research.experiment import designed, evaluate, names, planned
from research.job import documentation

FAMILIES = [f"experiments.{module.name}" for module in pkgutil.iter_modules(experiments.__path__) if module.ispkg]
# the oracle that judges each experiment's main finding, for the test that a wrong one is noticed
ORACLES = {
    "feature_projections": "unit_projections",
    "occlusion": "logits",
    "visualization_sanity": "recovery_error",
    "convolution_operator": "toeplitz_product",
    "receptive_field": "receptive_field",
    "trajectories": "optimizer_path",
    "quadratic_descent": "mode_path",
    "stationary_noise": "stationary_variance",
    "momentum_cycle": "three_cycle",
    "momentum_plateau": "plateau_position",
    "adam_counterexample": "critical_b2",
    "momentum_escape": "resting_place",
    "solution_triad": "minimum_l2_norm",
    "momentum_overfitting": "filter_risk",
    "optimizer_ranking": "logistic_optimum",
    "logistic_loss": "logistic_losses",
    "proper_scoring": "best_prediction",
    "missing_labels": "logistic_optimum",
    "cross_entropy_speed": "flow_time",
    "augmentation": "ridge",
    "monte_carlo_dropout": "pass_variance",
    "digit_symmetries": "softmax_optimum",
    "shrinkage": "lasso",
    "polynomial_overfitting": "polynomial_risk",
    "ridge_strength": "path_risk",
    "born_dead": "point_death",
    "edge_of_stability": "flow_sharpness",
    "adaptive_edge": "largest_curvature",
    "momentum_edge": "largest_curvature",
    "norm_walk": "log_length",
    "trainable_depth": "mean_field",
    "he_initialization": "length_growth",
    "dropout": "dropout_ridge",
    "dropout_factorization": "dropout_singular_values",
    "neural_collapse": "minimum_loss",
    "adaptive_methods": "sign_interpolant",
    "relu_spline": "representation_cost",
    "early_stopping": "path_constant",
    "lazy_training": "linearized_outputs",
    "grokking": "maximum_margin",
    "lazy_to_rich": "polynomial_error",
    "double_descent": "ridgeless_risk",
    "catapult": "thresholds",
    "gradient_regularization": "modified_flow",
    "balancedness": "balance_drift",
    "layer_alignment": "maximum_margin",
    "minimum_norm": "minimum_l2_norm",
    "mode_learning": "deep_linear_modes",
    "diagonal_network": "minimum_hyperbolic_entropy",
    "finite_step": "minimum_hyperbolic_entropy",
    "label_noise": "minimum_weighted_sum",
    "hidden_layers": "fits_xor",
    "batch_norm_noise": "batch_mean_variance",
    "validation_stopping": "holdout_law",
    "max_margin": "maximum_margin",
    "margin_rates": "maximum_margin",
    "singular_values": "singular_velocities",
    "matrix_factorization": "minimum_nuclear_norm",
    "activation_saturation": "saturation",
    "saturation_measure": "binned_saturation",
    "dropout_correlation": "correlation_path",
    "numerical_saturation": "beyond_share",
    "noisy_activations": "escape_probability",
    "sgd_noise": "top_activation",
    "batch_norm_explosion": "gradient_growth",
    "batch_norm_pinning": "saturation",
    "xavier_initialization": "layer_jacobian",
    "dynamical_isometry": "jacobian_spread",
    "logistic_edge": "edge_at",
    "dropout_depth": "correlation_scale",
    "edge_of_chaos": "mean_field",
    "dormant_units": "layer_scores",
    "depth_scales": "mean_field",
    "gradient_tails": "mean_square_law",
    "saturation_budget": "resting_weight",
    "efficient_backprop": "asymptotic_weight",
    "lecun_initialization": "mean_field",
    "cost_functions": "half_time",
    "mirror_descent": "minimum_power_norm",
    "schatten_decay": "resting_sizes",
    "adamw_box": "box_least_squares",
    "unbounded_norms": "least_unobserved",
    "nuclear_norm": "minimum_trace",
    "greedy_low_rank": "greedy_low_rank",
    "adam_margin": "maximum_margin",
    "steepest_descent": "maximum_margin",
    "spectral_margin": "maximum_multiclass_margin",
    "spectral_bias": "mode_rates",
    "variation_norm": "variation_margin",
    "convolutional_bias": "maximum_fourier_margin",
    "homogeneous_margin": "margin_growth",
    "linear_stability": "stability",
    "saddle_to_saddle": "jump_times",
    "momentum_time": "modified_flow",
    "exponential_margin": "maximum_margin",
    "benign_overfitting": "interpolation_risk",
}
ALL = [
    pytest.param(f"{family}.{name}", id=name, marks=pytest.mark.xdist_group(name))
    for family in FAMILIES
    for name in names(family)
]


@pytest.fixture(autouse=True, scope="module")
def programs(tmp_path_factory):
    """What an experiment and its control have in common is compiled once."""
    folder = tmp_path_factory.mktemp("programs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        compilation_cache.reset_cache()
        yield
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()


@functools.cache
def smoke(path):
    """The experiment at smoke size, its dataset and its findings."""
    experiment = importlib.import_module(path).experiment
    experiment = experiment._replace(design=designed(experiment, experiment.smoke))
    dataset = evaluate(experiment)
    return experiment, dataset, experiment.findings(dataset)


@pytest.mark.parametrize("path", ALL)
def test_the_main_finding_is_supported_and_none_is_void(path):
    _, _, findings = smoke(path)
    assert findings[0].status == "supported", findings[0]
    assert all(finding.status != "void" for finding in findings), findings


@pytest.mark.parametrize("path", ALL)
def test_the_control_fails(path):
    experiment, _, _ = smoke(path)
    finding = experiment.findings(evaluate(experiment, experiment.control))[0]
    assert finding.status in ("refuted", "inconclusive"), finding


@pytest.mark.parametrize("path", [each for each in ALL if each.id in ORACLES])
@pytest.mark.parametrize("broken", ["wrong", "not certified"])
def test_a_broken_oracle_does_not_support_the_main_finding(path, broken, monkeypatch):
    experiment, dataset, _ = smoke(path)
    module = importlib.import_module(path)
    oracle = getattr(module, ORACLES[path.rpartition(".")[2]])

    @functools.wraps(oracle)
    def other(*arguments, **parameters):
        answer = np.asarray(oracle(*arguments, **parameters))
        return (
            answer * np.nan if broken == "not certified" else answer[..., ::-1] * 0.5 if answer.ndim else answer * 0.5
        )

    monkeypatch.setattr(module, oracle.__name__, other)
    finding = experiment.findings(experiment.compare(dataset[dataset.attrs["swept"].split()]))[0]
    assert finding.status in (["void"] if broken == "not certified" else ["refuted", "inconclusive", "void"]), finding


@pytest.mark.xdist_group("schatten_decay")
def test_one_arm_that_is_not_certified_voids_what_is_said_of_it(monkeypatch):
    experiment, dataset, _ = smoke("experiments.implicit_bias.schatten_decay")
    module = importlib.import_module("experiments.implicit_bias.schatten_decay")
    oracle = module.resting_sizes

    @functools.wraps(oracle)
    def broken(target, weight_decay, *others):
        answer = oracle(target, weight_decay, *others)
        return answer if weight_decay < 0.8 else type(answer)(*np.full(len(answer), np.nan))

    monkeypatch.setattr(module, "resting_sizes", broken)
    found = experiment.findings(experiment.compare(dataset[dataset.attrs["swept"].split()]))
    assert [finding.status for finding in found if "that of the minimum, the worst" in finding.statement] == ["void"]


@pytest.mark.parametrize("path", ALL)
def test_the_figure_has_labels_and_theory_in_black(path):
    experiment, dataset, _ = smoke(path)
    figure = experiment.draw(dataset)
    shown = [axes for axes in figure.axes if axes.has_data()]
    assert shown
    assert all(axes.get_ylabel() or axes.get_xlabel() or axes.get_label() == "<colorbar>" for axes in shown)
    assert any(line.get_color() in ("black", "k") for axes in shown for line in axes.lines)
    plt.close(figure)


@pytest.mark.parametrize("path", ALL)
def test_the_paper_design_and_the_documentation(path):
    experiment = importlib.import_module(path).experiment
    assert planned(experiment, experiment.paper).runs > planned(experiment, experiment.smoke).runs
    family, _, name = path.rpartition(".")
    described = documentation(family, name)
    for title in ("Claim", "Source", "Departure"):
        assert report.section(described, title), f"{path} says nothing of its {title}"
