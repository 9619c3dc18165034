"""The photo of the demo, where none is given."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from facesnap.errors import MissingDependencyError


def astronaut(out: Path) -> Path:
    """Write NASA's portrait of the astronaut Eileen Collins (public domain, in scikit-image) into a folder."""
    try:
        from skimage import data
    except ImportError as error:
        raise MissingDependencyError(
            f"scikit-image, which brings the demo's photo, cannot be imported ({error}).",
            expected="scikit-image",
            remedy="pip install scikit-image, or give a photo with --photo",
        ) from error
    path = out / "astronaut.png"
    Image.fromarray(data.astronaut()).save(path)
    return path
