"""Real components as fixtures, fetched once a session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from facesnap import remedies
from tests.components import face_pack as pack_builder
from tests.components.fetch import ComponentError, fetch
from tests.networks_once import networks_once

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("FACESNAP_TEST_CACHE", ROOT / ".cache"))


# Machines that run tests are busy, and no property here is about time.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture
def in_webui() -> Iterator[Callable[[], None]]:
    """Called, what follows in the test is said as in a WebUI."""
    yield lambda: remedies.stand_in(remedies.WEBUI)
    remedies.stand_in(remedies.COMMAND_LINE)


def _missing(error: ComponentError) -> None:
    """A component that cannot be had fails the tests in CI; on a desk without a network they are skipped."""
    if os.environ.get("CI"):
        pytest.fail(f"a real component is missing: {error}", pytrace=False)
    pytest.skip(f"a real component is missing: {error}")


@pytest.fixture(scope="session", autouse=True)
def _networks_once() -> Iterator[None]:
    with networks_once():
        yield


@pytest.fixture(scope="session")
def components() -> Path:
    """Folder with one sub-folder for each component of tests/components/fetch.py."""
    try:
        fetch(dest=CACHE / "components")
    except ComponentError as error:
        _missing(error)
    return CACHE / "components"


@pytest.fixture(scope="session")
def face_pack(components: Path) -> Path:
    """Folder of a real face-analysis pack: detector, recogniser, 68 landmarks."""
    try:
        return pack_builder.build(CACHE / "face_pack", components)
    except ComponentError as error:
        _missing(error)
        raise


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """(512, 512, 3) RGB uint8, a public-domain portrait of Eileen Collins by NASA."""
    from skimage import data

    return data.astronaut()


@pytest.fixture(scope="session")
def orl(components: Path) -> list[tuple[str, int, np.ndarray]]:
    """The 400 ORL pictures: person, index, grey (112, 92) uint8."""
    from PIL import Image

    pictures = []
    for file in sorted((components / "orl").glob("s*/*.pgm")):
        with Image.open(file) as image:
            pictures.append((file.parent.name, int(file.stem), np.array(image)))
    assert len(pictures) == 400
    return pictures


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, face_pack: Path, astronaut: np.ndarray) -> SimpleNamespace:
    """An untrained model on disk, real face models, and two photos of one person."""
    from PIL import Image

    from facesnap.checkpoints import native
    from facesnap.demo import untrained
    from facesnap.faces.analyser import FaceAnalyser
    from facesnap.faces.encoder import ImageEncoder
    from facesnap.hosts.diffusers import DiffusersHost

    folder = tmp_path_factory.mktemp("world")
    photo, crop = folder / "astronaut.png", folder / "closer, “größer”.jpg"
    Image.fromarray(astronaut).save(photo)
    Image.fromarray(astronaut[:300, 100:400]).save(crop, quality=90)
    host = DiffusersHost.load(untrained.save_pipeline(folder / "model"), device="cpu")
    analyser = FaceAnalyser(face_pack)
    encoder = ImageEncoder.load(untrained.save_encoder(folder / "encoder.safetensors"))
    names = {"recogniser": analyser.recogniser, "encoder": encoder.fingerprint, "encoder_name": encoder.name}
    file = untrained.save_adapter(folder / "adapter.safetensors", host.unet, **names)
    return SimpleNamespace(folder=folder, photo=photo, crop=crop, host=host, analyser=analyser, encoder=encoder,
                           file=file, names=names, pack=face_pack, adapter=native.load(file))  # fmt: skip
