"""What is asked: payloads, flat lists, infotexts and X/Y/Z cells whose answers the frozen files hold."""

from __future__ import annotations

from typing import Any

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
MASK = f"data:image/png;base64,{PICTURE}"
DIGEST = "0123456789abcdef" * 4

POSE: dict[str, Any] = {
    "source": "picture", "image": PICTURE, "yaw": 20, "pitch": -12.5, "roll": 7, "x": 0.4, "y": 0.35, "size": 0.5,
    "expression": {"smile": 0.8, "wink_left": 1}, "framing": "true size",
}  # fmt: skip
PERSON: dict[str, Any] = {
    "references": [PICTURE, MASK], "strength": 0.55, "structure": 0.45, "face": "leftmost", "start": 0.1, "end": 0.7,
    "structure_start": 0.05, "structure_end": 0.65, "s_struct": 1.5, "lora": 0.4, "lora_in_region": True,
    "blocks": {"middle": 0.5, "output.3": 0.8, "input.4.1.0": 0}, "region": {"x": 0, "y": 0.1, "w": 0.5, "h": 0.9},
    "pose": POSE,
}  # fmt: skip
ANN: dict[str, Any] = {"identity": "Ann"}
WHOLE: dict[str, Any] = {
    "enabled": True, "adapter": "own adapter", "preset": "Creative", "speed": "exact", "hires": "second",
    "pulid_mode": "style", "model_card": True, "on_error": "skip",
}  # fmt: skip
EVERYTHING: dict[str, Any] = {**WHOLE, "people": [PERSON, ANN, {"identity": "Bob", "face": 2, "region": MASK}]}

_ONE_BY_ONE = [{key: value} for key, value in WHOLE.items()]
_PERSON_ONE_BY_ONE = [{**ANN, key: value} for key, value in PERSON.items() if key != "references"]
_POSE_ONE_BY_ONE = [{**ANN, "pose": {key: value}} for key, value in POSE.items()]
_PRESETS = [{**ANN, "preset": name} for name in ("Faithful", "balanced", "CREATIVE", "Fast")]
_SOURCES = [{**ANN, "pose": {"source": name}} for name in ("none", "reference", "picture", "init", "canvas")]
_OTHER_FORMS = [
    {"references": PICTURE},
    {"references": [PICTURE], "face": 1},
    {"references": [PICTURE], "face": "central"},
    {**ANN, "blocks": "middle=0.5 output.3=0.8"},
    {**ANN, "pose": {"expression": "smile:0.8+wink_left"}},
    {**ANN, "pose": {"expression": {}}},
    {**ANN, "region": MASK},
    {**ANN, "lora": 0, "strength": 0, "structure": 0},
    {**ANN, "strength": None, "preset": "Fast", "pose": None},
    {**ANN, "adapter": "Automatic"},
    {**ANN, "adapter": "none", "speed": "FAST", "hires": "First"},
    {"people": [ANN, {"identity": "None", "references": [PICTURE]}]},
    {"people": []},
    {},
]
OBJECTS: list[dict[str, Any]] = [
    EVERYTHING, *_ONE_BY_ONE, *_PERSON_ONE_BY_ONE, *_POSE_ONE_BY_ONE, *_PRESETS, *_SOURCES, *_OTHER_FORMS,
]  # fmt: skip
ARGS: list[list[Any]] = [
    *([one] for one in OBJECTS),
    [True, ANN],
    [False, ANN],
    [True, EVERYTHING, "values", "of the page", None],
    [False],
    [True],
    [],
]
REFUSED: list[list[Any]] = [
    [{"strenght": 1}],
    [{**ANN, "pose": {"yav": 1}}],
    [{"people": [{**ANN, "styrka": 1}]}],
    [{"people": [ANN], "strength": 1}],
    [{**ANN, "strength": 10.5}],
    [{**ANN, "strength": "strong"}],
    [{**ANN, "strength": True}],
    [{**ANN, "start": 0.9, "end": 0.2}],
    [{**ANN, "structure_start": 0.9, "structure_end": 0.2}],
    [{**ANN, "region": {"x": 0, "y": 0, "w": 0.5}}],
    [{**ANN, "region": {"x": 0.6, "y": 0, "w": 0.5, "h": 1}}],
    [{**ANN, "blocks": {"top": 1}}],
    [{**ANN, "blocks": {"middle": 11}}],
    [{**ANN, "pose": {"yaw": 91}}],
    [{**ANN, "pose": {"expression": {"grin": 1}}}],
    [{**ANN, "pose": {"source": "mirror"}}],
    [{**ANN, "preset": "Sharp"}],
    [{**ANN, "enabled": "yes"}],
    [{"people": [ANN] * 4}],
    [{"people": "Ann"}],
    [{"references": [PICTURE] * 17}],
    [{"references": 3}],
    [{**ANN, "face": -1}],
    [ANN, ANN],
    ["yes", ANN],
]


def flat_lists(defaults: list[Any], order: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Lists of the controls' values; order: the controls."""
    places = {one["txt2img"].removeprefix("facesnap_txt2img_"): n for n, one in enumerate(order)}

    def changed(**values: Any) -> list[Any]:
        made = list(defaults)
        for name, value in values.items():
            made[places[name]] = value
        return made

    return {
        "defaults": changed(),
        "empty": [],
        "on": changed(enabled=True, p1_references=[PICTURE]),
        "short": changed(enabled=True, p1_references=[PICTURE])[:9],
        "second alone": changed(enabled=True, p2_identity="Ann", p2_strength=1.25, p2_pose_values="yaw=20 size=0.5"),
        "all of one": changed(
            enabled=True, adapter="own · FaceSnap · SD1.5", preset="Fast", speed="exact", hires="first",
            pulid_mode="style", model_card=True, p1_references=[PICTURE, PICTURE], p1_strength=0.3, p1_structure=0.2,
            p1_face="central", p1_start=0.1, p1_end=0.9, p1_structure_start=0.2, p1_structure_end=0.8,
            p1_s_struct=2.0, p1_lora=0.5, p1_lora_in_region=True, p1_blocks="middle=0.5, output.3=0.8",
            p1_region="0 0 0.5 1", p1_pose_source="picture", p1_pose_image=PICTURE,
            p1_pose_values="yaw=20, pitch=-5 roll=3 x=0.5 y=0.4 size=0.5", p1_pose_expression="smile:0.8+wink_left",
            p1_pose_framing="true size",
        ),
        "masks": changed(enabled=True, p1_identity="Ann", p1_region_mask=PICTURE, p3_identity="Bob", p3_face="2"),
    }  # fmt: skip


WRITTEN: list[dict[str, Any]] = [
    *({"args": [one]} for one in OBJECTS),
    {"args": [EVERYTHING], "adapter": ["own adapter", DIGEST],
     "seen": [{"digest": DIGEST, "references": 2, "similarity": 0.61234, "pose_picture": "a" * 64},
              {"digest": "b" * 64, "similarity": -0.05}, {"digest": "c" * 64, "region_mask": "d" * 64}]},
    {"args": [{"people": [{"identity": name} for name in "abcdefgh"]}], "most_people": 8},
    {"args": [{"identity": "Zoe, older: [1]", "adapter": "512x768"}], "adapter": ["512x768", ""]},
    {"args": [{"identity": "512x512"}], "adapter": ["x", "f" * 64], "seen": [{"digest": DIGEST}]},
    {"args": [False, ANN]},
]  # fmt: skip
# Texts that other programs, older pages or the command line made.
TEXTS = {
    "another program's": "a cat\nSteps: 20, Sampler: Euler a, Size: 512x768",
    "skipped": "FaceSnap identity: Ann, FaceSnap skipped: \"No face: none\", FaceSnap version: 0.1.0",
    "without a version": "Steps: 20, FaceSnap identity: Ann, FaceSnap strength: 0.5",
    "the command line's own keys": "a man\nSteps: 2, FaceSnap adapter: faceid [0123456789], FaceSnap photos: 1 "
    "[0123456789], FaceSnap strength: 1, FaceSnap structure: 0, FaceSnap LoRA: 0.4, FaceSnap LoRA region: masked, "
    "FaceSnap PuLID mode: style, FaceSnap expression gain: 0.7, FaceSnap version: 0.1.0",
    "both spellings": "FaceSnap identity: Ann, FaceSnap lora: 0.3, FaceSnap LoRA: 0.4, FaceSnap lora in region: true, "
    "FaceSnap LoRA region: masked, FaceSnap version: 0.1.0",
    "wrong values": "FaceSnap identity: Ann, FaceSnap strength: 50, FaceSnap start: 0.9, FaceSnap end: 0.2, FaceSnap "
    "yaw: north, FaceSnap blocks: top=1, FaceSnap speed: slow, FaceSnap preset: Sharp, FaceSnap version: 9",
    "too many": "FaceSnap identity: a, FaceSnap 2 identity: b, FaceSnap 3 photos: 2 [abcdef0123], FaceSnap 4 identity: "
    "d, FaceSnap version: 0.1.0",
}  # fmt: skip
KNOWN = {
    "nobody": {},
    "Ann of other content": {"Ann": "9" * 64},
    "Ann by another name": {"Anne": DIGEST},
    "Ann": {"Ann": DIGEST},
}
CELLS: dict[str, list[Any]] = {
    "Adapter": ["own", "Automatic"],
    "Preset": ["Faithful", "creative"],
    "Speed": ["fast"],
    "Identity": ["Zoe", "None"],
    "Strength": [0.3, "1.5"],
    "Structure strength": [0.25],
    "Start": [0.2],
    "End": [0.6],
    "Structure start": [0.15],
    "Structure end": [0.85],
    "Yaw": [-30.0, "15"],
    "Pitch": [12.0],
    "Roll": [-45.0],
    "Face size": [0.4],
    "Expression": ["smile", "smile:0.5+wink_left"],
}
TOGETHER = [
    [("Start", 0.95), ("End", 0.99)],
    [("End", 0.2), ("Start", 0.1), ("Preset", "Creative")],
    [("Strength", 0.2), ("Yaw", 30.0), ("Speed", "Fast")],
]
GRID_ARGS = [{"people": [{"references": PICTURE}, {"identity": "Ann", "pose": {"source": "none"}}]}]
SAVED_OPTIONS: list[dict[str, Any]] = [
    {},
    {
        "facesnap_people": 5.0, "facesnap_on_error": "skip", "facesnap_pack": "antelopev2",
        "facesnap_provider": "cuda", "facesnap_offload": True, "facesnap_adetailer": False, "facesnap_score": False,
        "facesnap_folders": "/a\n/b", "facesnap_api_paths": True, "facesnap_api_folders": "/c",
        "facesnap_api_urls": True, "facesnap_log": "debug",
    },
]  # fmt: skip
