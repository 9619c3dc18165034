"""Conditionings put on a live UNet and taken off again (torch only)."""

from facesnap.attach.attachment import Attachment, attach
from facesnap.attach.conditioning import Conditioning, Rule
from facesnap.attach.rows import Row, RowPlan
from facesnap.attach.topology import Topology, read_topology

__all__ = ["Attachment", "Conditioning", "Row", "RowPlan", "Rule", "Topology", "attach", "read_topology"]
