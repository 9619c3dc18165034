"""Models that FaceSnap cannot work on: named as people know them, refused before the sampling, left as they were."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from facesnap.attach.topology import latent_channels
from facesnap.errors import TopologyError
from facesnap.hosts.webui import ChosenModel
from tests.hosts.test_webui import prepare, processing, sampled
from tests.networks import diffusers_unet, ldm_unet

ENGINES = {"Flux": "Flux", "Flux2": "Flux.2", "QwenImage": "Qwen Image", "ZImage": "Z-Image", "Anima": "Anima",
           "ErnieImage": "Ernie Image", "Krea2": "Krea 2", "Lumina2": "Lumina 2"}  # fmt: skip


class SingleStreamDiT(nn.Module):
    """A transformer: no blocks of a UNet."""

    def forward(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        raise AssertionError("it was sampled")


@pytest.mark.parametrize("world", ["forge"], indirect=True)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_transformer_is_called_by_its_own_name(world, engine: str) -> None:
    world.modules.shared.sd_model = type(engine, (), vars(world.modules.shared.sd_model))()
    world.modules.shared.sd_model.forge_objects.unet.model.diffusion_model = SingleStreamDiT()
    assert world.host.chosen_model().base == ENGINES[engine]
    p = processing(world)
    world.host.enlist(p, prepare(world.person))
    with pytest.raises(TopologyError, match=rf"The loaded model is {ENGINES[engine]}, a transformer.*SD1\.5 or SDXL"):
        sampled(p)


@pytest.mark.parametrize("world", ["forge"], indirect=True)
def test_a_compiled_unet_is_refused_before_it_is_called_and_makes_plain_pictures(world) -> None:
    bare = sampled(processing(world))
    model = world.modules.shared.sd_model.forge_objects.unet.model
    for mark in ("_torch_compile_config", "_orig_apply_model"):
        setattr(model, mark, {"backend": "inductor"})
        p = processing(world)
        world.host.enlist(p, prepare(world.person))
        calls = []
        handle = world.standin.unet().register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        with pytest.raises(TopologyError, match=r"torch\.compile is on.*disable torch\.compile in its own accordion"):
            sampled(p)
        handle.remove()
        assert not calls and world.host.chosen_model().base == "sd15"
        assert torch.equal(sampled(processing(world)), bare)
        delattr(model, mark)
    p = processing(world)
    world.host.enlist(p, prepare(world.person))
    assert not torch.equal(sampled(p), bare)


def test_another_latent_is_told_from_sdxl(world) -> None:
    unet = ldm_unet("sdxl")
    unet.out[-1] = nn.Conv2d(unet.out[-1].in_channels, 32, 3)
    world.standin.load(unet)
    p = processing(world)
    world.host.enlist(p, prepare(world.person, fits="sdxl"))
    with pytest.raises(TopologyError, match=r"UNet.*a latent of 32 channels"):
        sampled(p)
    assert latent_channels(diffusers_unet("sdxl")) == latent_channels(ldm_unet("sd15", channels=9)) == 4


def test_the_chosen_checkpoint_is_known_before_it_is_loaded(world, tmp_path) -> None:
    """Forge and Neo load with the first picture, AUTOMATIC1111 while the page is there already."""
    models, opts = world.modules.sd_models, world.modules.shared.opts
    loaded = world.modules.shared.sd_model
    assert world.host.chosen_model() == ChosenModel("miniature", "sd15")
    site = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    for name, inside in {"xl": site, "flux": "double_blocks.0.img_attn.proj.weight"}.items():
        file = tmp_path / f"{name}.safetensors"
        save_file({f"model.diffusion_model.{inside}": torch.zeros(640, 2048)}, file)
        models.checkpoints_list[f"{file.name} [0123]"] = models.checkpoint(file)
    try:
        opts.sd_model_checkpoint = "xl.safetensors [0123]"
        assert world.host.chosen_model() == ChosenModel("xl", "sdxl")  # another is loaded still
        assert world.host.chosen_model("flux.safetensors [0123]") == ChosenModel("flux", "Flux")
        world.modules.shared.sd_model = None
        assert world.host.chosen_model() == ChosenModel("xl", "sdxl")
        (tmp_path / "xl.safetensors").unlink()
        assert world.host.chosen_model() == ChosenModel("xl", None)
        opts.sd_model_checkpoint = None
        assert world.host.chosen_model() == ChosenModel()
    finally:
        models.checkpoints_list.clear()
        del opts.sd_model_checkpoint
        world.modules.shared.sd_model = loaded
