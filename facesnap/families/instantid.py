"""InstantID: the resampler (stage 2 of the mixer) with its ID projections, and IdentityNet, a ControlNet, beside it.

IdentityNet is FFRNet with a single hint network that looks at the five-point picture; its cross-attention sees the 16
ID tokens. The two files are one adapter: the second is found beside the first. CFG scale and strengths are those of
InstantID's demo.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from facesnap.attach.topology import Topology
from facesnap.checkpoints import foreign
from facesnap.checkpoints.adapter import Adapter, FamilyMatch, WeightsFile
from facesnap.checkpoints.convert import with_structure
from facesnap.checkpoints.files import SUFFIXES, TensorFile, read_outline
from facesnap.errors import CheckpointError
from facesnap.faces.known import OWN, PACK_TERMS, RESEARCH_ONLY, File, Item
from facesnap.families.ip_adapter import IPAdapterFamily, is_resampler
from facesnap.files import unpacked_name
from facesnap.remedies import remedy

logger = logging.getLogger(__name__)

# Files that are IdentityNet by their name, in the folder of the adapter or one of these below or beside it.
NETWORK_NAME = re.compile(r"identity[-_ ]?net|(?=.*instant[-_. ]?id)(?=.*control)", re.IGNORECASE)
FOLDERS = ("ControlNetModel", "controlnet", "IdentityNet", "instantid")
FOLDER_FILE = re.compile(r"diffusion_pytorch_model(\.fp16)?( ?\(\d+\))?", re.IGNORECASE)
FOLDER_NAME = re.compile(r"controlnetmodel|identitynet|.*instant[-_. ]?id.*", re.IGNORECASE)  # where such a file is it


@dataclass(frozen=True, kw_only=True, eq=False)
class InstantID(IPAdapterFamily):
    """Stage 2 over one vector, and IdentityNet in a file of its own."""

    def is_projection(self, projection: Mapping[str, Tensor]) -> bool:
        return is_resampler(projection)

    def load(
        self, file: TensorFile, source: WeightsFile, match: FamilyMatch, topology: Topology | None = None
    ) -> Adapter:
        adapter = super().load(file, source, match, topology)
        if match.structure is not None:
            return with_structure(adapter, match.structure, picture=self.picture, strength=self.structure)
        logger.warning(
            "%s: its IdentityNet is not beside it, so structure and pose are off. Put "
            "ControlNetModel/diffusion_pytorch_model.safetensors beside it, or %s: it fetches both files.",
            source.path.name,
            remedy("download", name="instantid", licence="Apache-2.0, for research by its README"),
        )
        return adapter

    def find_companion(self, adapter: Path) -> Path | None:
        """IdentityNet's file beside an adapter's: by its name, and its tensors where they can be read."""
        return next((path for path in _candidates(adapter) if _is_network(path)), None)


def _candidates(adapter: Path) -> Iterator[Path]:
    here = adapter.parent
    wanted = {folder.casefold() for folder in FOLDERS}
    folders = [here]
    for parent in (here, here.parent):
        if parent.is_dir():
            folders += [
                f
                for f in sorted(parent.iterdir())
                if f.is_dir() and unpacked_name(f.name).casefold() in wanted and f != here
            ]
    for folder in folders:
        own = FOLDER_NAME.fullmatch(unpacked_name(folder.absolute().name))
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            by_name = NETWORK_NAME.search(file.stem) or (own and FOLDER_FILE.fullmatch(file.stem))
            if by_name and file != adapter and file.suffix.lower() in SUFFIXES and file.is_file():
                yield file


def _is_network(path: Path) -> bool:
    """Whether a file lists a ControlNet's hint network. A damaged one is believed by its name: loading it says what is
    wrong, where passing it over would leave the structure out."""
    try:
        names = read_outline(path).tensors
    except CheckpointError:
        return True
    return foreign.has_part(names, *foreign.CONTROLNET)


FAMILIES = (
    InstantID(
        key="instantid",
        title="InstantID",
        licence=f"Apache-2.0, for research by its README; its insightface pack is for {RESEARCH_ONLY}",
        hints=(r"instant[-_. ]?id", r"^ip-adapter\.bin$"),
        folder_hints=(r"instant[-_. ]?id",),
        part="stage2.",
        group="mix",
        recogniser="glintr100",
        id_vector="raw",
        strength=0.8,
        structure=0.8,
        companion="IdentityNet",
        picture="five_points",
        cfg=5.0,
        side=1016,  # at exactly 1024 watermarks of its training pictures show through
        downloads=(
            Item("instantid", "InstantID", "adapter and IdentityNet for SDXL", "adapter",
                 f"Apache-2.0, checkpoints for research by its README; it needs antelopev2, which is for {PACK_TERMS}",
                 (File("ip-adapter.bin", f"{OWN}/ip-adapter_instant_id_sdxl.bin", 1691, 1_691_134_141,
                       "02b3618e36d803784166660520098089a81388e61a93ef8002aa79a5b1c546e1"),
                  File("ControlNetModel/diffusion_pytorch_model.safetensors",
                       f"{OWN}/control_instant_id_sdxl.safetensors", 2502, 2_502_139_136,
                       "c8127be9f174101ebdafee9964d856b49b634435cf6daa396d3f593cf0bbbb05")),
                 "InstantX/InstantID", "sdxl"),
        ),
    ),
)  # fmt: skip
