"""People, looks, captions and splits: what is drawn, how often, and what the words say."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from facesnap.errors import SettingsError
from facesnap.landmarks.build_basis import PRESETS
from facesnap.world import (
    SPLITS,
    CameraView,
    Look,
    SyntheticPerson,
    caption,
    captions,
    express,
    hair,
    lighting,
    palette,
    people,
    split_of,
)
from facesnap.world.expressions import EXPRESSIONS
from facesnap.world.look import BEARD_FROM, BEARDS, GARMENTS, GLASSES, HAIR, HAIR_COLOURS, LIGHTS, STYLES

pytestmark = pytest.mark.usefixtures("portraits")  # sampling a person needs the head's sliders


@pytest.fixture(scope="module")
def cast() -> list[SyntheticPerson]:
    return [SyntheticPerson.sample(seed) for seed in range(100)]


@pytest.fixture(scope="module")
def looks(cast) -> list[Look]:
    return [Look.sample(number, person) for person in cast for number in range(16)]


def test_splits_share_nobody_and_refuse_to_be_crossed():
    seen = sorted(SPLITS.values(), key=lambda seeds: seeds.start)
    assert {"train", "held_out"} == set(SPLITS) and all(a.stop <= b.start for a, b in pairwise(seen))
    assert split_of(SPLITS["train"][-1]) == "train" and split_of(SPLITS["held_out"].start) == "held_out"
    assert list(people(5, 3)) == [5, 6, 7]
    with pytest.raises(SettingsError, match="leave the split train"):
        people(SPLITS["train"][-1], 2)
    for outside in (-1, SPLITS["held_out"].stop):
        with pytest.raises(SettingsError, match="no split"):
            SyntheticPerson.sample(outside)


def test_a_seed_is_a_person_whatever_came_before(cast):
    np.random.seed(0)
    SyntheticPerson.sample(77)
    again = SyntheticPerson.sample(3)
    assert again == cast[3] and len({p.head.changes["nose-hump-incr"] for p in cast}) == len(cast)
    first = Look.sample(2, again)
    assert first == Look.sample(2, again)
    assert first != Look.sample(3, again) and first != Look.sample(2, cast[4])


def frequencies(looks, attribute):
    return {name: count / len(looks) for name, count in Counter(getattr(look, attribute) for look in looks).items()}


def test_people_differ_as_much_as_is_natural(cast):
    values = np.array([p.head.changes["nose-scale-horiz-incr"] for p in cast])
    assert 0.36 < values.std() < 0.52
    tones = np.array([p.tone for p in cast])
    assert tones.min() < 1 and tones.max() > 5.5
    assert {p.eye_colour for p in cast} == set(palette.EYES)


@pytest.mark.parametrize(
    ("attribute", "wanted"),
    [("hair", HAIR), ("hair_colour", HAIR_COLOURS), ("glasses", GLASSES), ("garment", GARMENTS), ("light", LIGHTS),
     ("style", STYLES)],
)  # fmt: skip
def test_attributes_are_as_frequent_as_declared(looks, attribute, wanted):
    wanted = {name: row[0] if isinstance(row, tuple) else row for name, row in wanted.items()}
    assert sum(wanted.values()) == pytest.approx(1)
    found = frequencies(looks, attribute)
    assert set(found) == set(wanted)
    for name, share in wanted.items():
        assert found[name] == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / len(looks)))


def test_every_value_has_words_and_something_to_draw():
    assert set(HAIR) == {*hair.CUTS, "bald"} and set(palette.HAIR) == set(HAIR_COLOURS)
    assert set(LIGHTS) == set(lighting.LIGHTS)
    assert set(captions.GLASSES) == set(GLASSES) - {"none"} == set(palette.FRAMES)
    assert set(captions.BEARDS) == set(BEARDS) - {"none"}
    assert set(EXPRESSIONS) <= set(PRESETS)
    assert sum(share for share, _ in EXPRESSIONS.values()) == pytest.approx(1) == sum(BEARDS.values())


def test_glasses_near_a_fifth_sunglasses_near_a_twentyfifth_sketches_rare(looks):
    glasses, styles = frequencies(looks, "glasses"), frequencies(looks, "style")
    assert 0.17 < 1 - glasses["none"] < 0.23 and 0.025 < glasses["sunglasses"] < 0.055
    assert styles["sketch"] < 0.05 < styles["photo"]


def test_beards_grow_on_masculine_heads_only(cast, looks):
    bearded = {i // 16 for i, look in enumerate(looks) if look.beard != "none"}
    assert all(cast[i].masculine >= BEARD_FROM for i in bearded)
    assert {look.beard for look in looks} == set(BEARDS)


def test_views_stay_where_faces_are_found(looks):
    views = [look.view for look in looks]
    assert max(abs(v.yaw) for v in views) <= 38 and np.median([abs(v.yaw) for v in views]) < 15
    assert {v.expression for v in views} == set(EXPRESSIONS)
    assert {v.direction for v in views} == {"front", "left", "right"}


def test_expressions_grow_with_their_strength():
    weak, strong = express("smile", 0.3), express("smile", 0.9)
    assert weak["mouthSmileLeft"] < strong["mouthSmileLeft"]
    assert "jawOpen" not in express("neutral", 1.0)


WORDS = {
    "glasses": (captions.GLASSES, re.compile(r"\b(round glasses|square glasses|sunglasses)\b")),
    "beard": (captions.BEARDS, re.compile(r"(stubble|moustache|goatee|full beard)")),
}


def test_a_caption_names_each_attribute_and_no_other(looks):
    colour = {n: re.compile(rf"\b{n}\b") for n in {*palette.HAIR, *palette.CLOTHES, *palette.BACKGROUNDS}}
    for look in looks:
        text = caption(look)
        coloured = look.style != "sketch"
        for attribute, (phrases, pattern) in WORDS.items():
            value = getattr(look, attribute)
            assert len(pattern.findall(text)) == (value != "none"), text
            if value != "none":
                assert phrases[value] in text
        head, _, rest = text.partition("wearing")
        named = [n for n, word in colour.items() if word.search(head)]
        assert named == ([look.hair_colour] if coloured and look.hair != "bald" else []), text
        wanted = {look.clothing_colour, look.background} if coloured else set()
        assert {n for n, word in colour.items() if word.search(rest)} == wanted, text
        assert look.garment in rest and LIGHTS[look.light][1] in rest
        assert STYLES[look.style][1] in head and EXPRESSIONS[look.view.expression][1] in rest
        assert captions.DIRECTIONS[look.view.direction] in rest and not re.search(r"\ba [aeio]|  | ,", text)


def test_captions_can_leave_out_what_landmarks_say():
    look = Look(view=CameraView(expression="smile", yaw=30))
    assert caption(look) == (
        "a photo of a person with short brown hair, wearing a blue t-shirt, grey background, soft light, smiling, "
        "turned to the right"
    )
    assert caption(look, expression=False, pose=False).endswith("soft light")


def test_the_caption_says_nothing_of_who_it_is(cast):
    look = Look.sample(0, cast[0])
    same = {caption(replace(Look.sample(0, p), **look.attributes(), view=look.view)) for p in cast[:10]}
    assert len(same) == 1


def test_attributes_are_plain_data(looks):
    assert json.loads(json.dumps(looks[0].attributes())) == looks[0].attributes()
