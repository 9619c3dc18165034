"""version, schema, models, results."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from facesnap.settings.api import schema
from facesnap.settings.model import VERSION
from facesnap.version import __version__
from facesnap.webui.api.guard import UnknownResultError
from facesnap.webui.api.service import Service
from facesnap.webui.generation.results import MOST, Result
from facesnap.weights.adapters import ListedAdapter, entries


def add(router: APIRouter, service: Service) -> None:
    """Add them to a router."""

    @router.get("/version", summary="Versions of the package and of the settings")
    def get_version() -> Response:
        return JSONResponse({"version": __version__, "settings": VERSION})

    @router.get("/schema", summary="JSON schema of S in alwayson_scripts.FaceSnap.args")
    def get_schema() -> Response:
        return JSONResponse(schema(service.options()["facesnap_people"]))

    @router.get("/models", summary="Adapters on this machine")
    def get_models() -> Response:
        found = entries(service.folders(), service.host().chosen_model().base)
        return JSONResponse({"adapters": [_adapter(entry) for entry in found]})

    @router.get("/results", summary="Ids of the last generations, the newest first")
    def get_results() -> Response:
        return JSONResponse({"results": [result.id for result in service.results.last(MOST)]})

    @router.get("/results/{id}", summary="What a generation found out; the id is in its infotext, or 'last'")
    def get_result(id: str) -> Response:
        last: list[Result] = service.results.last()
        found = service.results.get(id) if id != "last" else (last[0] if last else None)
        if found is None:
            raise UnknownResultError(
                f"There is no result '{id[:40]}'.",
                expected=f"the id in a picture's infotext, of one of the last {service.results.most} generations",
                remedy="see the list of results",
            )
        return JSONResponse(found.json())


def _adapter(entry: ListedAdapter) -> dict[str, Any]:
    needs = [{"what": need.what, "there": need.there, "download": need.download or None} for need in entry.needs]
    return {
        "name": entry.name, "title": entry.title, "family": entry.family, "base": entry.base, "fits": entry.fits,
        "bytes": entry.size, "defaults": dict(entry.defaults), "hint": entry.hint, "needs": needs,
        "licence": entry.licence, "note": entry.explanation,
    }  # fmt: skip
