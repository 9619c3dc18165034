"""The store of finished generations: bounded, for threads, without pictures."""

from __future__ import annotations

import json
import re
import threading

from facesnap.errors import NoFaceError
from facesnap.faces.face import Quality
from facesnap.faces.identity import ReferenceFace
from facesnap.settings import infotext
from facesnap.settings.model import Settings
from facesnap.webui.generation.results import KEY, PersonFound, Results


def test_a_generation_from_its_beginning_to_its_end() -> None:
    results = Results()
    quality = Quality(detection=0.9, sharpness=0.5, frontalness=1.0, size=1.0)
    found = ReferenceFace("reference 1", 1, 3, (1.0, 2.0, 3.0, 4.0), 0.9, quality, "640")
    result = results.begin(
        adapter="mine", digest="0123456789abcdef", seconds=0.123456,
        people=[PersonFound("Zoe", "ab" * 32), PersonFound("", "cd", (found,))],
    )  # fmt: skip
    assert result.json()["state"] == "running"
    result.score(2, picture=1, similarity=0.51239)
    result.score(1, picture=0, similarity=None)
    result.warn(2, "seen from the side")
    result.warn(2, "seen from the side")
    result.note("left alone")
    result.finish()
    shown = results.get(result.id).json()
    assert shown == json.loads(json.dumps(shown)) == {
        "id": result.id, "state": "finished", "error": None, "details": None,
        "adapter": {"name": "mine", "hash": "0123456789"},
        "preparation_seconds": 0.1235, "notes": ["left alone"],
        "people": [
            {"identity": "Zoe", "hash": "ababababab", "references": [], "warnings": [], "similarity": [None]},
            {
                "identity": None, "hash": "cd", "warnings": ["seen from the side"], "similarity": [None, 0.5124],
                "references": [{"face": 1, "faces": 3, "box": [1.0, 2.0, 3.0, 4.0], "score": 0.9,
                                "quality": quality.json(), "found_by": "640"}],
            },
        ],
    }  # fmt: skip
    result.finish(ValueError("x" * 5000))
    assert result.json()["state"] == "failed" and len(result.json()["error"]) == 2000
    assert result.json()["details"] is None
    result.finish(NoFaceError("No face.", expected="a face", remedy="another photo", details="Tried: 640."))
    assert "Tried" not in result.json()["error"] and result.json()["details"] == "Tried: 640."


def test_the_id_travels_in_the_infotext_and_changes_no_setting() -> None:
    result = Results().begin()
    (key,) = result.infotext()
    assert key == KEY and re.fullmatch(r"\w[\w \-/]+", key) and len(result.id) == 12
    written = infotext.fields(Settings(enabled=True), version="1") | result.infotext()
    back = infotext.parse_parameters(infotext.line(written))
    assert back[KEY] == result.id
    assert infotext.read(back) == infotext.read({k: v for k, v in back.items() if k != KEY})


def test_the_oldest_go_first() -> None:
    results = Results(most=3)
    made = [results.begin() for _ in range(5)]
    assert [one.id for one in results.last(9)] == [one.id for one in made[:1:-1]]
    assert results.last()[0] is made[-1]
    assert results.get(made[0].id) is None and results.get(made[2].id) is made[2] and results.get("") is None
    assert Results().last() == []


def test_each_thread_finds_its_own() -> None:
    results = Results(most=10_000)
    wrong = []

    def client(n: int) -> None:
        for k in range(200):
            result = results.begin(people=[PersonFound(f"{n}")])
            for picture in range(3):
                result.score(1, picture, n / 10)
            result.warn(1, f"{n} {k}")
            result.finish()
            shown = results.get(result.id).json()["people"][0]
            if (shown["identity"], shown["similarity"], shown["warnings"]) != (f"{n}", [n / 10] * 3, [f"{n} {k}"]):
                wrong.append(shown)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(results.last(10_000)) == 1600
