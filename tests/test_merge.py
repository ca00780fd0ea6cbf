import json
import shutil

import numpy as np
import pytest

from research.merge import merge
from research.store import read


@pytest.fixture
def joined(family, results, capsys):
    """Merge what lies in the results or in the given folders: (status, standard output, standard error)."""

    def ran(*folders):
        capsys.readouterr()
        status = merge(["tiny"], [*map(str, folders), "--results", str(results)])
        return status, *capsys.readouterr()

    return ran


def test_parts_are_merged_judged_and_drawn_like_one_run(command, joined, results, tmp_path):
    assert command("decay")[0] == 0
    whole, claims = read(results / "tiny" / "decay.nc"), (results / "claims.md").read_text(encoding="utf-8")
    shutil.rmtree(results)
    for part in ("1/3", "3/3", "2/3"):
        status, out, _ = command("decay", "--shard", part)
        assert status == 0
        assert f"part {part}" in out
        assert not (results / "tiny" / "decay.nc").exists()
    status, out, error = joined()
    assert (status, error) == (0, "")
    assert "supported" in out
    found = read(results / "tiny" / "decay.nc")
    assert sorted(path.name for path in (results / "tiny").iterdir()) == ["decay.nc", "decay.png"]
    for name in whole.data_vars:
        np.testing.assert_allclose(found[name].values, whole[name].values, rtol=1e-12)
    assert found.attrs["findings"] == whole.attrs["findings"]
    seconds = lambda text: text.rpartition("·")[0]
    assert seconds((results / "claims.md").read_text(encoding="utf-8")) == seconds(claims)


def test_parts_from_several_folders_and_of_several_experiments_are_merged_at_once(command, joined, results, tmp_path):
    for part in ("1/2", "2/2"):
        assert command("--shard", part, "--seeds", "3")[0] == 0
        shutil.move(results, tmp_path / part.replace("/", "-"))
    status, out, _ = joined(tmp_path / "1-2", tmp_path / "2-2")
    assert status == 0
    assert sorted(path.suffix for path in (results / "tiny").iterdir()) == [".nc", ".nc", ".png", ".png"]
    assert "seeds=3" in out


def test_what_does_not_fit_is_refused_and_stays(command, joined, contents, results):
    assert command("decay", "--shard", "2/3")[0] == 0
    before = contents()
    status, out, error = joined()
    assert status == 1
    assert "runs 0 to" in error
    assert "are missing" in error
    assert "failed" in out
    assert contents() == before


@pytest.mark.parametrize(
    "change",
    [
        {"package": "os"},
        {"name": "../../decay"},
        {"design": "../x"},
        {"overrides": [1]},
        {"overrides": {"seeds": "../../x"}},
    ],
)
def test_a_part_cannot_lead_out_of_the_results(change, command, joined, results, contents):
    assert command("decay", "--shard", "1/1")[0] == 0
    (path,) = results.rglob("part.json")
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, "about": {**facts["about"], **change}}), encoding="utf-8")
    before = contents()
    status, _, error = joined()
    assert status == 1
    assert "is not merged" in error
    assert contents() == before


def test_nothing_to_merge_is_said(joined, results):
    status, _, error = joined()
    assert status == 2
    assert "there are no parts below" in error
