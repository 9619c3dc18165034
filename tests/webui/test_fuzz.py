"""Requests that vary what stands inside `args`: each makes a picture or is refused with a message."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings

from tests.webui.payloads import WHO, payloads, with_photo
from tests.webui.standin.pictures import png
from tests.webui.standin.server import Server, with_routes


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


def _post(client: TestClient, body: dict[str, Any]) -> Any:
    content = json.dumps({"steps": 1, **body})  # as Python's clients do: NaN and infinity are written as such
    return client.post("/sdapi/v1/txt2img", content=content, headers={"Content-Type": "application/json"})


# 300 in the plain run: it meets these tests in two environments.
@pytest.mark.parametrize("requests", [150, pytest.param(2000, marks=pytest.mark.thorough)])
def test_every_request_is_answered_and_the_next_plain_picture_is_the_same(
    server: Server, client: TestClient, photo: str, requests: int
) -> None:
    plain = _post(client, {"steps": 2}).json()["images"]
    person = {"alwayson_scripts": {"FaceSnap": {"args": [{"identity": WHO, "strength": 1.5}]}}}
    with_person = _post(client, person).json()["images"]
    assert with_person != _post(client, {}).json()["images"]
    answers: Counter[int] = Counter()
    begun = server.generated

    @settings(
        max_examples=requests, derandomize=True, database=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(payloads())
    def ask(args: Any) -> None:
        sent = with_photo(args, photo)
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
    assert sum(answers.values()) >= requests
    assert answers[200] == server.generated - begun >= requests / 10, answers
    assert answers[422] >= requests / 4 and answers[503] == 0, answers  # nothing is missing here
    assert _post(client, {"steps": 2}).json()["images"] == plain
    assert _post(client, person).json()["images"] == with_person


def test_what_the_host_does_with_args_that_are_no_list(client: TestClient) -> None:
    """The host fails before any script is asked; the next request is answered."""
    broken = _post(client, {"alwayson_scripts": {"FaceSnap": {"args": {"strength": 1}}}})
    assert broken.status_code == 500 and broken.json()["error"] == "KeyError"
    assert _post(client, {}).status_code == 200
