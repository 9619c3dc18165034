"""FFRNet against diffusers' ControlNetModel on the same random weights."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facesnap.errors import AttachError, CheckpointError
from facesnap.models.fidelity import FFRNet
from facesnap.models.fidelity_config import FFRNetConfig
from facesnap.models.fidelity_lite import SDXL_LITE, lite_state_dict
from facesnap.models.tensors import load_strictly

TOLERANCE = 3e-5  # float32; in float64 the two agree to 1e-10
SD15 = dict(
    block_out_channels=(32, 64, 64),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    attention_head_dim=8,  # diffusers' name for the number of heads
    cross_attention_dim=48,
)
SDXL = dict(
    block_out_channels=(64, 128, 192),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    transformer_layers_per_block=(1, 2, 3),
    attention_head_dim=(1, 2, 3),
    use_linear_projection=True,
    cross_attention_dim=80,
    addition_embed_type="text_time",
    addition_time_embed_dim=16,
    projection_class_embeddings_input_dim=40 + 6 * 16,
)
LAYOUTS = {"sd15": SD15, "sdxl": SDXL, "plain middle": {**SD15, "mid_block_type": "UNetMidBlock2D"}}


BRANCH_ENDS = (".conv2.", ".to_out.0.", ".ff.net.2.", ".proj_out.")


def redraw(module: torch.nn.Module, seed: int = 0) -> None:
    """Draw every parameter again, zero convolutions too, so that activations keep a magnitude near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim > 1:
            gain = 1.7 if "cond_embedding" in name else 0.5 if any(e in name for e in BRANCH_ENDS) else 1.0
            p.data = gain * noise / p[0].numel() ** 0.5
        else:
            p.data = 0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)


def reference(layout: str) -> torch.nn.Module:
    net = diffusers.ControlNetModel(conditioning_embedding_out_channels=(16, 32, 48, 64), **LAYOUTS[layout]).eval()
    redraw(net)
    return net.requires_grad_(False)


def inputs(layout: str, height: int, width: int, batch: int = 2, seed: int = 1) -> dict:
    g = torch.Generator().manual_seed(seed)
    config = LAYOUTS[layout]
    case = {
        "x": torch.randn(batch, 4, height, width, generator=g),
        "t": torch.tensor([801.0, 13.0][:batch]),
        "tokens": torch.randn(batch, 5, config["cross_attention_dim"], generator=g),
        "picture": torch.rand(1, 3, 8 * height, 8 * width, generator=g),
    }
    if layout == "sdxl":
        case["text_embeds"] = torch.randn(batch, 40, generator=g)
        case["time_ids"] = torch.tensor([[1024.0, 1024, 0, 0, 1024, 832]] * batch)
    return case


def run_reference(net, case: dict):
    added = {k: case[k] for k in ("text_embeds", "time_ids") if k in case}
    down, mid = net(
        case["x"],
        case["t"],
        case["tokens"],
        case["picture"].expand(len(case["x"]), -1, -1, -1),
        added_cond_kwargs=added,
        return_dict=False,
    )
    return [*down, mid]


def vector(net, case: dict):
    """The ready-made y of ldm: pooled text, then the embedded sizes."""
    if "text_embeds" not in case:
        return None
    sizes = net.add_time_proj(case["time_ids"].flatten()).reshape(len(case["x"]), -1)
    return torch.cat([case["text_embeds"], sizes], dim=-1)


def run_ours(net: FFRNet, case: dict, y=None, **changes):
    case = {**case, **changes}
    down, mid = net(case["x"], case["t"], case["tokens"], net.embed_hint(case["picture"]), y)
    return [*down, mid]


def distance(a: list, b: list) -> list[float]:
    return [(p - q).abs().max().item() for p, q in zip(a, b, strict=True)]


@pytest.mark.parametrize("size", [(16, 16), (33, 47), (8, 21)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_residuals_equal_diffusers(layout, size):
    donor, case = reference(layout), inputs(layout, *size)
    net = FFRNet.from_state_dict(donor.state_dict())
    y = vector(donor, case)
    theirs, ours = run_reference(donor, case), run_ours(net, case, y)
    assert [r.shape for r in ours] == [r.shape for r in theirs]
    assert all(0.1 < r.std() < 10 for r in theirs), [r.std().item() for r in theirs]
    assert max(distance(ours, theirs)) <= TOLERANCE
    without_hint = run_ours(net, case, y, picture=torch.zeros_like(case["picture"]))
    assert min(distance(ours, without_hint)) > 100 * TOLERANCE
    without_tokens = run_ours(net, case, y, tokens=torch.zeros_like(case["tokens"]))
    first = next(i for i, depth in enumerate(sum(net.config.depth, ())) if depth)
    assert min(distance(ours, without_tokens)[first + 2 :]) > 100 * TOLERANCE
    if y is not None:
        assert max(distance(ours, run_ours(net, case, y.flip(0)))) > 100 * TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_residuals_equal_diffusers_in_float64(layout):
    donor = reference(layout).double()
    case = {name: tensor.double() for name, tensor in inputs(layout, 7, 9).items()}
    y = vector(donor, case)
    ours = run_ours(FFRNet.from_state_dict(donor.state_dict()), case, y)
    assert max(distance(ours, run_reference(donor, case))) <= 1e-10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_projected_ahead_change_nothing(layout):
    donor, case = reference(layout), inputs(layout, 9, 12)
    net, y = FFRNet.from_state_dict(donor.state_dict()), vector(donor, case)
    kvs = net.project_tokens(case["tokens"])
    assert len(kvs) == len(net.config.attention_widths()) == len(list(net.sites()))
    assert max(distance(run_ours(net, case, y), run_ours(net, case, y, tokens=kvs))) == 0.0
    one = [tuple(x[:1] for x in pair) for pair in kvs]  # one person's tokens for all rows
    same = case["tokens"][:1].expand(2, -1, -1)
    assert max(distance(run_ours(net, case, y, tokens=same), run_ours(net, case, y, tokens=one))) <= TOLERANCE
    with pytest.raises(AttachError, match="sites"):
        run_ours(net, case, y, tokens=kvs[1:])


def test_configuration_is_read_off_the_state_dict():
    sd15 = FFRNetConfig.from_state_dict(reference("sd15").state_dict())
    assert sd15 == FFRNetConfig(
        channels=(32, 64, 64),
        depth=((1, 1), (1, 1), (0, 0)),
        mid_depth=1,
        context_dim=48,
        linear_projection=False,
        adm_dim=None,
        time_dim=128,
        hint_channels=(3, 16, 32, 48, 64),
        heads=8,
    )
    sdxl = FFRNetConfig.from_state_dict(reference("sdxl").state_dict())
    assert sdxl.depth == ((0, 0), (2, 2), (3, 3)) and sdxl.mid_depth == 3
    assert (sdxl.adm_dim, sdxl.head_dim, sdxl.heads, sdxl.linear_projection) == (136, 64, None, True)


@pytest.mark.parametrize(
    "config",
    [
        FFRNetConfig.sd15(),
        FFRNetConfig.sdxl(),
        replace(FFRNetConfig.sdxl(deep=2), landmark_hint_channels=(3, 16, 32, 96, 256), donor_picture="five_points"),
        replace(FFRNetConfig.sdxl(), mid_depth=0),
    ],
)
def test_configuration_round_trip(config):
    with torch.device("meta"):
        state = FFRNet(config).state_dict()
    assert FFRNetConfig.from_state_dict(state) == config


def size_of(config: FFRNetConfig) -> tuple[int, int]:
    with torch.device("meta"):
        state = FFRNet(config).state_dict()
    return len(state), sum(t.numel() for t in state.values())


def test_full_size_layouts():
    assert size_of(FFRNetConfig.sdxl()) == (844, 1_251_014_160)  # InstantID's IdentityNet
    assert size_of(FFRNetConfig.sd15()) == (340, 361_279_120)  # control_v11p_sd15_*
    assert round(size_of(FFRNetConfig.sdxl(deep=2))[1] / 1e9, 2) == 0.42
    with torch.device("meta"):
        theirs = {
            "sd15": diffusers.ControlNetModel(cross_attention_dim=768),
            "sdxl": diffusers.ControlNetModel(
                block_out_channels=(320, 640, 1280),
                down_block_types=SDXL["down_block_types"],
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                use_linear_projection=True,
                cross_attention_dim=2048,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            ),
        }
        for name, config in (("sd15", FFRNetConfig.sd15()), ("sdxl", FFRNetConfig.sdxl())):
            ours, donor = FFRNet(config).state_dict(), theirs[name].state_dict()
            assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in donor.items()}


def test_fresh_network_returns_zeros():
    config = FFRNetConfig.from_state_dict(reference("sd15").state_dict())
    case = inputs("sd15", 8, 8)
    assert all(not r.any() for r in run_ours(FFRNet(config), case))


def test_dual_hint_starts_as_its_donor():
    donor = reference("sdxl")
    single = FFRNet.from_state_dict(donor.state_dict(), donor_picture="five_points")
    config = replace(single.config, landmark_hint_channels=(3, 16, 32, 48, 64), donor_picture="five_points")
    dual_state = {**FFRNet(config).state_dict(), **donor.state_dict()}
    dual = FFRNet.from_state_dict(dual_state)
    assert dual.config == config
    five, dots = (torch.rand(1, 3, 64, 72, generator=torch.Generator().manual_seed(i)) for i in (5, 72))
    donor_hint = single.embed_hint(five_point_picture=five)
    assert torch.equal(dual.embed_hint(dots, five), donor_hint)

    redraw(dual.landmark_cond_embedding, seed=3)  # as after training
    trained = dual.embed_hint(dots, five)
    assert torch.equal(trained, dual.embed_hint(dots) + dual.embed_hint(five_point_picture=five))
    assert (trained - donor_hint).abs().max() > 0.1


def test_pictures_without_a_network_are_refused():
    net = FFRNet.from_state_dict(reference("sd15").state_dict())
    picture = torch.rand(1, 3, 64, 64)
    with pytest.raises(AttachError, match="five_points"):
        net.embed_hint(picture, picture)
    with pytest.raises(AttachError, match=r"\[\]"):
        net.embed_hint()


def test_wrong_inputs_are_refused():
    net, case = FFRNet.from_state_dict(reference("sd15").state_dict()), inputs("sd15", 8, 8)
    with pytest.raises(AttachError, match="width 7"):
        run_ours(net, case, torch.zeros(2, 7))
    with pytest.raises(AttachError, match="eight times"):
        run_ours(net, case, picture=torch.rand(1, 3, 64, 72))
    with pytest.raises(AttachError, match="4 channels"):
        run_ours(net, case, x=torch.rand(2, 9, 8, 8))


def test_lite_keeps_evenly_spaced_blocks():
    full = reference("sdxl").state_dict()
    lite = lite_state_dict(full, (0, 1, 2, 2))
    net = FFRNet.from_state_dict(lite)
    assert net.config.depth == ((0, 0), (1, 1), (2, 2)) and net.config.mid_depth == 2
    name = "attentions.0.transformer_blocks.{}.attn2.to_q.weight"
    for k, kept in enumerate((0, 1)):  # floor(k * 3 / 2)
        assert lite["mid_block." + name.format(k)] is full["mid_block." + name.format(kept)]
    case = inputs("sdxl", 8, 8)
    y = vector(reference("sdxl"), case)
    whole = FFRNet.from_state_dict(full)
    same = FFRNet.from_state_dict(lite_state_dict(full, (0, 2, 3, 3)))
    assert max(distance(run_ours(same, case, y), run_ours(whole, case, y))) == 0.0
    assert max(distance(run_ours(net, case, y), run_ours(whole, case, y))) > 0.01
    with torch.device("meta"):
        instantid = FFRNet(FFRNetConfig.sdxl()).state_dict()
    cut = FFRNetConfig.from_state_dict(lite_state_dict(instantid, SDXL_LITE))
    assert cut == FFRNetConfig.sdxl(deep=2)


@pytest.mark.parametrize("depths", [(0, 1, 1), (0, 2, 4, 3), (0, 2, 3, 0)])
def test_lite_refuses_impossible_depths(depths):
    with pytest.raises(CheckpointError):
        lite_state_dict(reference("sdxl").state_dict(), depths)


STATE = {layout: reference(layout).state_dict() for layout in LAYOUTS}


@settings(max_examples=20)
@given(layout=st.sampled_from(sorted(LAYOUTS)), data=st.data())
def test_damaged_state_dicts_are_refused_before_any_change(layout, data):
    state = dict(STATE[layout])
    name = data.draw(st.sampled_from(sorted(state)))
    damage = data.draw(st.sampled_from(["missing", "extra", "shape", "rank"]))
    if damage == "missing":
        del state[name]
    elif damage == "extra":
        state[name + "_2"] = state[name]
    elif damage == "shape":
        state[name] = torch.cat([state[name], state[name]])
    else:
        state[name] = state[name][None]
    with pytest.raises(CheckpointError):
        FFRNet.from_state_dict(state)
    net = FFRNet(FFRNetConfig.from_state_dict(STATE[layout]))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_strictly(net, state, network="FFRNet")
    assert name in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_errors_name_the_shapes():
    state = dict(STATE["sd15"])
    state["mid_block.resnets.1.conv2.bias"] = torch.zeros(3)
    del state["controlnet_mid_block.bias"]
    state["ema.decay"] = torch.zeros(())
    with pytest.raises(CheckpointError) as caught:
        FFRNet.from_state_dict(state)
    for part in ("conv2.bias (3,) instead of (64,)", "controlnet_mid_block.bias (64,)", "ema.decay ()"):
        assert part in str(caught.value)
    state = {**STATE["sd15"], "conv_in.weight": STATE["sd15"]["conv_in.weight"].to(torch.int8)}
    with pytest.raises(CheckpointError, match=r"torch\.int8"):
        FFRNet.from_state_dict(state)
    with pytest.raises(CheckpointError, match="heads 7"):
        FFRNet.from_state_dict(STATE["sd15"], heads=7)
    with pytest.raises(CheckpointError, match="cross-attention"):
        FFRNet.from_state_dict({k: v for k, v in STATE["sd15"].items() if "attentions" not in k})


def test_warm_start_copies_the_encoder():
    unet = diffusers.UNet2DConditionModel(
        in_channels=9, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), **SD15
    )
    redraw(unet)
    state = unet.state_dict()
    config = FFRNetConfig.from_state_dict(STATE["sd15"])
    net = FFRNet.from_unet_state_dict(config, state)
    assert torch.equal(net.conv_in.weight, state["conv_in.weight"][:, :4])
    assert torch.equal(net.mid_block.resnets[1].conv2.weight, state["mid_block.resnets.1.conv2.weight"])
    assert all(not r.any() for r in run_ours(net, inputs("sd15", 8, 8)))
    del state["mid_block.resnets.1.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"mid_block\.resnets\.1\.conv2\.weight"):
        FFRNet.from_unet_state_dict(config, state)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_and_autocast(layout):
    donor, case = reference(layout), inputs(layout, 9, 12)
    net, y = FFRNet.from_state_dict(donor.state_dict()), vector(donor, case)
    exact = run_ours(net, case, y)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = run_ours(net, case, y)
    half = FFRNet.from_state_dict(donor.state_dict()).to(torch.bfloat16)
    halved = run_ours(half, case, y)
    assert all(r.dtype == torch.bfloat16 for r in halved)
    for a, b, c in zip(exact, under_autocast, halved, strict=True):
        assert (a - b).abs().mean() < 0.05 * a.std() and (a - c).abs().mean() < 0.05 * a.std()
