"""FFRNet's way through the pipeline and the command line: real landmarks of real photos, a real sampling."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from facesnap.attach import ControlView, Speed
from facesnap.checkpoints import native
from facesnap.checkpoints.adapter import Adapter, FFRNetSpec
from facesnap.cli import main
from facesnap.demo import untrained
from facesnap.errors import LandmarkError, PackError, SettingsError, UnusableSettingError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.identity import Identity
from facesnap.faces.stored_landmarks import StoredLandmarks
from facesnap.hosts.diffusers import Sampling
from facesnap.landmarks.detect import LandmarkDetector
from facesnap.models.fidelity import FFRNet
from facesnap.models.mixer import FacialAttributeMixer
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.pipeline.shape import draw
from facesnap.settings.model import Person, Pose, Settings

SAMPLING = Sampling("a person", steps=2, size=(64, 72), seed=3)
TURNED = Pose("canvas", yaw=40.0, expression="open_mouth:1")


def _pipeline(world, **parts) -> FaceSnapPipeline:
    return FaceSnapPipeline(
        **({"adapter": world.adapter, "analyser": world.analyser, "encoder": world.encoder} | parts)
    )


def _pixels(
    world, pipeline: FaceSnapPipeline, identity: Identity, speed: Speed = Speed.BALANCED, **person
) -> np.ndarray:
    made = pipeline.generate(world.host, SAMPLING, [(identity, Person(**person))], settings=Settings(speed=speed.value))
    return np.asarray(made[0].image, dtype=int)


def _without_ffrnet(world) -> Adapter:
    return dataclasses.replace(world.adapter, ffrnet=None, ffrnet_spec=None)


@pytest.fixture(scope="module")
def tokens_only(world, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter file without FFRNet."""
    file = tmp_path_factory.mktemp("tokens") / "tokens_only.safetensors"
    native.save(untrained.make_adapter(world.host.unet, ffrnet=False, **world.names), file)
    return file


@pytest.fixture(scope="module")
def driver(world, components: Path) -> Path:
    """Another person than the reference, in another pose."""
    return components / "photos" / "obama.jpg"


def test_structure_0_is_bit_identical_to_no_ffrnet(world) -> None:
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo])
    bare = _pixels(world, _pipeline(world, adapter=_without_ffrnet(world)), identity)
    assert np.array_equal(_pixels(world, pipeline, identity, structure=0.0), bare)
    assert np.array_equal(_pixels(world, pipeline, identity, structure=0.0, pose=TURNED), bare)
    between = {"structure_start": 0.9, "structure_end": 0.95}  # lies between two steps
    assert np.array_equal(_pixels(world, pipeline, identity, **between), bare)
    for speed in Speed:
        assert np.abs(_pixels(world, pipeline, identity, speed) - bare).mean() > 2
    assert np.abs(_pixels(world, pipeline, identity, structure=0.3) - _pixels(world, pipeline, identity)).mean() > 1


def test_pose_and_driver_change_landmarks_and_picture(world, driver: Path) -> None:
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo, world.crop])
    poses = {
        "own": Pose(),
        "turned": TURNED,
        "driver": Pose("picture", driver),
        "gain": Pose("picture", driver, expression_gain=0.0),
        "true size": Pose("picture", driver, framing="true size"),
        "over": Pose("picture", driver, roll=20.0),
    }
    shapes = {n: pipeline.shape(identity, Person(pose=p), SAMPLING.size) for n, p in poses.items()}
    points = np.stack([shape.landmarks.points for shape in shapes.values()])
    apart = np.abs(points[:, None] - points[None]).max((2, 3)) + np.eye(len(points))
    assert apart.min() > 1e-3
    assert all(not shape.doubts for shape in shapes.values())
    made = [_pixels(world, pipeline, identity, pose=poses[name]) for name in ("own", "turned", "driver")]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(made[a] - made[b]).mean() > 0.2
    array = pipeline.shape(identity, Person(pose=Pose("picture", np.asarray(Image.open(driver)))), SAMPLING.size)
    assert np.array_equal(array.landmarks.points, shapes["driver"].landmarks.points)


def test_the_own_pose_lies_on_the_reference(world) -> None:
    """Without a driver the landmarks are where the photo has them: the dots of the astronaut's eyes and mouth."""
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo])
    shape = pipeline.shape(identity, Person(), (512, 512))
    face = world.analyser.face(world.photo)
    assert np.abs(shape.landmarks.five * 512 - face.kps).max() < 8
    wide = pipeline.shape(identity, Person(), (1024, 512))  # the photo's square in the middle of the frame
    assert np.abs(wide.landmarks.points * (1024, 512) - shape.landmarks.points * 512 - (256, 0)).max() < 1e-6


def test_a_second_generation_calls_no_model_of_ours(world, driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = _pipeline(world)
    settings = Person(pose=Pose("picture", driver))
    view = ControlView((72, 64), 0, 0, 72, 64)
    first = pipeline.control(pipeline.identity([world.photo]), settings, SAMPLING.size)
    picture = first.draw(view).landmarks

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(FaceAnalyser, "faces", fail)
    monkeypatch.setattr(LandmarkDetector, "detect", fail)
    monkeypatch.setattr(ImageEncoder, "encode", fail)
    monkeypatch.setattr(FacialAttributeMixer, "forward", fail)
    monkeypatch.setattr(FFRNet, "project_tokens", fail)
    monkeypatch.setattr("facesnap.pipeline.shape.fit", fail)
    monkeypatch.setattr("facesnap.pipeline.shape.render_landmarks", fail)
    changed = dataclasses.replace(settings, structure=0.4, structure_end=0.5, strength=0.2)
    again = pipeline.control(pipeline.identity([world.photo]), changed, SAMPLING.size)
    assert again.cond is first.cond and again.uncond is first.uncond and again.draw(view).landmarks is picture
    assert (again.strength, again.end) == (0.4, 0.5)
    pipeline.conditioning(pipeline.identity([world.photo]), changed)  # shares the mixer's tokens


def test_ffrnet_sees_the_token_groups_that_the_checkpoint_names(world) -> None:
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo])
    mixer, net = world.adapter.mixer, world.adapter.ffrnet
    hidden = {level: states.float()[None] for level, states in identity.hidden.items()}
    cond = mixer(torch.from_numpy(identity.f_id())[None, None], hidden)
    nobody = {k: v[None] for k, v in world.encoder.encode_zero((-2, 1)).items()}
    uncond = mixer(torch.zeros(1, 1, 512), nobody)
    for groups in (("mix",), ("id", "mix")):
        adapter = dataclasses.replace(world.adapter, ffrnet_spec=FFRNetSpec(groups, 0.6))
        control = _pipeline(world, adapter=adapter).control(identity)
        assert control.strength == 0.6
        for ours, tokens in ((control.cond, cond), (control.uncond, uncond)):
            theirs = net.project_tokens(torch.cat([tokens[g].tokens for g in groups], dim=1))
            assert len(ours) == len(theirs) == len(net.config.attention_widths())
            for (k, v), (k2, v2) in zip(ours, theirs, strict=True):
                assert torch.allclose(k, k2, atol=1e-5) and torch.allclose(v, v2, atol=1e-5)
                assert (k[0, 0, 0] - k[0, 0, -1]).abs().max() > 1e-2
    silent = dataclasses.replace(world.adapter, spec=dataclasses.replace(world.adapter.spec, uncond="none"))
    assert _pipeline(world, adapter=silent).control(identity).uncond is None


def test_the_network_is_placed_where_the_unet_computes(world) -> None:
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo])
    half = pipeline.control(identity, dtype=torch.bfloat16)
    assert half.net.dtype == torch.bfloat16 and world.adapter.ffrnet.dtype == torch.float32
    assert pipeline.control(identity).net is world.adapter.ffrnet
    assert pipeline.control(identity, dtype=torch.bfloat16).net is half.net  # placed once
    for name, own in world.adapter.ffrnet.named_parameters():
        assert torch.equal(half.net.get_parameter(name), own.bfloat16())
    assert all(k.dtype == v.dtype == torch.float32 for k, v in half.cond)  # the network takes them as it wants them
    assert pipeline.control(identity, device="cpu").cond is half.cond  # made once, for any device


def test_identity_files_need_no_photo_and_no_face_model(world, tmp_path: Path) -> None:
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo, world.crop])
    identity.save(tmp_path / "who.safetensors")
    loaded = Identity.load(tmp_path / "who.safetensors")
    alone = _pipeline(world, analyser=None)
    for pose in (Pose(), TURNED):
        ours, theirs = _pixels(world, pipeline, identity, pose=pose), _pixels(world, alone, loaded, pose=pose)
        assert np.array_equal(ours, theirs)


def test_packs_without_a_landmark_model_give_the_pose_and_say_so(world) -> None:
    """Five points only: the mean face's shape in the reference's pose, with the doubt in words."""
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo])
    face = world.analyser.face(world.photo)
    five = StoredLandmarks(
        face.kps[None] + np.float32(0.5), identity.landmarks.sizes, np.full(1, 0.05, np.float32), "five", "detector"
    )
    shape = pipeline.shape(dataclasses.replace(identity, landmarks=five), Person(), (512, 512))
    assert "only five points are known" in shape.doubts[0]
    assert np.abs(shape.landmarks.five * 512 - face.kps).max() < 12
    whole = pipeline.shape(identity, Person(), (512, 512))
    assert np.abs(shape.landmarks.points - whole.landmarks.points).max() * 512 > 1


@pytest.mark.parametrize("picture", ("landmarks", "five_points", "both"))
def test_a_piece_is_drawn_as_it_is_in_the_whole(world, picture: str) -> None:
    pipeline = _pipeline(world)
    shape = pipeline.shape(pipeline.identity([world.crop]), Person(), (512, 384))
    config = world.adapter.ffrnet.config
    if picture != "landmarks":
        hints = config.hint_channels if picture == "both" else None
        config = dataclasses.replace(config, donor_picture="five_points", landmark_hint_channels=hints)
    frame = (768, 1024)  # enlarged twice
    whole = draw(shape, ControlView(frame, 0, 0, 768, 1024), config)
    piece = draw(shape, ControlView(frame, 128, 320, 256, 384), config)
    wanted = {"landmarks": {"landmarks"}, "five_points": {"five_points"}, "both": {"landmarks", "five_points"}}[picture]
    for name in ("landmarks", "five_points"):
        big, small = getattr(whole, name), getattr(piece, name)
        assert (big is not None) == (small is not None) == (name in wanted)
        if big is not None:
            assert small.shape == (1, 3, 256, 384) and small.max() > 0.5
            assert (big[..., 128:384, 320:704] - small).abs().max() <= 1.5 / 255
            assert float(big.max()) <= 1.0


def test_what_does_not_suit_is_refused_by_name(world, driver: Path) -> None:
    pipeline = _pipeline(world)
    identity = pipeline.identity([world.photo])
    unseen = dataclasses.replace(identity, landmarks=None)
    with pytest.raises(LandmarkError, match=r"holds no landmarks.*structure"):
        pipeline.control(unseen)
    assert pipeline.control(unseen, Person(structure=0.0)) is None
    strange = dataclasses.replace(identity.landmarks, kind="98")
    with pytest.raises(LandmarkError, match="'98'"):
        pipeline.control(dataclasses.replace(identity, landmarks=strange))
    with pytest.raises(PackError, match="driver picture"):
        _pipeline(world, analyser=None).control(identity, Person(pose=Pose("picture", driver)))
    for pose, words in (
        (Pose("picture", "photo.png"), "its picture is text"),
        (Pose("picture"), "its picture is missing"),
        (Pose("init"), "init"),
    ):
        with pytest.raises(SettingsError, match=words):
            pipeline.control(identity, Person(pose=pose))
    for wrong in ({"structure": 11.0}, {"expression": "grin"}, {"expression_gain": 9.0}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            Person(**wrong) if "structure" in wrong else Pose("canvas", **wrong)


def _generate(world, out: Path, *extra: str, adapter: Path | None = None) -> int:
    base = ["generate", "--base", str(world.folder / "model"), "--adapter", str(adapter or world.file), "--out",
            str(out), "--encoder", str(world.folder / "encoder.safetensors"), "--pack", str(world.pack), "--device",
            "cpu", "--prompt", "a person", "--steps", "2", "--size", "64x72"]  # fmt: skip
    return main([*base, *extra])


def test_generate_with_a_driver(world, driver: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = _generate(world, tmp_path / "a", "--reference", str(world.photo), "--driver", str(driver), "--yaw", "20",
                     "--expression", "smile:0.8", "--framing", "true size", "--structure", "0.9",
                     "--structure-window", "0-0.8", "--speed", "exact", "--json")  # fmt: skip
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["structure"]["speed"] == "exact" and report["structure"]["doubts"] == []
    with Image.open(report["structure"]["landmarks"]) as landmarks:
        assert landmarks.size == (64, 72) and np.asarray(landmarks).any()
        drawn = np.asarray(landmarks)
    with Image.open(report["pictures"][0]["file"]) as image:
        text = image.text["parameters"]
    parts = ["structure: 0.9", "structure end: 0.8", "framing: true size", "speed: exact", "pose: picture",
             "pose picture: picture [", "yaw: 20", 'expression: "smile:0.8"']  # fmt: skip
    for part in parts:
        assert f"FaceSnap {part}" in text, part
    assert driver.stem not in text
    with Image.open(report["sheet"]) as sheet:
        assert sheet.width > 4 * 256  # reference, driver, landmarks, picture
    assert _generate(world, tmp_path / "b", "--reference", str(world.photo)) == 0
    with Image.open(tmp_path / "b" / "landmarks.png") as own, Image.open(tmp_path / "b" / "0000000000.png") as image:
        assert not np.array_equal(np.asarray(own), drawn)
        assert not any(word in image.text["parameters"] for word in ("pose", "driver", "speed"))


@pytest.mark.parametrize(
    "option",
    (["--driver", "x.png"], ["--yaw", "5"], ["--structure", "0.5"], ["--speed", "fast"], ["--framing", "true size"],
     ["--expression", "smile"], ["--structure-window", "0-0.5"]),
    ids=str,
)  # fmt: skip
def test_generate_refuses_what_the_adapter_cannot_use_where_it_is_strict(
    world, tokens_only: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option
) -> None:
    asked = ["--reference", str(world.photo), "--strict", *option]
    assert _generate(world, tmp_path / "no", *asked, adapter=tokens_only) == 1
    error = capsys.readouterr().err
    assert "brings no landmarks network" in error and "not used" in error and "another adapter" in error
    assert not (tmp_path / "no").exists()


def test_generate_notes_what_the_adapter_cannot_use(
    world, tokens_only: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, without effect, and not in the picture's text."""
    plain, asked = tmp_path / "plain", tmp_path / "asked"
    who = ["--reference", str(world.photo), "--count", "2"]
    assert _generate(world, plain, *who, "--strict", adapter=tokens_only) == 0
    assert not any("not used" in one for one in caplog.messages)
    more = ["--driver", str(tmp_path / "missing.png"), "--yaw", "5", "--structure", "1.5", "--speed", "fast",
            "--structure-window", "0-0.5", "--lora", "0.5", "--pulid-mode", "style"]  # fmt: skip
    assert _generate(world, asked, *who, *more, adapter=tokens_only) == 0
    notes = [one for one in caplog.messages if "not used" in one]
    assert len(notes) == len(set(notes)) == 3
    assert "speed, structure strength, structure end and the pose are not used" in notes[0]
    for file in ("0000000000.png", "0000000001.png"):
        with Image.open(plain / file) as first, Image.open(asked / file) as second:
            assert np.array_equal(np.asarray(first), np.asarray(second))
            assert first.text["parameters"] == second.text["parameters"]


def test_the_library_follows_the_same_rule(world, caplog: pytest.LogCaptureFixture) -> None:
    identity = _pipeline(world).identity([world.photo])
    bare = _pipeline(world, adapter=_without_ffrnet(world))
    (plain,) = bare.generate(world.host, SAMPLING, [(identity, Person())])
    for person in (Person(structure=0.5), Person(pose=TURNED)):
        caplog.clear()
        (made,) = bare.generate(world.host, SAMPLING, [(identity, person)])
        assert np.array_equal(np.asarray(made.image), np.asarray(plain.image)) and made.infotext == plain.infotext
        assert [text.count("brings no landmarks network") for text in caplog.messages] == [1]
        with pytest.raises(UnusableSettingError, match="another adapter"):
            bare.generate(world.host, SAMPLING, [(identity, person)], settings=Settings(strict=True))


def test_identity_make_keeps_the_landmarks(world, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "who.safetensors"
    encoder = ["--encoder", str(world.folder / "encoder.safetensors"), "--levels", "-2", "1"]
    photos = [str(world.photo), str(world.crop)]
    assert main(["identity", "make", *photos, "--out", str(file), "--pack", str(world.pack), *encoder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["landmarks"].startswith("68 by ")
    ours = _pipeline(world).identity([world.photo, world.crop])
    assert Identity.load(file).digest == ours.digest


def test_cats_have_no_shape(world) -> None:
    """A driver without a face is an error that says so, not some other pose."""
    from facesnap.errors import NoFaceError

    pipeline = _pipeline(world)
    with pytest.raises(NoFaceError):
        pipeline.shape(
            pipeline.identity([world.photo]), Person(pose=Pose("picture", np.asarray(data.brick()))), (64, 64)
        )
