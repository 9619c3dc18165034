"""The mixer against its donors (diffusers' own classes), its gates, several references and batches."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers.models.embeddings import (
    IPAdapterFaceIDImageProjection,
    IPAdapterFaceIDPlusImageProjection,
    IPAdapterPlusImageProjection,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from facesnap.errors import CheckpointError, SettingsError
from facesnap.models.mixer import FacialAttributeMixer, MixerConfig, Stage1Config, Stage2Config
from facesnap.models.projections import IDProjections
from tests.donors import (
    CLIP_WIDTH,
    ID_WIDTH,
    faceid_config,
    image_proj,
    instantid_config,
    mixer_of,
    reference_photos,
)
from tests.networks import redraw

CONTEXT = 64


def _diffusers(donor: dict[str, Tensor]):
    """diffusers' projection class with a donor's weights, by its own loader."""
    unet = UNet2DConditionModel(block_out_channels=(8, 8), norm_num_groups=4, cross_attention_dim=CONTEXT,
                                down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    return unet._convert_ip_adapter_image_proj_to_diffusers(donor).eval()


def _resampler(donor: dict[str, Tensor]) -> IPAdapterPlusImageProjection:
    """InstantID's resampler in diffusers' class: the same blocks over one token, the recogniser's vector."""
    net = IPAdapterPlusImageProjection(ID_WIDTH, CONTEXT, 128, depth=4, dim_head=64, heads=2, num_queries=16)
    state = {}
    names = {"0.norm1": "ln0", "0.norm2": "ln1", "0.to_q": "attn.to_q", "0.to_out": "attn.to_out.0", "1.0": "ff.0",
             "1.1": "ff.1.net.0.proj", "1.3": "ff.1.net.2"}  # fmt: skip
    for key, value in donor.items():
        found = re.fullmatch(r"layers\.(\d)\.(.+)\.(weight|bias)", key)
        if found is None:
            state[key] = value
        elif found[2] == "0.to_kv":
            for name, half in zip(("to_k", "to_v"), value.chunk(2), strict=True):
                state[f"layers.{found[1]}.attn.{name}.weight"] = half
        else:
            state[f"layers.{found[1]}.{names[found[2]]}.{found[3]}"] = value
    net.load_state_dict(state)
    return net.eval()


@pytest.mark.parametrize("family", ("faceid", "plus", "plusv2"))
@torch.no_grad()
def test_equals_the_faceid_donors(family: str) -> None:
    config = faceid_config(CONTEXT, clip=family != "faceid", shortcut=family == "plusv2")
    donor = image_proj(config)
    theirs = _diffusers(donor)
    kind = IPAdapterFaceIDImageProjection if family == "faceid" else IPAdapterFaceIDPlusImageProjection
    assert isinstance(theirs, kind)
    f_id, hidden = reference_photos(people=3)
    mixer = mixer_of(config, donor, "stage1")
    for s_struct in (1.0, 0.3) if family == "plusv2" else (1.0,):
        if family != "faceid":
            theirs.clip_embeds = hidden[-2]
            theirs.shortcut, theirs.shortcut_scale = family == "plusv2", s_struct
        expected = theirs(f_id[:, 0])
        ours = mixer(f_id, hidden, s_struct=s_struct)["id"].tokens
        assert 0.3 < expected.std() < 3
        assert (ours - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))
        other = mixer(-f_id, hidden, s_struct=s_struct)["id"].tokens
        assert (other - expected).abs().max() > 1e-2


@torch.no_grad()
def test_equals_instantids_resampler() -> None:
    config = instantid_config(CONTEXT)
    donor = image_proj(config)
    f_id, _ = reference_photos(people=3)
    expected = _resampler(donor)(f_id)
    ours = mixer_of(config, donor, "stage2")(f_id)["mix"].tokens
    assert 0.3 < expected.std() < 3
    assert (ours - expected).abs().max() <= 2e-6
    assert (mixer_of(config, donor, "stage2")(-f_id)["mix"].tokens - expected).abs().max() > 1e-2


def _full_config(shortcut: bool, groups: tuple[tuple[str, int], ...] | None = None) -> MixerConfig:
    """Both stages, two further CLIP levels (one low-rank), both gated groups."""
    stage1 = faceid_config(CONTEXT, clip=True, shortcut=shortcut).stage1
    groups = (("h", CONTEXT), ("x", CLIP_WIDTH)) if groups is None else groups
    return MixerConfig(stage1, instantid_config(CONTEXT, groups).stage2, levels=((1, 0), (2, 16)))


@pytest.mark.parametrize("shortcut", (False, True))
@torch.no_grad()
def test_initial_gates_leave_every_donor_exactly_as_it_is(shortcut: bool) -> None:
    """The full mixer at its initial gates: stage 1 is FaceID-Plus(V2), stage 2 is InstantID's resampler."""
    config = _full_config(shortcut)
    plus = image_proj(MixerConfig(config.stage1, None))
    instant = image_proj(instantid_config(CONTEXT), seed=22)
    mixer = FacialAttributeMixer(config).eval()
    state = {f"stage1.{k}": v for k, v in plus.items()} | {f"stage2.{k}": v for k, v in instant.items()}
    assert not mixer.load_state_dict(state, strict=False).unexpected_keys
    f_id, hidden = reference_photos(people=2)
    out = mixer(f_id, hidden)
    alone = mixer_of(MixerConfig(config.stage1, None), plus, "stage1")(f_id, hidden)["id"].tokens
    resampled = mixer_of(instantid_config(CONTEXT), instant, "stage2")(f_id)["mix"].tokens
    assert torch.equal(out["id"].tokens, alone)
    assert torch.equal(out["mix"].tokens, resampled)
    # Each gate, once opened, matters, and at 0 it has a gradient.
    gates = [name for name, _ in mixer.named_parameters() if "gate" in name]
    assert len(gates) == 2 + 2 * 4
    with torch.enable_grad():
        both = mixer(f_id, hidden)
        (both["id"].tokens.square().sum() + (both["mix"].tokens * torch.randn_like(resampled)).sum()).backward()
    for name in gates:
        parameter = mixer.get_parameter(name)
        assert parameter.grad is not None and parameter.grad.abs() > 1e-5, name
        parameter.fill_(0.7)
        opened = mixer(f_id, hidden)
        assert max((opened["id"].tokens - alone).abs().max(), (opened["mix"].tokens - resampled).abs().max()) > 1e-4
        parameter.zero_()


@torch.no_grad()
def test_sizes_are_read_off_the_state_dict() -> None:
    for config in (
        _full_config(True),
        _full_config(False, (("h", CONTEXT),)),
        faceid_config(CONTEXT, clip=False, tokens=16),
        faceid_config(128, clip=True, shortcut=True),
        instantid_config(CONTEXT),
    ):
        state = FacialAttributeMixer(config).state_dict()
        shortcut = bool(config.stage1 and config.stage1.shortcut)
        assert MixerConfig.from_state_dict(state, shortcut=shortcut) == config


@pytest.mark.parametrize(
    ("config", "parameters"),
    (
        # numbers of parameters of the published files
        (MixerConfig(Stage1Config(512, 1024, 4, 768), None), 3_675_648),
        (MixerConfig(Stage1Config(512, 1024, 4, 2048), None), 8_926_208),
        (MixerConfig(Stage1Config(512, 1024, 16, 768), None), 13_122_048),
        (MixerConfig(Stage1Config(512, 1024, 4, 768, 1280, 4, 768, 3072), None), 33_581_568),
        (MixerConfig(Stage1Config(512, 1024, 4, 2048, 1280, 4, 2048, 8192), None), 217_125_888),
        (MixerConfig(None, Stage2Config(512, 1280, 16, 4, 1280, 5120, 2048)), 81_978_624),
    ),
    ids=("faceid-sd15", "faceid-sdxl", "portrait-sd15", "plus-sd15", "plus-sdxl", "instantid"),
)
def test_full_width_donors_have_their_published_sizes(config: MixerConfig, parameters: int) -> None:
    with torch.device("meta"):
        mixer = FacialAttributeMixer(config)
    assert sum(p.numel() for p in mixer.parameters()) == parameters


@torch.no_grad()
def test_several_references() -> None:
    mixer = redraw(FacialAttributeMixer(_full_config(True)), 5).eval()
    f_id, hidden = reference_photos(refs=3)
    weights = torch.tensor([[0.5, 0.3, 0.2]])
    out = mixer(f_id, hidden, weights=weights)
    assert out["id"].tokens.shape == (1, 3 * 4, CONTEXT) and out["mix"].tokens.shape == (1, 16, CONTEXT)
    for r in range(3):  # every reference keeps its own tokens, with its log-quality
        lone = mixer(f_id[:, r : r + 1], {k: v[:, r : r + 1] for k, v in hidden.items()})
        assert lone["id"].bias is None
        assert torch.allclose(out["id"].tokens[:, 4 * r : 4 * r + 4], lone["id"].tokens, atol=1e-5)
        assert torch.allclose(out["id"].bias[0, 4 * r : 4 * r + 4].exp(), weights[0, r].expand(4))
    scaled = mixer(f_id, hidden, weights=weights * 7)  # only the ratios count
    assert torch.allclose(scaled["mix"].tokens, out["mix"].tokens, atol=1e-5)
    trusted = mixer(f_id, hidden, weights=torch.tensor([[0.98, 0.01, 0.01]]))
    assert (trusted["mix"].tokens - out["mix"].tokens).abs().max() > 1e-3
    fused = mixer(f_id, hidden, weights=weights, f_fused=f_id[:, 0])
    assert (fused["mix"].tokens - out["mix"].tokens).abs().max() > 1e-3
    many = reference_photos(refs=12)  # more than there are view embeddings
    assert mixer(*many)["id"].tokens.shape == (1, 48, CONTEXT)


@torch.no_grad()
def test_copies_of_one_reference_are_that_reference_before_the_view_embeddings() -> None:
    mixer = redraw(FacialAttributeMixer(_full_config(True)), 5).eval()
    mixer.stage2.views.zero_()
    f_id, hidden = reference_photos()
    one = mixer(f_id, hidden)["mix"].tokens
    thrice = mixer(f_id.repeat(1, 3, 1), {k: v.repeat(1, 3, 1, 1) for k, v in hidden.items()})["mix"].tokens
    assert (one - thrice).abs().max() <= 1e-5


@torch.no_grad()
def test_a_batch_of_people_is_each_person_alone() -> None:
    mixer = redraw(FacialAttributeMixer(_full_config(True)), 5).eval()
    f_id, hidden = reference_photos(refs=2, people=3)
    weights = torch.tensor([[1.0, 2.0], [1.0, 1.0], [5.0, 1.0]])
    together = mixer(f_id, hidden, weights=weights)
    for i in range(3):
        part = slice(i, i + 1)
        alone = mixer(f_id[part], {k: v[part] for k, v in hidden.items()}, weights=weights[part])
        for group in ("id", "mix"):
            assert torch.allclose(together[group].tokens[part], alone[group].tokens, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    mixer = FacialAttributeMixer(faceid_config(CONTEXT, clip=True)).eval()
    f_id, hidden = reference_photos()
    with pytest.raises(SettingsError, match="no shortcut"):
        mixer(f_id, hidden, s_struct=0.5)
    with pytest.raises(SettingsError, match="hidden state -2"):
        mixer(f_id, {})
    with pytest.raises(SettingsError, match="hidden state -2"):
        mixer(f_id, {-2: hidden[-2][..., :-1]})
    with pytest.raises(SettingsError, match="47 values"):
        mixer(f_id[..., :-1], hidden)
    with pytest.raises(CheckpointError, match="neither stage1"):
        MixerConfig.from_state_dict({}, shortcut=False)
    state = mixer.state_dict()
    del state["stage1.norm.weight"]
    with pytest.raises(CheckpointError, match=r"stage1\.norm\.weight is missing"):
        MixerConfig.from_state_dict(state, shortcut=False)
    with pytest.raises(CheckpointError, match="dim_head"):
        FacialAttributeMixer(faceid_config(100, clip=True))


@torch.no_grad()
def test_projections() -> None:
    """Keys and values per group; a group behind a closed gate is left out; half-precision weights give the same."""
    mixer = redraw(FacialAttributeMixer(_full_config(True)), 5).eval()
    sites = {"input.1.1.0": 32, "middle.0.1.0": 48, "output.3.1.0": 64}
    projections = IDProjections(sites, {"id": False, "mix": True}, CONTEXT)
    tokens = mixer(*reference_photos(refs=2))
    assert {len(groups) for groups in projections.keys_values(tokens).values()} == {1}
    redraw(projections, 3)
    kv = projections.keys_values(tokens)
    for site, width in sites.items():
        first, second = kv[site]
        group = projections.sites[site.replace(".", "_")]
        assert first.k.shape == (8, width) and second.v.shape == (16, width)
        assert torch.allclose(first.v, group["id"].to_v(tokens["id"].tokens[0]), atol=1e-5)
        assert first.gate == 1.0 and abs(second.gate - float(torch.tanh(group["mix"].gate))) < 1e-6
        assert first.bias is not None and second.bias is None
    half = projections.half().keys_values(tokens)
    assert all(
        torch.allclose(half[s][0].k, kv[s][0].k, atol=2e-2) and half[s][0].k.dtype == torch.float32 for s in sites
    )
    rebuilt = IDProjections.from_state_dict(projections.state_dict())
    assert rebuilt.widths == sites and rebuilt.groups == {"id": False, "mix": True} and rebuilt.context == CONTEXT
    with pytest.raises(SettingsError, match="token groups"):
        projections.keys_values({"id": tokens["id"]})
