"""FaceSnap: identity-preserving portraits from one photo (arXiv 2602.00627).

    from facesnap import FaceSnapPipeline, load_adapter
    from facesnap.attach import attach

Importing the package loads nothing heavy: each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from facesnap.version import __version__

if TYPE_CHECKING:
    from facesnap.families.registry import load_adapter
    from facesnap.pipeline.pipeline import FaceSnapPipeline

__all__ = ["FaceSnapPipeline", "__version__", "load_adapter"]
_PLACES = {"load_adapter": "facesnap.families.registry", "FaceSnapPipeline": "facesnap.pipeline.pipeline"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
