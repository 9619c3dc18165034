"""Saved identities: list, create, delete."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from facesnap.faces.identity import AnalysedIdentity
from facesnap.settings.model import Person
from facesnap.webui.api.bodies import IdentityBody, documented, read
from facesnap.webui.api.service import Service
from facesnap.weights.identities import SavedIdentity


def add(router: APIRouter, service: Service) -> None:
    """Add them to a router."""

    @router.get("/identities", summary="Saved identities")
    def list_identities() -> Response:
        return JSONResponse({"identities": [_entry(one) for one in service.store().entries()]})

    @router.post("/identities", summary="Make an identity of photos", openapi_extra=documented(IdentityBody))
    def create_identity(body: dict[str, Any]) -> Response:
        wanted = read(IdentityBody, body)
        store = service.store()
        name = store.checked_name(wanted.name, wanted.replace)
        with service.turns.place():
            known = _identity(service, wanted)
        identity, warnings = dataclasses.replace(known.identity, name=name), known.doubts
        more = {"hash": identity.digest[:10], "warnings": warnings}
        return JSONResponse(_entry(store.save(identity, wanted.replace)) | more, 201)

    @router.delete("/identities", summary="Delete the identity of a name")
    def delete_identity(name: str) -> Response:
        service.store().delete(name)
        return JSONResponse({"deleted": name})


def _identity(service: Service, wanted: IdentityBody) -> AnalysedIdentity:
    """As a generation would make it; under the host's queue, since adapters and encoders are the generations'."""
    source = service.source()
    photos = tuple(source.picture(one, f"reference {n}") for n, one in enumerate(wanted.references, 1))
    with service.queue:
        model = service.host().chosen_model()
        return service.loader().identity(wanted.adapter, model, Person(references=photos, face=wanted.face), 1)


def _entry(entry: SavedIdentity) -> dict[str, Any]:
    return {"name": entry.name, "references": entry.references, "recogniser": entry.alias}
