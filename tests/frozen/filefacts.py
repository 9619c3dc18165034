"""Facts about files: what the command line and the loaders tell of each, as plain data.

As in `facts`; each function gets an empty folder to work in.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from tests.frozen import doors, inputs
from tests.frozen.store import CHECKPOINTS, HERE, IDENTITIES, MODELS, PREPARED, header_of, thaw

SEEN = {  # width of the hidden states and class vectors that each checkpoint's mixer takes
    "facesnap": (64, 0), "faceid": (0, 0), "faceid-plus": (64, 0), "faceid-plusv2": (64, 0), "portrait": (0, 0),
    "portrait-unnorm": (0, 0), "instantid": (0, 0), "pulid-v1": (64, 40), "pulid-v1.1": (64, 40),
    "faceid-stage2": (0, 0), "small": (24, 0),
}  # fmt: skip


def command(*arguments: str) -> str:
    """What a command prints."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert doors.main(list(arguments)) == 0
    return out.getvalue()


def report(arguments: list[str]) -> dict[str, Any]:
    """What `generate` reports, without the paths."""
    found = json.loads(command(*arguments))
    found.pop("sheet")
    found["pictures"] = [{k: v for k, v in one.items() if k != "file"} for one in found["pictures"]]
    if "structure" in found:
        found["structure"].pop("landmarks")
    return found


def pasted(folder: Path, names: list[str]) -> dict[str, Any]:
    """What the extension reads of the texts inside pictures."""
    from PIL import Image

    found = {}
    for name in names:
        with Image.open(folder / f"{name}.png") as image:
            found[name] = doors.read_infotext(image.text["parameters"])
    return found


def inspected(file: Path, digest: bool = False) -> dict[str, Any]:
    """What `inspect` tells of a checkpoint; the hash only where the file's bytes are frozen."""
    found = json.loads(command("inspect", str(file), "--json"))
    return found if digest else {key: value for key, value in found.items() if key != "sha256"}


def native_files(folder: Path) -> dict[str, Path]:
    """FaceSnap's own checkpoints by name: converted ones, one of its own with FFRNet, and a small one kept whole."""
    names = [file.name.removesuffix(".safetensors.header.json") for file in sorted((MODELS / "converted").iterdir())]
    files = {name: thaw(f"converted/{name}.safetensors", folder / f"{name}.safetensors") for name in names}
    for name in ("facesnap", "faceid-plus", "faceid-plusv2"):
        files[name] = thaw(f"{name}.safetensors", folder / f"{name}.safetensors")
    return files | {"small": CHECKPOINTS / "small.safetensors"}


def checkpoints(folder: Path) -> dict[str, Any]:
    """What is told of FaceSnap's own checkpoints, and some of their ID tokens."""
    found = {}
    for name, file in native_files(folder).items():
        told = inspected(file, digest=name == "small")
        found[name] = {"inspect": told, "tokens": tokens(name, file, told["levels"] or ())}
    return found


@torch.no_grad()
def tokens(name: str, file: Path, levels: list[int]) -> dict[str, Any]:
    """Some numbers of the ID tokens of inputs that are always the same."""
    width, vector = SEEN[name]
    id_width = 16 if name == "small" else 512

    def drawn(*shape: int) -> torch.Tensor:
        import numpy as np

        return torch.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32))

    hidden = {level: drawn(1, 2, 17 + n, width)[:, :, :17] for n, level in enumerate(levels)} if width else {}
    made = doors.adapter_tokens(file, drawn(1, 2, id_width), hidden, drawn(1, 2, vector) if vector else None)
    return {
        group: {"shape": list(one.shape), "std": float(one.std()), "first": one.flatten()[:4].tolist()}
        for group, one in made.items()
    }


def public(folder: Path) -> dict[str, Any]:
    """What is told of public files, and the headers of what they are converted to."""
    found = {}
    for family in inputs.PUBLIC:
        file = inputs.public_file(family, folder / family)
        out = folder / f"{family}.safetensors"
        more = ["--add-landmarks"] if family == "instantid" else []
        command("convert", str(file), "--out", str(out), "--name", f"frozen {family}", *more)
        found[family] = {"inspect": inspected(file), "converted": header_of(out)["metadata"]}
    return found


def identities(folder: Path) -> dict[str, Any]:
    """What is told of saved identities, and their fused vectors."""
    found: dict[str, Any] = {}
    for file in sorted(IDENTITIES.glob("*.safetensors")):
        told = json.loads(command("identity", "show", str(file), "--json"))
        told.pop("file")
        who = doors.Identity.load(file)
        vectors = {kind: who.f_id(kind)[:4].tolist() for kind in ("normed", "raw")}
        found[file.stem] = {"show": told, "vectors": vectors}
    files = [str(IDENTITIES / f"{name}.safetensors") for name in ("two-photos", "bare")]
    found["alike"] = json.loads(command("identity", "compare", *files, "--json"))["cosine"]
    return found


def prepared(folder: Path) -> dict[str, Any]:
    """What is read of prepared training data."""
    data = doors.Shards(PREPARED)
    names = ["mean", "crop", "points", "box", "matrix", "hidden.-2", "hidden.1"]
    tensors = {}
    for name in names:
        one = data.tensor(0, name)
        tensors[name] = {"shape": list(one.shape), "type": str(one.dtype), "mean": float(one.double().mean())}
    zero = {str(level): list(one.shape) for level, one in data.zero.items()}
    report = json.loads((PREPARED / "report.json").read_text(encoding="utf-8"))
    return doors.plain({"head": data.head, "rows": data.rows, "people": data.people, "zero": zero, "tensors": tensors,
                        "report": report})  # fmt: skip


def training(folder: Path) -> dict[str, Any]:
    """Training configurations as they are read, defaults filled in."""
    import yaml

    found = {}
    names = ("sd15-12GB", "sd15-24GB", "sdxl-24GB", "sdxl-multi-gpu", "tiny-cpu")
    changes = ["--set", "base.model=other", "--set", "stages.0.losses.identity=0.5", "--set", "recogniser=r.onnx"]
    for name in (*names, str(HERE / "training.yaml"), str(HERE / "training-least.yaml")):
        found[Path(name).stem] = yaml.safe_load(command("train", name, "--print"))
    found["changed"] = yaml.safe_load(command("train", "sd15-12GB", "--print", *changes))
    return doors.plain(found)


def outputs(folder: Path, face_pack: Path, components: Path) -> dict[str, Any]:
    """What the commands about faces print as JSON, with real face models on real photos."""
    inputs.photos(folder, components / "photos" / "obama.jpg")
    pack, out = ["--pack", str(face_pack), "--json"], ["--out", str(folder / "drawn.png")]
    photo, driver = str(folder / "closer.png"), str(folder / "driver.png")
    pose = ["--yaw", "20", "--pitch", "-5", "--expression", "smile:0.8+wink_left", "--size", "256x192"]
    commands = {
        "analyse": ["analyse", photo, *pack],
        "landmarks": ["landmarks", "--reference", photo, *pack, *out],
        "landmarks in a pose": ["landmarks", "--reference", photo, *pose, *pack, *out],
        "landmarks of a driver": ["landmarks", "--reference", photo, "--driver", driver, "--expression-gain", "0.5",
                                  "--framing", "true size", *pack, *out],
        "identity compare": ["identity", "compare", photo, driver, *pack],
    }  # fmt: skip
    found = {}
    for name, arguments in commands.items():
        text = command(*arguments).replace(json.dumps(str(folder))[1:-1], "FOLDER").replace("\\\\", "/")
        found[name] = json.loads(text.replace(json.dumps(str(face_pack))[1:-1], "PACK"))
    return found


FACTS: dict[str, Callable[[Path], Any]] = {
    one.__name__: one for one in (checkpoints, public, identities, prepared, training)
}
