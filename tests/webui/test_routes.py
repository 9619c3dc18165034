"""The routes with a real app, a real pack and a real client, beside a stand-in for the host's own."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from facesnap.settings.api import schema
from facesnap.version import __version__
from facesnap.webui import api
from facesnap.webui.generation.results import PersonFound, Results
from facesnap.weights.folders import Folders
from tests.webui.standin.pictures import png
from tests.webui.standin.server import PACK, Server, with_routes

V1 = api.PREFIX


def picture(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image.convert("RGB"))


def test_information(client: TestClient, service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.get(f"{V1}/version").json() == {"version": __version__, "settings": 1}
    assert client.get(f"{V1}/schema").json() == json.loads(json.dumps(schema(3)))
    monkeypatch.setattr(service.host_options, "facesnap_people", 5, raising=False)
    assert client.get(f"{V1}/schema").json() == json.loads(json.dumps(schema(5)))
    (adapter,) = client.get(f"{V1}/models").json()["adapters"]
    assert adapter["name"] == "untrained" and adapter["base"] == "sd15" and adapter["bytes"] > 1000
    assert (
        adapter["fits"]
        and adapter["family"] == "facesnap"
        and {need["there"] for need in adapter["needs"]} <= {True, None}
    )


def test_results(server: Server, photo: str) -> None:
    service = dataclasses.replace(server.service(), results=Results())
    client = TestClient(with_routes(server, service=service))
    assert client.get(f"{V1}/results/last").status_code == 404
    one, two = (service.results.begin(adapter="x", people=[PersonFound(name)]) for name in ("Zoe", "Ann"))
    two.score(1, 0, 0.5)
    assert client.get(f"{V1}/results").json() == {"results": [two.id, one.id]}
    assert client.get(f"{V1}/results/last").json() == two.json() == client.get(f"{V1}/results/{two.id}").json()
    assert client.get(f"{V1}/results/{one.id}").json()["people"][0]["identity"] == "Zoe"
    missing = client.get(f"{V1}/results/0123456789ab")
    assert missing.status_code == 404 and "Remedy" in missing.json()["detail"]


def test_a_generation_leaves_its_result(server: Server, client: TestClient, photo: str) -> None:
    """Its id stands in the infotext; the route tells face, quality and warnings, and nothing of the photo."""
    scripts = {"FaceSnap": {"args": [{"references": [photo], "face": 0}]}}
    with TestClient(server.app) as host:
        made = host.post("/sdapi/v1/txt2img", json={"alwayson_scripts": scripts}).json()["info"]
    texts = made["extra_generation_params"]
    result = client.get(f"{V1}/results/{texts['FaceSnap result']}")
    found = result.json()
    assert result.json() == client.get(f"{V1}/results/last").json()
    assert found["state"] == "finished" and found["error"] is None and found["adapter"]["name"] == "untrained"
    assert found["preparation_seconds"] > 0 and found["adapter"]["hash"] in texts["FaceSnap adapter"]
    (person,) = found["people"]
    (reference,) = person["references"]
    assert person["hash"] in texts["FaceSnap photos"] and person["identity"] is None
    assert reference["face"] == 0 and reference["faces"] == 1 and 0 < reference["quality"]["score"] < 1
    assert 150 < reference["box"][0] < 200 and len(result.text) < 2000


def test_analyse(client: TestClient, photo: str, astronaut: np.ndarray) -> None:
    found = client.post(f"{V1}/analyse", json={"image": photo}).json()
    (face,) = found["faces"]
    left, top, right, bottom = face["box"]
    assert 150 < left < 200 < 250 < right < 300 and 50 < top < bottom < 200 and face["score"] > 0.8
    assert found["size"] == [512, 512] and found["chosen"] == 0 and found["pack"] == PACK and "picture" not in found
    drawn = client.post(f"{V1}/analyse", json={"image": photo, "draw": True}).json()["picture"]
    assert picture(drawn).shape[0] >= 512
    two = png(np.concatenate([astronaut, astronaut[:, ::-1]], axis=1))
    for face, chosen in (("leftmost", 180), (1, None), ("largest", None)):
        found = client.post(f"{V1}/analyse", json={"image": two, "face": face}).json()
        assert len(found["faces"]) == 2
        if chosen:
            assert abs(found["faces"][found["chosen"]]["box"][0] - chosen) < 20
        elif face == 1:
            assert found["chosen"] == 1


def test_landmarks(client: TestClient, photo: str) -> None:
    found = client.post(f"{V1}/landmarks", json={"image": photo, "draw": True}).json()
    points, five = np.array(found["points"]), np.array(found["five"])
    kps = np.array(client.post(f"{V1}/analyse", json={"image": photo}).json()["faces"][0]["points"])
    assert points.shape == (72, 2) and five.shape == (5, 2) and np.abs(five * 512 - kps).max() < 10
    assert set(found["pose"]) == {"yaw", "pitch", "roll"} and found["kind"] == "68"
    drawn = picture(found["picture"])
    assert drawn.shape == (512, 512, 3)
    lit = np.argwhere(drawn.max(2) > 0)[:, ::-1] / 512
    assert np.abs(lit.min(0) - points.min(0)).max() < 0.02 and np.abs(lit.max(0) - points.max(0)).max() < 0.02


def test_similarity_tells_people_apart(client: TestClient, photo: str, components: Path, astronaut: np.ndarray) -> None:
    other = base64.b64encode((components / "photos" / "obama.jpg").read_bytes()).decode()
    same = png(np.ascontiguousarray(astronaut[:300, 100:400]))
    asked = {"image": same, "references": [photo]}
    own = client.post(f"{V1}/similarity", json=asked).json()["similarity"]
    foreign = client.post(f"{V1}/similarity", json={"image": other, "references": [photo]}).json()["similarity"]
    assert own > 0.8 and foreign < own - 0.3
    assert client.post(f"{V1}/identities", json={"name": "Eileen", "references": [photo]}).status_code == 201
    by_name = client.post(f"{V1}/similarity", json={"image": same, "identity": "eileen"}).json()
    assert by_name["similarity"] == pytest.approx(own, abs=2e-4) and by_name["face"] == 0
    both = png(np.concatenate([_fit(picture(other)), _fit(astronaut)], axis=1))
    found = client.post(f"{V1}/similarity", json={"image": both, "identity": "Eileen"}).json()
    box = found["faces"][found["face"]]["box"]
    assert len(found["faces"]) == 2 and box[0] > 512  # the right half
    client.delete(f"{V1}/identities", params={"name": "Eileen"})


def test_an_identity_is_made_before_a_checkpoint_is_loaded(client: TestClient, server, photo: str, monkeypatch) -> None:
    """Forge and Neo load it with the first picture."""
    wanted = {"name": "Eileen", "references": [photo], "replace": True}
    known = client.post(f"{V1}/identities", json=wanted).json()
    monkeypatch.setattr(server.modules.shared, "sd_model", None)
    made = client.post(f"{V1}/identities", json=wanted)
    assert made.status_code == 201 and made.json()["hash"] == known["hash"]
    client.delete(f"{V1}/identities", params={"name": "Eileen"})


def _fit(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((512, 512)))


NAMES = [
    "CON",
    "a:b",
    "..",
    "trailing...",
    "../../etc/passwd",
    "ünïcödé 名 🙂",
    'qu"ote',
    "a/b\\c",
    "nul.txt",
    "100%",
    "?&#=",
]


def test_identities_of_any_name(client: TestClient, service, photo: str) -> None:
    folder = service.store().folder
    assert folder.name.startswith(".")
    for name in NAMES:
        made = client.post(f"{V1}/identities", json={"name": f" {name} ", "references": [photo]})
        assert made.status_code == 201 and made.json()["name"] == name, made.text
    listed = {one["name"]: one for one in client.get(f"{V1}/identities").json()["identities"]}
    assert set(listed) == set(NAMES) and all(one["references"] == 1 for one in listed.values())
    assert {len(path.stem) for path in folder.iterdir()} == {32} and len(list(folder.iterdir())) == len(NAMES)
    again = client.post(f"{V1}/identities", json={"name": "con", "references": [photo]})
    assert again.status_code == 409 and "CON" in again.json()["detail"]
    replaced = client.post(f"{V1}/identities", json={"name": "con", "references": [photo, photo], "replace": True})
    assert replaced.status_code == 201 and replaced.json()["references"] == 2
    for name in NAMES:
        assert client.delete(f"{V1}/identities", params={"name": name}).json() == {"deleted": name}
        missing = client.delete(f"{V1}/identities", params={"name": name})
        assert missing.status_code == 404 and "Remedy" in missing.json()["detail"]
    assert list(folder.iterdir()) == []
    for name in ("x" * 300, "x" * 81, "", "  ", "none", "a\nb", "\u202egnp.exe", "a\x00b", None, 3):
        refused = client.post(f"{V1}/identities", json={"name": name, "references": [photo]})
        assert refused.status_code == 422 and "name" in refused.json()["detail"], name
    refused = client.post(
        f"{V1}/identities", content=json.dumps({"name": "\ud800", "references": [photo]}),
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert refused.status_code == 422
    assert client.get(f"{V1}/identities").json() == {"identities": []}


def test_an_identity_is_what_a_generation_makes_of_the_photos(server: Server, client: TestClient, photo: str) -> None:
    assert client.post(f"{V1}/identities", json={"name": "Eileen", "references": photo}).status_code == 201
    with TestClient(server.app) as host:

        def made(person: dict[str, Any] | None) -> Any:
            more = {} if person is None else {"alwayson_scripts": {"facesnap": {"args": [person]}}}
            return host.post("/sdapi/v1/txt2img", json={"steps": 2, **more}).json()["images"]

        by_photo, by_name, plain = made({"references": [photo]}), made({"identity": "Eileen"}), made(None)
    client.delete(f"{V1}/identities", params={"name": "Eileen"})
    a, b, c = (np.frombuffer(base64.b64decode(one[0]), np.float32) for one in (by_photo, by_name, plain))
    assert np.abs(a - b).max() < 1e-5 and np.abs(a - c).max() > 1e-2


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("analyse", {}, 422, "image"),
    ("analyse", {"image": None}, 422, "image"),
    ("analyse", {"image": 3}, 422, "image"),
    ("analyse", {"image": "AAAA"}, 422, "the picture"),
    ("analyse", {"image": "/etc/passwd.png"}, 422, "neither base64 nor"),
    ("analyse", {"image": "http://127.0.0.1/a.png"}, 422, "not allowed"),
    ("analyse", {"image": "PHOTO", "face": "third"}, 422, "face"),
    ("analyse", {"image": "PHOTO", "face": 7}, 422, "Face 7"),
    ("analyse", {"image": "PHOTO", "draw": 1}, 422, "draw"),
    ("analyse", {"image": "PHOTO", "imgae": 1}, 422, "imgae"),
    ("analyse", {"image": "GREY"}, 422, "No face"),
    ("analyse", {"image": "PHOTO", "adapter": "nowhere"}, 422, "nowhere"),
    ("landmarks", {"image": "BOMB"}, 413, "too large"),
    ("similarity", {"image": "PHOTO"}, 422, "references"),
    ("similarity", {"image": "PHOTO", "references": ["PHOTO"], "identity": "x"}, 422, "Both"),
    ("similarity", {"image": "PHOTO", "identity": "nobody"}, 404, "nobody"),
    ("similarity", {"image": "PHOTO", "references": ["PHOTO"] * 17}, 422, "16"),
    ("identities", {"name": "x"}, 422, "references"),
    ("identities", {"name": "x", "references": []}, 422, "references"),
    ("identities", {"name": "x", "references": ["GREY"]}, 422, "No face"),
    ("identities", {"name": "x", "references": ["PHOTO"], "adapter": "nowhere"}, 422, "nowhere"),
    ("identities", {"name": "x", "references": ["PHOTO"], "replace": "yes"}, 422, "replace"),
]


@pytest.fixture(scope="module")
def pictures(photo: str) -> dict[str, str]:
    """By the words of REFUSED."""
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    grey = png(np.full((64, 64, 3), 128, np.uint8))
    return {"PHOTO": photo, "GREY": grey, "BOMB": base64.b64encode(bomb.getvalue()).decode()}


@pytest.mark.parametrize(("route", "body", "status", "words"), REFUSED, ids=str)
def test_refusals(
    client: TestClient, photo: str, pictures: dict[str, str], caplog: pytest.LogCaptureFixture,
    route: str, body: dict, status: int, words: str,
) -> None:  # fmt: skip
    sent = {
        key: [pictures.get(one, one) for one in value] if isinstance(value, list) else pictures.get(str(value), value)
        for key, value in body.items()
    }
    with caplog.at_level(logging.DEBUG):
        answer = client.post(f"{V1}/{route}", json=sent)
    detail = answer.json()["detail"]
    assert answer.status_code == status and words in detail and "Remedy:" in detail, detail
    assert "Traceback" not in detail and "passwd" not in detail + caplog.text and photo[:40] not in detail + caplog.text


def test_pictures_are_looked_at_with_the_pack_of_the_generation(server: Server, photo: str) -> None:
    """Although the settings page names one that is not there."""
    service = server.service()
    service.host_options.facesnap_pack = "antelopev2"
    with TestClient(with_routes(server, service=service)) as client:
        for route, more in (("analyse", {}), ("landmarks", {}), ("similarity", {"references": [photo]})):
            answer = client.post(f"{V1}/{route}", json={"image": photo, **more})
            assert answer.status_code == 200, answer.text
        assert client.post(f"{V1}/analyse", json={"image": photo}).json()["pack"] == "test_pack"
        assert client.post(f"{V1}/analyse", json={"image": photo, "adapter": "untrained"}).status_code == 200


def test_no_pack(server: Server, photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    service = server.service()
    service.host_options.facesnap_pack, service.folders = "antelopev2", lambda: Folders.of(tmp_path)
    answer = TestClient(with_routes(server, service=service)).post(f"{V1}/analyse", json={"image": photo})
    assert answer.status_code == 503 and "antelopev2" in answer.json()["detail"]


def test_two_clients_with_different_people_get_their_own(
    server: Server, client: TestClient, orl: list, photo: str
) -> None:
    """Generations, analyses and identities of several clients at once: each answer is what it is alone."""
    people = {name: [pixels for who, _, pixels in orl if who == name][:2] for name in ("s1", "s12")}
    photos = {name: [png(_large(one)) for one in found] for name, found in people.items()}
    photos["astronaut"] = [photo, photo]

    def generate(host: TestClient, name: str) -> Any:
        scripts = {"FaceSnap": {"args": [{"references": photos[name][:1], "strength": 1.0}]}}
        answer = host.post("/sdapi/v1/txt2img", json={"steps": 2, "alwayson_scripts": scripts}).json()
        id = answer["info"]["extra_generation_params"]["FaceSnap result"]
        result = client.get(f"{V1}/results/{id}").json()
        return answer["images"], result["state"], result["people"]

    def compare(name: str, whom: dict[str, Any]) -> float:
        answer = client.post(f"{V1}/similarity", json={"image": photos[name][1], **whom})
        assert answer.status_code == 200, answer.text
        return answer.json()["similarity"]

    names = list(photos)
    pairs = [(a, b) for n, a in enumerate(names) for b in (a, names[n - 1])]
    with TestClient(server.app) as host:
        alone = {name: generate(host, name) for name in names}
        assert all(state == "finished" for _, state, _ in alone.values())
        assert len({json.dumps(images) for images, _, _ in alone.values()}) == 3
        assert len({people[0]["hash"] for _, _, people in alone.values()}) == 3
        scores = {(a, b): compare(a, {"references": photos[b][:1]}) for a, b in pairs}
        assert all(scores[a, a] > scores[a, b] + 0.1 for a, b in pairs if a != b), scores
        with ThreadPoolExecutor(6) as pool:
            made = [(name, pool.submit(generate, host, name)) for name in names * 2]
            saved = [pool.submit(_save, client, name, photos[name]) for name in names]
            compared = [(pair, pool.submit(compare, pair[0], {"references": photos[pair[1]][:1]})) for pair in pairs]
            assert all(future.result() == alone[name] for name, future in made)
            assert all(future.result() == 201 for future in saved)
            assert all(future.result() == scores[pair] for pair, future in compared)
    for a, b in pairs:  # what was saved at once is each one's own
        assert compare(a, {"identity": b}) == pytest.approx(scores[a, b], abs=2e-4)
    for name in names:
        client.delete(f"{V1}/identities", params={"name": name})


def _save(client: TestClient, name: str, photos: list[str]) -> int:
    return client.post(f"{V1}/identities", json={"name": name, "references": photos[:1]}).status_code


def _large(grey: np.ndarray) -> np.ndarray:
    """An ORL picture (112, 92) large enough for the detector."""
    return np.asarray(Image.fromarray(grey).convert("RGB").resize((368, 448), Image.Resampling.LANCZOS))


def test_one_name_is_saved_once_whoever_is_first(client: TestClient, photo: str, astronaut: np.ndarray) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: _save(client, "same", [photo]), range(4)))
    assert sorted(found) == [201, 409, 409, 409]
    assert client.delete(f"{V1}/identities", params={"name": "same"}).status_code == 200
    assert client.get(f"{V1}/identities").json() == {"identities": []}


def test_files_where_the_settings_allow_them(server: Server, tmp_path: Path, astronaut: np.ndarray) -> None:
    Image.fromarray(astronaut).save(tmp_path / "a.png")
    service = server.service()
    client = TestClient(with_routes(server, service=service))
    asked = {"image": str(tmp_path / "a.png")}
    assert client.post(f"{V1}/analyse", json=asked).status_code == 422
    service.host_options.facesnap_api_paths = True
    service.host_options.facesnap_api_folders = str(tmp_path)
    assert client.post(f"{V1}/analyse", json=asked).status_code == 200
    asked["image"] = str(tmp_path / ".." / tmp_path.name / "a.png")
    assert client.post(f"{V1}/analyse", json=asked).status_code == 422


def test_fastapi_is_imported_by_the_routes_alone() -> None:
    import subprocess

    used = "facesnap.webui.generation.job, facesnap.webui.generation.photos, facesnap.webui.generation.results"
    code = f"import sys, {used}; print('fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
