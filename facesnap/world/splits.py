"""Splits of the people, those to train on and those to evaluate on: the one place that says so.

A person is a seed. The ranges never overlap, so a person seen in training never appears in an evaluation.
"""

from __future__ import annotations

from facesnap.errors import SettingsError

SPLITS: dict[str, range] = {
    "train": range(0, 1_000_000),
    "held_out": range(1_000_000, 2_000_000),
}


def split_of(seed: int) -> str:
    """The split that a person's seed belongs to; SettingsError where none holds it."""
    for name, seeds in SPLITS.items():
        if seed in seeds:
            return name
    raise SettingsError(
        f"Person {seed} belongs to no split.",
        expected=", ".join(f"{s.start}..{s.stop - 1} ({name})" for name, s in SPLITS.items()),
        remedy="choose a seed inside one of these ranges.",
    )


def people(first: int, count: int) -> range:
    """`count` people from seed `first` on, all of one split; SettingsError where there are none or they leave it."""
    if count < 1:
        raise SettingsError(f"{count} people.", expected="at least one.", remedy="ask for more people.")
    wanted = range(first, first + count)
    split = split_of(first)
    if wanted[-1] not in SPLITS[split]:
        raise SettingsError(
            f"People {first} to {wanted[-1]} leave the split {split}.",
            expected=f"seeds of {SPLITS[split].start}..{SPLITS[split].stop - 1}.",
            remedy="ask for fewer people or start lower.",
        )
    return wanted
