"""2,000 requests that vary what stands inside `args`: each makes a picture or is refused with a message."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from facesnap.webui.model import PERSON, POSE, SETTINGS
from facesnap.webui.settings import to_api
from tests.webui.standin.server import Server, png, with_routes
from tests.webui.strategies import JSON, settings_objects

WHO = "Anna"
_FEW = st.one_of(settings_objects(1), settings_objects(1), settings_objects(3))
JUNK = JSON.filter(lambda value: value is not None)
MASK = png(np.kron(np.eye(2, dtype=np.uint8) * 255, np.ones((8, 8), np.uint8))[..., None].repeat(3, 2))


@pytest.fixture(scope="module")
def client(server: Server, photo: str) -> Iterator[TestClient]:
    """A client of a host that knows one identity."""
    made = TestClient(with_routes(server)).post("/facesnap/v1/identities", json={"name": WHO, "references": [photo]})
    assert made.status_code == 201, made.text
    with TestClient(server.app) as client:
        yield client


@pytest.fixture(scope="module")
def photo(astronaut: np.ndarray) -> str:
    return png(astronaut[:256, 100:356])


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """`args` of a client that means well, one that errs in one place, or one that sends anything."""
    kind = draw(st.sampled_from(("right", *("one wrong",) * 7, "anything", "anything")))
    if kind == "anything":
        return draw(st.lists(JSON, max_size=4))
    wanted = to_api(draw(_FEW))
    wanted["adapter"] = draw(st.sampled_from((None, None, None, "untrained", "UNTRAINED.safetensors", "nowhere")))
    wanted["enabled"] = draw(st.sampled_from((True, None)))
    wanted["people"] = [_reachable(draw, person) for person in wanted["people"] or [{}]]
    if len(wanted["people"]) == 1 and draw(st.booleans()):
        wanted |= wanted.pop("people")[0]  # one person's keys at the top
    if kind == "one wrong":
        _spoil(draw, wanted)
    return [True, wanted] if draw(st.booleans()) else [wanted]


def _reachable(draw: st.DrawFn, person: dict[str, Any]) -> dict[str, Any]:
    """A person who exists, with pictures that are some."""
    blocks = draw(st.sampled_from(({}, {"middle": 0.5}, {"input.4": 0.0, "output.3.1.0": 2.0})))
    person = {**person, "references": None, "identity": WHO, "blocks": blocks}
    if draw(st.integers(0, 9)) == 0:
        person |= {"references": ["PHOTO"], "identity": None, "face": draw(st.sampled_from(("largest", 0, "central")))}
    if isinstance(person.get("region"), str):
        person["region"] = MASK
    if person.get("pose"):
        person["pose"]["image"] = None
    return person


def _spoil(draw: st.DrawFn, wanted: dict[str, Any]) -> None:
    """Something else in the place of one value, one more key, or one key less."""
    places = [wanted]
    for person in wanted.get("people") or []:
        places += [person, *([person["pose"]] if isinstance(person.get("pose"), dict) else [])]
    place = draw(st.sampled_from(places))
    key = draw(st.sampled_from(sorted({*place, *SETTINGS, *PERSON, *POSE})) | st.text(max_size=8))
    place[key] = draw(JUNK)


def _with_photo(value: Any, photo: str) -> Any:
    """Hypothesis draws a word instead of a long text."""
    if isinstance(value, dict):
        return {key: _with_photo(one, photo) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_photo(one, photo) for one in value]
    return photo if value == "PHOTO" else value


def _post(client: TestClient, body: dict[str, Any]) -> Any:
    content = json.dumps({"steps": 1, **body})  # as Python's clients do: NaN and infinity are written as such
    return client.post("/sdapi/v1/txt2img", content=content, headers={"Content-Type": "application/json"})


def test_every_request_is_answered_and_the_next_plain_picture_is_the_same(
    server: Server, client: TestClient, photo: str
) -> None:
    plain = _post(client, {"steps": 2}).json()["images"]
    person = {"alwayson_scripts": {"FaceSnap": {"args": [{"identity": WHO, "strength": 1.5}]}}}
    with_person = _post(client, person).json()["images"]
    assert with_person != _post(client, {}).json()["images"]
    answers: Counter[int] = Counter()
    begun = server.generated

    @settings(
        max_examples=2000, derandomize=True, database=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(requests())
    def ask(args: Any) -> None:
        sent = _with_photo(copy.deepcopy(args), photo)
        answer = _post(client, {"alwayson_scripts": {"FaceSnap": {"args": sent}}})
        answers[answer.status_code] += 1
        if answer.status_code == 200:
            assert answer.json()["images"]
        else:
            detail = answer.json()["detail"]
            assert answer.status_code in (413, 422, 503), (answer.status_code, detail, args)
            assert "Expected:" in detail and "Remedy:" in detail and len(detail) < 4000
            assert photo[:40] not in detail and "Traceback" not in detail

    ask()
    assert sum(answers.values()) >= 2000
    assert answers[200] == server.generated - begun >= 200 and answers[422] >= 500 and answers[503] >= 1, answers
    assert _post(client, {"steps": 2}).json()["images"] == plain
    assert _post(client, person).json()["images"] == with_person


def test_what_the_host_does_with_args_that_are_no_list(client: TestClient) -> None:
    """The host fails before any script is asked; the next request is answered."""
    broken = _post(client, {"alwayson_scripts": {"FaceSnap": {"args": {"strength": 1}}}})
    assert broken.status_code == 500 and broken.json()["error"] == "KeyError"
    assert _post(client, {}).status_code == 200
