"""The guard around every route: credentials, a bound on the body, errors as answers."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from facesnap.errors import FaceSnapError, NameTakenError, SettingsError, UnknownIdentityError, refusal

logger = logging.getLogger(__name__)

MOST_BODY = 64 << 20
REFUSED = {"detail": "Incorrect username or password"}


class BusyError(FaceSnapError):
    """Too many analyses wait already."""


class UnknownResultError(FaceSnapError):
    """There is no result of an id."""


_STATUS: tuple[tuple[type[FaceSnapError], int], ...] = (
    (UnknownIdentityError, 404),
    (UnknownResultError, 404),
    (NameTakenError, 409),
    (BusyError, 429),
)


def credentials(api_auth: str | None) -> dict[bytes, bytes]:
    """User -> password as utf-8, of "user:password,user:password" as the hosts take it apart; none: open to all.

    Raises:
        ValueError: a pair is not one user and one password; the hosts do not start with it.
    """
    if not api_auth:
        return {}
    pairs = [pair.split(":") for pair in api_auth.split(",")]
    return {user.encode(): password.encode() for user, password in pairs}


def may_enter(header: str | None, known: Mapping[bytes, bytes]) -> bool:
    """Whether a request's Authorization header (HTTP Basic) names one of the users with its password."""
    if not known:
        return True
    scheme, _, encoded = (header or "").strip().partition(" ")
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return False
    # All are compared, so that the time betrays neither who is known nor how much of a password is right.
    found = [hmac.compare_digest(user, name) & hmac.compare_digest(password, secret) for name, secret in known.items()]
    return scheme.lower() == "basic" and any(found)


def guarded(known: Mapping[bytes, bytes], most: int = MOST_BODY) -> type[APIRoute]:
    """A class of routes behind these credentials, with bodies of at most `most` bytes, that answers every error."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                if not may_enter(request.headers.get("authorization"), known):
                    return JSONResponse(REFUSED, 401, headers={"WWW-Authenticate": "Basic"})
                try:
                    body = await bounded_body(request, most)
                    return await inner(Request(request.scope, _once(body)))
                except Exception as error:
                    return answer(error)

            return handle

    return Guarded


async def bounded_body(request: Request, most: int) -> bytes:
    """A request's body. Raises HTTPException 413 as soon as it is known to be too long, before it is all read."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > most):
        raise _too_long(most)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise _too_long(most)
    return bytes(body)


def answer(error: Exception) -> Response:
    """An error as a JSON object with its text under "detail"; never a stack trace."""
    if isinstance(error, FaceSnapError):
        known = (status for kind, status in _STATUS if isinstance(error, kind))
        return _reply(next(known, None) or vars(refusal(error))["status_code"], str(error))
    if isinstance(error, HTTPException):
        return _reply(error.status_code, str(error.detail))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        wrong = SettingsError(
            f"{where}: {first.get('msg', 'wrong')}",
            expected="a JSON object with the keys of this route (Content-Type: application/json)",
            remedy="correct the request",
        )
        return _reply(422, str(wrong))
    logger.error("a FaceSnap route failed", exc_info=error)
    return _reply(500, f"FaceSnap made a mistake ({type(error).__name__}); the WebUI's log has the details.")


def _reply(status: int, text: str) -> Response:
    detail = text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates are no JSON
    return JSONResponse({"detail": detail}, status)


def _too_long(most: int) -> HTTPException:
    return HTTPException(
        413,
        f"The request is longer than {most >> 20} MiB. Expected: at most {most >> 20} MiB. Remedy: send fewer or "
        "smaller pictures; 2 megapixels are plenty for a portrait.",
    )


def _once(body: bytes) -> Callable[[], Coroutine[Any, Any, dict[str, Any]]]:
    """An ASGI `receive` that gives a body which has been read already."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
