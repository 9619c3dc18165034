"""FaceSnap's own checkpoints, which name everything in their metadata; also adapters of FaceSnap's own training."""

from __future__ import annotations

from dataclasses import dataclass

from facesnap.attach.topology import Topology
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter, FamilyMatch, WeightsFile
from facesnap.checkpoints.files import TensorFile
from facesnap.families.base import NATIVE, Family


@dataclass(frozen=True, kw_only=True, eq=False)
class Native(Family):
    """Its files keep the family of the public adapter that they were converted from (`AdapterSpec.family`)."""

    def load(
        self, file: TensorFile, source: WeightsFile, match: FamilyMatch, topology: Topology | None = None
    ) -> Adapter:
        return native.from_file(file, source.path.name, source.sha256, match)


FAMILIES = (Native(key=NATIVE, title="FaceSnap", metadata_key=native.KEY),)
