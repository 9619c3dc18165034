"""The expression language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facesnap.errors import LandmarkError
from facesnap.landmarks.basis import Basis
from facesnap.settings.expressions import format_expression, parse_expression

KNOWN = tuple(Basis.load().presets)


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("smile:0.8+wink_left:1", {"smile": 0.8, "wink_left": 1.0}),
        ("smile", {"smile": 1.0}),
        (" smile : .5 + frown ", {"smile": 0.5, "frown": 1.0}),
        ("wink left:0.3", {"wink_left": 0.3}),
        ("open-mouth:1.5", {"open_mouth": 1.5}),
        ("", {}),
    ],
)
def test_reads(text, mix):
    assert parse_expression(text, KNOWN) == mix


@pytest.mark.parametrize(
    "text",
    [
        *(
            "grin",
            "smile:",
            "smile:2",
            "smile:-1",
            "smile:nan",
            "smile:1e3",
            "smile++frown",
            "+smile",
            "smile+",
        ),
        *(
            "smile:0.5+smile:0.2",
            "smile 0.8",
            "smile=1",
            "smile:0.8;frown",
            "Smile",
            "smile:٣",
            "smile:1.5.1",
        ),
    ],
)
def test_refuses(text):
    with pytest.raises(LandmarkError):
        parse_expression(text, KNOWN)


def test_refuses_mappings_out_of_range():
    for strength in (-0.1, 1.6, float("nan"), float("inf")):
        with pytest.raises(LandmarkError):
            parse_expression({"smile": strength}, KNOWN)
    with pytest.raises(LandmarkError, match="unknown"):
        parse_expression({"grin": 1.0}, KNOWN)


@given(st.dictionaries(st.sampled_from(KNOWN), st.floats(0, 1.5), max_size=5))
def test_round_trip(mix):
    assert parse_expression(format_expression(mix), KNOWN) == mix


@given(st.text(max_size=30))
def test_any_text_gives_a_mix_or_a_landmark_error(text):
    try:
        mix = parse_expression(text, KNOWN)
    except LandmarkError:
        return
    assert set(mix) <= set(KNOWN) and all(0 <= s <= 1.5 for s in mix.values())
