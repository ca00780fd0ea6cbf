"""What a reader sees: numbers, bands, and the table at the end."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

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


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"steps": 25, "steps_ahead": 100, "runs_reused": 0}, "75 % of the steps spared by runs that ended early"),
        ({"steps": 25, "steps_ahead": 100, "runs_reused": 8}, ""),
        ({"steps": 100, "steps_ahead": 100, "runs_reused": 0}, ""),
        ({"steps": 0, "steps_ahead": 0, "runs_reused": 4}, ""),
        ({}, ""),
    ],
)
def test_what_early_ends_spare_is_told(facts, told):
    assert report.spared(xr.Dataset(attrs={"provenance": json.dumps(facts)})) == told


def test_a_section_of_a_docstring_is_one_line():
    assert report.section(DOCUMENTATION, "Claim") == "One thing follows from another."
    assert report.section(DOCUMENTATION, "Control") == ""


@pytest.mark.parametrize("columns", [150, 80])
def test_the_table_shows_what_failed_with_its_reason(columns, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "_console", lambda: Console(width=columns, highlight=False))
    failures = [report.Unjudged("second", "no [oracle]", "failed"), report.Unjudged("third", "--fail-fast", "not run")]
    report.findings([outcome("first", 0.25, tmp_path), *failures])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["second", "no", "[oracle]", "failed"] in rows
    assert ["third", "--fail-fast", "not", "run"] in rows
    (first,) = [row for row in rows if row[:1] == ["first"]]
    assert first[-1] == "supported"
