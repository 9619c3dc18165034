"""What the API's routes answer: statuses, and of each answer the keys and the types of their values."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from tests.frozen import cases, doors


def shape(value: Any) -> Any:
    """A JSON value's keys and types; of a list the first entry's."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, float) else type(value).__name__


def photo() -> str:
    """A portrait as clients send it."""
    from PIL import Image
    from skimage import data

    out = io.BytesIO()
    Image.fromarray(data.astronaut()[:300, 100:400].copy()).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def requests(picture: str) -> list[tuple[str, str, dict[str, Any] | None]]:
    """Method, path and body, in an order in which each has what it asks for."""
    one = {"image": picture}
    return [
        ("get", "version", None),
        ("get", "models", None),
        ("get", "identities", None),
        ("post", "identities", {"name": "Eileen", "references": [picture], "adapter": "untrained"}),
        ("post", "identities", {"name": "Eileen", "references": [picture]}),
        ("post", "identities", {"name": "Eileen", "references": [picture], "replace": True}),
        ("post", "identities", {"name": "", "references": []}),
        ("get", "identities", None),
        ("post", "analyse", one),
        ("post", "analyse", {**one, "face": 0, "draw": True}),
        ("post", "analyse", {"image": cases.PICTURE}),
        ("post", "analyse", {"picture": picture}),
        ("post", "landmarks", one),
        ("post", "landmarks", {**one, "draw": True}),
        ("post", "similarity", {**one, "references": [picture], "face": "largest"}),
        ("post", "similarity", {**one, "identity": "eileen"}),
        ("post", "similarity", one),
        ("post", "similarity", {**one, "identity": "nobody"}),
        ("delete", "identities?name=Eileen", None),
        ("delete", "identities?name=Eileen", None),
        ("delete", "identities", None),
        ("get", "results/0123456789ab", None),
    ]


PROMPTS: list[dict[str, Any]] = [
    {},
    {"preset": "Creative", "strength": 0.55, "start": 0.1, "blocks": {"middle": 0.5}, "face": 0},
    {"preset": "fast", "adapter": "untrained", "s_struct": 0.5, "region": {"x": 0, "y": 0, "w": 0.5, "h": 1}},
]


def collect(folder: Path, pack: Path) -> list[dict[str, Any]]:
    """Every answer, and the infotexts of generations through the host's own API."""
    picture = photo()
    found: list[dict[str, Any]] = []
    with doors.served(folder, pack) as (client, txt2img):
        for method, path, body in requests(picture):
            more = {} if body is None else {"json": body}
            answer = client.request(method.upper(), f"/facesnap/v1/{path}", **more)
            asked = None if body is None else sorted(body)
            found.append({"method": method, "path": path, "keys": asked, "status": answer.status_code,
                          "answer": shape(answer.json())})  # fmt: skip
        for prompt in PROMPTS:
            body = {"alwayson_scripts": {"FaceSnap": {"args": [{"references": [picture], **prompt}]}}}
            texts = txt2img(body)["info"]["extra_generation_params"]
            known = {key: value for key, value in texts.items() if key not in ("FaceSnap result", "FaceSnap version")}
            found.append({"settings": prompt, "infotext": known, "keys": list(texts)})
        for path in ("results", "results/last"):
            answer = client.get(f"/facesnap/v1/{path}")
            found.append({"method": "get", "path": path, "status": answer.status_code, "answer": shape(answer.json())})
    return doors.plain(found)
