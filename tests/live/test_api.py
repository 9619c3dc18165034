"""FaceSnap's API inside a real WebUI behind --api-auth: its routes, clients at once, requests that mean no good."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.live.checkpoints import Checkpoints
from tests.live.conftest import start
from tests.live.webui import WebUI, to_array, to_text
from tests.webui.payloads import WHO, payloads, with_photo

V1 = "/facesnap/v1"
AUTH = "anna:secret,ben:pass-word"


@pytest.fixture(scope="module")
def webui(
    checkpoints: Checkpoints, extension: Path, probe: Path, face_pack: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebUI]:
    """A WebUI of its own that asks for credentials."""
    folder, auth = tmp_path_factory.mktemp("api"), ("ben", "pass-word")
    made = start(folder, checkpoints, extension, probe, face_pack, ["--api-auth", AUTH], auth)
    made.options(facesnap_pack="test_pack")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def photos(astronaut: np.ndarray, components: Path) -> dict[str, str]:
    """Two truly different people."""
    other = base64.b64encode((components / "photos" / "obama.jpg").read_bytes()).decode()
    return {"eileen": to_text(astronaut), "barack": other}


def test_credentials(webui: WebUI) -> None:
    everything = [("version", None), ("schema", None), ("models", None), ("identities", None), ("results", None),
                  ("analyse", {}), ("landmarks", {}), ("similarity", {}), ("identities", {})]  # fmt: skip
    for path, body in everything:
        for wrong in (None, ("anna", "pass-word"), ("ben", ""), ("", "")):
            assert webui.request(f"{V1}/{path}", body, auth=wrong)[0] == 401
        right = 200 if body is None else 422
        for auth in (("anna", "secret"), ("ben", "pass-word")):
            assert webui.request(f"{V1}/{path}", body, auth=auth)[0] == right
    assert webui.request("/sdapi/v1/options", auth=None)[0] == 401  # the host's own stay as they are
    assert webui.request("/sdapi/v1/options")[0] == 200


def test_routes(webui: WebUI, photos: dict[str, str]) -> None:
    assert webui.request(f"{V1}/version")[1]["settings"] == 1
    assert webui.request(f"{V1}/schema")[1]["title"] == "FaceSnap"
    (adapter,) = webui.request(f"{V1}/models")[1]["adapters"]
    assert adapter["name"] == "untrained" and adapter["fits"]
    status, found = webui.request(f"{V1}/analyse", {"image": photos["eileen"], "draw": True})
    assert status == 200 and len(found["faces"]) == 1 and to_array(found["picture"]).shape[2] == 3
    status, found = webui.request(f"{V1}/landmarks", {"image": photos["eileen"]})
    assert status == 200 and np.array(found["points"]).shape == (72, 2)
    for name, photo in photos.items():
        assert webui.request(f"{V1}/identities", {"name": name, "references": [photo]})[0] == 201
        assert webui.request(f"{V1}/identities", {"name": name, "references": [photo]})[0] == 409
    scores = {
        (a, b): webui.request(f"{V1}/similarity", {"image": photos[a], "identity": b})[1]["similarity"]
        for a in photos
        for b in photos
    }
    assert all(scores[a, a] > 0.99 and scores[a, b] < 0.5 for a, b in scores if a != b), scores
    by_photo, by_name = (webui.pictures(s) for s in ({"references": [photos["eileen"]]}, {"identity": "eileen"}))
    assert abs(by_photo - by_name).max() <= 1 and abs(by_photo - webui.pictures()).mean() > 1
    for name in photos:
        assert webui.request(f"{V1}/identities?name={name}", method="DELETE")[0] == 200
        assert webui.request(f"{V1}/identities?name={name}", method="DELETE")[0] == 404
    assert webui.request(f"{V1}/analyse", {"image": "AAAA"})[0] == 422
    assert webui.request(f"{V1}/results/unknown")[0] == 404


def test_two_clients_at_once_get_their_own_people(webui: WebUI, photos: dict[str, str]) -> None:
    """By the result of each answer: the person in it is the client's own, as its photo has it alone."""
    for name, photo in photos.items():
        assert webui.request(f"{V1}/identities", {"name": name, "references": [photo]})[0] == 201
    hashes = {one["name"]: one for one in webui.request(f"{V1}/identities")[1]["identities"]}
    assert set(hashes) == set(photos)

    def client(name: str, way: str) -> tuple[np.ndarray, dict[str, Any]]:
        person = {"references": [photos[name]]} if way == "photo" else {"identity": name}
        status, answer = webui.generate({**person, "strength": 1.0}, steps=2)
        assert status == 200, answer
        told = json.loads(answer["info"])["extra_generation_params"]
        result = webui.request(f"{V1}/results/{told['FaceSnap result']}")[1]
        return to_array(answer["images"][0]), result

    alone = {(name, way): client(name, way) for name in photos for way in ("photo", "identity")}
    own = {name: alone[name, "photo"][1]["people"][0]["hash"] for name in photos}
    assert len(set(own.values())) == len(photos)
    wishes = list(alone) * 3
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda wish: client(*wish), wishes))
    for (name, way), (picture, result) in zip(wishes, together, strict=True):
        assert np.array_equal(picture, alone[name, way][0])
        (person,) = result["people"]
        assert result["state"] == "finished" and person["hash"] == own[name]
        assert person["identity"] == (name if way == "identity" else None)
    assert len({result["id"] for _, result in together}) == len(together)
    for name in photos:
        webui.request(f"{V1}/identities?name={name}", method="DELETE")


def test_analysis_during_a_generation(webui: WebUI, photos: dict[str, str]) -> None:
    with ThreadPoolExecutor(1) as pool:
        webui.watch()
        generation = pool.submit(webui.generate, {"references": [photos["eileen"]]}, steps=60)
        webui.wait_for_the_sampler(lambda: not generation.done())
        status, found = webui.request(f"{V1}/analyse", {"image": photos["barack"]})
        assert status == 200 and len(found["faces"]) == 1 and not generation.done()
        assert generation.result()[0] == 200
        webui.watch(on=False)


@pytest.mark.parametrize("requests", [150, pytest.param(2000, marks=pytest.mark.thorough)])
def test_requests_that_mean_no_good(webui: WebUI, photos: dict[str, str], requests: int) -> None:
    """Those of tests/webui/test_fuzz.py: a picture or a refusal, and the next plain picture is the same."""
    assert webui.request(f"{V1}/identities", {"name": WHO, "references": [photos["eileen"]]})[0] == 201
    plain, with_person = webui.pictures(steps=1), webui.pictures({"identity": WHO}, steps=1)
    hooks = webui.seen()["hooks"]
    answers: Counter[int] = Counter()

    @settings(
        max_examples=requests, derandomize=True, database=None, deadline=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(payloads())
    def ask(args: Any) -> None:
        more = {"FaceSnap": {"args": with_photo(args, photos["barack"])}}
        status, answer = webui.generate(steps=1, more=more)
        answers[status] += 1
        if status != 200:
            assert status in (413, 422, 503) and "Remedy:" in answer["detail"], (status, answer, args)

    ask()
    assert sum(answers.values()) >= requests, answers
    assert answers[200] >= requests / 15 and answers[422] >= requests / 3, answers
    assert np.array_equal(webui.pictures(steps=1), plain)
    assert np.array_equal(webui.pictures({"identity": WHO}, steps=1), with_person)
    seen = webui.seen()
    assert seen["hooks"] == hooks and seen["running"] == 0
    webui.request(f"{V1}/identities?name={WHO}", method="DELETE")
    for photo in photos.values():
        assert photo[100:160] not in webui.log()
