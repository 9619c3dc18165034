"""What `facesnap download` knows: which files, from where, under which licence, into which folder, what for.

Checksums and sizes are those that the Hub's own pages list. Where no public page lists one there is none: then the
checksum that the server itself gives is all that a download is compared with, and a zip's own checksums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from facesnap.errors import SettingsError
from facesnap.faces.packs import PACK_SOURCES
from facesnap.faces.recognisers import RECOGNISERS

HUB = "https://huggingface.co"
OWN = "FaceSnap"  # first part of `File.to`: FaceSnap's own folder (--facesnap-dir), models/FaceSnap where none is set
PACKS = "insightface/models"
ENCODERS = "clip_vision"
BASES = {"sd15": "SD1.5", "sdxl": "SDXL"}
FACEID = "h94/IP-Adapter-FaceID"
FACEID_TERMS = "non-commercial research only: trained with insightface's recognisers"
PACK_TERMS = "non-commercial research only (insightface)"


@dataclass(frozen=True)
class File:
    """One file.

    Attributes:
        source: its path in the repository, or for files outside the Hub its address.
        to: where it goes, below the WebUI's folder of models; for a zip the folder of what is in it.
        megabytes: about how large it is. size: bytes, where that is known exactly.
        sha256: of the file; "" where no public page lists it.
        unpack: it is a zip of ONNX files. inside: name -> sha256 of what it is known to hold.
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
        kind: "adapter", "encoder" or "pack".
        families: keys of RECIPES that are, or need, this. base: "sd15", "sdxl" or "" (of adapters).
    """

    name: str
    title: str
    purpose: str
    kind: str
    licence: str
    files: tuple[File, ...]
    repository: str = ""
    families: tuple[str, ...] = ()
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
        """What fetches it."""
        return f"facesnap download {self.name}"


def _faceid(stem: str, family: str, megabytes: float, sha256: str, size: int | None = None) -> Item:
    file, base = f"ip-adapter-{stem}.bin", "sdxl" if "sdxl" in stem else "sd15"
    files = (File(file, f"{OWN}/{file}", megabytes, size, sha256),)
    purpose = f"adapter for {BASES[base]}"
    return Item(stem.replace("_", "-"), file, purpose, "adapter", FACEID_TERMS, files, FACEID, (family,), base)


def _pulid(version: str, megabytes: float, suffix: str, sha256: str = "") -> Item:
    file = f"pulid_v{version}{suffix}"
    return Item(f"pulid-v{version}", f"PuLID v{version}", "adapter for SDXL", "adapter",
                f"Apache-2.0; it needs antelopev2, which is for {PACK_TERMS}",
                (File(file, f"{OWN}/{file}", megabytes, None, sha256),), "guozinan/PuLID", (f"pulid-v{version}",),
                "sdxl")  # fmt: skip


def _zip(name: str, megabytes: float, recogniser: str, file: str, families: tuple[str, ...]) -> Item:
    inside = {file: RECOGNISERS[recogniser].sha256}
    return Item(name, f"face-analysis pack {name}", f"detector, landmarks and the recogniser {recogniser}", "pack",
                PACK_TERMS, (File(PACK_SOURCES[name], f"{PACKS}/{name}", megabytes, unpack=True, inside=inside),),
                families=families)  # fmt: skip


def _auraface(file: str, megabytes: float, sha256: str = "", size: int | None = None) -> File:
    return File(file, f"{PACKS}/auraface/{file}", megabytes, size, sha256)


CATALOGUE = (
    _faceid("faceid_sd15", "faceid", 96.7,
            "201344e22e6f55849cf07ca7a6e53d8c3b001327c66cb9710d69fd5da48a8da7", 96_740_574),
    _faceid("faceid-plus_sd15", "faceid-plus", 156.6,
            "252fb53e0d018489d9e7f9b9e2001a52ff700e491894011ada7cfb471e0fadf2", 156_558_503),
    _faceid("faceid-plusv2_sd15", "faceid-plusv2", 156.6,
            "26d0d86a1d60d6cc811d3b8862178b461e1eeb651e6fe2b72ba17aa95411e313", 156_558_509),
    _faceid("faceid-portrait_sd15", "portrait", 64.6,
            "68570f3c14fe125b00d4abf416af33d8b13bb496f4e55af2eb5d0a6017ee99a4", 64_586_611),
    _faceid("faceid-portrait-v11_sd15", "portrait", 64.6,
            "a48cb4f89ed18e02c6000f65aa9efec452e87eaed4a1bc9fcf4a460c8d0e3bc6", 64_586_623),
    _faceid("faceid_sdxl", "faceid", 1071,
            "f455fed24e207c878ec1e0466b34a969d37bab857c5faa4e8d259a0b4ff63d7e", 1_071_149_741),
    _faceid("faceid-plusv2_sdxl", "faceid-plusv2", 1488,
            "c6945d82b543700cc3ccbb98d363b837e9c596281607857c74b713a876daf5fb", 1_487_555_181),
    _faceid("faceid-portrait_sdxl", "portrait", 750,
            "5631ce7824cdafd2db37c5e85b985730a95ff59c5b4fc80c2b79b0bee5711512"),
    _faceid("faceid-portrait_sdxl_unnorm", "portrait-unnorm", 1010,
            "220bb86e205393a3d0411631cb473caddbf35fd371be2905ca9008818170db55", 1_009_523_411),
    Item("instantid", "InstantID", "adapter and IdentityNet for SDXL", "adapter",
         f"Apache-2.0, checkpoints for research by its README; it needs antelopev2, which is for {PACK_TERMS}",
         (File("ip-adapter.bin", f"{OWN}/ip-adapter_instant_id_sdxl.bin", 1691, 1_691_134_141,
               "02b3618e36d803784166660520098089a81388e61a93ef8002aa79a5b1c546e1"),
          File("ControlNetModel/diffusion_pytorch_model.safetensors", f"{OWN}/control_instant_id_sdxl.safetensors",
               2502, 2_502_139_136, "c8127be9f174101ebdafee9964d856b49b634435cf6daa396d3f593cf0bbbb05")),
         "InstantX/InstantID", ("instantid",), "sdxl"),
    _pulid("1", 1580, ".bin"),
    _pulid("1.1", 984, ".safetensors", "4cb8ceec1078e0165399b88332ab3c5971619111b8e1730e6bae64144aabae41"),
    Item("vit-h", "image encoder CLIP ViT-H/14", "FaceID-Plus and PlusV2 look at the face through it", "encoder",
         "MIT by LAION, Apache-2.0 by h94/IP-Adapter",
         (File("models/image_encoder/model.safetensors", f"{ENCODERS}/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
               2528, 2_528_373_448, "6ca9667da1ca9e0b0f75e46bb030f7e011f44f86cbfb8d5a36590fcd7507b030"),),
         "h94/IP-Adapter", ("faceid-plus", "faceid-plusv2")),
    Item("eva02-clip-l-14-336", "image encoder EVA02-CLIP-L-14-336", "PuLID looks at the face through it", "encoder",
         "MIT",
         (File("EVA02_CLIP_L_336_psz14_s6B.pt", f"{ENCODERS}/EVA02_CLIP_L_336_psz14_s6B.pt", 856, None,
               "84c3a17a228c567a155259b2245b0b59072bf7da510260a0a02ec54de6d50b05"),),
         "QuanSun/EVA-CLIP", ("pulid-v1", "pulid-v1.1")),
    _zip("buffalo_l", 289, "w600k_r50", "w600k_r50.onnx",
         ("faceid", "faceid-plus", "faceid-plusv2", "portrait", "portrait-unnorm")),
    _zip("antelopev2", 361, "glintr100", "glintr100.onnx", ("instantid", "pulid-v1", "pulid-v1.1")),
    Item("auraface", "face-analysis pack AuraFace", "a recogniser that may be used commercially; the public adapters "
         "were trained with others and do not understand its vectors", "pack", "Apache-2.0, commercial use allowed",
         (_auraface("scrfd_10g_bnkps.onnx", 16.9, "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
                    16_923_827),
          _auraface("glintr100.onnx", 261, "a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60"),
          _auraface("1k3d68.onnx", 144, "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc"),
          _auraface("2d106det.onnx", 5.0),
          _auraface("genderage.onnx", 1.3)),
         "fal/AuraFace-v1"),
)  # fmt: skip


def find(name: str) -> Item:
    """An item by its name, by that of its file, or with `_` for `-`; case is ignored.

    Raises:
        SettingsError: there is none.
    """
    wanted = _plain(name)
    for item in CATALOGUE:
        stems = {PurePosixPath(file.to).name for file in item.files if item.kind == "adapter"}
        if wanted in {_plain(item.name), *map(_plain, stems), *(_plain(PurePosixPath(stem).stem) for stem in stems)}:
            return item
    raise SettingsError(
        f"The catalogue has no {name!r}.",
        expected=", ".join(item.name for item in CATALOGUE),
        remedy="choose one of these; `facesnap download --list` tells more",
    )


def for_family(family: str, base: str = "") -> list[Item]:
    """What a family needs (pack, encoder) and, of its adapters, those for the base."""
    return [item for item in CATALOGUE if family in item.families and item.base in ("", base)]


def advice(name: str, otherwise: str) -> str:
    """What a message tells people to do about a missing item: the command, or `otherwise` if the catalogue lacks it."""
    item = next((item for item in CATALOGUE if _plain(item.name) == _plain(name)), None)
    return otherwise if item is None else f"run `{item.command}` (licence: {item.licence})"


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")
