"""The diffusers host: folders, single files, samplers, windows, batches, faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from facesnap.attach import Conditioning
from facesnap.demo import untrained
from facesnap.errors import AttachError, HostError, SettingsError, TopologyError
from facesnap.hosts.diffusers import SAMPLERS, DiffusersHost, Sampling
from tests.networks import CONTEXT, projections_for, redraw, token_groups
from tests.pipelines import save_sdxl_pipeline

SIZE = (72, 88)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained.save_pipeline(tmp_path_factory.mktemp("model") / "größe")


@pytest.fixture(scope="module")
def host(folder: Path) -> DiffusersHost:
    return DiffusersHost.load(folder, device="cpu")


@pytest.fixture(scope="module")
def person(host: DiffusersHost) -> Conditioning:
    projections = projections_for(host.unet, untrained.CONTEXT)
    cond, uncond = (projections.keys_values(token_groups(untrained.CONTEXT, seed=s)) for s in (1, 2))
    return Conditioning(cond, uncond)


def _pixels(host: DiffusersHost, people: list[Conditioning], **kwargs) -> list[np.ndarray]:
    sampling = Sampling("a person", size=SIZE, **({"steps": 3} | kwargs))
    return [np.asarray(image, dtype=np.int16) for image in host.sample(sampling, people)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs_with_and_without_a_person(host, person, sampler: str) -> None:
    seen: list[tuple[int, int]] = []
    sampling = Sampling("a person", sampler=sampler, steps=3, size=SIZE)
    bare = np.asarray(host.sample(sampling, [])[0])
    made = np.asarray(host.sample(sampling, [person], lambda *a: seen.append(a))[0])
    again = np.asarray(host.sample(sampling, [])[0])
    assert made.shape == (SIZE[1], SIZE[0], 3)
    assert np.abs(made.astype(int) - bare).mean() > 2
    assert np.array_equal(bare, again)
    assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1))


def test_one_sampler_does_not_leak_into_the_next(host) -> None:
    plain = _pixels(host, [], sampler="DPM++ 2M")[0]
    _pixels(host, [], sampler="DPM++ 2M Karras")
    assert np.array_equal(_pixels(host, [], sampler="DPM++ 2M")[0], plain)


@pytest.mark.parametrize("cfg", (1.0, 7.0))
def test_a_batch_is_its_pictures_one_by_one(host, person, cfg: float) -> None:
    """Also with a person in the second picture only; with and without uncond rows."""
    batch = _pixels(host, [replace(person, pictures=frozenset({1}))], count=3, seed=5, cfg=cfg)
    for i, people in enumerate(([], [person], [])):
        alone = _pixels(host, people, seed=5 + i, cfg=cfg)[0]
        assert np.abs(batch[i] - alone).max() <= 2
    assert np.abs(batch[1] - _pixels(host, [], seed=6, cfg=cfg)[0]).mean() > 2


def test_window(host, person) -> None:
    bare, full = _pixels(host, [])[0], _pixels(host, [person])[0]
    assert np.array_equal(_pixels(host, [replace(person, start=0.9, end=0.95)])[0], bare)  # between two of three steps
    early = _pixels(host, [replace(person, end=0.5)])[0]
    assert np.abs(early - bare).mean() > 1 and np.abs(early - full).mean() > 1


def test_a_single_file_gives_the_folders_picture(folder: Path, host, person, tmp_path: Path) -> None:
    """The same weights in the ldm layout of a .safetensors checkpoint, configured by the folder."""
    path = _single_file(host.pipeline, tmp_path / "model.safetensors")
    single = DiffusersHost.load(path, device="cpu", config=folder)
    assert single.name == "model" and single.topology.names == host.topology.names
    theirs, ours = _pixels(host, [person])[0], _pixels(single, [person])[0]
    assert np.abs(theirs - ours).max() <= 2


def _single_file(pipeline: StableDiffusionPipeline, path: Path) -> Path:
    """Write a pipeline in the ldm layout, by running diffusers' own converters' key maps backwards."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
    from safetensors.torch import save_file

    state = {}
    ldm_names = [*_ldm_unet_names(), *_ldm_vae_names(pipeline)]
    unet_probe = {f"model.diffusion_model.{n}": torch.tensor([i]) for i, n in enumerate(_ldm_unet_names())}
    back = convert_ldm_unet_checkpoint(dict(unet_probe), pipeline.unet.config)
    by_index = {int(v): k for k, v in back.items()}
    for i, name in enumerate(_ldm_unet_names()):
        state[f"model.diffusion_model.{name}"] = pipeline.unet.state_dict()[by_index[i]]
    vae_names = _ldm_vae_names(pipeline)
    # the VAE's converter squeezes 1x1 convolutions of its attention, so the probe has that shape
    vae_probe = {f"first_stage_model.{n}": torch.full((1, 1, 1, 1), float(i)) for i, n in enumerate(vae_names)}
    back = convert_ldm_vae_checkpoint(dict(vae_probe), pipeline.vae.config)
    by_index = {int(v.flatten()[0]): k for k, v in back.items()}
    for i, name in enumerate(vae_names):
        value = pipeline.vae.state_dict()[by_index[i]]
        if "attn_1." in name and value.ndim == 2:
            value = value[:, :, None, None]
        state[f"first_stage_model.{name}"] = value
    for key, value in pipeline.text_encoder.state_dict().items():
        key = key if key.startswith("text_model.") else f"text_model.{key}"
        state[f"cond_stage_model.transformer.{key}"] = value
    assert len(ldm_names) == len(pipeline.unet.state_dict()) + len(pipeline.vae.state_dict())
    save_file({k: v.contiguous().clone() for k, v in state.items()}, path)
    return path


def _ldm_unet_names() -> list[str]:
    """Names in the real ldm UNet of the miniature's shape."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=2, channel_mult=(1, 2, 2, 2),
        attention_resolutions=[1, 2, 4], num_heads=4, use_spatial_transformer=True, context_dim=untrained.CONTEXT,
        legacy=False, use_checkpoint=False,
    )  # fmt: skip
    return list(unet.state_dict())


def _ldm_vae_names(pipeline: StableDiffusionPipeline) -> list[str]:
    """Names in the real ldm autoencoder of the miniature's shape."""
    from ldm.modules.diffusionmodules.model import Decoder, Encoder

    shape = {"ch": 32, "out_ch": 3, "ch_mult": (1, 1, 2, 2), "num_res_blocks": 1, "attn_resolutions": [],
             "in_channels": 3, "resolution": 64, "z_channels": 4, "dropout": 0.0}  # fmt: skip
    names = [f"encoder.{n}" for n in Encoder(double_z=True, **shape).state_dict()]
    names += [f"decoder.{n}" for n in Decoder(**shape).state_dict()]
    return names + [f"{part}.{n}" for part in ("quant_conv", "post_quant_conv") for n in ("weight", "bias")]


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no model"):
        DiffusersHost.load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HostError, match="empty cannot be loaded"):
        DiffusersHost.load(tmp_path / "empty")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not safetensors at all")
    with pytest.raises(HostError, match=r"broken\.safetensors cannot be loaded"):
        DiffusersHost.load(broken)
    (tmp_path / "broken.ckpt").write_bytes(b"not a pickle")
    with pytest.raises(HostError, match=r"broken\.ckpt cannot be loaded"):
        DiffusersHost.load(tmp_path / "broken.ckpt")


def test_an_inpaint_model_is_refused(folder: Path, tmp_path: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.unet = type(pipeline.unet).from_config({**pipeline.unet.config, "in_channels": 9})
    pipeline.save_pretrained(tmp_path / "inpaint")
    with pytest.raises(HostError, match=r"inpaint is a StableDiffusion.* takes 9 channels"):
        DiffusersHost.load(tmp_path / "inpaint", device="cpu")


@pytest.mark.parametrize("base", ("sd15", "sdxl"))
def test_a_unet_with_a_guidance_embedding_sees_cond_rows_only(folder: Path, tmp_path: Path, base: str) -> None:
    """LCM: the guidance enters the UNet as an embedding, at every CFG scale; the pipeline makes no uncond rows."""
    path = folder if base == "sd15" else save_sdxl_pipeline(folder, tmp_path / "xl")
    pipeline = DiffusersHost.load(path, device="cpu").pipeline
    guided = type(pipeline.unet).from_config({**pipeline.unet.config, "time_cond_proj_dim": 32})
    pipeline.unet = redraw(guided, 3)
    pipeline.save_pretrained(tmp_path / "lcm")
    lcm = DiffusersHost.load(tmp_path / "lcm", device="cpu")
    width = untrained.CONTEXT if base == "sd15" else CONTEXT["sdxl"]
    cond, uncond = (projections_for(lcm.unet, width).keys_values(token_groups(width, seed=s)) for s in (1, 2))
    people = [replace(Conditioning(cond, uncond), pictures=frozenset({1}))]
    by_cfg = {}
    for cfg in (1.0, 1.5, 7.0):
        bare = _pixels(lcm, [], cfg=cfg, count=2, sampler="LCM", steps=2)
        made = _pixels(lcm, people, cfg=cfg, count=2, sampler="LCM", steps=2)
        assert np.array_equal(made[0], bare[0])
        assert np.abs(made[1] - bare[1]).mean() > 2
        by_cfg[cfg] = made[1]
    assert np.abs(by_cfg[1.5] - by_cfg[7.0]).max() > 0  # the embedding is read
    only_uncond = Conditioning({site: () for site in cond}, uncond)
    assert np.array_equal(
        _pixels(lcm, [only_uncond], cfg=7.0, sampler="LCM", steps=2)[0],
        _pixels(lcm, [], cfg=7.0, sampler="LCM", steps=2)[0],
    )


def test_latents_of_16_channels(folder: Path, tmp_path: Path) -> None:
    """As many as the autoencoder has are right, and the picture depends on the seed alone."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    for name, changes in (("unet", {"in_channels": 16, "out_channels": 16}), ("vae", {"latent_channels": 16})):
        part = getattr(pipeline, name)
        setattr(pipeline, name, redraw(type(part).from_config({**part.config, **changes}), 5))
    pipeline.save_pretrained(tmp_path / "wide")
    wide = DiffusersHost.load(tmp_path / "wide", device="cpu")
    first, second, other = (
        np.asarray(wide.sample(Sampling("a portrait", steps=2, seed=seed, size=(64, 64)), [])[0]) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second) and np.abs(first.astype(int) - other).mean() > 1


def test_sdxl(folder: Path, tmp_path: Path) -> None:
    """Two text encoders, the vector y, its own sites."""
    host = DiffusersHost.load(save_sdxl_pipeline(folder, tmp_path / "xl"), device="cpu")
    assert host.topology.base == "sdxl"
    projections = projections_for(host.unet, CONTEXT["sdxl"])
    kv = projections.keys_values(token_groups(CONTEXT["sdxl"]))
    person = Conditioning(kv, kv)
    bare = _pixels(host, [], cfg=5.0, count=2)
    made = _pixels(host, [person], cfg=5.0, count=2)
    assert all(np.abs(a - b).mean() > 2 for a, b in zip(bare, made, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(bare, _pixels(host, [], cfg=5.0, count=2), strict=True))


def test_a_pipeline_of_another_kind_is_refused(host) -> None:
    class Other:
        unet = torch.nn.Linear(2, 2)

    with pytest.raises(TopologyError, match="not a UNet that FaceSnap can attach to"):
        DiffusersHost(Other(), "other")


def test_faults_leave_the_unet_clean(host, person, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = _pixels(host, [])[0]

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.sample(Sampling("a person", steps=4, size=SIZE), [person], interrupt)
    assert np.array_equal(_pixels(host, [])[0], bare)
    poisoned = Conditioning({s: tuple(_nan(kv) for kv in g) for s, g in person.cond.items()}, person.uncond)
    with pytest.raises(HostError, match=r"NaN or infinity after step 1 of 4.*float32"):
        host.sample(Sampling("a person", steps=4, size=SIZE), [poisoned])
    assert np.array_equal(_pixels(host, [])[0], bare)
    other = untrained.draw(type(host.unet).from_config(host.unet.config), 5)
    monkeypatch.setattr(DiffusersHost, "unet", property(lambda self: other))
    with pytest.raises(AttachError, match="without calling"):
        host.sample(Sampling("a person", steps=2, size=SIZE), [person])


def _nan(kv):
    from facesnap.models.projections import GroupKV

    return GroupKV(kv.k, torch.full_like(kv.v, float("nan")))


@pytest.mark.parametrize(
    "wrong",
    ({"steps": 0}, {"cfg": float("nan")}, {"size": (512, 515)}, {"size": (0, 512)}, {"size": (8192, 64)},
     {"seed": -1}, {"count": 0}, {"sampler": "magic"}),
    ids=str,
)  # fmt: skip
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=r"cannot be used.*Expected"):
        Sampling("a person", **wrong)
