"""The README's library example and those of docs/library.md run as they stand, from a photo to a picture."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from facesnap.demo import shipped
from tests.test_docs import ROOT, blocks


@pytest.fixture
def folder(tmp_path: Path, face_pack: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the examples name: the trained miniature, its face pack and one of its people."""
    shutil.copytree(shipped.WEIGHTS / shipped.PIPELINE, tmp_path / "sd15")
    shutil.copytree(face_pack, tmp_path / "buffalo_l")
    shutil.copy(shipped.WEIGHTS / shipped.ADAPTER, tmp_path / "adapter.safetensors")
    shutil.copy(shipped.WEIGHTS / shipped.ENCODER / "model.safetensors", tmp_path / "vit-h.safetensors")
    with Image.open(shipped.WEIGHTS / shipped.PEOPLE / "1000000.png") as person:
        person.convert("RGB").save(tmp_path / "zoe.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_library_examples_run(folder: Path) -> None:
    readme = [block for block in blocks(ROOT / "README.md", "python") if "FaceSnapPipeline" in block]
    assert len(readme) == 1
    code = "\n".join([*readme, *blocks(ROOT / "docs" / "library.md", "python")])
    code, count = re.subn(r"size=\(512, 512\)", "size=(128, 128)", code)  # the miniature's own
    assert count == 1
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    for name in ("portrait.png", "posed.png"):
        with Image.open(folder / name) as picture:
            assert picture.size == (128, 128)
            assert len(set(picture.convert("L").getdata())) > 20, "not a plain ground"
    similarity = names["portrait"].similarity[0]  # type: ignore[attr-defined]
    assert similarity is None or -1 <= similarity <= 1
    assert (folder / "zoe.safetensors").is_file()
