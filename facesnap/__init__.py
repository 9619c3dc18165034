"""FaceSnap: identity-preserving portraits from one photo (arXiv 2602.00627)."""

from facesnap.version import __version__

__all__ = ["__version__"]
