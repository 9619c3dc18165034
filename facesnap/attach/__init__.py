"""Conditionings put on a live UNet and taken off again (torch only)."""

from facesnap.attach.attachment import Attachment, attach
from facesnap.attach.conditioning import Conditioning, Rule
from facesnap.attach.control import ControlConditioning, ControlPictures, ControlView, Speed
from facesnap.attach.lora import LoraPart
from facesnap.attach.networks import Networks
from facesnap.attach.rows import Row, RowPlan, Tile
from facesnap.attach.topology import Topology, read_topology

__all__ = [
    "Attachment",
    "Conditioning",
    "ControlConditioning",
    "ControlPictures",
    "ControlView",
    "LoraPart",
    "Networks",
    "Row",
    "RowPlan",
    "Rule",
    "Speed",
    "Tile",
    "Topology",
    "attach",
    "read_topology",
]
