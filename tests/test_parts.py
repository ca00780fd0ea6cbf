import shutil

import numpy as np
import pytest
from simulations import regression

from research import parts
from research.plan import plan
from research.store import Store
from research.sweep import sweep, sweep_part

AXES = {"learning_rate": (0.01, 0.02, 0.1), "features": [4, 3]}


def computed(folder, count, axes=AXES, seeds=3, chosen=None):
    for number in chosen or range(1, count + 1):
        sweep_part(plan(regression, axes, seeds=seeds), (number, count), store=Store(folder / f"a.{number}-{count}.nc"))
    return parts.found(folder)


def addresses():
    return plan(regression, AXES, seeds=3).addresses()


@pytest.mark.parametrize("count", [1, 2, 5, 16, 30])
def test_parts_are_all_of_the_runs_once(count):
    planned = plan(regression, AXES, seeds=3)
    ranges = [planned.part(number, count) for number in range(1, count + 1)]
    for cell, runs in enumerate(planned.cell_runs):
        done = [run for part in ranges for run in range(*part[cell])]
        assert done == list(range(runs))
    sizes = [sum(last - first for first, last in part) for part in ranges]
    assert max(sizes) - min(sizes) <= 1


def test_parts_join_to_what_one_sweep_computes(tmp_path):
    whole = sweep(regression, AXES, seeds=3)
    found = computed(tmp_path / "apart", 4)
    parts.check(found, addresses())
    place = Store(tmp_path / "a.nc")
    parts.join(found, place)
    heard = []
    joined = sweep(regression, AXES, seeds=3, store=place, progress=lambda *words: heard.append(words))
    assert [words[0] for words in heard] == [9, 18]  # nothing was run
    for name in whole.data_vars:
        np.testing.assert_allclose(joined[name].values, whole[name].values, rtol=1e-12)


def test_gaps_overlaps_and_other_programs_are_refused(tmp_path):
    found = computed(tmp_path / "apart", 4)
    for gone in range(4):
        with pytest.raises(ValueError, match=r"runs \d+ to \d+ of 9 are missing"):
            parts.check(found[:gone] + found[gone + 1 :], addresses())
    shutil.copytree(tmp_path / "apart" / "a.2-4.cells", tmp_path / "again" / "a.2-4.cells")
    with pytest.raises(ValueError, match=r"again.*overlap in run"):
        parts.check(found + parts.found(tmp_path / "again"), addresses())
    with pytest.raises(ValueError, match="overlap in run"):
        parts.check(found + computed(tmp_path / "halves", 2, chosen=[1]), addresses())
    other = computed(tmp_path / "other", 4, {**AXES, "decay": 0.1}, chosen=[2])
    with pytest.raises(ValueError, match="parts of different programs"):
        parts.check([found[0], *other, *found[2:]], addresses())
    with pytest.raises(ValueError, match="another program than the one that is here now"):
        parts.check(found, addresses()[::-1])
    for block in (tmp_path / "apart" / "a.3-4.cells").glob("*.npz"):
        block.unlink()
    with pytest.raises(ValueError, match=r"part 3/4 .* is not finished: start it again"):
        parts.check(found, addresses())


def test_parts_of_other_seeds_are_of_different_programs(tmp_path):
    found = [*computed(tmp_path / "a", 2, chosen=[1]), *computed(tmp_path / "b", 2, seeds=4, chosen=[2])]
    with pytest.raises(ValueError, match="parts of different programs"):
        parts.check(found, addresses())


def test_a_damaged_part_is_named(tmp_path):
    found = computed(tmp_path, 2)
    (block, *_) = (tmp_path / "a.2-2.cells").glob("*.npz")
    block.write_bytes(block.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"part 2/2 .* is damaged"):
        parts.join(
            [found[0], found[1]._replace(store=Store(found[1].store.path, lambda line: None))], Store(tmp_path / "a.nc")
        )
    (tmp_path / "a.1-2.cells" / "part.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"part\.json cannot be read"):
        parts.found(tmp_path)


def test_a_part_is_written_k_of_n():
    assert parts.parsed("3/16") == (3, 16)
    for text in ("", "3", "0/4", "5/4", "-1/4", "a/b", "1/4/2", "1.0/4", "/", "²/4"):
        with pytest.raises(ValueError, match=r"--shard takes K/N.*got"):
            parts.parsed(text)
