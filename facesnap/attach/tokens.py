"""ID tokens at the sites: decoupled cross-attention (IP-Adapter, arXiv 2308.06721) through hooks on to_q and to_out[0].

A forward hook on `attn2.to_q` keeps q; a forward pre-hook on `attn2.to_out[0]` sees the text output h and passes
h + sum_persons w * ID(q) on. No forward is replaced, and rows and regions that no person concerns keep h's very bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from facesnap.attach.attention import Joined, RowsKV, id_output, stack_rows
from facesnap.attach.call import Query, UNetCall
from facesnap.attach.conditioning import Conditioning, Rule
from facesnap.attach.region import token_weights
from facesnap.attach.rows import Row, Tile
from facesnap.attach.topology import Site, Topology
from facesnap.errors import SettingsError
from facesnap.models.projections import GroupKV


class TokenInjection:
    """The ID tokens of any number of people, put on the sites of one UNet.

    Args:
        topology: of the UNet. people: one conditioning each.

    Raises:
        SettingsError: keys that do not fit the sites, or block strengths that name no site.
    """

    def __init__(self, topology: Topology, people: Sequence[Conditioning]) -> None:
        self.topology = topology
        self.people = tuple(people)
        for person in self.people:
            _check_fit(topology, person)
        self._stacks: dict[tuple[Any, ...], list[RowsKV]] = {}
        self._maps: dict[tuple[Any, ...], Tensor] = {}
        self._indices: dict[tuple[Any, ...], Tensor] = {}
        self.call: UNetCall | None = None

    @property
    def kv_bytes(self) -> int:
        """Bytes of all keys and values held: the people's own and their stacked copies in the UNet's dtype."""
        seen = {
            id(kv): kv.nbytes
            for p in self.people
            for part in (p.cond, p.uncond or {})
            for g in part.values()
            for kv in g
        }
        tensors = [t for stack in self._stacks.values() for s in stack for t in (s.k, s.v, s.bias) if t is not None]
        return sum(seen.values()) + sum(t.numel() * t.element_size() for t in tensors)

    def install(self) -> Iterator[RemovableHandle]:
        """Put the hooks on site after site, yielding each handle as soon as it is on."""
        for site in self.topology.sites:
            if site.norm is not None:
                yield site.norm.register_forward_hook(self._keep_normed(site))
            yield site.module.register_forward_pre_hook(self._keep_input(site), with_kwargs=True)
            yield site.to_q.register_forward_hook(self._keep_query(site))
            yield site.to_out.register_forward_pre_hook(self._join(site))

    def free(self) -> None:
        """Forget what lies on the UNet's device; the people's own keys and values stay where they are."""
        self._stacks.clear()
        self._maps.clear()
        self._indices.clear()

    def expected_sites(self, call: UNetCall) -> set[str]:
        """The sites that must fire in a call: those where a person in it has weight."""
        return {
            site.name
            for person in self.people
            if person.active(call.progress) and any(_groups(person, row, self.topology.names[0]) for row in call.rows)
            for site in self.topology.sites
            if person.weight(site.name) != 0.0
        }

    def _keep_input(self, site: Site) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self.call is not None:
                x = args[0] if args else kwargs.get("x", kwargs.get("hidden_states"))
                if isinstance(x, Tensor):
                    self.call.input = site.name, x

        return hook

    def _keep_normed(self, site: Site) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self.call is not None:
                self.call.normed = site.name, output

        return hook

    def _keep_query(self, site: Site) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self.call is not None:
                self.call.queries[site.name] = Query(args[0] if args else output, output)

        return hook

    def _join(self, site: Site) -> Any:
        def hook(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            call = self.call
            if call is None or site.name not in call.queries:
                return None
            query = call.queries.pop(site.name)
            call.fired.add(site.name)
            active = [
                index
                for index, person in enumerate(self.people)
                if person.weight(site.name) != 0.0 and person.active(call.progress)
            ]
            if not active:
                return None
            text = args[0]
            joined = Joined(text, all(self.people[index].rule is Rule.ADD for index in active))
            rows = call.rows_of(site, query)
            for index in active:
                self._add(joined, query.q, site, rows, index, call.latent)
            return None if joined.out is text else (joined.out, *args[1:])

        return hook

    def _add(
        self, joined: Joined, q: Tensor, site: Site, rows: tuple[Row, ...], index: int, latent: tuple[int, int]
    ) -> None:
        """Add weight * region * ID output of one person to the rows that concern the person."""
        person = self.people[index]
        for picked in _row_sets(person, rows, site.name):
            mask = self._region(person, index, latent, rows[picked[0]].tile, q)
            stack = self._stack(site.name, index, tuple(rows[i] for i in picked), q)
            at = self._at(picked, q.device)
            h = None if person.rule is Rule.ADD else joined.text[at]
            o = id_output(q[at], h, stack, site.heads, person.rule)  # (len(picked), N, width)
            joined.add(o if mask is None else o * mask, at, person.weight(site.name))

    def _at(self, picked: Sequence[int], device: torch.device) -> slice | Tensor:
        """An index of these rows: a slice, whose rows are a view, or a tensor, made once: making it waits for the
        device."""
        first, last = picked[0], picked[-1] + 1
        if last - first == len(picked):
            return slice(first, last)
        key = (tuple(picked), device)
        if key not in self._indices:
            self._indices[key] = torch.tensor(picked, device=device)
        return self._indices[key]

    def prepare(self, site: str, rows: tuple[Row, ...], like: Tensor) -> None:
        """Stack all people's keys and values at a site for these rows, in the dtype and on the device of a tensor."""
        for index, person in enumerate(self.people):
            for picked in _row_sets(person, rows, site):
                self._stack(site, index, tuple(rows[i] for i in picked), like)

    def _stack(self, site: str, index: int, rows: tuple[Row, ...], q: Tensor) -> list[RowsKV]:
        """Keys and values of these rows in q's dtype on q's device, made at the first call and kept."""
        person = self.people[index]
        roles = tuple(row.cond for row in rows)
        key = (site, index, roles, q.device, q.dtype)
        if key not in self._stacks:
            per_row = [_groups(person, row, site) for row in rows]
            self._stacks[key] = [stack_rows(groups, person.zero_tokens, q) for groups in zip(*per_row, strict=True)]
        return self._stacks[key]

    def _region(
        self, person: Conditioning, index: int, latent: tuple[int, int], tile: Tile | None, q: Tensor
    ) -> Tensor | None:
        """The person's soft map on the site's tokens, (1, N, 1), or None."""
        if person.region is None:
            return None
        key = (index, latent, tile, q.shape[1], q.device, q.dtype)
        if key not in self._maps:
            weights = token_weights(person.region, latent, q.shape[1], tile)
            self._maps[key] = weights.to(q.device, q.dtype)[None, :, None]
        return self._maps[key]


def _groups(person: Conditioning, row: Row, site: str) -> tuple[GroupKV, ...]:
    """The token groups that a row attends to at a site; empty where the row does not concern the person."""
    if person.pictures is not None and row.picture not in person.pictures:
        return ()
    part = person.cond if row.cond else person.uncond
    return part.get(site, ()) if part is not None else ()


def _row_sets(person: Conditioning, rows: tuple[Row, ...], site: str) -> list[list[int]]:
    """Rows that concern the person, in sets of one tile that have the same numbers of tokens and can be stacked."""
    sets: dict[tuple[Any, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups = _groups(person, row, site)
        if groups:
            tile = None if person.region is None else row.tile
            sets.setdefault((tile, *(len(g.k) for g in groups)), []).append(i)
    return list(sets.values())


def _check_fit(topology: Topology, person: Conditioning) -> None:
    widths = {site.name: (site.width, site.heads) for site in topology.sites}
    for part in (person.cond, person.uncond):
        if part is None:
            continue
        missing, extra = sorted(set(widths) - set(part)), sorted(set(part) - set(widths))
        if missing or extra:
            raise SettingsError(
                f"The adapter does not fit the UNet: sites missing {missing[:3]} ({len(missing)}), "
                f"extra {extra[:3]} ({len(extra)}).",
                expected=f"keys and values for the {len(widths)} sites of this {topology.base} UNet",
                remedy=f"choose an adapter made for {topology.base}, or another base model",
            )
        for site, groups in part.items():
            width, heads = widths[site]
            for kv in groups:
                own = kv.k.shape[-1]
                if kv.k.shape != kv.v.shape or own % heads or width not in (None, own):
                    raise SettingsError(
                        f"Keys {tuple(kv.k.shape)} and values {tuple(kv.v.shape)} do not fit site {site}.",
                        expected=f"(tokens, {width})",
                        remedy="choose an adapter that was made for this kind of UNet",
                    )
    for prefix in person.block_strengths:
        if not any(name == prefix or name.startswith(prefix + ".") for name in widths):
            raise SettingsError(
                f"Block strength {prefix!r} names no site of this UNet.",
                expected="a prefix of one of: " + ", ".join(sorted({n.rsplit(".", 1)[0] for n in widths})),
                remedy="correct the name of the block",
            )
