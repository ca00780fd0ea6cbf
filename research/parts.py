"""Parts of one sweep, computed apart by a batch system, joined into one: no gap, no overlap, one program."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.store import UNREADABLE, Store


class Part(NamedTuple):
    """A part on disk: its store, and what it was meant to be."""

    store: Store
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The part in words: `3/16`."""
        return "/".join(map(str, self.facts["part"]))


def parsed(text: str) -> tuple[int, int]:
    """(3, 16) for `3/16`. Raises ValueError for anything but a part K/N with 1 <= K <= N."""
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ValueError(f"--shard takes K/N with 1 <= K <= N, such as 3/16, got {text!r}")
    return int(number), int(parts)


def found(folder: Path) -> list[Part]:
    """The parts below a folder, in order of their paths. Raises ValueError where one cannot be read."""
    parts = []
    for path in sorted(folder.rglob("*.cells/part.json")):
        store = Store(path.parent.with_suffix(".nc"))
        try:
            parts.append(Part(store, store.load_part()))
        except UNREADABLE as problem:
            raise ValueError(f"{path} cannot be read: {problem}") from problem
    return parts


def check(parts: Sequence[Part], addresses: Sequence[str]) -> None:
    """Raise ValueError, naming the parts, unless together they are all of one sweep of this very program, once.

    `addresses` are those of the program as it stands now.
    """
    first = parts[0]
    for part in parts:
        if part.facts["addresses"] != first.facts["addresses"] or part.facts["runs"] != first.facts["runs"]:
            raise ValueError(f"{first.store.cells} and {part.store.cells} are parts of different programs")
    if list(addresses) != first.facts["addresses"]:
        raise ValueError(f"{first.store.cells} was computed by another program than the one that is here now")
    for number, (address, runs) in enumerate(zip(addresses, first.facts["runs"], strict=True)):
        held = [(*part.facts["ranges"][number], part) for part in parts if _any(part, number)]
        stretches = sorted(held, key=lambda stretch: stretch[:2])
        behind, before = 0, None
        for begin, end, part in [*stretches, (runs, runs, None)]:
            if begin > behind:
                raise ValueError(
                    f"runs {behind} to {begin - 1} of {runs} are missing"
                    f"{f' after part {before.name}' if before else ''}{f' and before part {part.name}' if part else ''}"
                )
            if begin < behind and before and part:
                raise ValueError(f"{before.store.cells} and {part.store.cells} overlap in run {begin}")
            behind, before = end, part
        for part in parts:
            done = sum(last - start for start, last in part.store.blocks(address))
            begin, end = part.facts["ranges"][number]
            if done < end - begin:
                raise ValueError(f"part {part.name} in {part.store.cells} is not finished: start it again")


def join(parts: Sequence[Part], store: Store) -> None:
    """Put the parts' blocks where a sweep with that store finds them. Raises ValueError for one that cannot be read."""
    for part in parts:
        for address in part.facts["addresses"]:
            for first, last in part.store.blocks(address):
                arrays = part.store.load_block(address, first, last)
                if arrays is None:
                    raise ValueError(f"part {part.name} in {part.store.cells} is damaged: start it again")
                store.save_block(address, first, last, arrays)


def _any(part: Part, number: int) -> bool:
    begin, end = part.facts["ranges"][number]
    return begin < end
