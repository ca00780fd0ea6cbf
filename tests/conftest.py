"""Two CPU devices, strict shapes, no windows, and annotations that are checked when a function is called."""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
CHECKED = ("data", "dynamics", "models", "observables", "optimizers", "statistics", "store")
install_import_hook([f"research.{name}" for name in CHECKED], "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

from research import layout  # noqa: E402

layout.prepare()  # before the first array: its pool of threads is large enough for the devices
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


class Compilations:
    """The XLA compilations since the beginning of the test, or since `count` was last set to 0."""

    def __init__(self):
        self.count = 0

    def __call__(self, event, duration, **details):
        self.count += event == "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    heard = Compilations()
    jax.monitoring.register_event_duration_secs_listener(heard)
    yield heard
    jax.monitoring.unregister_event_duration_listener(heard)


@pytest.fixture(params=[1, 2])
def devices(request, monkeypatch):
    """The number of devices that a sweep sees."""
    assert len(jax.local_devices()) == 2
    chosen = jax.local_devices()[: request.param]
    monkeypatch.setattr(jax, "local_devices", lambda: chosen)
    return request.param
