"""IP-Adapter FaceID, Plus, PlusV2, Portrait and its unnormalised form: stage 1 of the mixer, or stage 2 alone.

The unnormalised Portrait has InstantID's resampler; everything else has the two linear layers of FaceID, and Plus a
perceiver over CLIP tokens behind them. CFG scales are those of ip_adapter_faceid.py (tencent-ailab/IP-Adapter).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from facesnap.checkpoints import foreign
from facesnap.faces.known import BASE_TITLES, OWN, RESEARCH_ONLY, VIT_H, File, Item
from facesnap.families.base import OfficialPreprocessing
from facesnap.families.ip_adapter import IPAdapterFamily, is_resampler

ID_TOKENS = 4  # of FaceID; Portrait has 16
PERCEIVER = "perceiver_resampler.proj_in.weight"
RESEARCH = f"{RESEARCH_ONLY}, as the insightface pack that it was trained with"
TERMS = f"{RESEARCH_ONLY}: trained with insightface's recognisers"


@dataclass(frozen=True, kw_only=True, eq=False)
class FaceID(IPAdapterFamily):
    """Two linear layers over the vector; a perceiver behind them looks at CLIP tokens in Plus and PlusV2."""

    def is_projection(self, projection: Mapping[str, Tensor]) -> bool:
        vector = projection.get("proj.0.weight")
        if vector is None or "proj.2.weight" not in projection or "norm.weight" not in projection:
            return False
        if vector.ndim != 2 or vector.shape[1] != foreign.ID_WIDTH:  # adapters for FLUX take an encoder's, 1152 wide
            return False
        if PERCEIVER in projection or self.encoder:
            return PERCEIVER in projection and bool(self.encoder)  # Plus and PlusV2 look alike
        rows, width = projection["proj.2.weight"].shape[:1], projection["norm.weight"].shape[:1]
        tokens = rows[0] // width[0] if rows and width else 0
        return (tokens > ID_TOKENS) == self.official_preprocessing.alike  # Portrait is made for several photos


@dataclass(frozen=True, kw_only=True, eq=False)
class UnnormalisedPortrait(IPAdapterFamily):
    """InstantID's resampler on FaceID's recogniser."""

    def is_projection(self, projection: Mapping[str, Tensor]) -> bool:
        return is_resampler(projection)


def _download(stem: str, megabytes: float, sha256: str, size: int | None = None) -> Item:
    file, base = f"ip-adapter-{stem}.bin", "sdxl" if "sdxl" in stem else "sd15"
    files = (File(file, f"{OWN}/{file}", megabytes, size, sha256),)
    purpose = f"adapter for {BASE_TITLES[base]}"
    return Item(stem.replace("_", "-"), file, purpose, "adapter", TERMS, files, "h94/IP-Adapter-FaceID", base)


_FACEID: dict[str, Any] = {
    "licence": RESEARCH,
    "recogniser": "w600k_r50",
    "cfg": 7.5,
    "official_preprocessing": OfficialPreprocessing(face="first"),
    "lora_in_prompt": r"<lora:([^:>]*face[-_ ]?id[^:>]*)[:>]",
}
_PLUS = _FACEID | {
    "encoder": VIT_H,
    "probe": (PERCEIVER, 1280),
    "levels": (-2,),
    "crop": "aligned by five points to 224 x 224",
    "official_preprocessing": OfficialPreprocessing(face="first", bgr=True),
}
_PORTRAIT = _FACEID | {"official_preprocessing": OfficialPreprocessing(face="first", alike=True)}

FAMILIES = (
    FaceID(
        key="faceid", title="IP-Adapter FaceID",
        downloads=(
            _download("faceid_sd15", 96.7,
                      "201344e22e6f55849cf07ca7a6e53d8c3b001327c66cb9710d69fd5da48a8da7", 96_740_574),
            _download("faceid_sdxl", 1071,
                      "f455fed24e207c878ec1e0466b34a969d37bab857c5faa4e8d259a0b4ff63d7e", 1_071_149_741),
        ), **_FACEID,
    ),
    FaceID(
        key="faceid-plus", title="IP-Adapter FaceID-Plus", hints=("plus",),
        folder_hints=(r"face[-_. ]?id[-_. ]?plus",), sha256=("252fb53e",),
        downloads=(
            _download("faceid-plus_sd15", 156.6,
                      "252fb53e0d018489d9e7f9b9e2001a52ff700e491894011ada7cfb471e0fadf2", 156_558_503),
        ), **_PLUS,
    ),
    FaceID(
        key="faceid-plusv2", title="IP-Adapter FaceID-PlusV2", hints=("plus.*v2", "v2.*plus"),
        folder_hints=(r"(face[-_. ]?id[-_. ]?)?plus[-_. ]?v2",), sha256=("26d0d86a", "c6945d82"), shortcut=True,
        downloads=(
            _download("faceid-plusv2_sd15", 156.6,
                      "26d0d86a1d60d6cc811d3b8862178b461e1eeb651e6fe2b72ba17aa95411e313", 156_558_509),
            _download("faceid-plusv2_sdxl", 1488,
                      "c6945d82b543700cc3ccbb98d363b837e9c596281607857c74b713a876daf5fb", 1_487_555_181),
        ), **_PLUS,
    ),
    FaceID(
        key="portrait", title="IP-Adapter FaceID-Portrait",
        downloads=(
            _download("faceid-portrait_sd15", 64.6,
                      "68570f3c14fe125b00d4abf416af33d8b13bb496f4e55af2eb5d0a6017ee99a4", 64_586_611),
            _download("faceid-portrait-v11_sd15", 64.6,
                      "a48cb4f89ed18e02c6000f65aa9efec452e87eaed4a1bc9fcf4a460c8d0e3bc6", 64_586_623),
            _download("faceid-portrait_sdxl", 750,
                      "5631ce7824cdafd2db37c5e85b985730a95ff59c5b4fc80c2b79b0bee5711512"),
        ), **_PORTRAIT,
    ),
    UnnormalisedPortrait(
        key="portrait-unnorm", title="IP-Adapter FaceID-Portrait, unnormalised", hints=("unnorm", "portrait"),
        folder_hints=("unnorm", "portrait", r"face[-_. ]?id"),
        part="stage2.", group="mix", id_vector="raw",
        downloads=(
            _download("faceid-portrait_sdxl_unnorm", 1010,
                      "220bb86e205393a3d0411631cb473caddbf35fd371be2905ca9008818170db55", 1_009_523_411),
        ), **_FACEID,
    ),
)  # fmt: skip
