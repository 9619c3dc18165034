"""The attachment: conditionings put on a live UNet, as a context manager that leaves nothing behind.

    plan = RowPlan.classifier_free(pictures=1)
    with attach(unet, [conditioning], plan) as attachment:
        ...                                  # the host sets plan.rows and plan.progress before each UNet call
    attachment.require_called()

Torch hooks do the work for every host alike; no forward is replaced and no module is added to the UNet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from facesnap.attach.call import UNetCall
from facesnap.attach.conditioning import Conditioning
from facesnap.attach.control import ControlConditioning, Speed
from facesnap.attach.inputs import read_inputs
from facesnap.attach.lora import LoraInjection, LoraPart
from facesnap.attach.networks import Networks
from facesnap.attach.residuals import ResidualInjection
from facesnap.attach.rows import RowPlan
from facesnap.attach.tokens import TokenInjection
from facesnap.attach.topology import Topology, read_topology
from facesnap.errors import AttachError


class Attachment:
    """The hooks of one `attach` and what they have seen.

    Attributes:
        calls: UNet calls seen so far.
        active_calls: those of them in which a person had weight.
        cut_short: calls in which a person had weight, and parts of the UNet that ran before were left out.
    """

    def __init__(
        self,
        unet: nn.Module,
        topology: Topology,
        people: Sequence[Conditioning],
        plan: RowPlan,
        controls: Sequence[ControlConditioning] = (),
        speed: Speed = Speed.BALANCED,
        loras: Sequence[LoraPart] = (),
        networks: Networks | None = None,
    ) -> None:
        self.unet, self.topology, self.plan = unet, topology, plan
        self.loras = LoraInjection(topology, loras)
        self.tokens = TokenInjection(topology, people)
        self.residuals = ResidualInjection(topology, controls, speed, networks, unet)
        self.calls = 0
        self.active_calls = 0
        self.cut_short = 0
        self._most = 0  # sites that ran in one call
        self._handles: list[RemovableHandle] = []

    def install(self) -> None:
        """Put all hooks on; on any failure none stays."""
        try:
            self._handles.append(self.unet.register_forward_pre_hook(self._begin, with_kwargs=True))
            # LoRA first: ID tokens attend with the query that it has changed, and join the output that it sees.
            for injection in (self.loras, self.tokens, self.residuals):
                for handle in injection.install():  # one by one: a failure must find all that are on
                    self._handles.append(handle)
            self._handles.append(self.unet.register_forward_hook(self._end))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take all hooks off. May be called again."""
        while self._handles:
            self._handles.pop().remove()
        self.tokens.call = None
        self.loras.clear()
        self.residuals.clear()

    def close(self) -> None:
        """Take all hooks off and free what was made for the UNet's device. May be called again."""
        self.remove()
        self.tokens.free()
        self.residuals.free()

    def require_called(self) -> None:
        """Make sure that the sampling went through the UNet at all, and people with it.

        Raises:
            AttachError: no call was seen; the host sampled with another UNet. Or an accelerator left out the UNet in
                each call in which a person had weight.
        """
        require_active(self.active_calls, self.cut_short)
        if self.calls == 0:
            raise AttachError(
                f"The sampling finished without calling the {type(self.unet).__name__} that FaceSnap is attached to.",
                expected="at least one call",
                remedy="switch off TensorRT, torch.compile or whatever replaces the UNet",
            )

    def _begin(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.plan.idle:
            self.tokens.call = None
            return
        inputs = read_inputs(unet, self.topology.layout, args, kwargs)
        rows = self.plan.for_batch(len(inputs.x))
        latent = (inputs.x.shape[-2], inputs.x.shape[-1])
        self.tokens.call = UNetCall(rows, self.plan.progress, latent)
        self.loras.begin(latent, self.plan.progress)
        self.residuals.begin(inputs, rows, self.plan)

    def _end(self, unet: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call, self.tokens.call = self.tokens.call, None
        if call is None:  # idle, or hooked on during the call
            return
        self.calls += 1
        short, self._most = len(call.fired) < self._most, max(self._most, len(call.fired))
        expected = self.tokens.expected_sites(call)
        taken = self.residuals.pending or self.loras.pending
        missing = sorted(expected - call.fired) + sorted(self.residuals.end()) + sorted(self.loras.end())
        if not expected and not taken:
            return
        if missing and short:  # an accelerator gives a forecast, or what it kept, in the place of blocks
            self.cut_short += 1
            return
        self.active_calls += 1
        if self.active_calls == 1 and missing:
            raise AttachError(
                f"{len(missing)} parts of the UNet did not run as modules, among them {missing[0]}.",
                expected="every attn2 calls its to_q and to_out[0], every block calls its layers",
                remedy="the UNet is compiled or replaced (torch.compile, TensorRT): switch that off for this model",
            )


def require_active(active: int, cut_short: int) -> None:
    """Raise an AttachError where people had weight only in calls that an accelerator had cut short."""
    if cut_short and not active:
        raise AttachError(
            "An accelerator left out the UNet in each step in which a person has weight, so that nobody is in it.",
            expected="a step of the person's window that runs the whole UNet",
            remedy="widen the person's window, or switch off the accelerator",
        )


@contextlib.contextmanager
def attach(
    unet: nn.Module,
    people: Sequence[Conditioning],
    plan: RowPlan,
    controls: Sequence[ControlConditioning] = (),
    speed: Speed = Speed.BALANCED,
    loras: Sequence[LoraPart] = (),
    networks: Networks | None = None,
) -> Iterator[Attachment]:
    """Attach people to a UNet for the duration of a `with` block.

    Args:
        unet: a live ldm, sgm, Forge or diffusers UNet, in any dtype, on any device.
        people: one conditioning a person, the ID tokens; an empty list attaches none.
        plan: the host's row plan, updated by the host before each UNet call.
        controls: FFRNet's part of each person; an empty list attaches none.
        speed: how much of the FFRNets is computed.
        loras: those that adapters bring; each concerns the whole batch, or its region.
        networks: where FFRNets compute; None: where they lie.

    Yields:
        The attachment. After the block, however it ends, no hook is left.

    Raises:
        TopologyError: the UNet is compiled or unknown.
        SettingsError: a conditioning does not fit the UNet.
        AttachError: from the first UNet call, where the sites do not fire or rows do not fit.
    """
    attachment = Attachment(unet, read_topology(unet), people, plan, controls, speed, loras, networks)
    attachment.install()
    try:
        yield attachment
    finally:
        attachment.close()
