"""Training from public weights begins where the donor is: the same tokens, the same UNet step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from facesnap.attach import RowPlan, attach
from facesnap.attach.rows import Row
from facesnap.cli import main
from facesnap.errors import IdentityMismatchError, SettingsError
from facesnap.faces.recognisers import RECOGNISERS
from facesnap.families.registry import load_adapter
from facesnap.models.fidelity import FFRNet
from facesnap.pipeline.id_tokens import mix
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.training.config import AdapterConfig, load_config
from facesnap.training.encoder_shape import config_of
from facesnap.training.start import starting_adapter
from facesnap.training.trainer import Trainer
from facesnap.training.wiring import Inputs, TrainableAdapter
from tests.families.test_families import conditioning, inputs, ldm_of, widths_of
from tests.networks import CONTEXT, Batch, diffusers_unet, redraw
from tests.public_files import public_state, write

TOLERANCE = 1e-4


def _head(recogniser: str = "w600k_r50", **more: object) -> dict:
    return {
        "recogniser": RECOGNISERS[recogniser].sha256, "recogniser_name": recogniser, "pack": "a pack", "encoder": "e",
        "encoder_name": "ViT", "clip_width": 0, "licence": "", "settings": {"levels": [-2]},
    } | more  # fmt: skip


def _converted(tmp_path: Path, family: str, base: str, *options: str) -> tuple[Path, Path]:
    source = write(public_state(family, widths_of(ldm_of(base)), CONTEXT[base]), tmp_path, family, base)
    out = tmp_path / "converted.safetensors"
    assert main(["convert", str(source), "--out", str(out), *options]) == 0
    return source, out


@pytest.mark.parametrize(("family", "base"), [("faceid-plusv2", "sd15"), ("faceid-plusv2", "sdxl"), ("faceid", "sd15")])
def test_step_0_is_the_donor(tmp_path: Path, family: str, base: str) -> None:
    """FaceID's LoRA of the base UNet is left out on both sides: the base stays frozen and whole."""
    source, file = _converted(tmp_path, family, base, "--add-stage2")
    unet = diffusers_unet(base, like=ldm_of(base))
    donor = load_adapter(source)
    encoder = {"encoder_name": donor.spec.encoder_name or "ViT"}
    adapter = starting_adapter(AdapterConfig(start=file, ffrnet="none"), unet, _head(**encoder))
    given, batch = inputs(family), Batch.draw(base)
    extra = {"pooled": batch.text_embeds, "time_ids": batch.time_ids} if base == "sdxl" else {}
    step = Inputs(batch.x, batch.t, batch.context, given["f_id"], given["hidden"], **extra)
    plan = RowPlan([Row(0, False), Row(0, True)])
    added = {"text_embeds": batch.text_embeds, "time_ids": batch.time_ids}
    with torch.no_grad():
        tokens = donor.mixer(given["f_id"], given["hidden"])
        ours = adapter.mixer(given["f_id"], given["hidden"])
        assert set(ours) > set(tokens)  # stage 2 is there, behind its gates
        for name, group in tokens.items():
            assert (ours[name].tokens - group.tokens).abs().max() < TOLERANCE
        with attach(unet, [conditioning(donor, given, strength=1.0)], plan):
            wanted = unet(batch.x, batch.t, batch.context, added_cond_kwargs=added).sample
        bare = unet(batch.x, batch.t, batch.context, added_cond_kwargs=added).sample
        module = TrainableAdapter(unet, adapter)
        with module.wiring:
            found = module(step).prediction
            for name, parameter in module.projections.named_parameters():
                if name.endswith("gate"):
                    parameter.fill_(0.5)
            opened = module(step).prediction
    assert (found - wanted).abs().max() < TOLERANCE < 100 * TOLERANCE < (bare - wanted).abs().max()
    assert (opened - wanted).abs().max() > 100 * TOLERANCE


def test_data_of_another_recogniser_or_without_its_states_are_named(tmp_path: Path) -> None:
    source, file = _converted(tmp_path, "faceid-plusv2", "sd15")
    unet = diffusers_unet("sd15", like=ldm_of("sd15"))
    wanted, name = AdapterConfig(start=file, ffrnet="none"), load_adapter(source).spec.encoder_name
    with pytest.raises(IdentityMismatchError, match="w600k_r50"):
        starting_adapter(wanted, unet, _head("glintr100", encoder_name=name))
    with pytest.raises(SettingsError, match=r"hidden states \[-2\]"):
        starting_adapter(wanted, unet, _head(encoder_name=name, settings={"levels": [-3]}))


@torch.no_grad()
@pytest.mark.parametrize("sees", ("both", "vector", "image"))
def test_an_adapter_sees_what_it_is_to_see(prepared, changes: dict, world, sees: str) -> None:
    """In training and in generation: another vector or other states change its tokens, or do not."""
    nothing = {"drops": {"text": 0.0, "identity": 0.0, "both": 0.0}}
    trainer = Trainer(load_config("tiny-cpu", changes | {"adapter.sees": sees, **nothing}))
    sample = trainer.samples[(0, 0)]
    assert bool(sample["f_id"].any()) == (sees != "image") and any("hidden" in key for key in sample) == (
        sees != "vector"
    )
    adapter = trainer.module.adapter()
    assert (adapter.spec.id_vector == "none") == (sees == "image")
    assert bool(adapter.spec.encoder) == bool(adapter.mixer.config.clip_levels) == (sees != "vector")
    redraw(adapter.mixer, 3)
    pipeline = FaceSnapPipeline(adapter, world.analyser, world.encoder if sees != "vector" else None)
    person = pipeline.identity([world.photo])
    changed = {
        "vector": dataclasses.replace(person, embeddings=np.roll(person.embeddings, 1, axis=1)),
        "image": dataclasses.replace(person, hidden={level: -states for level, states in person.hidden.items()}),
    }
    own = mix(adapter, person, None)["mix"].tokens
    for part, other in changed.items():
        differs = (mix(adapter, other, None)["mix"].tokens - own).abs().max()
        assert differs > 1e-2 if sees in ("both", part) else differs == 0


def test_what_an_adapter_cannot_see_is_refused(world) -> None:
    unet = diffusers_unet("sd15")
    with pytest.raises(SettingsError, match="image tokens alone"):
        starting_adapter(AdapterConfig(sees="image", ffrnet="none"), unet, _head())
    with pytest.raises(SettingsError, match="fresh adapters"):
        load_config("tiny-cpu", {"adapter.sees": "image", "adapter.start": "x.safetensors"})


def test_ffrnet_copies_an_encoder_of_any_latent_channels() -> None:
    unet = diffusers_unet("sd15")
    wide = type(unet).from_config({**unet.config, "in_channels": 16, "out_channels": 16})
    redraw(wide, 3)
    net = FFRNet.from_unet_state_dict(config_of(wide), wide.state_dict())
    assert net.config.in_channels == 16 and torch.equal(net.conv_in.weight, wide.conv_in.weight)


@pytest.mark.parametrize("kind", ("full", "lora"))
def test_the_first_step_of_a_fresh_ffrnet_already_sees_the_landmarks(kind: str) -> None:
    """It changes nothing yet, but what its zero convolutions learn in one step depends on where the points are."""
    unet = redraw(diffusers_unet("sd15"), 3)
    net = starting_adapter(AdapterConfig(ffrnet=kind, sees="vector"), unet, _head()).ffrnet
    assert net is not None
    if kind == "lora":
        net.borrow(dict(unet.named_parameters()))
    net.requires_grad_(True)
    lines = torch.zeros(1, 3, 128, 128)
    lines[:, :, 40:43, 20:108] = 1.0
    g = torch.Generator().manual_seed(0)
    x, tokens = torch.randn(1, 4, 16, 16, generator=g), torch.randn(1, 12, CONTEXT["sd15"], generator=g)
    wanted = torch.randn(x.shape[-2:], generator=g)

    def first_gradient(picture: torch.Tensor) -> torch.Tensor:
        net.zero_grad()
        hint = net.embed_hint(picture)
        down, middle = net(x, torch.tensor([600]), tokens, hint)
        assert not any(residual.any() for residual in (*down, middle))
        (down[0] * wanted).sum().backward()
        return net.controlnet_down_blocks[0].weight.grad.clone()

    with_lines, black = first_gradient(lines), first_gradient(torch.zeros_like(lines))
    assert (with_lines - black).norm() > 0.1 * black.norm()


def test_a_fresh_mixer_tells_people_apart() -> None:
    """The recogniser's vectors have length 1, where a layer's own biases are as large as what it makes of them."""
    mixer = starting_adapter(AdapterConfig(ffrnet="none", sees="vector"), diffusers_unet("sd15"), _head()).mixer
    g = torch.Generator().manual_seed(0)
    people = torch.nn.functional.normalize(torch.randn(8, 1, 512, generator=g), dim=-1)
    with torch.no_grad():
        tokens = mixer(people)["id"].tokens.flatten(1)  # (8, T * D)
    cosines = torch.nn.functional.cosine_similarity(tokens[:, None], tokens[None], dim=-1)  # (8, 8), 1 on its diagonal
    assert (cosines.sum() - 8) / 56 < 0.5, cosines


def test_heads_of_several_widths_are_refused() -> None:
    """FFRNet has one width: it would begin as another network than the UNet's encoder."""
    unet = diffusers_unet("sd15")
    first, *others = unet.config.block_out_channels
    same, mixed = (
        type(unet).from_config({**unet.config, "attention_head_dim": [first // 16, *(w // width for w in others)]})
        for width in (16, 8)
    )
    assert config_of(same).head_dim == 16
    with pytest.raises(SettingsError, match=r"heads are \[8, 16\] channels wide"):
        config_of(mixed)
