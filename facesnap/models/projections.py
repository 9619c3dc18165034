"""ID projections: keys and values that each cross-attention site makes of the ID tokens (arXiv 2308.06721).

They are needed once for a set of ID tokens, never during sampling: ID tokens do not change over the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from facesnap.errors import CheckpointError, SettingsError
from facesnap.models.layers import TokenGroup
from facesnap.models.tensors import on_meta

KINDS = ("input", "middle", "output")  # of blocks, in the order of running


@dataclass(frozen=True)
class GroupKV:
    """Keys and values of one token group at one site, for one person.

    Attributes:
        k, v: (T, width), width = heads * dim_head of the site.
        bias: (T,) log-quality added to the logits, or None.
        gate: factor of the group's output; tanh of the trained gate, 1.0 for a donor's group.
    """

    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    gate: float = 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(t.numel() * t.element_size() for t in (self.k, self.v, self.bias) if t is not None)


SiteKV = Mapping[str, tuple[GroupKV, ...]]  # canonical site name -> one entry a token group


class GroupProjection(nn.Module):
    """(T, D) tokens -> (T, width) keys and values. `gated` adds the tanh gate, 0 at the start."""

    def __init__(self, context: int, width: int, gated: bool) -> None:
        super().__init__()
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        if gated:
            self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_k(tokens), self.to_v(tokens)


def module_key(site: str) -> str:
    """A site's name as a module name: `input.4.1.0` -> `input_4_1_0` (module names hold no dots)."""
    return site.replace(".", "_")


class IDProjections(nn.Module):
    """One `GroupProjection` for each site and token group.

    Args:
        sites: {canonical site name: width of the site}.
        groups: {token group ("id", "mix"): gated or not}.
        context: D, the width of the ID tokens.
    """

    def __init__(self, sites: Mapping[str, int], groups: Mapping[str, bool], context: int) -> None:
        super().__init__()
        self.widths = dict(sites)
        self.groups = dict(groups)
        self.context = context
        self.sites = nn.ModuleDict(
            {
                module_key(site): nn.ModuleDict(
                    {g: GroupProjection(context, width, gated) for g, gated in groups.items()}
                )
                for site, width in sites.items()
            }
        )

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> IDProjections:
        """Build (on the meta device) from the sizes of tensors named `sites.input_4_1_0.id.to_k.weight`.

        Raises:
            CheckpointError: no such tensors.
        """
        sites: dict[str, int] = {}
        groups: dict[str, bool] = {}
        context = 0
        for name, tensor in state.items():
            parts = name.split(".")
            if len(parts) == 5 and parts[3:] == ["to_k", "weight"] and tensor.ndim == 2:
                site = parts[1].replace("_", ".")
                sites[site], context = tensor.shape
                groups[parts[2]] = f"sites.{parts[1]}.{parts[2]}.gate" in state
        if not sites:
            raise CheckpointError(
                "The ID projections hold no key projection.",
                expected="tensors named sites.<site>.<group>.to_k.weight",
                remedy="the file is damaged or of another kind; fetch or convert it again",
            )
        ordered = {site: sites[site] for site in sorted(sites, key=site_key)}
        with on_meta():
            return cls(ordered, dict(sorted(groups.items())), context)

    @torch.no_grad()
    def keys_values(self, groups: Mapping[str, TokenGroup], person: int = 0) -> dict[str, tuple[GroupKV, ...]]:
        """Project one person's tokens for every site, in float32 where the weights lie.

        Weights are raised to float32 one site at a time, so that half-precision checkpoints also run on a CPU and
        never need more memory than one site.

        Args:
            groups: the mixer's output.
            person: which entry of its batch.

        Returns:
            {site: one GroupKV for each token group}. Groups whose gate is 0 are left out: they add nothing.

        Raises:
            SettingsError: the mixer gave another set of groups than these projections take.
        """
        if set(groups) != set(self.groups):
            raise SettingsError(
                f"The mixer makes the token groups {sorted(groups)}.",
                expected=f"the groups {sorted(self.groups)} that the ID projections take",
                remedy="mixer and projections must come from one checkpoint",
            )
        out: dict[str, tuple[GroupKV, ...]] = {}
        for site in self.widths:
            entries = []
            for name, projection in self.sites[module_key(site)].items():  # type: ignore[operator]
                gate = float(torch.tanh(projection.gate.float())) if hasattr(projection, "gate") else 1.0
                if gate == 0.0:
                    continue
                weight = projection.to_k.weight
                tokens = groups[name].tokens[person].to(weight.device, torch.float32)  # (T, D)
                bias = groups[name].bias
                entries.append(
                    GroupKV(
                        k=tokens @ weight.float().T,
                        v=tokens @ projection.to_v.weight.float().T,
                        bias=None if bias is None else bias[person].to(weight.device, torch.float32),
                        gate=gate,
                    )
                )
            out[site] = tuple(entries)
        return out


def site_key(name: str) -> tuple[int, ...]:
    """Sorting key that puts canonical names of sites, `input.4.1.0`, in the order of running."""
    kind, *numbers = name.split(".")
    return (KINDS.index(kind), *map(int, numbers))
