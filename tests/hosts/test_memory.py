"""FFRNet in the hosts' memory: on the GPU while it computes, off when the host's settings say so, whatever happens.

The GPU is `tests.devices`; the pictures made with it must be those made on the CPU.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from facesnap.attach import ControlConditioning, ControlPictures, ControlView, Speed
from facesnap.errors import CheckpointError
from facesnap.hosts.base import Parts
from facesnap.hosts.forge_memory import FFRNetCarrier
from facesnap.hosts.memory import computing
from facesnap.models.fidelity import FFRNet
from tests.devices import CPU, GPU, Devices, places
from tests.hosts.test_webui import processing, sampled
from tests.networks import CONTEXT, diffusers_unet, ffrnet_for
from tests.webui.standin.sampling import Processing

STEPS = 3
HINT = (16, 3, 3, 3)  # the shape of a weight that FFRNet has and no UNet


@pytest.fixture(scope="module")
def nets() -> list[FFRNet]:
    """Two adapters' networks, in half precision as files are."""
    return [ffrnet_for(diffusers_unet("sd15", blocks=1), seed).bfloat16() for seed in (7, 8)]


@pytest.fixture()
def host(world, nets, monkeypatch):
    """The stand-in host with its UNet on the GPU."""
    bits = [[p.clone() for p in net.parameters()] for net in nets]
    monkeypatch.setattr(world.modules.shared.opts, "facesnap_offload", False, raising=False)
    with Devices() as devices, torch.no_grad():
        world.devices, world.nets = devices, nets
        if world.name == "forge":
            from backend import memory_management

            world.memory = memory_management
            memory_management.device = GPU
        for unet in world.unets[:2]:
            unet.to(GPU)
        world.standin.load(world.unets[0])
        yield world
        world.host.free()
        assert living(world) == 0
        for unet in world.unets[:2]:
            unet.to(CPU)
    for net, before in zip(nets, bits, strict=True):
        assert places(net) == {CPU} and all(map(torch.equal, before, net.parameters()))


def control(net: FFRNet, **more) -> ControlConditioning:
    cond = torch.randn(1, 5, CONTEXT["sd15"], generator=torch.Generator().manual_seed(1))
    return ControlConditioning(net, net.project_tokens(cond), draw, **more)


def draw(view: ControlView) -> ControlPictures:
    picture = torch.rand(1, 3, view.height, view.width, generator=torch.Generator().manual_seed(view.height))
    return ControlPictures(landmarks=picture)


def generate(host: SimpleNamespace, *controls: ControlConditioning, passes: str = "both", **more) -> Tensor:
    """One generation on the GPU, the picture on the CPU."""
    return made(host, request(host, **more), *controls, passes=passes)


def request(host: SimpleNamespace, **more) -> Processing:
    p = processing(host, device=GPU, steps=STEPS, **more)
    p.conds, p.uncond = [[one.to(GPU) for one in prompts] for prompts in p.conds], p.uncond.to(GPU)
    return p


def made(host: SimpleNamespace, p: Processing, *controls: ControlConditioning, passes: str = "both") -> Tensor:
    host.host.enlist(p, lambda topology: Parts(host.people, controls, Speed.EXACT), passes)
    return sampled(p).cpu()


def living(host: SimpleNamespace) -> int:
    """How many networks of ours are on the GPU."""
    return sum(tuple(t.shape) == HINT for t in host.devices.on_gpu())


def uploads(host: SimpleNamespace) -> int:
    """How often one has come there, since the last time of asking."""
    count = sum(shape == HINT for shape, _ in host.devices.uploads)
    host.devices.uploads.clear()
    return count


@pytest.fixture(autouse=True)
def people(request) -> None:
    if "host" in request.fixturenames:
        request.getfixturevalue("host").people = [request.getfixturevalue("person")]


def offload(host: SimpleNamespace, monkeypatch, how: str) -> None:
    if how == "option":
        monkeypatch.setattr(host.modules.shared.opts, "facesnap_offload", True)
    elif host.name == "forge":
        pytest.skip("Forge has no such flag")
    else:
        monkeypatch.setattr(host.modules.shared.cmd_opts, how, True)
        if how == "medvram_sdxl":
            host.modules.shared.sd_model.conditioner = object()


def test_a_network_stays_for_the_next_generation_and_no_two_stay(host) -> None:
    one, other = map(control, host.nets)
    with_one = generate(host, one)
    assert uploads(host) == 1 and living(host) == 1
    assert torch.equal(generate(host, one), with_one) and uploads(host) == 0
    with_other = generate(host, other)
    assert uploads(host) == 1 and living(host) == 1 and not torch.equal(with_other, with_one)
    generate(host)  # an adapter without FFRNet
    assert living(host) == 0
    generate(host, one)
    host.host.release(request(host))  # FaceSnap is off
    assert living(host) == 0


def test_pictures_are_those_of_the_cpu(host) -> None:
    on_gpu, bare = generate(host, control(host.nets[0])), generate(host)
    host.host.free()
    host.unets[0].to(CPU)
    if host.name == "forge":
        host.memory.device = CPU
    host.standin.load(host.unets[0])
    p = processing(host, steps=STEPS)
    host.host.enlist(p, lambda topology: Parts(host.people, [control(host.nets[0])], Speed.EXACT))
    assert torch.equal(sampled(p), on_gpu) and (on_gpu - bare).abs().max() > 1e-2


@pytest.fixture(scope="module")
def stays() -> dict[str, Tensor]:
    """Pictures of two passes between which the network stayed on the GPU, by host."""
    return {}


@pytest.mark.parametrize("how", ("option", "medvram", "medvram_sdxl", "lowvram"))
def test_off_the_gpu_after_each_pass(host, stays, monkeypatch, how: str) -> None:
    if host.name not in stays:
        stays[host.name] = generate(host, control(host.nets[0]), enable_hr=True)
        host.host.free()
        uploads(host)
    offload(host, monkeypatch, how)
    before, between = len(host.devices.on_gpu()), []
    p = request(host, enable_hr=True)
    inputs = sum(t.ndim > 0 for t in [p.uncond, *(one for prompts in p.conds for one in prompts)])
    p.between_passes = lambda: between.append(living(host))
    assert torch.equal(made(host, p, control(host.nets[0])), stays[host.name])
    assert between == [0] and living(host) == 0
    assert uploads(host) == (2 * STEPS if how == "lowvram" else 2)
    assert len(host.devices.on_gpu()) - before <= inputs


def test_lowvram_has_the_network_there_for_its_own_computation_only(host, monkeypatch) -> None:
    offload(host, monkeypatch, "lowvram")
    unet, seen = host.unets[0], []
    watch = unet.input_blocks[0].register_forward_hook(lambda *_: seen.append(living(host)))
    generate(host, control(host.nets[0]), control(host.nets[0], strength=0.5))
    watch.remove()
    assert seen == [0] * STEPS and uploads(host) == STEPS  # two people share one network


@pytest.mark.parametrize("asked", (True, False))
def test_an_exception_in_the_sampler(host, monkeypatch, asked: bool) -> None:
    if asked:
        offload(host, monkeypatch, "option")
    p = request(host)
    p.before_step = lambda denoiser: 1 / 0 if denoiser.step == 2 else None
    with pytest.raises(ZeroDivisionError):
        made(host, p, control(host.nets[0]))
    assert living(host) == (0 if asked else 1)
    assert list(host.host.placement.copies) == ([] if asked else [host.nets[0]])


@pytest.mark.parametrize("more", ({"strength": 0.0}, {"start": 0.5, "end": 0.5}, {"start": 0.8, "end": 0.9}), ids=str)
def test_what_never_computes_is_never_moved(host, more: dict) -> None:
    generate(host, control(host.nets[0], **more))
    if host.name == "a1111" or more.get("start") != 0.8:  # Forge learns before the sampling, which has such a window
        assert uploads(host) == 0


def test_a_pass_that_is_not_wanted_moves_nothing(host) -> None:
    between = []
    p = request(host, enable_hr=True)
    p.between_passes = lambda: between.append(uploads(host))
    made(host, p, control(host.nets[0]), passes="second")
    assert between == [0] and uploads(host) == 1


def test_a_refiner_of_the_same_layout_goes_on(host) -> None:
    rows = []

    def refine(denoiser) -> None:
        if denoiser.step == 1:
            host.standin.load(host.unets[1].to(GPU))
        if denoiser.step == 2:
            rows.append(living(host))

    p = request(host)
    p.before_step = refine
    with_it = made(host, p, control(host.nets[0]))
    assert rows == [1] and not p.extra_generation_params
    host.unets[0].to(GPU)
    host.standin.load(host.unets[0])
    p = request(host)
    p.before_step = refine
    assert not torch.equal(made(host, p), with_it)


def test_a_refiner_of_another_layout_frees_the_network(host) -> None:
    p, seen = request(host), []
    fits = [True, False]

    def prepare(topology) -> Parts:
        if not fits.pop(0):
            raise CheckpointError("made for another UNet", expected="its UNet", remedy="another refiner")
        return Parts([], [control(host.nets[0])], Speed.EXACT)

    def refine(denoiser) -> None:
        if denoiser.step == 1:
            host.standin.load(host.unets[1].to(GPU))
        if denoiser.step == 2:
            seen.append(living(host))

    p.before_step = refine
    host.host.enlist(p, prepare)
    sampled(p)
    assert seen == [0] and living(host) == 0


def test_a_sampling_inside_ours_with_another_adapter(host) -> None:
    """ADetailer's, say: both go on, and one network stays."""
    alone = generate(host, control(host.nets[0])), generate(host, control(host.nets[1]))
    inside: list[Tensor] = []

    def nested(denoiser) -> None:
        if denoiser.step == 2:
            inside.append(generate(host, control(host.nets[1])))

    p = request(host)
    p.before_step = nested
    assert torch.equal(made(host, p, control(host.nets[0])), alone[0])
    assert torch.equal(inside[0], alone[1]) and living(host) == 1


def test_the_model_is_switched(host) -> None:
    """on_model_loaded: the network leaves, except in the middle of a sampling."""
    generate(host, control(host.nets[0]))
    host.host.free()
    assert living(host) == 0
    p = request(host)
    p.before_step = lambda denoiser: host.host.free()
    uploads(host)
    made(host, p, control(host.nets[0]))
    assert uploads(host) == 1


@pytest.fixture()
def forge(host):
    if host.name != "forge":
        pytest.skip("of Forge")
    return host


def test_forge_moves_the_network_itself(forge) -> None:
    model, memory, seen = forge.modules.shared.sd_model, forge.memory, []
    for _ in range(2):
        p = request(forge, enable_hr=True)
        p.before_step = lambda denoiser: seen.append(
            sum(isinstance(one.model.model, FFRNetCarrier) for one in memory.current_loaded_models)
        )
        made(forge, p, control(forge.nets[0]), control(forge.nets[0], strength=0.5))
    assert seen == [1] * 4 * STEPS and all(preserved > 0 for preserved in forge.standin.preserved)
    assert model.forge_objects_after_applying_lora.unet.extra_model_patchers_during_sampling == []
    unet = model.forge_objects.unet
    assert unet.extra_model_patchers_during_sampling == [] and unet.extra_preserved_memory_during_sampling == 0
    assert uploads(forge) == 1


def test_forge_sends_the_network_away_when_it_needs_the_room(forge) -> None:
    """Then the weights lie in memory once: those of the adapter."""
    net = forge.nets[0]
    net.float()  # the UNet's dtype
    try:
        stays = generate(forge, control(net))
        carrier = next(
            m for one in forge.memory.current_loaded_models if isinstance(m := one.model.model, FFRNetCarrier)
        )
        forge.memory.unload_all_models()
        assert living(forge) == 0
        pairs = list(zip(carrier.net.parameters(), net.parameters(), strict=True))
        assert all(mine.data_ptr() == own.data_ptr() for mine, own in pairs)
        del carrier, pairs
        p = request(forge)
        p.before_step = lambda denoiser: send_away(forge.memory) if denoiser.step == 2 else None
        assert torch.equal(made(forge, p, control(net)), stays)
    finally:
        net.bfloat16()


def send_away(memory) -> None:
    """What the host does with a model that it needs the room of."""
    for i in reversed(range(len(memory.current_loaded_models))):
        if isinstance(memory.current_loaded_models[i].model.model, FFRNetCarrier):
            memory.current_loaded_models.pop(i).model_unload()


def test_forge_with_room_for_one_model_only(forge) -> None:
    stays = generate(forge, control(forge.nets[0]))
    forge.memory.room = 1
    assert torch.equal(generate(forge, control(forge.nets[0])), stays)


def test_networks_of_8_bit_unets_compute_in_16() -> None:
    if hasattr(torch, "float8_e4m3fn"):
        assert computing(torch.float8_e4m3fn, torch.bfloat16) == torch.bfloat16
        assert computing(torch.float8_e4m3fn) == torch.float16
    assert computing(None, torch.uint8, torch.float32) == torch.float32
