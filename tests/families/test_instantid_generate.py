"""InstantID in one step: one file is chosen, a driver gives the pose, the reference keeps its own face."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from safetensors.torch import save_file

from facesnap.attach import ControlView
from facesnap.cli import main
from facesnap.demo import untrained
from facesnap.faces.analyser import FaceAnalyser
from facesnap.families.registry import load_adapter
from facesnap.hosts.diffusers import DiffusersHost, Sampling
from facesnap.landmarks.render import render_five_points
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.settings.model import Person, Pose
from tests import formulas
from tests.families.test_families import widths_of
from tests.families.test_instantid import identitynet
from tests.networks import CONTEXT, redraw
from tests.pipelines import save_sdxl_pipeline
from tests.public_files import public_state, write

SAMPLING = Sampling("a person in oil", "blurred", steps=2, cfg=4.0, size=(128, 128), seed=5)
STRENGTH = 0.8  # the family's suggestion, of adapter and IdentityNet alike


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory, face_pack: Path, astronaut: np.ndarray, components: Path):
    """An untrained SDXL, InstantID as it is published, real face models, a person and a driver."""
    folder = tmp_path_factory.mktemp("instantid")
    base = save_sdxl_pipeline(untrained.save_pipeline(folder / "sd15"), folder / "xl")
    hosts = [DiffusersHost.load(base, device="cpu") for _ in range(2)]
    state = public_state("instantid", widths_of(hosts[0].unet), CONTEXT["sdxl"])
    file = write(state, folder, "instantid", "sdxl").rename(folder / "ip-adapter.bin")
    (folder / "ControlNetModel").mkdir()
    net = identitynet()
    redraw(net.controlnet_cond_embedding, 9, 2.5)  # so that few bright pixels count
    save_file(net.state_dict(), folder / "ControlNetModel" / "diffusion_pytorch_model.safetensors")
    pack = shutil.copytree(face_pack, folder / "antelopev2")
    photo = folder / "astronaut.png"
    Image.fromarray(astronaut).save(photo)
    return SimpleNamespace(
        base=base, host=hosts[0], reference=hosts[1], state=state, file=file, net=net, pack=pack, photo=photo,
        driver=components / "photos" / "obama.jpg", analyser=FaceAnalyser(pack),
    )  # fmt: skip


@pytest.fixture
def floats(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the VAE gave for every picture made."""
    found: list[torch.Tensor] = []
    original = VaeImageProcessor.postprocess

    def postprocess(self, image, *args, **kwargs):
        found.append(image.detach().clone())
        return original(self, image, *args, **kwargs)

    monkeypatch.setattr(VaeImageProcessor, "postprocess", postprocess)
    return found


def _five(pipeline: FaceSnapPipeline, photo: Path, pose: Pose) -> np.ndarray:
    settings = Person(pose=pose)
    return pipeline.shape(pipeline.identity([photo]), settings, (512, 512)).landmarks.five * 512


def _proportions(five: np.ndarray) -> np.ndarray:
    """Of the distance between the eyes: their distance from the nose and from the mouth, and the mouth's width."""
    eyes, mouth = five[:2].mean(0), five[3:].mean(0)
    lengths = [five[2] - eyes, mouth - eyes, five[4] - five[3]]
    return np.array([np.linalg.norm(v) for v in lengths]) / np.linalg.norm(five[1] - five[0])


def test_a_driver_gives_the_pose_and_not_the_face(xl) -> None:
    """In the driver's pose the five points keep the proportions that the reference has in a frontal one."""
    pipeline = FaceSnapPipeline(load_adapter(xl.file), xl.analyser)
    driven = _five(pipeline, xl.photo, Pose("picture", xl.driver, expression_gain=0.0))
    own, drivers = _five(pipeline, xl.photo, Pose("canvas")), _five(pipeline, xl.driver, Pose("canvas"))
    assert np.abs(driven - _five(pipeline, xl.photo, Pose())).max() > 20  # px: the driver's pose and place
    assert np.abs(_proportions(own) - _proportions(drivers)).max() > 0.03
    to_own, to_driver = (np.abs(_proportions(driven) - _proportions(p)).sum() for p in (own, drivers))
    assert to_own < to_driver


def _with_identitynet(net: ControlNetModel, tokens: torch.Tensor, picture: torch.Tensor):
    """A hook on diffusers' UNet that runs diffusers' ControlNet before it; its prompt are the ID tokens."""

    def before(_unet, args, kwargs):
        down, middle = net(
            *args[:2], tokens, picture.expand(2, -1, -1, -1), conditioning_scale=STRENGTH,
            added_cond_kwargs=kwargs["added_cond_kwargs"], return_dict=False,
        )  # fmt: skip
        return args, {**kwargs, "down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    return before


@torch.no_grad()
def test_one_file_makes_the_picture_that_diffusers_makes(xl, floats, tmp_path: Path, capsys) -> None:
    options = ["--base", str(xl.base), "--adapter", str(xl.file), "--pack", str(xl.pack), "--reference", str(xl.photo),
               "--driver", str(xl.driver), "--prompt", SAMPLING.prompt, "--negative", SAMPLING.negative_prompt,
               "--steps", "2", "--cfg", "4", "--size", "128x128", "--seed", "5", "--speed", "exact",
               "--json"]  # fmt: skip
    assert main(["generate", *options, "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["structure"]["speed"] == "exact"

    pipeline = FaceSnapPipeline(load_adapter(xl.file), xl.analyser)
    identity, settings = pipeline.identity([xl.photo]), Person(pose=Pose("picture", xl.driver))
    five = pipeline.shape(identity, settings, SAMPLING.size).landmarks.five
    drawn = render_five_points(five, SAMPLING.size)
    control = pipeline.control(identity, settings, SAMPLING.size)
    picture = torch.from_numpy(drawn.copy()).permute(2, 0, 1)[None].float() / 255
    assert torch.equal(control.draw(ControlView((128, 128), 0, 0, 128, 128)).five_points, picture) and picture.any()

    f_id = torch.from_numpy(xl.analyser.face(xl.photo).embedding)[None]  # raw
    tokens = formulas.resampler(xl.state["image_proj"], torch.cat([torch.zeros_like(f_id), f_id]))
    unet = xl.reference.unet
    formulas.set_reference(unet, xl.state["ip_adapter"], tokens, STRENGTH)
    xl.reference.sample(SAMPLING, [])  # without IdentityNet
    off = {}
    for name, seen in {
        "as it is": (tokens, picture),
        "another picture": (tokens, torch.flip(picture, (3,))),
        "no tokens": (torch.zeros_like(tokens), picture),
    }.items():
        hook = unet.register_forward_pre_hook(_with_identitynet(xl.net, *seen), with_kwargs=True)
        xl.reference.sample(SAMPLING, [])
        hook.remove()
        off[name] = float((floats[-1] - floats[0]).abs().max())
    assert off["as it is"] <= 1e-4 and min(off["another picture"], off["no tokens"]) > 1e-3, off
    assert (floats[1] - floats[0]).abs().max() > 1e-2
