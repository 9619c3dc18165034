"""Sources of photos: folders of people, lists, tar shards in webdataset's layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facesnap.errors import SettingsError
from facesnap.files import PICTURE_SUFFIXES
from facesnap.training.lists import LIST_SUFFIXES, from_list
from facesnap.training.photos import Passed, Photo, decoded
from facesnap.training.tars import BY_ITS_NAME, TAR_SUFFIXES, from_tar, is_tar

__all__ = ["Passed", "Photo", "find_photos"]

PACKED_OTHERWISE = (".zip", ".7z", ".rar", ".zst", ".gz")


def find_photos(source: Path, passed: Passed | None = None) -> list[Photo]:
    """All photos of a source, sorted by key.

    Args:
        source: a folder with a sub-folder a person (photos right inside it are people of their own; links are
            followed), a folder of tar shards, one tar, or a list (.csv or .tsv with a header, .json, .jsonl) with the
            columns path, person and perhaps caption. Tars may be packed by gzip, bzip2 or xz, and lie in sub-folders
            where these hold no photos besides.
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
        found = list(_from_folder(source, passed))
    else:
        packed = source.name.lower().endswith(PACKED_OTHERWISE)
        raise SettingsError(
            f"{source} is no source of photos." if source.exists() else f"There is no {source}.",
            expected=f"a folder, a tar ({', '.join(TAR_SUFFIXES)}) or a list ({', '.join(LIST_SUFFIXES)})",
            remedy="unpack it, and give the folder" if packed and source.exists() else "correct the path",
        )
    if not found:
        seen = "; ".join(passed.lines())
        raise SettingsError(
            f"{source} holds no photos{': ' + seen if seen else ''}.",
            expected=", ".join(PICTURE_SUFFIXES),
            remedy="give the folder above the people's" if source.is_dir() else "give a tar with photos in it",
        )
    return sorted(found, key=lambda photo: photo.key)


def _from_folder(root: Path, passed: Passed) -> Iterator[Photo]:
    files = list(_files(root, passed))
    pictures = {file for file in files if _is_picture(file)}
    tars = {file for file in files if is_tar(file)}
    if tars and (not pictures or any(tar.parent == root for tar in tars)):
        for tar in sorted(tars):
            yield from from_tar(tar, passed, tar.relative_to(root).as_posix())
        for file in files:
            if file not in tars:
                key = file.relative_to(root).as_posix()
                passed.note("a photo beside tar shards" if _is_picture(file) else _no_picture(file), key)
        return
    texts = {_stem(file): file for file in reversed(files) if file.suffix.lower() == ".txt"}
    captions = {_stem(file): texts[_stem(file)] for file in pictures if _stem(file) in texts}
    for file in files:
        key = file.relative_to(root).as_posix()
        if file in pictures:
            person = key.split("/")[0] if "/" in key else key
            yield Photo(key, person, _caption(captions.get(_stem(file)), root, passed), file)
        elif captions.get(_stem(file)) != file:
            passed.note("a tar beside photos" if is_tar(file) else _no_picture(file), key)


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".")


def _no_picture(file: Path) -> str:
    """The reason for which a file that is none by its name is passed over."""
    return "a hidden file" if file.name.startswith(".") else f"{file.suffix.lower() or 'no ending'}, {BY_ITS_NAME}"


def _stem(file: Path) -> Path:
    """The path that a photo and its caption share."""
    return file.with_suffix("")


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


def _caption(text: Path | None, root: Path, passed: Passed) -> str | None:
    if text is None:
        return None
    try:
        return decoded(text.read_bytes()).strip() or None
    except UnicodeDecodeError:
        passed.note("a caption that is not UTF-8", text.relative_to(root).as_posix())
        return None
