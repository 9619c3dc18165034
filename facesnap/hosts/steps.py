"""The step of a sampling by its sigma.

Hosts count the calls of their denoiser. An accelerator that leaves whole calls out (Spectrum and others) lets that
count fall behind, and windows with it; the sampler's own list of sigmas says where the sampling is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

SAME = 1e-3  # relative: hosts keep their lists in float32, and some models round sigmas to those that they know


class SigmaList:
    """The sigmas of one pass.

    Args:
        sigmas: of the whole schedule, falling; img2img takes the last `steps` of them.
        steps: of the pass.
    """

    def __init__(self, sigmas: Iterable[float], steps: int) -> None:
        whole = [float(sigma) for sigma in sigmas]
        self.sigmas = whole[max(len(whole) - 1 - steps, 0) :]
        self._rising = self.sigmas[::-1]
        self.falls = len(self.sigmas) > 1 and all(a < b for a, b in zip(self._rising, self._rising[1:], strict=False))

    def begins_at(self, sigma: float) -> bool:
        """Whether a pass whose first sigma is this one follows the list; another sampler may have left it there."""
        return self.falls and abs(sigma - self.sigmas[0]) <= SAME * self.sigmas[0]

    def step(self, sigma: float) -> float:
        """Steps done when the denoiser is called with a sigma, 0..steps; between two entries in proportion."""
        above = bisect_left(self._rising, sigma * (1 - SAME))  # the entry that is this sigma, or the next larger one
        last = len(self.sigmas) - 1
        if above > last:
            return 0.0
        high = self._rising[above]
        if above == 0 or sigma >= high * (1 - SAME):
            return float(last - above)
        low = self._rising[above - 1]
        return last - above + (high - sigma) / (high - low)


def calls_left_out(step: float, calls: int, total: int, steps: int) -> int:
    """Calls of the denoiser that never came; 0 where the host's count and the sigma agree to a step.

    Args:
        step: by the list of sigmas, 0..steps. calls: the host's count. total: calls that it expects of all `steps`.
    """
    behind = step - calls * steps / total
    return int(behind * total / steps + SAME) if behind >= 1 - SAME else 0
