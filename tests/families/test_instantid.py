"""InstantID as one unit: the adapter finds IdentityNet beside it, and both together equal diffusers' own classes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file

from facesnap.attach import ControlConditioning, ControlPictures, RowPlan, Speed, attach
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import WeightsFile
from facesnap.checkpoints.convert import add_landmark_hint
from facesnap.errors import CheckpointError, SettingsError
from facesnap.families.registry import decide, find, load_adapter
from tests import formulas
from tests.families.test_families import TOLERANCE, conditioning, inputs, ldm_of, reference_tokens, twin_of, widths_of
from tests.networks import CONTEXT, POOLED, TIME_IDS, Batch, redraw, run
from tests.public_files import public_state, write

BASE = "sdxl"


def identitynet(seed: int = 8) -> ControlNetModel:
    net = ControlNetModel(
        block_out_channels=(32, 64, 128), attention_head_dim=(1, 1, 2), transformer_layers_per_block=(1, 2, 3),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), use_linear_projection=True,
        cross_attention_dim=CONTEXT[BASE], addition_embed_type="text_time", addition_time_embed_dim=TIME_IDS,
        projection_class_embeddings_input_dim=POOLED + 6 * TIME_IDS,
    )  # fmt: skip
    return redraw(net, seed, 0.7).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As InstantX publishes it: ip-adapter.bin and ControlNetModel/diffusion_pytorch_model.safetensors."""
    folder = tmp_path_factory.mktemp("InstantID")
    path = write(public_state("instantid", widths_of(ldm_of(BASE)), CONTEXT[BASE]), folder, "instantid", BASE)
    path.rename(folder / "ip-adapter.bin")
    (folder / "ControlNetModel").mkdir()
    save_file(identitynet().state_dict(), folder / "ControlNetModel" / "diffusion_pytorch_model.safetensors")
    return folder


def ours_with(adapter, picture: torch.Tensor, landmarks: torch.Tensor | None = None) -> torch.Tensor:
    given = inputs("instantid")
    groups = adapter.mixer(given["f_id"])
    tokens = groups[adapter.ffrnet_spec.groups[0]].tokens
    kv = [adapter.ffrnet.project_tokens(tokens[i : i + 1]) for i in (1, 0)]
    structure = ControlConditioning(
        adapter.ffrnet, kv[0], lambda view: ControlPictures(landmarks, picture), uncond=kv[1],
        strength=adapter.ffrnet_spec.strength,
    )  # fmt: skip
    unet = ldm_of(BASE)
    with attach(unet, [conditioning(adapter, given)], RowPlan.classifier_free(), [structure], Speed.EXACT):
        return run(unet, Batch.draw(BASE))


@torch.no_grad()
def test_both_files_are_one_adapter_and_equal_diffusers(folder: Path) -> None:
    adapter = load_adapter(folder / "ip-adapter.bin")
    assert adapter.detection.structure.parent.name == "ControlNetModel"
    assert adapter.ffrnet.config.donor_picture == "five_points"
    assert adapter.ffrnet_spec.groups == ("mix",) and adapter.ffrnet_spec.strength == adapter.spec.strength == 0.8
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    ours = ours_with(adapter, picture)

    batch, given = Batch.draw(BASE), inputs("instantid")
    state = public_state("instantid", widths_of(ldm_of(BASE)), CONTEXT[BASE])
    tokens = reference_tokens("instantid", state["image_proj"], given)
    added = {"text_embeds": batch.text_embeds, "time_ids": batch.time_ids}
    down, middle = identitynet()(batch.x, batch.t, tokens, picture.expand(2, -1, -1, -1), conditioning_scale=0.8,
                                 added_cond_kwargs=added, return_dict=False)  # fmt: skip
    theirs = twin_of(BASE, "reference")
    formulas.set_reference(theirs, state["ip_adapter"], tokens, 0.8)
    without = run(theirs, batch)
    expected = run(theirs, batch, down_block_additional_residuals=down, mid_block_additional_residual=middle)
    assert (ours - expected).abs().max() <= TOLERANCE
    assert (expected - without).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_a_landmark_hint_changes_nothing_before_training(folder: Path, tmp_path: Path) -> None:
    adapter = load_adapter(folder / "ip-adapter.bin")
    g = torch.Generator().manual_seed(1)
    picture, landmarks = (torch.rand(1, 3, 128, 128, generator=g) for _ in range(2))
    native.save(add_landmark_hint(adapter), tmp_path / "dual.safetensors")
    dual = native.load(tmp_path / "dual.safetensors")
    assert torch.equal(ours_with(dual, picture, landmarks), ours_with(adapter, picture))
    dual.ffrnet.landmark_cond_embedding.conv_out.weight.fill_(0.01)
    assert (ours_with(dual, picture, landmarks) - ours_with(adapter, picture)).abs().max() > 1e-3
    with pytest.raises(SettingsError, match="landmark hint cannot be added"):
        add_landmark_hint(dual)


@pytest.mark.parametrize(
    "name",
    (
        "control_instant_id_sdxl.safetensors",
        "InstantID_ControlNet.safetensors",
        "identitynet.safetensors",
        "instantid-controlnet.bin",
        "ControlNetModel/diffusion_pytorch_model.fp16.safetensors",
        "../controlnet/instantid_control.safetensors",
    ),
)
def test_identitynet_is_found_under_its_common_names(tmp_path: Path, name: str) -> None:
    adapter = tmp_path / "adapters" / "ip-adapter_instant_id_sdxl.bin"
    path = adapter.parent / name
    for file in (adapter, path):
        file.parent.mkdir(exist_ok=True, parents=True)
    adapter.write_bytes(b"")
    tensors = {"controlnet_cond_embedding.conv_in.weight": torch.ones(2)}
    for other in ("control_canny.safetensors", "instantid_adapter.safetensors", "diffusion_pytorch_model.safetensors"):
        save_file(tensors, adapter.parent / other)  # not IdentityNet by their names
    assert find("instantid").find_companion(adapter) is None
    save_file({"something.else": torch.ones(2)}, adapter.parent / "control_instantid_lora.safetensors")
    assert find("instantid").find_companion(adapter) is None  # nor this one, by its tensors
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    assert find("instantid").find_companion(adapter).resolve() == path.resolve()


def test_a_damaged_identitynet_is_named_and_a_missing_one_is_told(folder: Path, tmp_path: Path, caplog) -> None:
    adapter = shutil.copy(folder / "ip-adapter.bin", tmp_path / "ip-adapter_instant_id_sdxl.bin")
    net = folder / "ControlNetModel" / "diffusion_pytorch_model.safetensors"
    beside = tmp_path / "control_instant_id_sdxl.safetensors"
    for content in (net.read_bytes()[:5000], net.read_bytes()[:-9], b"<!DOCTYPE html><html>not found</html>"):
        beside.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"control_instant_id_sdxl\.safetensors"):
            load_adapter(adapter)
    beside.unlink()
    with caplog.at_level(logging.WARNING):
        assert load_adapter(adapter).ffrnet is None
    assert "IdentityNet is not beside it" in caplog.text and "facesnap download instantid" in caplog.text


def test_a_controlnet_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    """Beside the adapter or given by hand: a ControlNet that does not fit is an error, never left out silently."""
    adapter = load_adapter(folder / "ip-adapter.bin")
    from facesnap.checkpoints.convert import with_structure

    state = identitynet().state_dict()
    for name, change, word in (
        ("nan", lambda s: s["mid_block.resnets.0.conv1.weight"].fill_(float("nan")), "NaN"),
        ("less", lambda s: s.pop("conv_in.weight"), "conv_in"),
        (
            "none",
            lambda s: [s.pop(k) for k in list(s) if k != "conv_in.bias"],
            r"none\.safetensors.*no cross-attention",
        ),
    ):
        changed = {k: v.clone() for k, v in state.items()}
        change(changed)
        save_file(changed, tmp_path / f"{name}.safetensors")
        with pytest.raises(CheckpointError, match=word):
            with_structure(adapter, tmp_path / f"{name}.safetensors")
    narrow = {k: (v[:, :64] if k.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) else v).contiguous()
              for k, v in state.items()}  # fmt: skip
    save_file(narrow, tmp_path / "narrow.safetensors")
    with pytest.raises(CheckpointError, match="tokens 64 wide"):
        with_structure(adapter, tmp_path / "narrow.safetensors")


@pytest.mark.parametrize(
    ("place", "why"),
    (
        ("InstantID/ip-adapter.safetensors", "folder"),
        ("instant_id/adapter.bin", "folder"),
        ("InstantID/sdxl/ip-adapter.safetensors", "folder"),
        ("models--InstantX--InstantID/snapshots/57b32d/weights.bin", "folder"),
        ("InstantID-main/ip-adapter.safetensors", "folder"),
        ("InstantID-master/checkpoints/a.bin", "folder"),
        ("instantid (1)/a.bin", "folder"),
        ("Instant.ID - Kopie/a.bin", "folder"),
        ("InstantID-main/InstantID-main/sdxl/a.bin", "folder"),
        ("InstantID-main/models/checkpoints/a.bin", "folder"),
        ("IP-Adapter-FaceID-main/a.bin", "portrait-unnorm"),
        ("ip_adapter_faceid (2)/sdxl/a.safetensors", "portrait-unnorm"),
        ("FaceID/InstantID-main/a.bin", "folder"),
        ("downloads/ip-adapter (1).bin", "name"),
        ("downloads/ip-adapter(2).bin", "name"),
        ("downloads/ip-adapter - Copy.bin", "name"),
        ("downloads/ip-adapter - Kopie (2).bin", "name"),
        ("downloads/ip-adapter \u2014 копия.bin", "name"),
        ("downloads/ip-adapter-Copy1.bin", "name"),
        ("downloads/Copy of ip-adapter[1] (2).bin", "name"),
        ("downloads/InstantID adapter (1).safetensors", "name"),
        ("mine/ip-adapter.safetensors", "beside"),
        ("portraits/InstantID/x_unnorm.bin", "portrait-unnorm"),
        ("downloads/ip-adapter.safetensors", ""),
        ("downloads/adapter (1).bin", ""),
    ),
)
def test_the_adapter_is_told_by_its_name_its_neighbours_or_its_folder(
    tmp_path: Path, place: str, why: str, in_webui: Callable[[], None]
) -> None:
    path = tmp_path / "models" / "files" / place
    path.parent.mkdir(parents=True)
    if why == "beside":
        (path.parent / "ControlNetModel").mkdir()
        save_file({"controlnet_cond_embedding.conv_in.weight": torch.ones(2)},
                  path.parent / "ControlNetModel" / "diffusion_pytorch_model.safetensors")  # fmt: skip
    options, source = ("instantid", "portrait-unnorm"), WeightsFile(path)
    if not why:
        with pytest.raises(CheckpointError, match="--family instantid or --family portrait-unnorm"):
            decide(options, source)
        in_webui()
        with pytest.raises(CheckpointError, match=r"adapter '.+ as instantid' or '.+ as portrait-unnorm'"):
            decide(options, source)
        return
    match = decide(options, source)
    assert match.family == ("instantid" if why != "portrait-unnorm" else why) and (
        why in match.why or why == match.family
    )


def test_a_webuis_own_name_says_nothing_of_its_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can be instantid or portrait-unnorm"):
        decide(("instantid", "portrait-unnorm"), WeightsFile(tmp_path / "InstantID-webui/models/FaceSnap/a.bin"))


@pytest.mark.parametrize(
    "name", ("ControlNetModel (1)", "ControlNetModel-main", "IdentityNet - Copy", "instantid-master")
)
@pytest.mark.parametrize("place", ("{}", "../{}"))
def test_identitynets_folder_as_it_was_unpacked(tmp_path: Path, name: str, place: str) -> None:
    adapter = tmp_path / "InstantID-main" / "checkpoints" / "ip-adapter.bin"
    folder = (adapter.parent / place.format(name)).resolve()
    folder.mkdir(parents=True)
    adapter.parent.mkdir(exist_ok=True)
    save_file(
        {"controlnet_cond_embedding.conv_in.weight": torch.ones(2)}, folder / "diffusion_pytorch_model.safetensors"
    )
    assert find("instantid").find_companion(adapter) == folder / "diffusion_pytorch_model.safetensors"


def test_identitynet_lies_beside_the_adapter_as_a_browser_saves_it(tmp_path: Path) -> None:
    for name in ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model (1).safetensors"):
        folder = tmp_path / name / "InstantID"
        folder.mkdir(parents=True)
        save_file({"controlnet_cond_embedding.conv_in.weight": torch.ones(2)}, folder / name)
        assert find("instantid").find_companion(folder / "ip-adapter.bin") == folder / name


def test_a_controlnets_name_inside_another_word_is_no_mark(tmp_path: Path) -> None:
    adapter = tmp_path / "ip-adapter.bin"
    save_file({"my_controlnet_cond_embedding_x.weight": torch.ones(2)}, tmp_path / "identitynet.safetensors")
    assert find("instantid").find_companion(adapter) is None
