"""Places where the networks of an attachment compute."""

from __future__ import annotations

from torch import Tensor

from facesnap.models.fidelity import FFRNet


class Networks:
    """FFRNets compute where they lie. A host that keeps them elsewhere and lends the UNet's device to them for a
    while hands a subclass to the attachment."""

    def at(self, net: FFRNet, x: Tensor) -> FFRNet:
        """The network to compute with now.

        Args:
            net: of a control conditioning. x: (B, C, h, w), the UNet's input: its device is the one to compute on.
        """
        return net

    def rest(self) -> None:
        """No network is needed before the next UNet call."""
