"""Public files of every family and base: detected, loaded, and one UNet step equal to formula and to diffusers."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from facesnap.attach import Conditioning, LoraPart, RowPlan, Rule, attach
from facesnap.attach.topology import ip_adapter_order, read_topology
from facesnap.checkpoints import layout
from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import CheckpointError
from facesnap.families import registry
from facesnap.families.pulid import MODES
from facesnap.families.registry import BY_KEY, load_adapter
from facesnap.files import sha256_of
from facesnap.models.layers import TokenGroup
from facesnap.models.mixers import empty_mixer
from tests import formulas
from tests.networks import CONTEXT, Batch, diffusers_unet, ldm_unet, run
from tests.public_files import (
    FACEID,
    FAMILIES,
    ID,
    NAMES,
    SMALL,
    processor_shapes,
    projection_shapes,
    public_state,
    write,
)

TOLERANCE = 1e-4
ldm_of = functools.cache(ldm_unet)  # every test leaves its UNet as it was, and checks that
BASES = {family: ("sdxl",) if family.startswith(("pulid", "instantid")) else ("sd15", "sdxl") for family in FAMILIES}
CASES = [(family, base) for family in FAMILIES for base in BASES[family]]
PATCHES = 17


@functools.cache
def twin_of(base: str, use: str) -> UNet2DConditionModel:
    """diffusers' UNet with the weights of `ldm_of(base)`."""
    return diffusers_unet(base, like=ldm_of(base))


def widths_of(unet) -> list[int]:
    sites = {site.name: site.width for site in read_topology(unet).sites}
    return [sites[name] for name in ip_adapter_order(tuple(sites))]


def inputs(family: str, people: int = 2) -> dict:
    """What a family looks at, one entry a row."""
    g = torch.Generator().manual_seed(31)
    f_id = torch.nn.functional.normalize(torch.randn(people, 1, ID, generator=g), dim=-1)
    if BY_KEY[family].id_vector == "raw":
        f_id = f_id * 20
    levels, width = BY_KEY[family].levels, SMALL["vit" if family.startswith("pulid") else "clip"]
    hidden = {level: torch.randn(people, 1, PATCHES, width, generator=g) for level in levels}
    vector = torch.nn.functional.normalize(torch.randn(people, 1, SMALL["vector"], generator=g), dim=-1)
    return {"f_id": f_id, "hidden": hidden} | ({"class_vector": vector} if family.startswith("pulid") else {})


def reference_tokens(family: str, s: dict, given: dict) -> torch.Tensor:
    f_id, states = given["f_id"][:, 0], [h[:, 0] for h in given["hidden"].values()]
    if family in ("faceid", "portrait"):
        return formulas.faceid(s, f_id)
    if family in FACEID:
        return formulas.plus(s, f_id, states[0], family == "faceid-plusv2")
    if family == "pulid-v1":
        return formulas.pulid_v1(s, torch.cat((f_id, given["class_vector"][:, 0]), -1), states)
    if family == "pulid-v1.1":
        return formulas.pulid_v11(s, torch.cat((given["f_id"], given["class_vector"]), -1), states)
    return formulas.resampler(s, f_id)


def conditioning(adapter: Adapter, given: dict, strength: float = 0.8, **options) -> Conditioning:
    """Row 0 is uncond, row 1 cond."""
    groups = adapter.mixer(given["f_id"], given["hidden"], **{k: v for k, v in given.items() if k == "class_vector"})
    parts = [adapter.projections.keys_values(groups, person) for person in (1, 0)]
    rule = {"rule": adapter.spec.rule, "zero_tokens": adapter.spec.zero_tokens} | options
    return Conditioning(*parts, strength=strength, **rule)


@pytest.mark.parametrize("suffix", (".bin", ".safetensors"))
@pytest.mark.parametrize(("family", "base"), CASES)
@torch.no_grad()
def test_one_unet_step_equals_the_formulas(tmp_path: Path, family: str, base: str, suffix: str) -> None:
    ldm = ldm_of(base)
    unet = ldm if suffix == ".bin" else twin_of(base, "ours")
    state = public_state(family, widths_of(ldm), CONTEXT[base])
    adapter = load_adapter(write(state, tmp_path, family, base, suffix))
    assert (adapter.detection.family, adapter.spec.family, adapter.spec.base) == (family, family, base)
    assert adapter.spec.recogniser_name == BY_KEY[family].recogniser and adapter.digest and adapter.detection.why
    adapter.check_unet(read_topology(unet))
    assert (adapter.lora is not None) == (family in FACEID)

    batch, given = Batch.draw(base), inputs(family)
    tokens = reference_tokens(family, state["image_proj"], given)
    groups = adapter.mixer(given["f_id"], given["hidden"], **{k: v for k, v in given.items() if k == "class_vector"})
    ours = next(iter(groups.values())).tokens
    assert 0.3 < tokens.std() < 3 and (ours - tokens).abs().max() <= 1e-4 * max(1.0, float(tokens.abs().max()))

    loras = [LoraPart(adapter.lora, strength=0.7)] if adapter.lora else []
    bare = run(unet, batch)
    with attach(unet, [conditioning(adapter, given)], RowPlan.classifier_free(), loras=loras) as attachment:
        ours = run(unet, batch)
    attachment.require_called()
    assert torch.equal(run(unet, batch), bare)
    theirs = twin_of(base, "reference")
    spec = adapter.spec
    formulas.set_reference(theirs, state["ip_adapter"], tokens, 0.8, lora=0.7, rule=spec.rule.value,
                           zeros=spec.zero_tokens)  # fmt: skip
    expected = run(theirs, batch)
    assert 0.1 < expected.std() < 10 and (ours - expected).abs().max() <= TOLERANCE
    for row in range(2):
        assert (ours - bare)[row].abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_pulids_style_mode(tmp_path: Path) -> None:
    ldm = ldm_of("sdxl")
    state = public_state("pulid-v1.1", widths_of(ldm), CONTEXT["sdxl"])
    adapter = load_adapter(write(state, tmp_path, "pulid-v1.1", "sdxl"))
    assert (adapter.spec.rule, adapter.spec.zero_tokens) == (Rule.ORTHO_V2, 8)
    rule, zeros = MODES["style"]
    batch, given = Batch.draw("sdxl"), inputs("pulid-v1.1")
    results = []
    for options in ({}, {"rule": rule, "zero_tokens": zeros}):
        with attach(ldm, [conditioning(adapter, given, **options)], RowPlan.classifier_free()):
            results.append(run(ldm, batch))
    theirs = twin_of("sdxl", "reference")
    tokens = reference_tokens("pulid-v1.1", state["image_proj"], given)
    formulas.set_reference(theirs, state["ip_adapter"], tokens, 0.8, rule="ortho", zeros=16)
    assert (results[1] - run(theirs, batch)).abs().max() <= TOLERANCE
    assert (results[1] - results[0]).abs().max() > 10 * TOLERANCE


@torch.no_grad()
def test_pulid_with_several_references_and_with_nobody(tmp_path: Path) -> None:
    """v1 averages tokens, v1.1 looks at all references together; nobody is zeros in every place."""
    for family in ("pulid-v1", "pulid-v1.1"):
        widths = widths_of(ldm_of("sdxl"))
        state = public_state(family, widths, CONTEXT["sdxl"])
        mixer = load_adapter(write(state, tmp_path, family, "sdxl")).mixer
        one = inputs(family, people=3)
        many = {"f_id": one["f_id"].transpose(0, 1), "class_vector": one["class_vector"].transpose(0, 1)}
        hidden = {level: h.transpose(0, 1) for level, h in one["hidden"].items()}  # (1, 3, P, W)
        weights = torch.tensor([[1.0, 2.0, 1.0]])
        ours = mixer(many["f_id"], hidden, class_vector=many["class_vector"], weights=weights)["id"].tokens
        if family == "pulid-v1":
            alone = reference_tokens(family, state["image_proj"], one)  # (3, 10, C)
            expected = (alone * (weights / 4)[0, :, None, None]).sum(0, keepdim=True)
        else:
            vectors = torch.cat((many["f_id"], many["class_vector"]), -1)
            states = [h.flatten(1, 2) for h in hidden.values()]
            expected = formulas.pulid_v11(state["image_proj"], vectors, states)
        assert (ours - expected).abs().max() <= 1e-4
        zero = {k: torch.zeros_like(v[:1]) for k, v in one.items() if k != "hidden"}
        zero["hidden"] = {level: torch.zeros(1, 1, 577, SMALL["vit"]) for level in one["hidden"]}
        nobody = reference_tokens(family, state["image_proj"], zero)
        assert (mixer.unconditional()["id"].tokens - nobody).abs().max() <= 1e-4


@pytest.mark.parametrize("family", ("faceid", "faceid-plus", "faceid-plusv2", "instantid"))
@torch.no_grad()
def test_one_unet_step_equals_diffusers_with_its_own_loader(tmp_path: Path, family: str) -> None:
    """IP-Adapter weights by diffusers' loader, and FaceID's LoRA through peft, as its pipelines load them."""
    base = "sdxl" if family == "instantid" else "sd15"
    theirs = diffusers_unet(base, like=ldm_of(base))
    state = public_state(family, widths_of(theirs), CONTEXT[base])
    adapter = load_adapter(write(state, tmp_path, family, base))
    batch, given = Batch.draw(base), inputs(family)
    loras = [LoraPart(adapter.lora)] if adapter.lora else []
    ours_on = twin_of(base, "ours")
    bare = run(ours_on, batch)
    with attach(ours_on, [conditioning(adapter, given)], RowPlan.classifier_free(), loras=loras):
        ours = run(ours_on, batch)
    with attach(ours_on, [conditioning(adapter, given)], RowPlan.classifier_free()):
        without_lora = run(ours_on, batch)
    assert torch.equal(run(ours_on, batch), bare)

    theirs._load_ip_adapter_weights([state])
    found = theirs._load_ip_adapter_loras([state])
    assert bool(found) == (family in FACEID)
    if found:
        theirs.load_lora_adapter({k.removeprefix("unet."): v for k, v in found[0].items()}, prefix=None)
    projection = theirs.encoder_hid_proj.image_projection_layers[0]
    if family in ("faceid-plus", "faceid-plusv2"):
        projection.clip_embeds = given["hidden"][-2]
        projection.shortcut = family == "faceid-plusv2"
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.8]
    added = {"text_embeds": batch.text_embeds, "time_ids": batch.time_ids, "image_embeds": [given["f_id"]]}
    if family == "instantid":
        added["image_embeds"] = [given["f_id"][:, None]]  # one picture with a sequence of one token
    expected = theirs(batch.x, batch.t, batch.context, added_cond_kwargs=added).sample
    assert (ours - expected).abs().max() <= TOLERANCE
    assert (ours - bare).abs().max() > 100 * TOLERANCE
    if found:
        assert (ours - without_lora).abs().max() > 100 * TOLERANCE


# checkpoints as published: parameters of image_proj, of keys and values, of the LoRA of rank 128
PUBLISHED = {
    ("faceid", "sd15"): (3_675_648, 19_169_280, 25_509_888),
    ("faceid-plus", "sd15"): (33_581_568, 19_169_280, 25_509_888),
    ("faceid-plusv2", "sd15"): (33_581_568, 19_169_280, 25_509_888),
    ("portrait", "sd15"): (13_122_048, 19_169_280, 0),
    ("faceid", "sdxl"): (8_926_208, 340_787_200, 185_794_560),
    ("faceid-plusv2", "sdxl"): (217_125_888, 340_787_200, 185_794_560),
    ("portrait", "sdxl"): (34_116_608, 340_787_200, 0),
    ("portrait-unnorm", "sdxl"): (81_978_624, 340_787_200, 0),
    ("instantid", "sdxl"): (81_978_624, 340_787_200, 0),
    ("pulid-v1", "sdxl"): (54_886_400, 340_787_200, 0),
    ("pulid-v1.1", "sdxl"): (151_398_400, 340_787_200, 0),
}
TENSORS = {"faceid": 6, "portrait": 6, "faceid-plus": 56, "faceid-plusv2": 56, "portrait-unnorm": 51, "instantid": 51,
           "pulid-v1": 110, "pulid-v1.1": 172}  # fmt: skip
SD15_WIDTHS = [320] * 2 + [640] * 2 + [1280] * 5 + [640] * 3 + [320] * 3 + [1280]
SDXL_WIDTHS = [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10


@pytest.mark.parametrize(("family", "base"), PUBLISHED)
def test_full_width_files_have_their_published_sizes(family: str, base: str) -> None:
    context, widths = (768, SD15_WIDTHS) if base == "sd15" else (2048, SDXL_WIDTHS)
    with torch.device("meta"):
        projection = {k: torch.empty(s) for k, s in projection_shapes(family, context, small=False).items()}
        processors = {k: torch.empty(s) for k, s in processor_shapes(family, widths, context, rank=128).items()}
    assert len(projection) == TENSORS[family]
    prefix = {"pulid-v1": "", "pulid-v1.1": ""}.get(family)
    if prefix is None:
        prefix = "stage2." if family in ("instantid", "portrait-unnorm") else "stage1."
    mixer = empty_mixer({prefix + k: v for k, v in projection.items()}, shortcut=False, dim_head=64)
    assert {k: v.shape for k, v in mixer.state_dict().items()} == {prefix + k: v.shape for k, v in projection.items()}
    read = layout.read_processors(processors, "file", "id")
    assert read.base == base and len(read.sites) == {"sd15": 16, "sdxl": 70}[base]
    counts = (
        sum(p.numel() for p in mixer.parameters()),
        sum(t.numel() for t in read.tensors.values()),
        read.lora.parameters if read.lora else 0,
    )
    assert counts == PUBLISHED[family, base]
    assert read.lora is None or read.lora.rank == 128


def test_processors_are_numbered_as_published() -> None:
    """N -> module for SD1.5 and SDXL."""
    sd15, sdxl = layout.sd15_sites(), layout.sdxl_sites()
    assert [sd15[n // 2] for n in (1, 3, 5, 7, 9, 11)] == [f"input.{i}.1.0" for i in (1, 2, 4, 5, 7, 8)]
    assert [sd15[n // 2] for n in range(13, 31, 2)] == [f"output.{i}.1.0" for i in range(3, 12)]
    assert sd15[31 // 2] == "middle.0.1.0" and len(sd15) == 16
    ends = {1: "input.4.1.0", 7: "input.5.1.1", 9: "input.7.1.0", 27: "input.7.1.9", 47: "input.8.1.9"}
    ends |= {49: "output.0.1.0", 87: "output.1.1.9", 107: "output.2.1.9", 109: "output.3.1.0", 119: "output.5.1.1"}
    for n, site in (ends | {121: "middle.0.1.0", 139: "middle.0.1.9"}).items():
        assert sdxl[n // 2] == site
    assert len(sdxl) == 70
    for base in ("sd15", "sdxl"):
        unet = ldm_of(base)
        topology = read_topology(unet)
        order = ip_adapter_order(topology.names)
        assert layout.find_sites(widths_of(unet)) == (base, order) == layout.find_sites(widths_of(unet), topology)
    with pytest.raises(CheckpointError, match="17 cross-attentions"):
        layout.find_sites([320] * 17)
    with pytest.raises(CheckpointError, match=r"16 of SD1\.5"):
        layout.find_sites(SD15_WIDTHS[::-1])


def _saved(tmp_path: Path, family: str, name: str, base: str = "sd15") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    widths = SD15_WIDTHS if base == "sd15" else SDXL_WIDTHS
    small = [w // 40 for w in widths]
    path = write(public_state(family, small, CONTEXT[base]), folder, family, base)
    return path.rename(folder / name)


@pytest.mark.parametrize(
    ("family", "name", "why"),
    (
        ("faceid-plus", "my FaceID Plus.bin", "name"),
        ("faceid-plusv2", "FaceID_Plus_V2.bin", "name"),
        ("faceid-plusv2", "ip-adapter-faceid-plusv2_sdxl.bin", "name"),
        ("portrait", "ip-adapter-faceid-portrait-v11_sd15.bin", "tensors"),
        ("portrait-unnorm", "ip-adapter-faceid-portrait_sdxl_unnorm.bin", "name"),
        ("instantid", "ip-adapter.bin", "name"),
        ("faceid", "whatever v2 plus.bin", "tensors"),
    ),
)
def test_names_decide_where_tensors_do_not(tmp_path: Path, family: str, name: str, why: str) -> None:
    adapter = load_adapter(_saved(tmp_path, family, name))
    assert adapter.spec.family == family and why in adapter.detection.why
    assert adapter.spec.shortcut == (family == "faceid-plusv2")


@pytest.mark.parametrize(
    ("family", "folder"),
    (("faceid-plus", "FaceID-Plus-main"), ("faceid-plus", "IP-Adapter-FaceID_plus (1)"),
     ("faceid-plusv2", "faceid-plusv2-master"), ("faceid-plusv2", "IP-Adapter FaceID Plus V2 - Copy"),
     ("faceid-plusv2", "plus_v2"), ("portrait-unnorm", "IP-Adapter-FaceID-main")),
)  # fmt: skip
def test_folders_decide_where_names_do_not(tmp_path: Path, family: str, folder: str) -> None:
    saved = _saved(tmp_path, family, "model.bin")
    (tmp_path / folder / "sdxl").mkdir(parents=True)
    adapter = load_adapter(saved.rename(tmp_path / folder / "sdxl" / "model.bin"))
    assert adapter.spec.family == family and "by its folder" in adapter.detection.why


def test_hash_word_and_no_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _saved(tmp_path, "faceid-plus", "renamed.bin")
    with pytest.raises(CheckpointError, match=r"faceid-plus or faceid-plusv2.*--family faceid-plus"):
        load_adapter(path)
    assert load_adapter(path, "faceid-plusv2").spec.shortcut
    assert load_adapter(path, "faceid-plus").detection.why == "you said so"
    with pytest.raises(CheckpointError, match="was called instantid"):
        load_adapter(path, "instantid")
    with pytest.raises(CheckpointError, match="no family 'flux'"):
        load_adapter(path, "flux")
    published = dataclasses.replace(BY_KEY["faceid-plusv2"], sha256=(sha256_of(path)[:8],))
    monkeypatch.setitem(registry.BY_KEY, "faceid-plusv2", published)
    found = load_adapter(path)
    assert found.spec.shortcut and "content" in found.detection.why
    undecided = _saved(tmp_path, "instantid", "some.bin")
    with pytest.raises(CheckpointError, match="instantid or portrait-unnorm"):
        load_adapter(undecided)


def test_other_containers_and_kinds(tmp_path: Path) -> None:
    state = public_state("faceid", [w // 40 for w in SD15_WIDTHS], CONTEXT["sd15"])
    torch.save({"image_proj": state["image_proj"], "adapter_modules": state["ip_adapter"]}, tmp_path / "raw.bin")
    assert load_adapter(tmp_path / "raw.bin").spec.family == "faceid"
    pulid = public_state("pulid-v1", [w // 40 for w in SDXL_WIDTHS], CONTEXT["sdxl"])
    names = {"id_to_k": "to_k_ip", "id_to_v": "to_v_ip"}
    pulid["ip_adapter"] = {k.replace(o, names[o]): v for k, v in pulid["ip_adapter"].items() for o in names if o in k}
    torch.save(pulid, tmp_path / "ip-adapter_pulid_sdxl_fp16.bin")
    assert load_adapter(tmp_path / "ip-adapter_pulid_sdxl_fp16.bin").spec.family == "pulid-v1"
    for name, tensors, word in (
        ("control", {"controlnet_cond_embedding.conv_in.weight": torch.ones(2)}, "it is a ControlNet"),
        ("clip", {"image_proj": {"proj.weight": torch.ones(2, 2)}, "ip_adapter": {"1.to_k_ip.weight": torch.ones(2)}},
         "without a recogniser"),
        ("photomaker", {"id_encoder": {"x": torch.ones(2)}, "lora_weights": {"y": torch.ones(2)}}, "PhotoMaker"),
        ("other", {"whatever": torch.ones(2)}, "begin with whatever"),
    ):  # fmt: skip
        torch.save(tensors, tmp_path / f"{name}.bin")
        with pytest.raises(CheckpointError, match=word):
            load_adapter(tmp_path / f"{name}.bin")


def test_half_precision_files(tmp_path: Path) -> None:
    state = public_state("faceid-plusv2", [w // 40 for w in SD15_WIDTHS], CONTEXT["sd15"])
    half = {part: {k: v.half() for k, v in tensors.items()} for part, tensors in state.items()}
    adapter = load_adapter(write(half, tmp_path, "faceid-plusv2", "sd15"))
    assert {p.dtype for p in adapter.mixer.parameters()} == {torch.float16}
    tokens = torch.randn(1, 4, CONTEXT["sd15"], generator=torch.Generator().manual_seed(0))
    assert adapter.projections.keys_values({"id": TokenGroup(tokens)})["middle.0.1.0"][0].k.dtype == torch.float32


def test_diffusers_numbers_processors_as_we_do() -> None:
    unet = twin_of("sd15", "ours")
    crossed = [name for name in unet.attn_processors if ".attn2." in name]
    assert list(unet.attn_processors).index(crossed[-1]) == 31 and crossed[-1].startswith("mid_block")
    assert len(NAMES) == len(FAMILIES)
