"""Well-known face-analysis packs and image encoders: their names, where they are published and under which licence.

Also what a download is (`Item`, `File`), so that a message about a missing pack or encoder can name the command that
fetches it. Checksums and sizes are those that the Hub's own pages list. Where no public page lists one there is none:
then the checksum that the server itself gives is all that a download is compared with, and a zip's own checksums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from facesnap.faces.recognisers import RECOGNISERS
from facesnap.remedies import program, remedy

HUB = "https://huggingface.co"
OWN = "FaceSnap"  # first part of `File.to`: FaceSnap's own folder (--facesnap-dir), models/FaceSnap where none is set
PACKS, ENCODERS = "insightface/models", "clip_vision"  # below the WebUI's folder of models
BASE_TITLES = {"sd15": "SD1.5", "sdxl": "SDXL"}
RESEARCH_ONLY = "non-commercial research only"
PACK_TERMS = f"{RESEARCH_ONLY} (insightface)"
PACK_LICENCES = {
    "buffalo_l": RESEARCH_ONLY,
    "buffalo_m": RESEARCH_ONLY,
    "buffalo_s": RESEARCH_ONLY,
    "antelopev2": RESEARCH_ONLY,
    "auraface": "Apache-2.0, commercial use allowed",
}
_RELEASE = "https://github.com/deepinsight/insightface/releases/download/v0.7"
PACK_SOURCES = {name: f"{_RELEASE}/{name}.zip" for name in ("buffalo_l", "buffalo_m", "buffalo_s", "antelopev2")}
PACK_SOURCES["auraface"] = f"{HUB}/fal/AuraFace-v1"
# Names that adapters know encoders by (`ImageEncoder.name`): CLIP-ViT-H-14-laion2B-s32B-b79K, and PuLID's tower.
VIT_H, EVA_TOWER = "ViT-H/14 1280x32 proj1024", "EVA02-CLIP-L-14-336"
# Names under which the files of well-known encoders are found, and where to get them.
ENCODER_FILES = {
    "vit-h": ("CLIP-ViT-H-14-laion2B-s32B-b79K", "CLIP-ViT-H-14", "clip_h", "image_encoder"),
    "vit-bigg": ("CLIP-ViT-bigG-14-laion2B-39B-b160k", "CLIP-ViT-bigG", "clip_g"),
    "vit-l": ("clip-vit-large-patch14", "CLIP-ViT-L-14", "clip_vitl", "clip_l"),
    "eva02-clip-l-14-336": (
        "EVA02_CLIP_L_336_psz14_s6B",
        "EVA02-CLIP-L-14-336",
        "eva02_large_patch14_clip_336.merged2b_s6b_b61k",
        "eva02_clip_l_336",
    ),
}
ENCODER_SOURCES = {
    "vit-h": f"{HUB}/h94/IP-Adapter (models/image_encoder/model.safetensors)",
    "vit-bigg": f"{HUB}/h94/IP-Adapter (sdxl_models/image_encoder/model.safetensors)",
    "vit-l": f"{HUB}/openai/clip-vit-large-patch14 (model.safetensors)",
    "eva02-clip-l-14-336": f"{HUB}/QuanSun/EVA-CLIP (EVA02_CLIP_L_336_psz14_s6B.pt)",
}
# Where the hub's client keeps files that other programs have fetched with it: (repository, file).
ENCODER_HUB_FILES = {"eva02-clip-l-14-336": ("QuanSun/EVA-CLIP", "EVA02_CLIP_L_336_psz14_s6B.pt")}
_ENCODER_KEYS = {"ViT-H": "vit-h", "ViT-bigG": "vit-bigg", "ViT-L": "vit-l"}


@dataclass(frozen=True)
class File:
    """One file of a download.

    Attributes:
        source: its path in the repository, or for files outside the Hub its address.
        to: where it goes, below the WebUI's folder of models; for a zip the folder of its content.
        megabytes: about how large it is. size: bytes, where that is known exactly.
        sha256: of the file; "" where no public page lists it.
        unpack: it is a zip of ONNX files. inside: name -> sha256 of those that it is known to hold.
    """

    source: str
    to: str
    megabytes: float
    size: int | None = None
    sha256: str = ""
    unpack: bool = False
    inside: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the file that is downloaded."""
        return PurePosixPath(self.source).name if self.unpack else PurePosixPath(self.to).name


@dataclass(frozen=True)
class Item:
    """Something that can be downloaded under one name.

    Attributes:
        name: for the command line. title, purpose: for people. repository: on the Hub, "" for files outside it.
        revision: of the repository. licence: of these weights, in short; consent is asked for it.
        kind: "adapter", "encoder" or "pack". base: "sd15", "sdxl" or "" (of adapters).
    """

    name: str
    title: str
    purpose: str
    kind: str
    licence: str
    files: tuple[File, ...]
    repository: str = ""
    base: str = ""
    revision: str = "main"

    @property
    def megabytes(self) -> float:
        return sum(file.megabytes for file in self.files)

    @property
    def page(self) -> str:
        """Where to read about it, licence included."""
        return f"{HUB}/{self.repository}" if self.repository else "https://github.com/deepinsight/insightface"

    @property
    def command(self) -> str:
        """The command that fetches it."""
        return f"{program()} download {self.name}"


def _zip(name: str, megabytes: float, recogniser: str) -> Item:
    inside = {f"{recogniser}.onnx": RECOGNISERS[recogniser].sha256}
    return Item(name, f"face-analysis pack {name}", f"detector, landmarks and the recogniser {recogniser}", "pack",
                PACK_TERMS, (File(PACK_SOURCES[name], f"{PACKS}/{name}", megabytes, unpack=True, inside=inside),),
                )  # fmt: skip


def _auraface(file: str, megabytes: float, sha256: str = "", size: int | None = None) -> File:
    return File(file, f"{PACKS}/auraface/{file}", megabytes, size, sha256)


DOWNLOADS = (
    Item("vit-h", "image encoder CLIP ViT-H/14", "FaceID-Plus and PlusV2 look at the face through it", "encoder",
         "MIT by LAION, Apache-2.0 by h94/IP-Adapter",
         (File("models/image_encoder/model.safetensors", f"{ENCODERS}/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
               2528, 2_528_373_448, "6ca9667da1ca9e0b0f75e46bb030f7e011f44f86cbfb8d5a36590fcd7507b030"),),
         "h94/IP-Adapter"),
    Item("eva02-clip-l-14-336", "image encoder EVA02-CLIP-L-14-336", "PuLID looks at the face through it", "encoder",
         "MIT",
         (File("EVA02_CLIP_L_336_psz14_s6B.pt", f"{ENCODERS}/EVA02_CLIP_L_336_psz14_s6B.pt", 856, None,
               "84c3a17a228c567a155259b2245b0b59072bf7da510260a0a02ec54de6d50b05"),),
         "QuanSun/EVA-CLIP"),
    _zip("buffalo_l", 289, "w600k_r50"),
    _zip("antelopev2", 361, "glintr100"),
    Item("auraface", "face-analysis pack AuraFace", "a recogniser that may be used commercially; the public adapters "
         "were trained with others and do not understand its vectors", "pack", PACK_LICENCES["auraface"],
         (_auraface("scrfd_10g_bnkps.onnx", 16.9, "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
                    16_923_827),
          _auraface("glintr100.onnx", 261, "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60"),
          _auraface("1k3d68.onnx", 144, "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc"),
          _auraface("2d106det.onnx", 5.0),
          _auraface("genderage.onnx", 1.3)),
         "fal/AuraFace-v1"),
)  # fmt: skip


def encoder_key(name: str) -> str:
    """The short name ("vit-h") of an encoder that adapters call by its `ImageEncoder.name`; other names stay."""
    return _ENCODER_KEYS.get(name.split("/")[0], name)


def advice(name: str, otherwise: str) -> str:
    """The remedy for a missing pack or encoder: the command that fetches it, or `otherwise` where there is none."""
    item = next((item for item in DOWNLOADS if plain(item.name) == plain(name)), None)
    return otherwise if item is None else remedy("download", name=item.name, licence=item.licence)


def plain(name: str) -> str:
    """A name as it is compared: case, and `_` for `-`, make no difference."""
    return name.strip().lower().replace("_", "-")
