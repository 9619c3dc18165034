"""A family in one file of its own, without a recogniser and with two mixers, goes everywhere that families go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from facesnap.attach.topology import read_topology
from facesnap.checkpoints import build
from facesnap.checkpoints.adapter import Adapter, AdapterSpec, FFRNetSpec
from facesnap.demo import untrained
from facesnap.models.mixer import FacialAttributeMixer, MixerConfig, Stage1Config, Stage2Config
from facesnap.models.projections import IDProjections
from facesnap.pipeline.pipeline import FaceSnapPipeline

MODULE = """
import dataclasses

from facesnap.checkpoints import build
from facesnap.faces.known import File, Item
from facesnap.families.base import Family

NET = {"groups": ["mix"], "strength": 1.0, "donor_picture": "landmarks",
       "heads": 4, "head_dim": None, "norm_groups": 32}


class Puppet(Family):
    def matches(self, tensors):
        return any(name.startswith("puppet.mixer.") for name in tensors)

    def base_of(self, tensors, where):
        return "sd15"

    def load(self, file, source, match, topology=None):
        tensors = {name.removeprefix("puppet."): tensor for name, tensor in file.tensors.items()}
        spec = dataclasses.replace(self.spec("sd15", source), dim_head=16)
        return build.build(tensors, spec, None, NET, source.path.name, source.sha256, match)


FILE = File("puppet.safetensors", "FaceSnap/puppet.safetensors", 1)
FAMILIES = (
    Puppet(key="puppet", title="Puppet", licence="for tests", cfg=3.0, side=64, downloads=(
        Item("puppet-sd15", "the Puppet adapter", "adapter for SD1.5", "adapter", "for tests", (FILE,), "a/b", "sd15"),
    )),
)
"""

PROGRAM = """
import contextlib, io, json, sys
import facesnap.families
facesnap.families.__path__.append(sys.argv[1])
from facesnap.cli import main

answers = []
for command in json.loads(sys.argv[2]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main(command)
    answers.append([code, json.loads(out.getvalue())])

from dataclasses import asdict
from facesnap.weights.adapters import entries
from facesnap.weights.folders import Folders
answers.append([0, [asdict(one) for one in entries(Folders.of(sys.argv[3]), "sd15")]])
print(json.dumps(answers, default=str))
"""


def _adapter(unet) -> Adapter:
    """FaceID's form for the UNet, InstantID's for the control network, which sees other tokens than the UNet."""
    topology, context = read_topology(unet), untrained.CONTEXT
    configs = (
        MixerConfig(Stage1Config(512, 256, 4, context), None, dim_head=16),
        MixerConfig(None, Stage2Config(512, 64, 16, 2, 64, 256, context, ()), dim_head=16),
    )
    mixer, control = (untrained.draw(FacialAttributeMixer(config), 5 + n) for n, config in enumerate(configs))
    widths = {site.name: site.width or 0 for site in topology.sites}
    projections = untrained.draw(IDProjections(widths, {"id": False}, context), 7)
    return Adapter(AdapterSpec("sd15", recogniser=""), mixer, projections, ffrnet=untrained.make_ffrnet(unet, 8),
                   ffrnet_spec=FFRNetSpec(("mix",)), control_mixer=control)  # fmt: skip


@pytest.fixture(scope="module")
def answers(world: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The answers of the commands in a process whose package of families holds the new file."""
    folder = tmp_path_factory.mktemp("puppet")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "puppet.py").write_text(MODULE, encoding="utf-8")
    file = folder / "models" / "FaceSnap" / "puppet.safetensors"
    file.parent.mkdir(parents=True)
    tensors = build.state_dict(_adapter(world.host.unet))
    save_file({f"puppet.{name}": tensor.contiguous() for name, tensor in tensors.items()}, file)
    person, native = folder / "person.safetensors", folder / "converted.safetensors"
    FaceSnapPipeline(world.adapter, world.analyser, world.encoder).identity([world.photo]).save(person)
    made = ["generate", "--base", str(world.folder / "model"), "--identity", str(person), "--prompt", "a person",
            "--steps", "2", "--size", "64x64", "--json"]  # fmt: skip
    commands = {
        "inspect": ["inspect", str(file), "--json"],
        "download": ["download", "--list", "--json", "--folder", str(folder / "models")],
        "doctor": ["doctor", "--json", "--model-dir", str(folder / "models")],
        "convert": ["convert", str(file), "--out", str(native), "--json"],
        "both": [*made, "--adapter", str(file), "--out", str(folder / "both")],
        "tokens": [*made, "--adapter", str(file), "--out", str(folder / "tokens"), "--structure", "0"],
        "off": [*made, "--adapter", str(file), "--out", str(folder / "off"), "--structure", "0", "--strength", "0"],
        "converted": [*made, "--adapter", str(native), "--out", str(folder / "again")],
    }
    environment = {k: v for k, v in os.environ.items() if k != "FACESNAP_MODELS"} | {"HOME": str(folder)}
    arguments = [str(folder / "plugins"), json.dumps(list(commands.values())), str(folder / "models")]
    run = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, encoding="utf-8",
                         env=environment, cwd=Path(__file__).parents[2], check=False)  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = dict(zip((*commands, "list"), json.loads(run.stdout), strict=True))
    assert all(code == 0 for name, (code, _) in found.items() if name != "doctor"), run.stderr
    return SimpleNamespace(file=file, **{name: answer for name, (_, answer) in found.items()})


def test_inspect_shows_it(answers: SimpleNamespace) -> None:
    seen = answers.inspect
    assert (seen["family"], seen["chosen"], seen["base"]) == ("Puppet", "by its tensors", "sd15")
    assert (seen["recogniser"], seen["pack"], seen["suggested CFG"]) == ("", None, 3.0)
    assert seen["tokens"] == {"id": 4} and seen["parameters"]["control mixer"] > 0


def test_lists_offer_it(answers: SimpleNamespace) -> None:
    (one,) = answers.list
    assert (one["family"], one["title"], one["fits"]) == ("puppet", "puppet · Puppet · SD1.5", True)
    assert (one["needs"], one["licence"], one["hint"]) == ([], "for tests", "CFG 3 · 64 x 64, not 512")
    (row,) = [row for row in answers.download if row["name"] == "puppet-sd15"]
    assert (row["title"], row["there"]) == ("the Puppet adapter", True)
    findings = [finding["what"] for finding in answers.doctor["findings"]]
    assert "Puppet for SD1.5: everything is there" in findings


def test_pictures_are_made_with_any_recogniser_and_with_both_mixers(answers: SimpleNamespace) -> None:
    """No pack is given: an identity of whichever recogniser will do. FFRNet's tokens exist in the second mixer only."""
    pictures = {}
    for name in ("both", "tokens", "off", "converted"):
        with Image.open(getattr(answers, name)["pictures"][0]["file"]) as image:
            pictures[name] = np.asarray(image.convert("RGB"), int)
    assert np.abs(pictures["both"] - pictures["tokens"]).mean() > 1
    assert np.abs(pictures["tokens"] - pictures["off"]).mean() > 1
    assert np.array_equal(pictures["both"], pictures["converted"])


def test_a_converted_checkpoint_keeps_both_mixers(answers: SimpleNamespace) -> None:
    same = ("family", "tokens", "parameters", "recogniser", "rule", "base")
    assert {key: answers.convert[key] for key in same} == {key: answers.inspect[key] for key in same}
