"""What stands before and after every route: the host's switches and credentials, bounds, errors as answers."""

from __future__ import annotations

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from facesnap.version import __version__
from facesnap.webui import api
from facesnap.webui.api import guard
from facesnap.webui.api.guard import credentials, may_enter
from facesnap.webui.api.service import Turns
from tests.webui.standin.server import Server, with_routes

V1 = api.PREFIX
ALL = {
    ("GET", f"{V1}/version"), ("GET", f"{V1}/schema"), ("GET", f"{V1}/models"), ("GET", f"{V1}/identities"),
    ("POST", f"{V1}/identities"), ("DELETE", f"{V1}/identities"), ("POST", f"{V1}/analyse"),
    ("POST", f"{V1}/landmarks"), ("POST", f"{V1}/similarity"), ("GET", f"{V1}/results"),
    ("GET", f"{V1}/results/{{id}}"),
}  # fmt: skip


def _paths(app: FastAPI) -> set[tuple[str, str]]:
    described = app.openapi()["paths"]
    return {(method.upper(), path) for path, methods in described.items() for method in methods}


def test_they_are_there_with_the_hosts_api_and_not_without(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = server.modules.shared
    for has_api, nowebui, expected in ((True, False, ALL), (False, True, ALL), (False, False, set())):
        monkeypatch.setattr(shared, "cmd_opts", SimpleNamespace(api=has_api, nowebui=nowebui, api_auth="a:b"))
        app = FastAPI()
        api.register(None, app)
        assert _paths(app) == expected
        answer = TestClient(app).get(f"{V1}/version", auth=("a", "b"))
        assert answer.status_code == (200 if expected else 404)
        assert TestClient(app).get(f"{V1}/version").status_code == (401 if expected else 404)


def test_the_registered_routes_work_with_the_hosts_own_parts(server: Server, photo: str) -> None:
    """`register` beside the host's routes, which stay as they are, under its own handlers of exceptions."""
    before = TestClient(server.app).get("/sdapi/v1/options").json()
    server.modules.script_callbacks.on_app_started(api.register)
    server.modules.script_callbacks.app_started_callback(None, server.app)
    with TestClient(server.app) as client:
        assert client.get(f"{V1}/version").json() == {"version": __version__, "settings": 1}
        assert client.get(f"{V1}/models").json()["adapters"][0]["name"] == "untrained"
        assert len(client.post(f"{V1}/analyse", json={"image": photo}).json()["faces"]) == 1
        made = client.post(f"{V1}/identities", json={"name": "Of the host", "references": photo})
        assert made.status_code == 201 and client.delete(f"{V1}/identities?name=of the host").status_code == 200
        assert client.post(f"{V1}/analyse", json={"image": "AAAA"}).status_code == 422
        assert client.get(f"{V1}/results/none").status_code == 404
        assert client.get("/sdapi/v1/options").json() == before
        assert client.get("/facesnap/v1").status_code == 404


def test_credentials(server: Server) -> None:
    client = TestClient(with_routes(server, "anna:secret,ben:pässwört"))
    asked = [("GET", "version"), ("GET", "identities"), ("POST", "analyse"), ("DELETE", "identities?name=x")]

    def header(text: str | bytes, scheme: str = "Basic") -> dict[str, str]:
        raw = text.encode() if isinstance(text, str) else text
        return {"Authorization": f"{scheme} {base64.b64encode(raw).decode()}"}

    wrong: list[dict[str, str]] = [
        {}, header("anna:wrong"), header("ben:secret"), header("anna:"), header("anna"), header(":secret"), header(""),
        header("anna:secret "), header("anna:secre"), header("Anna:secret"), header("anna:secret,ben:pässwört"),
        header("anna:secret", "Bearer"), {"Authorization": "Basic !!!"}, {"Authorization": "Basic"},
        {"Authorization": "anna:secret"}, header(b"\xff\xfe:\xff"), header("ben:pässwört".encode("latin-1")),
    ]  # fmt: skip
    for method, path in asked:
        for headers in wrong:
            answer = client.request(method, f"{V1}/{path}", headers=headers)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Basic", headers
    for right in ("anna:secret", "ben:pässwört"):
        assert client.get(f"{V1}/version", headers=header(right)).status_code == 200
        assert client.get(f"{V1}/version", headers=header(right, "basic")).status_code == 200


def test_every_route_asks_for_them_before_it_reads_anything(server: Server) -> None:
    app = with_routes(server, "a:b")
    read = []

    async def receive() -> dict[str, Any]:
        read.append(1)
        return {"type": "http.request", "body": b"{}", "more_body": False}

    for method, path in ALL:
        found: list[dict[str, Any]] = []

        async def send(message: dict[str, Any], found: list[dict[str, Any]] = found) -> None:
            found.append(message)

        scope = {
            "type": "http", "method": method, "path": path.replace("{id}", "last"), "headers": [],
            "query_string": b"name=x", "http_version": "1.1", "scheme": "http", "server": ("a", 80),
            "client": ("b", 1), "root_path": "",
        }  # fmt: skip
        _run(app(scope, receive, send))
        assert found[0]["status"] == 401
    assert read == []


def _run(coroutine: Any) -> None:
    import asyncio

    asyncio.run(coroutine)


def test_pairs_are_taken_apart_as_the_hosts_do() -> None:
    assert credentials("u1:p1,u2:p2") == {b"u1": b"p1", b"u2": b"p2"} and credentials(None) == credentials("") == {}
    for broken in ("u1", "u:p:q", "u1:p1,"):
        with pytest.raises(ValueError):
            credentials(broken)
    assert may_enter(None, {})


def test_bodies_that_are_no_object(client: TestClient) -> None:
    bodies = (b"", b"{", b"[]", b"3", b"null", b'"a"', b"\xff", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 10_000)
    for body in bodies:
        answer = client.post(f"{V1}/analyse", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422) and answer.json()["detail"], body[:20]
    answer = client.post(f"{V1}/analyse", data={"image": "x"})
    assert answer.status_code == 422 and answer.json()["detail"]
    answer = client.post(f"{V1}/analyse", content=b'{"image": "AAAA"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422
    assert client.delete(f"{V1}/identities").status_code == 422


def test_a_body_is_read_up_to_its_bound(server: Server) -> None:
    app = FastAPI()
    router = api.APIRouter(prefix=V1, route_class=guard.guarded({}, 1000))
    api.faces.add(router, server.service())
    app.include_router(router)
    client, sent = TestClient(app), []

    def parts() -> Any:
        for _ in range(100):
            sent.append(1)
            yield b" " * 100

    headers = {"Content-Type": "application/json"}
    for content in (b" " * 1001, parts()):
        answer = client.post(f"{V1}/analyse", content=content, headers=headers)
        assert answer.status_code == 413 and "Remedy" in answer.json()["detail"]
    answer = client.post(f"{V1}/analyse", content=b" " * 998 + b"{}", headers=headers)
    assert answer.status_code == 422 and "image" in answer.json()["detail"]


def test_a_stream_without_an_end_is_not_read_to_it() -> None:
    from fastapi import Request
    from starlette.exceptions import HTTPException

    asked = []

    async def receive() -> dict[str, Any]:
        asked.append(1)
        return {"type": "http.request", "body": b" " * 100, "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    with pytest.raises(HTTPException) as raised:
        _run(guard.bounded_body(Request(scope, receive), 1000))
    assert raised.value.status_code == 413 and len(asked) == 11
    for length in (b"1001", b"9" * 5000):
        scope["headers"] = [(b"content-length", length)]
        with pytest.raises(HTTPException):
            _run(guard.bounded_body(Request(scope, receive), 1000))
    assert len(asked) == 11


def test_a_mistake_of_ours_is_an_answer_without_its_inside(
    server: Server, photo: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = server.service()
    monkeypatch.setattr(service, "analyser", lambda *_: {}["/home/anna/secret.png"])
    answer = TestClient(with_routes(server, service=service)).post(f"{V1}/analyse", json={"image": photo})
    assert answer.status_code == 500 and "KeyError" in answer.json()["detail"]
    assert "secret" not in answer.text and "Traceback" not in answer.text
    assert "a FaceSnap route failed" in caplog.text and photo[:40] not in caplog.text


def test_one_analysis_at_a_time_and_few_wait(server: Server, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are told to come again; the host's own routes and its generations go on."""
    service = server.service()
    service.turns = Turns(most_waiting=2)
    inside, together, release = [], [], threading.Event()

    class Slow:
        def faces(self, *args: Any, **kwargs: Any) -> Any:
            inside.append(1)
            together.append(len(inside))
            release.wait(60)
            inside.pop()
            raise guard.UnknownResultError("done", expected="x", remedy="x")

    monkeypatch.setattr(service, "analyser", lambda *a: Slow())
    with TestClient(with_routes(server, service=service)) as client, TestClient(server.app) as host:
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(client.post, f"{V1}/analyse", json={"image": photo}) for _ in range(3)]
            while service.turns._places._value > 0 or not inside:
                time.sleep(0.01)
            busy = client.post(f"{V1}/landmarks", json={"image": photo})
            assert busy.status_code == 429 and "again" in busy.json()["detail"]
            assert client.get(f"{V1}/version").status_code == 200
            person = {"alwayson_scripts": {"FaceSnap": {"args": [{"references": [photo]}]}}}
            assert host.post("/sdapi/v1/txt2img", json=person).status_code == 200
            release.set()
            assert [one.result().status_code for one in waiting] == [404] * 3
        assert client.post(f"{V1}/analyse", json={"image": photo}).status_code == 404
    assert max(together) == 1
