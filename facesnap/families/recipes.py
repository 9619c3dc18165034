"""How each public family wants its inputs prepared, and what it suggests.

Pictures are RGB everywhere. `OfficialPreprocessing` says where the official example differs; a switch follows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from facesnap.attach.conditioning import Rule

VIT_H = "ViT-H/14 1280x32 proj1024"  # ImageEncoder.name of CLIP-ViT-H-14-laion2B-s32B-b79K
EVA_TOWER = "EVA02-CLIP-L-14-336"
# PuLID's modes: (rule, zero tokens). Its recipe is the first; the other one leaves the prompt's style alone.
PULID_MODES = {"fidelity": (Rule.ORTHO_V2, 8), "style": (Rule.ORTHO, 16)}
RESEARCH = "non-commercial research only, as the insightface pack that it was trained with"


@dataclass(frozen=True)
class OfficialPreprocessing:
    """Where a family's official example differs from what FaceSnap does by itself.

    Attributes:
        face: which face it takes of several: "largest", or "first", the one that the detector is surest of.
        bgr: the encoder gets the crop in BGR order, which tints pictures.
        joins: several photos' tokens are joined (the first's, and of the others those of their vectors) instead of
            averaged by quality.
        alike: every one of several photos counts the same, whatever its quality.
        longest: larger photos are first reduced to this many pixels on their longer side, or None.
    """

    face: str = "largest"
    bgr: bool = False
    joins: bool = False
    alike: bool = False
    longest: int | None = None

    @property
    def text(self) -> str:
        """For people; empty where nothing differs."""
        said = (
            (self.face == "first", "takes the face that the detector is surest of, not the largest"),
            (self.bgr, "gives the encoder the crop in BGR order, which tints pictures"),
            (self.joins, "joins several photos' tokens instead of averaging them"),
            (self.alike, "lets several photos count alike, whatever their quality"),
            (self.longest, f"first reduces photos to {self.longest} pixels on their longer side"),
        )
        found = [words for differs, words in said if differs]
        return f"the official example {', and '.join(found)}" if found else ""


@dataclass(frozen=True)
class Recipe:
    """One family's preprocessing.

    Attributes:
        title: for people.
        pack: face-analysis pack. recogniser: key of `facesnap.faces.recognisers.RECOGNISERS`.
        id_vector: "normed" or "raw".
        encoder: of the image tokens, or "". crop: what it looks at. levels: its hidden states.
        uncond: as in AdapterSpec. rule, zero_tokens: as in Conditioning.
        strength: suggested; structure: suggested strength of the ControlNet that belongs to the family, or None.
        cfg: suggested CFG scale, of the official example: ip_adapter_faceid.py (tencent-ailab/IP-Adapter), the demo of
            InstantID, app_v1_1.py (ToTheBeginning/PuLID) with a model that is not distilled. None: PuLID v1's example
            only runs SDXL-Lightning.
        side: suggested side of the picture, where it is another than the base model's.
        licence: of the weights, with their limits. card: where the official example differs.
    """

    title: str
    pack: str
    recogniser: str
    id_vector: str
    licence: str
    encoder: str = ""
    crop: str = ""
    levels: tuple[int, ...] = ()
    uncond: str = "encoded"
    rule: Rule = Rule.ADD
    zero_tokens: int = 0
    strength: float = 1.0
    structure: float | None = None
    cfg: float | None = None
    side: int | None = None
    card: OfficialPreprocessing = OfficialPreprocessing()


def _faceid(title: str, **more: object) -> Recipe:
    values = {"pack": "buffalo_l", "recogniser": "w600k_r50", "id_vector": "normed", "licence": RESEARCH, "cfg": 7.5}
    return Recipe(**({"title": title, "card": OfficialPreprocessing(face="first")} | values | more))  # type: ignore


def _plus(title: str) -> Recipe:
    return _faceid(
        title,
        encoder=VIT_H,
        crop="aligned by five points to 224 x 224",
        levels=(-2,),
        card=OfficialPreprocessing(face="first", bgr=True),
    )


def _pulid(title: str, *, joins: bool, cfg: float | None = None) -> Recipe:
    return Recipe(
        title,
        pack="antelopev2",
        recogniser="glintr100",
        id_vector="raw",
        licence="Apache-2.0; its insightface pack is for non-commercial research only",
        encoder=EVA_TOWER,
        crop="aligned to 512 x 512, background white, face grey, bicubic to 336",
        levels=(4, 8, 12, 16, 20),
        uncond="zeros",
        rule=PULID_MODES["fidelity"][0],
        zero_tokens=PULID_MODES["fidelity"][1],
        strength=0.8,
        card=OfficialPreprocessing(joins=joins, longest=1024),
        cfg=cfg,
    )


RECIPES = {
    "faceid": _faceid("IP-Adapter FaceID"),
    "faceid-plus": _plus("IP-Adapter FaceID-Plus"),
    "faceid-plusv2": _plus("IP-Adapter FaceID-PlusV2"),
    "portrait": _faceid("IP-Adapter FaceID-Portrait", card=OfficialPreprocessing(face="first", alike=True)),
    "portrait-unnorm": _faceid("IP-Adapter FaceID-Portrait, unnormalised", id_vector="raw"),
    "instantid": Recipe(
        "InstantID",
        pack="antelopev2",
        recogniser="glintr100",
        id_vector="raw",
        licence="Apache-2.0, for research by its README; its insightface pack is for non-commercial research only",
        strength=0.8,
        structure=0.8,
        cfg=5.0,
        side=1016,  # at exactly 1024 watermarks of its training pictures show through
    ),
    "pulid-v1": _pulid("PuLID v1", joins=True),
    "pulid-v1.1": _pulid("PuLID v1.1", joins=False, cfg=7.0),
}


def official_preprocessing(family: str) -> OfficialPreprocessing:
    """The official example of a family; of FaceSnap's own adapters there is none, and nothing differs."""
    return RECIPES[family].card if family in RECIPES else OfficialPreprocessing()
