"""Two CPU devices, strict shapes, no windows, and annotations that are checked when a function is called."""

import os
import subprocess
import sys

# The workers load NumPy after this. They keep all cores busy: threads of BLAS would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# At smoke size a sweep is nearly all compilation. Machine code that is optimised less takes 60 % of the time, and by
# jaxlib 0.10's older emitters 40 %; later versions are as quick without, and do not know the flag.
QUICK = ("--xla_backend_optimization_level=1", "--xla_cpu_use_fusion_emitters=false")


def accepted(*flags):
    """XLA_FLAGS with these behind it, or "" where XLA does not know one of them, which ends the process that has it."""
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
    started = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"], env={**os.environ, "XLA_FLAGS": flags}, capture_output=True
    )
    return flags if started.returncode == 0 else ""


if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has what the process that started it found
    os.environ["XLA_FLAGS"] = accepted(*QUICK) or accepted(*QUICK[:1]) or os.environ.get("XLA_FLAGS", "")
CHECKED = ("data", "dynamics", "models", "observables", "optimizers", "statistics", "store")
install_import_hook([f"research.{name}" for name in CHECKED], "beartype.beartype")

import jax  # noqa: E402
import joblib  # noqa: E402
import pytest  # noqa: E402

from research import layout  # noqa: E402
from research.command_line import run  # noqa: E402

layout.prepare()  # before the first array: its pool of threads is large enough for the devices
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_xdist_auto_num_workers(config):
    """One worker more than cores for `-n auto`: a good part of the tests waits for processes that it has started."""
    return joblib.cpu_count() + 1


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


TINY = '''
"""{title}

Claim: {claim}

Source: A. Nobody 2020, arXiv 2001.00001, theorem 1.
"""

import matplotlib.pyplot as plt
import simulations

from research.experiment import Experiment, Finding
from research.labels import per_seed
from research.statistics import every_seed


def compare(dataset):
    return dataset.assign(error=abs(dataset.value - dataset.rate**dataset.step * dataset.value.isel(step=0)))


def findings(dataset):
    return [Finding.of("the error | at any time", (0.0, 1e-12), every_seed(per_seed(dataset.error)))]


def draw(dataset):
    figure, axes = plt.subplots()
    axes.plot(dataset.step, dataset.error.mean([d for d in dataset.error.dims if d != "step"]))
    return figure


experiment = Experiment(
    simulations.growth,
    compare,
    findings,
    draw,
    design={{"seeds": 2, "rate": (0.5, 0.9), "noise": True}},
    smoke={{"rate": 0.5}},
    paper={{"seeds": 100}},
    control={{"rate": 2.0, "limit": 10.0}},
)
'''


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A package of two experiments."""
    package = tmp_path / "tiny"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, claim in (("decay", "what shrinks\nshrinks [fast]."), ("growth", "what grows grows.")):
        text = TINY.format(title=name, claim=claim).lstrip()
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiny"]:
        del sys.modules[name]


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def command(family, results, capsys):
    """Run the family's command line: (status, standard output, standard error)."""

    def ran(*arguments):
        capsys.readouterr()
        status = run(["tiny"], [*arguments, "--results", str(results)])
        return status, *capsys.readouterr()

    return ran


@pytest.fixture
def contents(results):
    """Name -> bytes of every file that lies under the results."""
    return lambda: {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*") if path.is_file()}
