"""A real WebUI for the tests: FACESNAP_WEBUI names its folder, FACESNAP_WEBUI_CHECKPOINTS one of checkpoints.

The hosts are on no package registry, so without FACESNAP_WEBUI these tests are skipped, in CI too. Also read:
FACESNAP_WEBUI_PYTHON (its interpreter; by default that of its venv) and FACESNAP_WEBUI_ARGS (further flags).
Any SD1.5 or SDXL checkpoints will do, random ones too; the first in the folder decides for which of both the adapter
is made. A second of the same layout, one of another layout and an inpainting one are used where they are there.
FACESNAP_WEBUI_NEIGHBOURS names a folder of other extensions' repositories, see test_neighbours. What a run saw is
written into the table of docs/hosts.md by FACESNAP_HOSTS (that file) and FACESNAP_WEBUI_NAME (its column).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.live import matrix
from tests.live.checkpoints import Checkpoints, survey
from tests.live.webui import ROOT, Auth, WebUI, to_text

collect_ignore_glob = [] if find_spec("playwright") else ["test_page.py"]  # it is in the WebUIs' environments
FOLDER = os.environ.get("FACESNAP_WEBUI", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if FOLDER:
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="FACESNAP_WEBUI names no WebUI"))


OUTCOMES: defaultdict[str, Counter[str]] = defaultdict(Counter)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    place = Path(report.nodeid.partition("::")[0])
    if place.parent.name == Path(__file__).parent.name and (report.when == "call" or report.outcome != "passed"):
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        OUTCOMES[place.stem.removeprefix("test_")][outcome] += 1


def pytest_sessionfinish() -> None:
    if FOLDER and "FACESNAP_HOSTS" in os.environ:
        call = ["git", "rev-parse", "--short=8", "HEAD"]
        commit = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        name = os.environ.get("FACESNAP_WEBUI_NAME", Path(FOLDER).name)
        matrix.update(Path(os.environ["FACESNAP_HOSTS"]), name, OUTCOMES, commit)


@pytest.fixture(scope="session")
def checkpoints() -> Checkpoints:
    folder = Path(os.environ.get("FACESNAP_WEBUI_CHECKPOINTS", Path(FOLDER) / "models" / "Stable-diffusion"))
    return survey(folder)


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the extension as a user has them."""
    folder = tmp_path_factory.mktemp("extension")
    for part in ("facesnap", "scripts", "javascript"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("preload.py", "metadata.ini", "style.css"):
        shutil.copy(ROOT / file, folder / file)
    return folder


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    (folder / "scripts").mkdir()
    shutil.copy(Path(__file__).with_name("probe.py"), folder / "scripts" / "facesnap_probe.py")
    return folder


@pytest.fixture(scope="session")
def plain_pictures(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Pictures of a WebUI without the extension."""
    webui = WebUI(Path(FOLDER), tmp_path_factory.mktemp("plain"), checkpoints.folder, {})
    try:
        webui.options(show_progress_type="Approx cheap")  # as the WebUI with the extension
        webui.use(checkpoints.first.name)
        return {name: webui.pictures(**payload) for name, payload in PLAIN.items()}
    finally:
        webui.stop()


PLAIN: dict[str, dict[str, Any]] = {
    "one": {},
    "batch": {"batch_size": 2, "sampler_name": "DPM++ 2M"},
    "hires": {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7},
}


@pytest.fixture(scope="session")
def webui(
    checkpoints: Checkpoints, extension: Path, probe: Path, face_pack: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebUI]:
    """A WebUI with the extension, the probe, a face pack, an encoder and untrained adapters."""
    webui = start(tmp_path_factory.mktemp("webui"), checkpoints, extension, probe, face_pack)
    yield webui
    webui.stop()


def start(
    data: Path, checkpoints: Checkpoints, extension: Path, probe: Path, pack: Path, flags: Sequence[str] = (),
    auth: Auth = None, **more: Any,
) -> WebUI:  # fmt: skip
    """A WebUI that has made its first picture. flags: further ones; auth: what its requests bring; more: see WebUI."""
    checkpoints.write_adapters(data / "models" / "FaceSnap", pack)
    shutil.copytree(pack, data / "models" / "FaceSnap" / "test_pack")
    extensions = {"facesnap": extension, "facesnap_probe": probe}
    webui = WebUI(Path(FOLDER), data, checkpoints.folder, extensions, flags, auth, **more)
    webui.use(checkpoints.first.name)
    webui.options(show_progress_type="Approx cheap")  # SDXL's preview would be downloaded
    webui.pictures(steps=1)  # Forge loads its checkpoint for the first picture
    return webui


@pytest.fixture(scope="session")
def photo(astronaut: np.ndarray) -> str:
    return to_text(astronaut)


@pytest.fixture()
def snap(photo: str) -> dict[str, Any]:
    """FaceSnap's object S with one person."""
    return {"references": [photo], "strength": 1.0}
