"""The photo of the demo, where none is given."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from facesnap.errors import importing


def astronaut(out: Path) -> Path:
    """Write NASA's portrait of the astronaut Eileen Collins (public domain, in scikit-image) into a folder."""
    with importing(
        "scikit-image, which brings the demo's photo, cannot be imported",
        "scikit-image",
        "pip install scikit-image, or give a photo with --photo",
    ):
        from skimage import data
    path = out / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path
