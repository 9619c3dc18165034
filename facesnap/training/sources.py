"""Sources of photos: folders of people, lists, tar shards in webdataset's layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facesnap.errors import SettingsError
from facesnap.files import PICTURE_SUFFIXES
from facesnap.training.lists import LIST_SUFFIXES, from_list
from facesnap.training.photos import Passed, Photo, decoded
from facesnap.training.tars import TAR_SUFFIXES, from_tar, is_tar

__all__ = ["Passed", "Photo", "find_photos"]


def find_photos(source: Path, passed: Passed | None = None) -> list[Photo]:
    """All photos of a source, sorted by key.

    Args:
        source: a folder with a sub-folder a person (photos right inside it are people of their own; links are
            followed), a folder of tar shards, one tar, or a list (.csv with a header, .json, .jsonl) with the columns
            path, person and perhaps caption. Tars may be packed by gzip, bzip2 or xz.
        passed: takes the record of what is no photo.

    Raises:
        SettingsError: nothing there, no photos, or a list or tar that cannot be read.
    """
    passed = Passed() if passed is None else passed
    if source.is_file() and source.suffix.lower() in LIST_SUFFIXES:
        found = list(from_list(source))
    elif source.is_file() and is_tar(source):
        found = list(from_tar(source, passed))
    elif source.is_dir():
        tars = sorted(file for file in source.iterdir() if is_tar(file) and file.is_file())
        found = [photo for tar in tars for photo in from_tar(tar, passed)]
        found += _from_folder(source, passed) if not tars else []
        for file in source.iterdir() if tars else ():
            if file.suffix.lower() in PICTURE_SUFFIXES:
                passed.note("a photo beside tar shards", file.name)
    else:
        raise SettingsError(
            f"{source} is no source of photos.",
            expected=f"a folder, a tar ({', '.join(TAR_SUFFIXES)}) or a list ({', '.join(LIST_SUFFIXES)})",
            remedy="correct the path",
        )
    if not found:
        seen = "; ".join(passed.lines())
        raise SettingsError(
            f"{source} holds no photos{': ' + seen if seen else ''}.",
            expected=", ".join(PICTURE_SUFFIXES),
            remedy="give the folder above the people's",
        )
    return sorted(found, key=lambda photo: photo.key)


def _from_folder(root: Path, passed: Passed) -> Iterator[Photo]:
    for file in _files(root, passed):
        key, suffix = file.relative_to(root).as_posix(), file.suffix.lower()
        if file.name.startswith("."):
            passed.note("a hidden file", key)
        elif suffix in PICTURE_SUFFIXES:
            person = key.split("/")[0] if "/" in key else key
            yield Photo(key, person, _caption(file, passed), file)
        elif suffix != ".txt" or not any(file.with_suffix(kind).exists() for kind in _spellings()):
            passed.note(f"{suffix or 'no ending'}, no picture by its name", key)


def _files(root: Path, passed: Passed) -> Iterator[Path]:
    """Every file below a folder. Links are entered after all real folders, and no folder twice."""
    entered: set[Path] = set()
    folders, links, top = [root], list[Path](), root.resolve()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        real = folder.resolve()
        name = folder.relative_to(root).as_posix()
        if real in entered or (real != top and top.is_relative_to(real)):
            passed.note("a link to a folder that is read already, or to one above", name)
            continue
        entered.add(real)
        for entry in sorted(folder.iterdir()):
            if entry.is_dir() and not entry.name.startswith("."):
                (links if entry.is_symlink() else folders).append(entry)
            elif entry.is_file():
                yield entry
            else:
                reason = "a hidden folder" if entry.is_dir() else "a link that leads nowhere"
                passed.note(reason, entry.relative_to(root).as_posix())


def _spellings() -> Iterator[str]:
    for kind in PICTURE_SUFFIXES:
        yield from (kind, kind.upper())


def _caption(photo: Path, passed: Passed) -> str | None:
    text = photo.with_suffix(".txt")
    if not text.is_file():
        return None
    try:
        return decoded(text.read_bytes()).strip() or None
    except UnicodeDecodeError:
        passed.note("a caption that is not UTF-8", text.name)
        return None
