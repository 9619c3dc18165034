"""The stand-in hosts."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from facesnap.attach import Conditioning
from tests.networks import CONTEXT, ldm_unet, projections_for, token_groups
from tests.webui.standin.sampling import A1111Host, ForgeHost

STANDIN = Path(__file__).resolve().parents[1] / "webui" / "standin"
WIDTH = CONTEXT["sd15"]


@pytest.fixture(scope="module")
def unets():
    """Of half the real layouts' depth: what the hosts do around a UNet is the same."""
    return tuple(ldm_unet(base, seed=seed, blocks=1) for seed, base in enumerate(("sd15", "sd15", "sdxl"), 1))


@pytest.fixture(scope="module")
def person(unets) -> Conditioning:
    projections = projections_for(unets[0], WIDTH)
    cond, uncond = (projections.keys_values(token_groups(WIDTH, seed=s)) for s in (1, 2))
    return Conditioning(cond, uncond)


@pytest.fixture(params=("a1111", "forge"))
def world(request, monkeypatch, unets, person):
    """The stand-in host, our adapter, and a maker of processing objects."""
    monkeypatch.syspath_prepend(str(STANDIN))
    ours, theirs = ("facesnap.hosts.a1111", "facesnap.hosts.forge"), ("modules", "backend")
    for name in [n for n in sys.modules if n.split(".")[0] in theirs or n in ours]:
        monkeypatch.delitem(sys.modules, name)
    modules = SimpleNamespace(
        **{n: importlib.import_module(f"modules.{n}") for n in ("shared", "sd_models", "sd_unet", "script_callbacks")}
    )
    adapter = importlib.import_module(f"facesnap.hosts.{request.param}")
    host = adapter.A1111() if request.param == "a1111" else adapter.Forge()
    standin = (A1111Host if request.param == "a1111" else ForgeHost)(modules)
    standin.load(unets[0])
    modules.script_callbacks.on_cfg_denoiser(host.before_step)
    yield SimpleNamespace(name=request.param, host=host, standin=standin, modules=modules, unets=unets, person=person)
    for unet in unets:
        for module in unet.modules():
            assert not module._forward_hooks and not module._forward_pre_hooks
    for name in [n for n in sys.modules if n.split(".")[0] in theirs]:
        del sys.modules[name]
    sys.modules.pop(adapter.__name__)
