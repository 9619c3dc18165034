"""How each public family wants its inputs prepared, and what it suggests.

Pictures are RGB everywhere. `model_card` says where the official example does otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from facesnap.attach.conditioning import Rule

VIT_H = "ViT-H/14 1280x32 proj1024"  # ImageEncoder.name of CLIP-ViT-H-14-laion2B-s32B-b79K
EVA_TOWER = "EVA02-CLIP-L-14-336"
RESEARCH = "non-commercial research only, as the insightface pack that it was trained with"
FACEID_CARD = "the official example takes the detector's first face, not the largest"


@dataclass(frozen=True)
class Recipe:
    """One family's preprocessing.

    Attributes:
        title: for people.
        pack: face-analysis pack. recogniser: key of `facesnap.faces.recognisers.RECOGNISERS`.
        id_vector: "normed" or "raw". face: which face the official code takes of several.
        encoder: of the image tokens, or "". crop: what it looks at. levels: its hidden states.
        uncond: as in AdapterSpec. rule, zero_tokens: as in Conditioning.
        strength: suggested; structure: suggested strength of the ControlNet that belongs to the family, or None.
        cfg: suggested CFG scale, of the official example: ip_adapter_faceid.py (tencent-ailab/IP-Adapter), the demo of
            InstantID, app_v1_1.py (ToTheBeginning/PuLID) with a model that is not distilled. None: PuLID v1's example
            only runs SDXL-Lightning.
        side: suggested side of the picture, where it is another than the base model's.
        licence: of the weights, with their limits. model_card: where the official example differs.
    """

    title: str
    pack: str
    recogniser: str
    id_vector: str
    licence: str
    face: str = "largest"
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
    model_card: str = ""


def _faceid(title: str, **more: object) -> Recipe:
    values = {"pack": "buffalo_l", "recogniser": "w600k_r50", "id_vector": "normed", "licence": RESEARCH, "cfg": 7.5}
    return Recipe(**({"title": title, "face": "first", "model_card": FACEID_CARD} | values | more))  # type: ignore


def _plus(title: str) -> Recipe:
    return _faceid(
        title,
        encoder=VIT_H,
        crop="aligned by five points to 224 x 224",
        levels=(-2,),
        model_card=f"{FACEID_CARD}, and gives the encoder the crop in BGR order, which tints pictures",
    )


def _pulid(title: str, cfg: float | None = None) -> Recipe:
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
        rule=Rule.ORTHO_V2,
        zero_tokens=8,
        strength=0.8,
        cfg=cfg,
    )


RECIPES = {
    "faceid": _faceid("IP-Adapter FaceID"),
    "faceid-plus": _plus("IP-Adapter FaceID-Plus"),
    "faceid-plusv2": _plus("IP-Adapter FaceID-PlusV2"),
    "portrait": _faceid("IP-Adapter FaceID-Portrait"),
    "portrait-unnorm": _faceid("IP-Adapter FaceID-Portrait, unnormalised", id_vector="raw"),
    "instantid": Recipe(
        "InstantID",
        pack="antelopev2",
        recogniser="glintr100",
        id_vector="raw",
        licence="Apache-2.0; its insightface pack is for non-commercial research only",
        strength=0.8,
        structure=0.8,
        cfg=5.0,
        side=1016,  # at exactly 1024 watermarks of its training pictures show through
    ),
    "pulid-v1": _pulid("PuLID v1"),
    "pulid-v1.1": _pulid("PuLID v1.1", cfg=7.0),
}
# PuLID's other mode: (rule, zero tokens); its recipe is the faithful one.
PULID_STYLE = (Rule.ORTHO, 16)
