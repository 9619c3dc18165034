"""The attachment against diffusers' own IP-Adapter FaceID and FaceID-Plus, on the same random weights, in float32."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from facesnap.attach import Conditioning, RowPlan, attach
from facesnap.models.layers import TokenGroup
from tests.donors import faceid_config, image_proj, mixer_of, reference_photos
from tests.networks import CONTEXT, Batch, diffusers_unet, ip_adapter_state, ldm_unet, projections_for, run

TOLERANCE = 1e-4
FAMILIES = ("faceid", "plus", "plusv2")


def _reference(
    unet: UNet2DConditionModel, batch: Batch, states: dict, family: str, scale: float, photos
) -> torch.Tensor:
    """diffusers' result: rows are uncond, cond; uncond rows get the tokens of zero inputs."""
    unet._load_ip_adapter_weights([states])
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    f_id, hidden = photos
    embeds = torch.cat((torch.zeros_like(f_id), f_id))  # (2, 1, id)
    if family != "faceid":
        projection.clip_embeds = torch.cat((torch.full_like(hidden[-2], 0.5), hidden[-2]))  # (2, 1, P, W)
        projection.shortcut = family == "plusv2"
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [scale]
    added = {"text_embeds": batch.text_embeds, "time_ids": batch.time_ids, "image_embeds": [embeds]}
    with torch.no_grad():
        return unet(batch.x, batch.t, batch.context, added_cond_kwargs=added).sample


@pytest.mark.parametrize("tree", ("ldm", "diffusers"))
@pytest.mark.parametrize("base", ("sd15", "sdxl"))
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_equals_diffusers_ip_adapter(family: str, base: str, tree: str) -> None:
    config = faceid_config(CONTEXT[base], clip=family != "faceid", shortcut=family == "plusv2")
    donor = image_proj(config)
    ldm = ldm_unet(base)
    unet = ldm if tree == "ldm" else diffusers_unet(base, like=ldm)
    batch, photos = Batch.draw(base), reference_photos()
    projections = projections_for(unet, CONTEXT[base])

    f_id, hidden = photos
    mixer = mixer_of(config, donor, "stage1")
    half = {level: torch.full_like(h, 0.5) for level, h in hidden.items()}
    person = Conditioning(
        cond=projections.keys_values(mixer(f_id, hidden)),
        uncond=projections.keys_values(mixer(torch.zeros_like(f_id), half)),
        strength=0.8,
    )
    bare = run(unet, batch)
    with attach(unet, [person], RowPlan.classifier_free()) as attachment:
        ours = run(unet, batch)
    attachment.require_called()
    again = run(unet, batch)

    states = {"image_proj": donor, "ip_adapter": ip_adapter_state(projections)}
    theirs = _reference(diffusers_unet(base, like=ldm), batch, states, family, 0.8, photos)
    assert 0.1 < theirs.std() < 10
    assert (ours - theirs).abs().max() <= TOLERANCE
    for row in range(2):  # cond and uncond rows alike: the part matters
        assert (ours - bare)[row].abs().max() > 100 * TOLERANCE
    assert torch.equal(bare, again)


@torch.no_grad()
def test_two_people_equal_two_ip_adapters() -> None:
    """Several people add up as several IP-Adapters of diffusers do."""
    base = "sd15"
    unet = diffusers_unet(base)
    batch = Batch.draw(base)
    configs = faceid_config(CONTEXT[base], clip=False)
    donors = [image_proj(configs, seed) for seed in (21, 22)]
    projections = [projections_for(unet, CONTEXT[base], seed=seed) for seed in (9, 10)]
    photos = [reference_photos(seed=seed)[0] for seed in (11, 12)]
    people = []
    for donor, projection, f_id in zip(donors, projections, photos, strict=True):
        tokens = mixer_of(configs, donor, "stage1")(f_id)
        people.append(Conditioning(projection.keys_values(tokens), projection.keys_values(tokens), strength=0.6))
    with attach(unet, people, RowPlan.classifier_free()):
        ours = run(unet, batch)

    states = [{"image_proj": d, "ip_adapter": ip_adapter_state(p)} for d, p in zip(donors, projections, strict=True)]
    unet._load_ip_adapter_weights(states)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.6, 0.6]
    embeds = [f_id.expand(2, -1, -1) for f_id in photos]
    added = {"image_embeds": embeds}
    theirs = unet(batch.x, batch.t, batch.context, added_cond_kwargs=added).sample
    assert (ours - theirs).abs().max() <= TOLERANCE


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@torch.no_grad()
def test_half_precision_follows_the_unet(dtype: torch.dtype) -> None:
    base = "sd15"
    unet = diffusers_unet(base)
    batch = Batch.draw(base)
    group = {"id": TokenGroup(torch.randn(1, 4, CONTEXT[base], generator=torch.Generator().manual_seed(0)))}
    kv = projections_for(unet, CONTEXT[base]).keys_values(group)
    with attach(unet, [Conditioning(kv, kv)], RowPlan.classifier_free()):
        full = run(unet, batch)
    bare = run(unet, batch)
    unet.to(dtype)
    with attach(unet, [Conditioning(kv, kv)], RowPlan.classifier_free()):
        half = run(unet, batch.to(dtype))
    assert half.dtype == dtype
    error, effect = (half.float() - full).abs().mean(), (full - bare).abs().mean()
    assert error < 0.1 * effect


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
@torch.no_grad()
def test_autocast(dtype: torch.dtype) -> None:
    """A1111 runs its half-precision UNet under autocast; one attachment serves both kinds of call."""
    base = "sd15"
    unet, batch = ldm_unet(base), Batch.draw(base)
    group = {"id": TokenGroup(torch.randn(1, 4, CONTEXT[base], generator=torch.Generator().manual_seed(0)))}
    kv = projections_for(unet, CONTEXT[base]).keys_values(group)
    bare = run(unet, batch)
    with attach(unet, [Conditioning(kv, kv)], RowPlan.classifier_free()):
        full = run(unet, batch)
        with torch.autocast("cpu", dtype=dtype):
            half = run(unet, batch)
    assert (half.float() - full).abs().mean() < 0.15 * (full - bare).abs().mean()
