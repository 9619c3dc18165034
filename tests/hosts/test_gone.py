"""An adapter that is replaced is gone when the next is read, whatever ended its generation, without the collector."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facesnap.checkpoints import native
from facesnap.demo import untrained
from facesnap.errors import NoFaceError
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.packs import load_pack
from facesnap.webui import options
from facesnap.webui.generation import loader as loaders
from facesnap.webui.generation.job import after_picture, begin, finish
from facesnap.webui.generation.loader import PipelineLoader
from facesnap.weights.folders import Folders
from tests.hosts import test_webui
from tests.hosts.test_webui import sampled
from tests.networks import diffusers_unet
from tests.webui.standin.sampling import Processing

PACK = "test_pack"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, unets: Any, face_pack: Path) -> Path:
    """A WebUI's folder of models with two adapters with FFRNet."""
    own = tmp_path_factory.mktemp("gone") / "models" / "FaceSnap"
    encoder = ImageEncoder.load(untrained.save_encoder(own / "untrained-encoder.safetensors"))
    untrained.save_adapter(
        own / "first.safetensors", diffusers_unet("sd15", like=unets[0]), encoder=encoder.fingerprint,
        recogniser=load_pack(face_pack).recogniser_sha256, recogniser_name=PACK, encoder_name=encoder.name,
    )  # fmt: skip
    other = native.load(own / "first.safetensors")  # a mere copy would be the same adapter
    with torch.no_grad():
        for parameter in other.mixer.parameters():
            parameter.mul_(0.9)
    native.save(other, own / "second.safetensors")
    shutil.copytree(face_pack, own / PACK)
    return own.parent


@pytest.fixture()
def page() -> dict[str, Any]:
    """The settings page."""
    return {"facesnap_pack": PACK, "facesnap_score": True}


@pytest.fixture()
def shared(models: Path, page: dict[str, Any], world: Any) -> PipelineLoader:
    return PipelineLoader(lambda: Folders.of(models), lambda: options.values(page), on_replaced=world.host.free)


@pytest.fixture(scope="module")
def frozen() -> Iterator[None]:
    """What is older needs not be looked through each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture()
def no_collector(frozen: None) -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def processing(world: Any, **more: Any) -> Any:
    """A processing object that leads back to itself nowhere."""
    p = test_webui.processing(world, prompts=[[7]], width=64, height=64, prompt="", steps=2, **more)
    own = weakref.ref(p)
    p.before_every_sampling = lambda x: world.host.before_sampling(own(), x)
    return p


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Those in containers and in objects of slots."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from tensors(one)
    else:
        for name in getattr(value, "__slots__", ()):
            yield from tensors(getattr(value, name))


class Watched:
    """Weak references to everything heavy of the adapter that is loaded."""

    def __init__(self, world: Any, shared: PipelineLoader) -> None:
        pipeline = shared.latest
        assert pipeline is not None
        adapter, copies = pipeline.adapter, world.host.placement.copies
        heavy = {"pipeline": pipeline, "mixer": adapter.mixer, "projections": adapter.projections}
        heavy |= {"FFRNet": adapter.ffrnet, "its last weight": list(adapter.ffrnet.parameters())[-1]}
        heavy |= {f"copy {n}": getattr(one, "net", one) for n, one in enumerate(copies.values())}
        kept = [one for entry, _ in pipeline._cache._entries.values() for one in tensors(entry)]  # tokens, K and V
        heavy |= {f"kept {n}": one for n, one in enumerate(kept)}
        self.references = {name: weakref.ref(one) for name, one in heavy.items()}

    def alive(self) -> list[str]:
        return [name for name, reference in self.references.items() if reference() is not None]


def whole(world: Any, p: Processing) -> None:
    sampled(p)
    after_picture(p, Image.new("RGB", (64, 64)))
    finish(p, SimpleNamespace(extra_generation_params={}))


def failed(world: Any, p: Processing) -> BaseException:
    def fail(call: int, unet: Any) -> None:
        raise RuntimeError("planted")

    handle = world.standin.unet().register_forward_hook(lambda unet, *_: fail(0, unet))
    try:
        sampled(p)
    except RuntimeError as error:
        return error  # some hosts keep it
    finally:
        handle.remove()
    raise AssertionError("the sampling went on")


def undecoded(world: Any, p: Processing) -> None:
    """The sampling has ended well, and the host fails when it decodes: no script hears of it."""
    sampled(p)


def never_sampled(world: Any, p: Processing) -> None:
    """The host fails before the first step, or the user interrupts there."""


def interrupted(world: Any, p: Processing) -> None:
    state = world.modules.shared.state
    p.before_step = lambda denoiser: setattr(state, "interrupted", True)
    try:
        whole(world, p)
    finally:
        state.interrupted = False


def copied(world: Any, p: Processing) -> Processing:
    """X/Y/Z plots keep the object that they copy from, and its copies carry what was noted on it."""
    whole(world, p)
    return copy.copy(p)


def another_extension(world: Any, p: Processing) -> None:
    inner = p.sample

    def theirs(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    p.sample = theirs  # type: ignore[method-assign]
    whole(world, p)


def face_pass(world: Any, p: Processing) -> Processing:
    sampled(p)
    inner = processing(world, _ad_inner=True)
    assert world.host.adopt(inner) is not None
    sampled(inner)
    finish(p, SimpleNamespace(extra_generation_params={}))
    return inner


ENDS = (whole, failed, undecoded, never_sampled, interrupted, copied, another_extension, face_pass)


@pytest.mark.parametrize("end", ENDS, ids=lambda one: one.__name__)
@pytest.mark.parametrize(
    "foreign",
    (False, pytest.param(True, marks=pytest.mark.thorough, id="held by a cycle of the host's")),
)
def test_an_adapter_that_is_replaced_is_gone_when_the_next_is_read(
    world: Any, shared: PipelineLoader, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch, no_collector: None,
    end: Callable[[Any, Processing], Any], foreign: bool,
) -> None:  # fmt: skip
    asked = {"references": [Image.fromarray(astronaut)], "preset": "Faithful"}
    alive_at_reading: list[list[str]] = []
    read = loaders.load_adapter

    def reading(*args: Any, **more: Any) -> Any:
        if watched is not None:
            alive_at_reading.append(watched.alive())
        return read(*args, **more)

    watched: Watched | None = None
    monkeypatch.setattr(loaders, "load_adapter", reading)
    p: Any = processing(world)
    begin(world.host, shared, p, [{**asked, "adapter": "first"}])
    if foreign:
        p.sampler = SimpleNamespace(denoiser=SimpleNamespace(p=p))
    held = end(world, p)
    watched = Watched(world, shared)
    assert len(watched.alive()) > 20
    if foreign:
        del p
    else:  # gone with the request
        own = weakref.ref(p)
        del p
        assert own() is None or held is not None or end is another_extension, "p itself waits for the collector"
    second = processing(world)
    begin(world.host, shared, second, [{**asked, "adapter": "second"}])
    assert alive_at_reading == [[]]
    whole(world, second)
    del held


def test_an_adapter_whose_generation_was_refused_is_gone(
    world: Any, shared: PipelineLoader, astronaut: np.ndarray, page: dict[str, Any], no_collector: None
) -> None:
    """The error is kept until the sampling, and the hosts keep it longer."""
    faceless = {"references": [Image.new("RGB", (200, 200), "grey")]}
    for skip in (False, True):
        p = processing(world)
        begin(world.host, shared, p, [{**faceless, "adapter": "first", "on_error": "skip" if skip else "stop"}])
        watched, error = Watched(world, shared), None
        if skip:
            sampled(p)
        else:
            with pytest.raises(NoFaceError) as refused:
                sampled(p)
            error = refused.value
            with pytest.raises(NoFaceError):
                sampled(p)  # again, as a script might
        begin(world.host, shared, second := processing(world), [
            {"references": [Image.fromarray(astronaut)], "adapter": "second"}
        ])  # fmt: skip
        assert watched.alive() == []
        whole(world, second)
        if not skip:
            assert error is not None and p.facesnap_generation.error.__traceback__ is None
            reference = weakref.ref(p)
            del error, refused
        else:
            reference = weakref.ref(p)
        del p
        assert reference() is None


def test_a_generation_that_is_asked_again_after_its_end_is_prepared_again(
    world: Any, shared: PipelineLoader, astronaut: np.ndarray
) -> None:
    """Nothing of it is held, but a script that samples once more gets the same picture."""
    p = processing(world)
    begin(world.host, shared, p, [{"references": [Image.fromarray(astronaut)], "adapter": "first"}])
    made = sampled(p)
    finish(p, SimpleNamespace(extra_generation_params={}))
    other = processing(world)
    begin(world.host, shared, other, [{"references": [Image.fromarray(astronaut)], "adapter": "second"}])
    sampled(other)
    assert (sampled(p) - made).abs().max() == 0
