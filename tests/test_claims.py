"""`claims.md`, in which every experiment owns one section."""

import threading

import pytest
from test_report import outcome

from research import claims
from research.lock import Locked, held


def test_claims_keep_one_section_an_experiment_whatever_the_order(tmp_path):
    path = tmp_path / "claims.md"
    for name, estimate in (("second", 0.5), ("first", 0.25), ("second", 3.0)):
        claims.write(path, outcome(name, estimate, tmp_path))
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
    claims.write(path, outcome("second", 3.0, tmp_path))
    assert path.read_bytes() == again


def test_two_that_write_at_once_lose_no_section(tmp_path, monkeypatch):
    path = tmp_path / "claims.md"
    claims.write(path, outcome("first", 0.25, tmp_path))
    with held(tmp_path / "claims.md.lock"):
        other = threading.Thread(target=claims.write, args=(path, outcome("second", 0.5, tmp_path)))
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert "second" not in path.read_text(encoding="utf-8")
    other.join(60)
    text = path.read_text(encoding="utf-8")
    assert "## family / first" in text
    assert "## family / second" in text
    assert sorted(child.name for child in tmp_path.iterdir()) == ["claims.md"]
    monkeypatch.setattr(claims, "PATIENCE", 0.1)
    with held(tmp_path / "claims.md.lock"), pytest.raises(Locked, match=r"claims\.md\.lock is held by process"):
        claims.write(path, outcome("third", 0.5, tmp_path))
    assert path.read_text(encoding="utf-8") == text


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / ".claims.md.abcdefgh.part").write_text("half")
    claims.write(tmp_path / "claims.md", outcome("first", 0.25, tmp_path))
    assert sorted(child.name for child in tmp_path.iterdir()) == ["claims.md"]
