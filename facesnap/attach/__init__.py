"""Conditionings put on a live UNet and taken off again (torch only)."""

from facesnap.attach.attachment import Attachment, attach
from facesnap.attach.conditioning import Conditioning, Rule
from facesnap.attach.lora import LoraPart
from facesnap.attach.networks import Networks
from facesnap.attach.rows import Row, RowPlan, Tile
from facesnap.attach.structure import Pictures, Speed, Structure, View
from facesnap.attach.topology import Topology, read_topology

__all__ = [
    "Attachment",
    "Conditioning",
    "LoraPart",
    "Networks",
    "Pictures",
    "Row",
    "RowPlan",
    "Rule",
    "Speed",
    "Structure",
    "Tile",
    "Topology",
    "View",
    "attach",
    "read_topology",
]
