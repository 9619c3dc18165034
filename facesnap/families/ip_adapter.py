"""Files of IP-Adapter's layout, which most public families share: an image projection and numbered processors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from facesnap.attach.topology import Topology
from facesnap.checkpoints import build, foreign, layout
from facesnap.checkpoints.adapter import Adapter, FamilyMatch, WeightsFile
from facesnap.checkpoints.files import TensorFile
from facesnap.families.base import Family


@dataclass(frozen=True, kw_only=True, eq=False)
class IPAdapterFamily(Family):
    """A family whose tensor names are kept, below the name of a part of the mixer.

    Attributes:
        part: "stage1.", "stage2." or "" before the names of the projection in the mixer.
        group: token group of the keys and values.
        probe: (name, columns) of the projection's tensor that takes the encoder's hidden states, with the published
            encoder's width. A file of another width was trained with an encoder that it does not name.
    """

    part: str = "stage1."
    group: str = "id"
    probe: tuple[str, int] = ("", 0)

    def matches(self, tensors: Mapping[str, Tensor]) -> bool:
        found = layout.split_parts(tensors)
        known = found is not None and self.is_projection(found["image_proj"])
        return known and not foreign.other_adapter(tensors)

    def is_projection(self, projection: Mapping[str, Tensor]) -> bool:
        """Whether the image projection is this family's, by names and shapes alone."""
        raise NotImplementedError(f"family {self.key}")

    def base_of(self, tensors: Mapping[str, Tensor], where: str) -> str:
        return layout.base_of(tensors, where)

    def load(
        self, file: TensorFile, source: WeightsFile, match: FamilyMatch, topology: Topology | None = None
    ) -> Adapter:
        found = layout.split_parts(file.tensors)
        assert found is not None
        where, projection = source.path.name, found["image_proj"]
        read = layout.read_processors(found["processors"], where, self.group, topology)
        tensors = {f"mixer.{self.part}{name}": tensor for name, tensor in projection.items()} | read.tensors
        if read.lora is not None:
            tensors |= read.lora.tensors()
        states = projection.get(self.probe[0])
        published = states is not None and states.ndim == 2 and states.shape[1] == self.probe[1]
        spec = self.spec(read.base, source, encoder=None if published else "")
        return build.build(tensors, spec, None, None, where, source.sha256, match)


def is_resampler(projection: Mapping[str, Tensor]) -> bool:
    """Whether a projection is the resampler over one vector of InstantID and of the unnormalised Portrait."""
    vector = projection.get("proj_in.weight")
    if "latents" not in projection or vector is None or vector.ndim != 2:
        return False
    # IP-Adapter Plus has one, too, over CLIP's states, which are wider
    return vector.shape[1] == foreign.ID_WIDTH and "id_embedding_mapping.0.weight" not in projection
