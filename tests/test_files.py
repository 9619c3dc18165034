"""Writing files: whole or not at all, under names as long as file systems allow."""

from __future__ import annotations

from pathlib import Path

import pytest

from facesnap.files import beside, extensible, write_atomically

LONG = "é" * 119 + ".safetensors"  # 250 bytes


def test_a_file_of_a_long_name_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "made" / LONG
    assert len(file.name.encode()) == 250
    names: list[str] = []

    def write(partial: Path) -> None:
        assert file.exists() == bool(names)
        names.append(partial.name)
        partial.write_bytes(b"whole")

    write_atomically(file, write)
    write_atomically(file, write)
    assert file.read_bytes() == b"whole" and list(file.parent.iterdir()) == [file]
    assert names[0] == names[1] and len(names[0].encode()) <= len(file.name.encode())
    with pytest.raises(ZeroDivisionError):
        write_atomically(file, lambda partial: partial.write_bytes(b"half") / 0)  # type: ignore[operator]
    assert file.read_bytes() == b"whole" and list(file.parent.iterdir()) == [file]


def test_names_of_two_files_never_meet() -> None:
    names = ["a", "b", "A" * 40, "A" * 41, "A" * 250, "B" * 250, "A" * 249 + "B", LONG]
    assert len({beside(Path("x") / name, ".partial").name for name in names}) == len(names)
    assert len({extensible(name) for name in names}) == len(names)
    assert all(len((extensible(name) + "-reference-12.json").encode()) <= 255 for name in names)
    assert extensible("Zoë") == "Zoë"
