"""One processing object's sampling with people attached, common to the hosts of the WebUI family.

`p.sample(...)` is wrapped on the instance, for the first pass, the hires pass and img2img alike, so that every
sampling is seen to begin and end, whatever ends it. Which rows are cond is announced step by step: a callback of the
host says whose step comes (`WebUI.before_step`), hooks in the sampling path say which rows. The hosts swallow
exceptions of callbacks, therefore failures are kept and raised from the sampling path.

A processing object holds its generation and the wrapper, and nothing of these leads back to it, so that it goes, and
adapters with it, when the host drops it: gigabytes cannot wait for Python's collector.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from facesnap.attach import Attachment, Row, RowPlan, Tile, read_topology
from facesnap.attach.attachment import require_active
from facesnap.attach.topology import latent_channels
from facesnap.checkpoints.base_models import LATENT
from facesnap.errors import (
    AttachError,
    FaceSnapError,
    HostError,
    TopologyError,
    again,
    clear_frames,
    refusal,
    to_keep,
)
from facesnap.hosts import face_pass
from facesnap.hosts.base import Host, Parts, Prepare, is_face_pass
from facesnap.hosts.steps import SigmaList, calls_left_out
from facesnap.hosts.tiles import WHOLE, Piece, Place, TileWalk, crop_of, pass_piece, placed


class Generation(ABC):
    """FaceSnap's part of one processing object.

    Attributes:
        prepare: makes the parts; None: nothing is attached. passes: see `WebUI.enlist`.
        error: raised in the sampling's place, as a copy. on_failure: see `WebUI.enlist`.
        plan: the row plan of what is attached.
        left_alone: whether the host has switched to a model that the people do not fit.
    """

    def __init__(self, host: Host, p: Any) -> None:
        self.host, self._p = host, weakref.ref(p)
        self.prepare: Prepare | None = None
        self.passes = "both"
        self.error: Exception | None = None
        self.on_failure: Callable[[Exception], None] | None = None
        self.plan = RowPlan(())
        self.left_alone = False
        self.attachment: Attachment | None = None
        self._parts = Parts()
        self._unet: nn.Module | None = None
        self._handles: list[RemovableHandle] = []
        self._walk = TileWalk()
        self._frame = (0, 0)
        self._piece: Tile | None = None
        self._failure: Exception | None = None
        self._last_step = False
        self._calls = self._active_calls = self._cut_short = self._wanted = 0
        self._sigmas: SigmaList | None = None

    @property
    def p(self) -> Any:
        """The host's processing object; None once the host has dropped it."""
        return self._p()

    def refuse(self, error: Exception) -> None:
        """Raise this error in the sampling's place."""
        self.prepare, self.error = None, to_keep(error)

    def wrap(self) -> None:
        """Put our wrapper around `p.sample`, once; wrappers of other extensions stay where they are."""
        own = vars(self.p).get("sample")  # None: the method of its class, which is looked up when it is called
        if not self._is_wrapper(own):
            self.p.sample = partial(self._sample, own)

    def unwrap_copy(self, copy: Any) -> None:
        """Give a shallow copy of `p` its own `sample` back: our wrapper would sample the original."""
        if self._is_wrapper(vars(copy).get("sample")):
            del copy.sample

    def _is_wrapper(self, sample: Any) -> bool:
        return isinstance(sample, partial) and getattr(sample.func, "__self__", None) is self

    def _sample(self, own: Callable[..., Any] | None, /, *args: Any, **kwargs: Any) -> Any:
        p = self.p
        if p is None:
            raise _gone()
        inner = partial(type(p).sample, p) if own is None else own
        if not is_face_pass(p):
            self.host.set_whole(p)
        if self.error is not None:
            self._note_face_pass(self.error)
            raise refusal(again(self.error))
        if self.prepare is None or self in self.host.running:  # released, or a wrapper around our wrapper
            return inner(*args, **kwargs)
        try:
            self._failure, self.left_alone = None, False
            self._calls = self._active_calls = self._cut_short = self._wanted = 0
            self._parts, self._unet, self._sigmas = Parts(), None, None
            self.host.running.append(self)
            self._attach(self.host.live_unet())
            result = inner(*args, **kwargs)
            self._check_called()
            return result
        except Exception as error:
            if self.on_failure is not None:
                self.on_failure(error)
            self._note_face_pass(error)
            clear_frames(error)  # hosts keep some errors, and frames of hooks hold networks
            if isinstance(error, FaceSnapError):
                raise refusal(error) from error.__cause__
            raise
        finally:
            if self in self.host.running:
                self.host.running.remove(self)
            self._detach()
            self._unet, self._failure, self._walk = None, None, TileWalk()

    def _note_face_pass(self, error: Exception) -> None:
        """The hosts swallow what is raised in ADetailer's pass, and go on with the picture as it was."""
        if is_face_pass(self.p):
            self.host.note(self.p, f"ADetailer's face pass was left out: {getattr(error, 'what', error)}")

    def _attach(self, unet: nn.Module) -> None:
        assert self.prepare is not None
        self._unet = unet
        topology = read_topology(unet, self.host.refused_name())
        _require_latent(unet, self.host.refused_name())
        self._parts = self.prepare(topology)
        if is_face_pass(self.p):
            self._parts = face_pass.owners(self._parts, face_pass.mask_of(self.p), self._outer_piece())
            self.left_alone = not self._parts.count
        self.plan = RowPlan(())
        self.plan.idle = True
        self._handles.append(unet.register_forward_pre_hook(self._before_unet, with_kwargs=True))
        self._handles.append(unet.register_forward_hook(self._after_unet))
        parts, placement = self._parts, self.host.placement
        placement.enter([control.net for control in parts.controls])
        self.attachment = Attachment(
            unet, topology, parts.people, self.plan, parts.controls, parts.speed, parts.loras, placement
        )
        self.attachment.install()

    def _outer_piece(self) -> Piece:
        """The pass's picture as a piece of the whole one: ADetailer works on the crop of an "only masked" picture."""
        whole = self.host.whole(self.p)
        return WHOLE if whole is self.p else crop_of(whole)

    def _detach(self) -> None:
        """Take everything off; may be called again."""
        self.plan.idle = True
        if self.attachment is not None:
            self._count(self.attachment)
            self.attachment.close()
            self.host.placement.leave()
        self.attachment, self._parts = None, Parts()
        while self._handles:
            self._handles.pop().remove()

    def _count(self, attachment: Attachment) -> None:
        self._calls += attachment.calls
        self._active_calls += attachment.active_calls
        self._cut_short += attachment.cut_short

    def _follow(self, unet: nn.Module) -> None:
        """Go on with the UNet that the host has put in the place of ours (refiner, hires checkpoint)."""
        if unet is self._unet:
            return
        self._detach()
        try:
            self._attach(unet)
        except FaceSnapError as error:
            self._detach()
            self.host.placement.clear()
            self.left_alone = True
            self.host.note(self.p, f"without FaceSnap after the switch of models: {error.what}")

    def step(self, params: Any) -> None:
        """A step of our own `p` begins. Never raises: the host would swallow it."""
        try:
            self._follow(self.host.live_unet(params.denoiser))
            if self.attachment is None:
                return
            wanted = self._is_wanted()
            self._wanted += wanted
            self.plan.idle = not wanted
            denoiser = params.denoiser
            self._place(params)
            self._frame = (int(params.x.shape[-2]), int(params.x.shape[-1]))
            self._piece = pass_piece(self.p, self._frame, self._outer_piece())
            found = (one for one in self.tilers(denoiser) if hasattr(one, "batched_bboxes"))
            self._walk.restart(next(found, None))
            if wanted:
                self.announce(params)
        except Exception as error:
            self._fail(error)

    def _place(self, params: Any) -> None:
        """Note where in the sampling the step is: the share of the calls that the host expects, and where its count
        is a step and more behind the sampler's sigmas, by those."""
        denoiser = params.denoiser
        calls, total = int(denoiser.step), max(int(denoiser.total_steps or 1), 1)
        steps = max(int(getattr(denoiser, "steps", None) or total), 1)
        if calls == 0:  # a pass begins
            found = self.sigmas(denoiser)
            listed = None if found is None else SigmaList(found, steps)
            self._sigmas = listed if listed is not None and listed.begins_at(float(params.sigma[0])) else None
        if self._sigmas is not None:
            calls += calls_left_out(self._sigmas.step(float(params.sigma[0])), calls, total, steps)
        self.plan.steps, self.plan.step, self.plan.progress = total, calls, min(max(calls / total, 0.0), 1.0)
        self._last_step = calls + 1 >= total

    def sigmas(self, denoiser: Any) -> Iterable[float] | None:
        """The list of sigmas that the sampler goes down, where the host says it."""
        return None

    def _fail(self, error: Exception) -> None:
        """Keep an error for the sampling path, where it stops the generation."""
        self._failure = error
        self.plan.idle = False

    def _is_wanted(self) -> bool:
        """Whether the pass that runs is one that has the people in it."""
        second = bool(getattr(self.p, "is_hr_pass", False))
        return self.passes == "both" or (self.passes == "second") == second

    def before_pass(self, shape: Sequence[int]) -> None:
        """A pass is about to sample latents of a shape (B, C, h, w). Never raises, as `step`."""
        try:
            self._follow(self.host.live_unet())  # a hires pass may have a checkpoint of its own
            nets = {control.net for control in self._parts.controls if not control.dormant}
            if nets and self.attachment is not None and self._is_wanted():
                self.host.placement.expect(list(nets), shape)
        except Exception as error:
            self._fail(error)

    @abstractmethod
    def announce(self, params: Any) -> None:
        """Note the host's announcement of the rows of the step that begins."""

    @abstractmethod
    def pattern(self, x: torch.Tensor, kwargs: dict[str, Any]) -> Sequence[Row] | None:
        """Roles of the rows of the UNet call that begins, without tiles; None: the call is not ours.

        Args:
            x: (B, C, h, w), the UNet's input. kwargs: of the call.
        """

    @abstractmethod
    def tilers(self, denoiser: Any) -> Iterable[Any]:
        """Objects that may be Tiled Diffusion's own: it replaces functions of the host by bound methods of them."""

    def _before_unet(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._failure is not None:
            raise self._failure
        if self.plan.idle and not self._waiting():
            return
        x = args[0] if args else kwargs.get("x")
        rows = self.pattern(x, kwargs) if isinstance(x, torch.Tensor) else None
        self.plan.idle = rows is None
        if rows is None or x is None:
            return
        size = (int(x.shape[-2]), int(x.shape[-1]))
        places, part = self._places(len(rows), len(x), size)
        self.plan.rows = placed(rows[part], places, self._frame, self._piece)

    def _after_unet(self, unet: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._last_step:  # the host decodes next, and a hires pass may follow: networks are not in the way
            self.host.placement.leave()

    def _waiting(self) -> bool:
        """Whether idle calls may become ours again without a new step."""
        return False

    def _places(self, pattern: int, batch: int, size: tuple[int, int]) -> tuple[Sequence[Place] | None, slice]:
        """(top, left) of each tile that the call holds, latent units, None where it holds the whole picture; and
        which rows of the pattern each of them holds."""
        found = self._walk.next(pattern, batch, size)
        if found is None and size != self._frame and self._parts.needs_place:
            raise AttachError(
                f"The UNet was called with a piece of {size[1]} x {size[0]} of a latent of {self._frame[1]} x "
                f"{self._frame[0]}, and the place of that piece is not known.",
                expected="the whole picture, or the tiles of Tiled Diffusion",
                remedy="use no regions and no landmarks here (the ID tokens work), or switch off the tiling extension",
            )
        return (None, slice(None)) if found is None else found

    def _check_called(self) -> None:
        if self.attachment is not None:
            self._count(self.attachment)
        if not self.host.interrupted():
            require_active(self._active_calls, self._cut_short)
        if self._calls or self.left_alone or self.host.interrupted() or (self.passes != "both" and not self._wanted):
            return
        raise AttachError(
            "The sampling finished without calling the UNet that FaceSnap is attached to.",
            expected="at least one call",
            remedy="switch off TensorRT, torch.compile or whatever replaces the UNet or the sampler",
        )


def other_latent(unet: nn.Module, name: str) -> str:
    """The name of a model whose UNet has the blocks of SD1.5 or SDXL and another latent; "" where it has theirs.

    Args:
        name: as the host calls it, or "".
    """
    return "" if latent_channels(unet) in (None, LATENT) else name or type(unet).__name__


def _require_latent(unet: nn.Module, name: str) -> None:
    other = other_latent(unet, name)
    if other:
        raise TopologyError(
            f"The UNet ({other}) has the blocks of SD1.5 or SDXL, and a latent of {latent_channels(unet)} channels.",
            expected=f"{LATENT} channels: the adapters have never seen another latent",
            remedy="choose a checkpoint of SD1.5 or SDXL itself",
        )


def _gone() -> HostError:
    return HostError(
        "A copy of a processing object was sampled after the original was dropped.",
        expected="a copy that has gone through the scripts' `process`, as the original did",
        remedy="switch FaceSnap off for the extension or script that samples copies, or report its name",
    )


def rows_of(repeats: Sequence[int], cond: bool) -> Iterator[Row]:
    """Rows of one role, image-major: picture i comes repeats[i] times."""
    for picture, n in enumerate(repeats):
        yield from (Row(picture, cond) for _ in range(n))
