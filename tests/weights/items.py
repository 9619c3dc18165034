"""What the tests of downloads share besides the server."""

from __future__ import annotations

from facesnap.faces.known import File, Item
from facesnap.weights.folders import Folders

ZIP = "deepinsight/insightface/releases/download/v0.7/small.zip"


def small_pack(sha256: str = "") -> Item:
    inside = {"rec.onnx": sha256} if sha256 else {}
    file = File(f"https://github.com/{ZIP}", "insightface/models/small", 1, unpack=True, inside=inside)
    return Item("small", "a pack", "tests", "pack", "only for tests", (file,))


def left(folders: Folders) -> list[str]:
    """What lies in the folders of models, locks left out."""
    found = folders.models.rglob("*") if folders.models.exists() else ()
    return sorted(path.name for path in found if path.is_file() and path.suffix != ".lock")
