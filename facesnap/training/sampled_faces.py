"""Places of the faces in pictures that were sampled during the training, for the recogniser that judges them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from facesnap.faces import FaceAnalyser
from facesnap.faces.align import similarity, template
from facesnap.pipeline.pipeline import SCORE_STEPS
from facesnap.training.losses import RECOGNISER_SIDE


class SampledFaces:
    """A face pack's detector for batches of pictures; it runs on the CPU and takes no gradient.

    Args:
        pack: name or folder.

    Raises:
        PackError: the pack is missing, incomplete or damaged. MissingDependencyError: insightface is missing.
    """

    def __init__(self, pack: str) -> None:
        self._analyser = FaceAnalyser(pack)

    def __call__(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The largest face of each picture.

        Args:
            pictures: (B, 3, H, W) RGB, 0..1; what lies beyond is cut.

        Returns:
            found (B,) bool; boxes (B, 4), fractions of the picture inside 0..1; matrices (B, 2, 3), picture pixels ->
            crop. Both are 0 where no face was found.
        """
        found = torch.zeros(len(pictures), dtype=torch.bool)
        boxes, matrices = torch.zeros(len(pictures), 4), torch.zeros(len(pictures), 2, 3)
        height, width = pictures.shape[-2:]
        pixels = (255 * pictures.detach().float().clamp(0, 1)).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
        for i, picture in enumerate(pixels.numpy()):
            place = self._analyser.place(picture, most_steps=SCORE_STEPS)
            if place is None:
                continue
            box, kps = place
            found[i] = True
            boxes[i] = torch.from_numpy(np.asarray(box, np.float32)) / torch.tensor([width, height] * 2)
            matrices[i] = torch.from_numpy(similarity(kps, template(RECOGNISER_SIDE)))
        return found, boxes.clamp(0, 1), matrices
