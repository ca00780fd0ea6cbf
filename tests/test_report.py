"""What a reader sees: numbers, bands, and `claims.md`, in which every experiment owns one section."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from research import report
from research.experiment import Finding

INFINITE = float("inf")
DOCUMENTATION = """Title.

Claim: One thing follows
from another.

Source: Somebody 2018, arXiv 1710.10345, Theorem 3.

Departure: none.
"""


def outcome(name: str, estimate: float, root: Path) -> report.Outcome:
    provenance = json.dumps({"device": "2 × cpu", "wall_seconds": 3.2})
    dataset = xr.Dataset({"diverged": ("seed", np.array([True, False]))}, attrs={"provenance": provenance})
    finding = Finding("a | b", (0.0, 1.0), estimate, (estimate, estimate), outlook="at t = 10⁹")
    return report.Outcome("family", name, DOCUMENTATION, [finding], dataset, root / "family" / f"{name}.png")


@pytest.mark.parametrize(
    ("value", "written"), [(0.123456, "0.1235"), (-2.0, "−2"), (INFINITE, "∞"), (-INFINITE, "−∞"), (1e-7, "1e-07")]
)
def test_numbers_are_written_for_a_reader(value, written):
    assert report.number(value) == written


@pytest.mark.parametrize(
    ("ends", "written"),
    [((0.0, 1.0), "[0, 1]"), ((-INFINITE, 0.5), "< 0.5"), ((0.5, INFINITE), "> 0.5"), ((2.0, 2.0), "= 2")],
)
def test_bands_are_written_for_a_reader(ends, written):
    assert report.band(ends) == written


def test_a_section_of_a_docstring_is_one_line():
    assert report.section(DOCUMENTATION, "Claim") == "One thing follows from another."
    assert report.section(DOCUMENTATION, "Control") == ""


def test_claims_keep_one_section_an_experiment_whatever_the_order(tmp_path):
    path = tmp_path / "claims.md"
    for name, estimate in (("second", 0.5), ("first", 0.25), ("second", 3.0)):
        report.write_claims(path, outcome(name, estimate, tmp_path))
    text = path.read_text(encoding="utf-8")
    assert text.index("## family / first") < text.index("## family / second")
    assert text.count("## family / second") == 1
    assert "0.25 [0.25, 0.25] | supported" in text
    assert "3 [3, 3] | not yet: at t = 10⁹" in text
    assert "0.5 [0.5" not in text
    assert "a \\| b" in text
    assert "[arXiv:1710.10345](https://arxiv.org/abs/1710.10345), Theorem 3" in text
    assert "[figure](family/first.png) · 2 runs, 1 diverged · 2 × cpu · 3 s" in text
    again = path.read_bytes()
    report.write_claims(path, outcome("second", 3.0, tmp_path))
    assert path.read_bytes() == again
