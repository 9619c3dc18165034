"""analyse, landmarks, similarity: numbers about the faces of a picture; a drawing only where it is asked for."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from PIL import Image

from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.drawing import draw_faces
from facesnap.faces.face import choose_face
from facesnap.faces.identity import Identity
from facesnap.landmarks.fitting import fit
from facesnap.landmarks.render import render_landmarks
from facesnap.webui.api.bodies import AnalyseBody, LandmarksBody, SimilarityBody, documented, read
from facesnap.webui.api.service import Service

IMAGE = "the picture"


def add(router: APIRouter, service: Service) -> None:
    """Add them to a router."""

    def answer(wanted: AnalyseBody, facts: Callable[[Service, AnalyseBody, np.ndarray], dict[str, Any]]) -> Response:
        with service.turns.place():
            image = service.source().picture(wanted.image, IMAGE)
            with service.turns.turn:
                return JSONResponse(facts(service, wanted, image))

    @router.post("/analyse", summary="Faces of a picture", openapi_extra=documented(AnalyseBody))
    def analyse(body: dict[str, Any]) -> Response:
        return answer(read(AnalyseBody, body), _analyse)

    @router.post("/landmarks", summary="The 72 landmarks of a face", openapi_extra=documented(LandmarksBody))
    def landmarks(body: dict[str, Any]) -> Response:
        return answer(read(LandmarksBody, body), _landmarks)

    @router.post("/similarity", summary="How alike faces are to a person", openapi_extra=documented(SimilarityBody))
    def similarity(body: dict[str, Any]) -> Response:
        wanted = read(SimilarityBody, body)
        known = service.store().load(wanted.identity) if wanted.identity else None
        with service.turns.place():
            source = service.source()
            image = source.picture(wanted.image, IMAGE)
            photos = [source.picture(one, f"reference {n}") for n, one in enumerate(wanted.references, 1)]
            with service.turns.turn:
                analyser = service.analyser(wanted.adapter, known.recogniser if known is not None else "")
                found = [analyser.face(one, wanted.face, name=f"reference {n}") for n, one in enumerate(photos, 1)]
                return JSONResponse(_similarity(analyser, known or Identity.from_faces(found), image))


def _analyse(service: Service, wanted: AnalyseBody, image: np.ndarray) -> dict[str, Any]:
    analyser = service.analyser(wanted.adapter)
    faces = analyser.faces(image, name=IMAGE)
    chosen = choose_face(faces, wanted.face)
    found = {
        "pack": analyser.pack.name,
        "licence": analyser.pack.licence,
        "recogniser": analyser.recogniser,
        "size": list(chosen.picture_size),
        "chosen": faces.index(chosen),
        "faces": [face.json() for face in faces],
    }
    return found | ({"picture": _png(draw_faces(faces, chosen))} if wanted.draw else {})


def _landmarks(service: Service, wanted: AnalyseBody, image: np.ndarray) -> dict[str, Any]:
    analyser = service.analyser(wanted.adapter)
    predictor = service.predictor(analyser)
    faces = analyser.faces(image, name=IMAGE)
    chosen = choose_face(faces, wanted.face)
    detection = predictor.detect(chosen)
    fitted = fit(predictor.basis, detection.observation)
    landmarks = predictor.predict(fitted, fitted, chosen.picture_size)
    yaw, pitch, roll = (round(float(angle), 2) for angle in fitted.views[0].angles)
    found = {
        "size": list(chosen.picture_size),
        "face": faces.index(chosen),
        "faces": len(faces),
        "kind": detection.kind,
        "model": detection.model,
        "points": landmarks.points.round(6).tolist(),
        "five": landmarks.five.round(6).tolist(),
        "box": [round(side, 6) for side in landmarks.box],
        "pose": {"yaw": yaw, "pitch": pitch, "roll": roll},
        "doubts": list(fitted.doubts),
    }
    if wanted.draw:
        found["picture"] = _png(Image.fromarray(render_landmarks(landmarks.points, chosen.picture_size)))
    return found


def _similarity(analyser: FaceAnalyser, person: Identity, image: np.ndarray) -> dict[str, Any]:
    faces = analyser.faces(image, name=IMAGE)
    scores = [round(float(face.normed_embedding @ person.f_id()), 4) for face in faces]
    best = scores.index(max(scores))
    return {
        "similarity": scores[best],
        "face": best,
        "faces": [{"box": face.json()["box"], "similarity": score} for face, score in zip(faces, scores, strict=True)],
        "recogniser": analyser.recogniser,
        "warnings": person.doubts(),
    }


def _png(picture: Image.Image) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode("ascii")
