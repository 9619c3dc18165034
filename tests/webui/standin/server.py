"""AUTOMATIC1111's API as far as a script sees it, around the stand-in's sampling of a real tiny UNet."""

from __future__ import annotations

import base64
import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from facesnap import remedies
from facesnap.demo import untrained
from facesnap.faces.encoder import ImageEncoder
from facesnap.faces.packs import load_pack
from facesnap.hosts.webui import WebUI
from facesnap.webui import api, process
from facesnap.webui.api.service import Service
from facesnap.webui.generation.args import defaults
from facesnap.webui.generation.job import begin, finish
from facesnap.webui.generation.loader import PipelineLoader
from facesnap.webui.options import values
from facesnap.weights.folders import Folders
from tests.networks import CONTEXT, ldm_unet
from tests.webui.standin.sampling import A1111Host, Processing

HERE = Path(__file__).resolve().parent
ENCODER = "untrained-encoder"
PACK = "test_pack"
OURS = ("facesnap.hosts.a1111", "facesnap.hosts.forge")


class Script:
    """What the host knows of the extension's script."""

    title, alwayson = "FaceSnap", True

    def __init__(self, start: int) -> None:
        self.args_from, self.args_to = start, start + len(defaults())


@dataclass
class Server:
    """One running host.

    Attributes:
        app: FastAPI. host: our adapter; standin: the host's own sampling. folders: of models.
        options: the host's. generated: how many generations have been finished.
    """

    app: FastAPI
    modules: SimpleNamespace
    host: WebUI
    standin: A1111Host
    folders: Folders
    loader: PipelineLoader
    options: SimpleNamespace
    generated: int = 0

    def service(self) -> Service:
        """What our routes work with; made anew, with options of its own."""
        options = SimpleNamespace(facesnap_pack=PACK)
        queue = self.modules.call_queue.queue_lock
        return Service(options, lambda: self.folders, lambda: self.host, lambda: self.loader, queue)

    def txt2img(self, body: dict[str, Any]) -> dict[str, Any]:
        script = Script(start=3)  # some other script's values stand before ours
        values: list[Any] = [0, "of", "others", *defaults(), "after"]
        for name, given in (body.get("alwayson_scripts") or {}).items():
            if name.lower() != script.title.lower():
                raise HTTPException(422, f"Script '{name}' not found")
            if "args" in given:
                for n in range(min(script.args_to - script.args_from, len(given["args"]))):
                    values[script.args_from + n] = given["args"][n]
        with self.modules.call_queue.queue_lock:
            p = self.processing(int(body.get("steps", 1)), str(body.get("prompt", "")))
            begin(self.host, self.loader, p, values[script.args_from : script.args_to], self.options)
            with torch.no_grad():
                made = p.sample()
            processed = SimpleNamespace(extra_generation_params=p.extra_generation_params)
            finish(p, processed)
            self.generated += 1
        picture = base64.b64encode(made.numpy().tobytes()).decode()
        return {"images": [picture], "info": {"extra_generation_params": processed.extra_generation_params}}

    def processing(self, steps: int, prompt: str) -> Processing:
        seed = sum(prompt.encode())
        text = torch.randn(1, 7, CONTEXT["sd15"], generator=torch.Generator().manual_seed(seed))
        more = {"width": 64, "height": 64, "prompt": prompt}
        return Processing(self.standin, [[text]], torch.zeros_like(text), steps=steps, **more)


def _like_the_host(server: Server) -> None:
    """Its routes, and how it turns exceptions into answers."""
    app = server.app

    def answer(error: Exception) -> Response:
        found = {"error": type(error).__name__, "detail": vars(error).get("detail", ""), "errors": str(error)}
        return JSONResponse(found, vars(error).get("status_code", 500))

    @app.middleware("http")
    async def exception_handling(request: Request, call_next: Any) -> Response:
        try:
            return await call_next(request)
        except Exception as error:  # the behaviour that stands in
            return answer(error)

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, error: HTTPException) -> Response:
        return answer(error)

    @app.post("/sdapi/v1/txt2img")
    def txt2img(body: dict) -> dict:  # type: ignore[type-arg]
        return server.txt2img(body)

    @app.get("/sdapi/v1/options")
    def options() -> dict:  # type: ignore[type-arg]
        return {"samples_format": "png"}


@contextmanager
def running(folder: Path, pack: Path) -> Iterator[Server]:
    """A host with a loaded checkpoint, an untrained adapter for it, its encoder and a real pack."""
    before = dict(sys.modules)
    for name in [n for n in sys.modules if n.split(".")[0] == "modules" or n in OURS]:
        del sys.modules[name]
    sys.path.insert(0, str(HERE))
    remedies.stand_in(remedies.WEBUI)  # as our script does
    caches = (process.current_host, process.loader)
    for cached in caches:
        cached.cache_clear()
    try:
        names = ("shared", "sd_unet", "script_callbacks", "paths", "call_queue")
        modules = SimpleNamespace(**{name: importlib.import_module(f"modules.{name}") for name in names})
        unet = ldm_unet("sd15", seed=1)
        models = folder / "models"
        own = write_models(models / "FaceSnap", unet, pack)
        modules.paths.models_path = str(models)
        host = process.current_host()
        standin = A1111Host(modules)
        standin.load(unet)
        modules.script_callbacks.on_cfg_denoiser(host.before_step)
        folders = Folders.of(models, own)
        options = modules.shared.opts
        vars(options).update(facesnap_pack=PACK, facesnap_score=False)
        loader = PipelineLoader(lambda: folders, lambda: values(options))
        server = Server(FastAPI(), modules, host, standin, folders, loader, options)
        _like_the_host(server)
        yield server
        left = [m for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks]
        assert not left, f"{len(left)} modules of the UNet still have hooks"
    finally:
        remedies.stand_in(remedies.COMMAND_LINE)
        for cached in caches:
            cached.cache_clear()
        sys.path.remove(str(HERE))
        for name in [n for n in sys.modules if n.split(".")[0] == "modules" or n in OURS]:
            del sys.modules[name]
        sys.modules.update({n: m for n, m in before.items() if n.split(".")[0] == "modules" or n in OURS})


def write_models(folder: Path, unet: torch.nn.Module, pack: Path) -> Path:
    """An encoder, an adapter for this UNet, and the pack."""
    shutil.copytree(pack, folder / PACK)
    encoder = ImageEncoder.load(untrained.save_encoder(folder / f"{ENCODER}.safetensors")).fingerprint
    untrained.save_adapter(
        folder / "untrained.safetensors", unet, recogniser=load_pack(pack).recogniser_sha256, recogniser_name=PACK,
        encoder=encoder, encoder_name=ENCODER, ffrnet=False,
    )  # fmt: skip
    return folder


def with_routes(server: Server, api_auth: str | None = None, service: Service | None = None) -> FastAPI:
    """An app of its own with our routes alone, for tests of options and credentials."""
    app = FastAPI()
    app.include_router(api.router(service or server.service(), api_auth))
    return app
