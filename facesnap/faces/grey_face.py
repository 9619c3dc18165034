"""A face as PuLID's image tower wants to see it: aligned to 512 x 512, grey, and nothing around it but white.

The background is found by a face-parsing network where its file is on this machine, and else by an ellipse.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facesnap.errors import NoFaceError
from facesnap.faces.encoder_files import read_tensors
from facesnap.faces.face import Face
from facesnap.faces.packs import model_roots, webui_roots
from facesnap.models.face_parsing import SIDE, Parser, parser_of
from facesnap.remedies import remedy

logger = logging.getLogger(__name__)

# facexlib's target points in a 512 x 512 picture: eyes, nose, mouth corners of FFHQ's alignment.
FFHQ_TEMPLATE = np.array(
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
     [313.08905, 371.15118]],
)  # fmt: skip
OUTSIDE = (132, 133, 135)  # RGB beyond the picture's edge, facexlib's grey
LUMA = (0.299, 0.587, 0.114)
# Without a parsing network: centre and half axes of the ellipse of an aligned head, px.
HEAD_CENTRE, HEAD_AXES = (256.0, 262.0), (168.0, 218.0)
ELLIPSE = "ellipse"

PARSER_FILES = ("parsing_bisenet.pth", "parsing_parsenet.pth")  # the first is what PuLID was trained with
# Below a folder of models and below a WebUI, where face restorers and other extensions keep them.
PARSER_PARENTS = ("FaceSnap", "facexlib", "GFPGAN", "Codeformer", "facedetection", ".")
WEBUI_PARENTS = ("facexlib/weights", "gfpgan/weights", "repositories/CodeFormer/weights/facelib")


def aligned_head(face: Face) -> np.ndarray:
    """The face upright in a crop (512, 512, 3) RGB uint8, as facexlib aligns it.

    Raises:
        NoFaceError: its five points cannot be aligned.
    """
    import cv2

    matrix = cv2.estimateAffinePartial2D(face.kps.astype(np.float64), FFHQ_TEMPLATE, method=cv2.LMEDS)[0]
    if matrix is None or not np.isfinite(matrix).all():
        raise NoFaceError(
            f"The five points of the face in {face.source} cannot be aligned.",
            expected="eyes, nose and mouth corners apart from each other",
            remedy="use another photo",
        )
    return cv2.warpAffine(face.picture, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_CONSTANT, borderValue=OUTSIDE)


def grey_faces(heads: Sequence[np.ndarray], parser: Parser | None) -> Tensor:
    """Aligned heads (512, 512, 3) RGB uint8 -> (B, 3, 512, 512) float32 in 0..1, grey on white."""
    pixels = torch.stack([torch.from_numpy(head) for head in heads]).permute(0, 3, 1, 2).float() / 255
    if parser is None:
        x, y = torch.arange(SIDE) - HEAD_CENTRE[0], torch.arange(SIDE) - HEAD_CENTRE[1]
        outside = (x[None] / HEAD_AXES[0]) ** 2 + (y[:, None] / HEAD_AXES[1]) ** 2 > 1  # (512, 512)
    else:
        with torch.no_grad():
            outside = torch.cat([parser.not_face(p[None]) for p in pixels])  # (B, 1, 512, 512)
    grey = (pixels * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)  # (B, 1, 512, 512)
    return torch.where(outside, torch.ones(()), grey).expand(-1, 3, -1, -1)


def parser_folders(model_dirs: Iterable[str | os.PathLike] = ()) -> list[Path]:
    """Folders that may hold a parsing network, in search order."""
    folders = [root / parent for root in model_roots(model_dirs) for parent in PARSER_PARENTS]
    folders += [root / parent for root in webui_roots() for parent in WEBUI_PARENTS]
    package = importlib.util.find_spec("facexlib")  # finds it without importing it
    folders += [Path(place) / "weights" for place in (package.submodule_search_locations or ())] if package else []
    return list(dict.fromkeys(folders))


def find_parser(model_dirs: Iterable[str | os.PathLike] = ()) -> Path | None:
    """A parsing network's file in the usual places, the better one first; None where there is none."""
    folders = parser_folders(model_dirs)
    places = (folder / name for name in PARSER_FILES for folder in folders)
    return next((place for place in places if place.is_file()), None)


def load_parser(model_dirs: Iterable[str | os.PathLike] = ()) -> Parser | None:
    """The parsing network of this machine. Which one it is, or that there is none, is logged.

    Raises:
        EncoderError: a file of that name is there and is damaged.
    """
    file = find_parser(model_dirs)
    if file is None:
        logger.warning(
            "No face-parsing network (%s) was found: the background of reference photos is cut off by an ellipse, "
            "which may keep some of it and lose some hair. %s.",
            " or ".join(PARSER_FILES),
            remedy("see where files lie"),
        )
        return None
    parser = parser_of(read_tensors(file), file.name)
    logger.info("the background of reference photos is found by %s (%s)", parser.title, file)
    return parser
