"""The fetching script itself: hashes, partial downloads, clients that are missing; and the pack it feeds."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.components import face_pack as builder
from tests.components import fetch as fetching
from tests.components.fetch import COMPONENTS, Component, ComponentError, fetch_component


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "thing.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("thing/a.txt", "A")
        zipped.writestr("thing/b.txt", "B")
        zipped.writestr("thing/../../evil.txt", "evil")
    return path


@pytest.fixture
def component(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Component:
    """A component whose client is a copy of a local archive; counts its downloads in `calls`."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    thing = Component(
        "thing", "wheel", "thing==1", archive.name, digest, r"thing/(?P<name>\w+\.txt)", 2, "none"
    )
    monkeypatch.setattr(fetching, "_download", lambda _, scratch: Path(shutil.copy(archive, scratch)))
    return thing


def test_fetches_once_and_repairs(
    component: Component, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch_component(component, tmp_path / "dest")
    assert (folder / "a.txt").read_text(encoding="utf-8") == "A"
    assert not list(tmp_path.rglob("evil.txt"))
    assert [path.name for path in folder.parent.iterdir()] == ["thing"]  # no scratch folder stays behind
    download = fetching._download
    monkeypatch.setattr(fetching, "_download", lambda *_: pytest.fail("fetched again"))
    assert fetch_component(component, tmp_path / "dest") == folder
    monkeypatch.setattr(fetching, "_download", download)
    (folder / "a.txt").write_text("damaged", encoding="utf-8")
    (folder / "b.txt").unlink()
    fetch_component(component, tmp_path / "dest")
    assert (folder / "a.txt").read_text(encoding="utf-8") == "A" and (folder / "b.txt").is_file()


def test_refuses_another_archive(component: Component, tmp_path: Path) -> None:
    for changed in (dataclasses.replace(component, sha256="0" * 64), dataclasses.replace(component, count=3)):
        with pytest.raises(ComponentError, match=r"pinned is|files match"):
            fetch_component(changed, tmp_path / "dest")
        assert not (tmp_path / "dest" / "thing").exists()


def test_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    with pytest.raises(ComponentError, match="npm is needed"):
        fetch_component(COMPONENTS["faceplugin"], tmp_path)
    assert fetching.main(["--dest", str(tmp_path), "faceplugin"]) == 1
    with pytest.raises(ComponentError, match="unknown component"):
        fetching.fetch(["nonsense"], tmp_path)


def test_pack_decodes_like_centerface(components: Path, face_pack: Path, astronaut: np.ndarray) -> None:
    """The graph's boxes and points against CenterFace's own maps, decoded here in numpy."""
    import onnxruntime
    from PIL import Image

    picture = np.array(Image.fromarray(astronaut).resize((320, 320)))
    raw = picture.transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, 320, 320), RGB 0..255
    model = onnx.load(str(components / "centerface" / "centerface.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        if len(value.type.tensor_type.shape.dim) == 4 and value.name in (
            "input.1",
            "537",
            "538",
            "539",
            "540",
        ):
            value.type.tensor_type.shape.dim[2].dim_param = f"{value.name}_h"
            value.type.tensor_type.shape.dim[3].dim_param = f"{value.name}_w"
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    cpu = ["CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    theirs = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=cpu)
    heat, size, offset, points = theirs.run(["537", "538", "539", "540"], {"input.1": raw})
    row, column = np.unravel_index(heat[0, 0].argmax(), heat.shape[2:])
    height, width = np.exp(size[0, :, row, column]) * 4
    y, x = (np.array([row, column]) + offset[0, :, row, column] + 0.5) * 4
    left, top = x - width / 2, y - height / 2
    kps = [(points[0, 2 * j + 1, row, column] * width + left, points[0, 2 * j, row, column] * height + top)
           for j in range(5)]  # fmt: skip

    ours = onnxruntime.InferenceSession(str(face_pack / builder.DETECTOR), providers=cpu)
    names = [output.name for output in ours.get_outputs()]
    found = dict(zip(names, ours.run(None, {"input.1": (raw - 127.5) / 128}), strict=True))
    best = int(found["score_8"].argmax())
    cell = best // 2  # two anchors a cell
    corner = np.array([cell % 40, cell // 40]) * 8
    distances = found["bbox_8"][best] * 8
    assert found["score_8"].shape == (40 * 40 * 2, 1) and found["score_8"][best, 0] > 0.8
    assert abs(found["score_8"][best, 0] - heat.max()) < 1e-4
    box = [*(corner - distances[:2]), *(corner + distances[2:])]
    assert np.allclose(box, [left, top, left + width, top + height], atol=0.05)
    assert np.allclose(found["kps_8"][best].reshape(5, 2) * 8 + corner, kps, atol=0.05)
    assert all(not found[name].any() for name in names if name.endswith(("_16", "_32")))
