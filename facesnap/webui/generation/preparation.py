"""What one generation holds of the loader's adapter, and gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from facesnap.attach import Topology
from facesnap.hosts.base import Parts
from facesnap.settings.model import Settings
from facesnap.webui.generation.loader import PipelineLoader, Prepared


class Preparation:
    """The parts of a generation, made for each kind of UNet when they are first asked for.

    They are given back when the generation ends and, whatever has kept it from ending, before the loader reads another
    adapter. Whoever asks after that has them made again.

    Args:
        settings: with every picture as an array. size: (width, height) of the whole picture.
        init: gives the picture that img2img starts from, or None.

    Attributes:
        prepared: what was made last; None before, and once it is given back.
    """

    def __init__(
        self,
        loader: PipelineLoader,
        settings: Settings,
        size: tuple[int, int],
        init: Callable[[], np.ndarray | None] = lambda: None,
    ) -> None:
        self._loader, self._settings, self._size, self._init = loader, settings, size, init
        self._made: dict[tuple[Any, ...], Prepared] = {}
        self.prepared: Prepared | None = None

    def __call__(self, topology: Topology) -> Parts:
        """The parts for a UNet; a `facesnap.hosts.base.Prepare`. Raises what `PipelineLoader.prepare` raises."""
        return self.of(topology).parts

    def of(self, topology: Topology) -> Prepared:
        """The same with what was found out about the people."""
        if topology.sizes not in self._made:
            made = self._loader.prepare(self._settings, topology, self._size, self._init())
            self._loader.lend(self)
            self._made[topology.sizes] = made
        self.prepared = self._made[topology.sizes]
        return self.prepared

    def let_go(self) -> None:
        """Give everything back. May be called again."""
        self._made.clear()
        self.prepared = None
