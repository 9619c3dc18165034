"""A real WebUI as a subprocess with a data folder of its own, and a client of its API."""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--skip-prepare-environment",
    "--skip-python-version-check",
    "--skip-torch-cuda-test",
    "--api",
    "--disable-nan-check",
    "--no-hashing",
    "--skip-version-check",
    "--no-download-sd-model",
    "--do-not-download-clip",
]
# Files of a WebUI in which its flags are declared.
DECLARED = ("modules/cmd_args.py", "modules/paths_internal.py", "modules/shared_cmd_options.py", "backend/args.py")
PRECISIONS = ("--precision", "--unet-in-bf16", "--bf16-unet")
BOOT_SECONDS = 900  # on a busy machine
# glibc keeps what a switch of models frees, 1.5 GB of SDXL each time; the WebUIs' start script loads tcmalloc instead.
KEEP_NO_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_ARENA_MAX": "2"}
Auth = tuple[str, str] | None


class WebUI:
    """One running server.

    Args:
        folder: of the WebUI. data: its data folder, made anew. checkpoints: folder of checkpoints.
        extensions: name -> folder with the files to copy, of the extensions it has.
        flags: further ones. auth: (user, password) that requests bring.
        python_path: a folder of modules that its extensions find. page: whether it has its UI beside the API.
        environment: more variables.
    """

    def __init__(
        self, folder: Path, data: Path, checkpoints: Path, extensions: dict[str, Path],
        flags: Sequence[str] = (), auth: Auth = None, python_path: str = "", page: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.data, self.auth = folder, data, auth
        self.forge = (folder / "modules_forge").is_dir()
        denoiser = folder / "modules" / "sd_samplers_cfg_denoiser.py"
        self.classic = "0.0 <= self.step" in denoiser.read_text(encoding="utf-8")  # so it is true of every first step
        (data / "tmp").mkdir(exist_ok=True)  # Neo wants it where an extension builds a picture into its page
        for name, source in extensions.items():
            shutil.copytree(source, data / "extensions" / name, dirs_exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = (data / "log.txt").open("w", encoding="utf-8")
        self.process = subprocess.Popen(
            [
                _python(folder), "launch.py", *_flags(folder, flags), *([] if page else ["--nowebui"]),
                "--port", str(self.port), "--data-dir", str(data), "--ckpt-dir", str(checkpoints),
                *shlex.split(os.environ.get("FACESNAP_WEBUI_ARGS", "")),
            ],
            cwd=folder, stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={
                **os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "COMMANDLINE_ARGS": "",
                "PYTHONPATH": python_path, "GRADIO_ANALYTICS_ENABLED": "False", **KEEP_NO_MEMORY, **(environment or {}),
            },
        )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + BOOT_SECONDS
        # AUTOMATIC1111 loads its checkpoint beside the start; a second load at that moment breaks torch for good.
        while any(words not in self.log() for words in ("Startup time", *([] if self.forge else ["Model loaded"]))):
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"{self.folder} did not start:\n{self.log()[-3000:]}")
            time.sleep(0.5)
        while not self._listens():  # without a UI it says so before it listens
            time.sleep(0.5)

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self) -> str:
        return (self.data / "log.txt").read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def request(
        self, path: str, body: dict[str, Any] | None = None, method: str | None = None, auth: Auth | str = "own"
    ) -> tuple[int, Any]:
        """GET, or POST where there is a body, or another method -> status, JSON. auth: others than its own, or None."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if pair := self.auth if auth == "own" else auth:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(pair).encode()).decode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def generate(self, snap: dict[str, Any] | None = None, path: str = "txt2img", **payload: Any) -> tuple[int, Any]:
        """A generation of four steps at 64 x 64 -> status, the API's answer."""
        body: dict[str, Any] = {
            "prompt": "a person", "negative_prompt": "bad", "steps": 4, "width": 64, "height": 64, "seed": 1,
            "sampler_name": "Euler", "scheduler": "Automatic", "save_images": False,
        } | payload  # fmt: skip
        if body.get("enable_hr"):
            body.setdefault("hr_upscaler", self.upscaler)
            body |= {"hr_additional_modules": ["Use same choices"]} if self.forge else {}
        body["alwayson_scripts"] = dict(body.pop("more", {}))  # other scripts' arguments
        if snap is not None:
            body["alwayson_scripts"]["FaceSnap"] = {"args": [snap]}
        return self.request(f"/sdapi/v1/{path}", body)

    def pictures(self, snap: dict[str, Any] | None = None, path: str = "txt2img", **payload: Any) -> np.ndarray:
        """The pictures of a generation that must succeed, (N, H, W, 3) int16."""
        status, answer = self.generate(snap, path, **payload)
        assert status == 200, answer
        return np.stack([to_array(text) for text in answer["images"]])

    def watch(self, fail_at: int | None = None, on: bool = True) -> None:
        """Start the probe afresh."""
        status, answer = self.request("/probe", {"watch": on, "fail_at": fail_at})
        assert status == 200, answer

    def seen(self) -> dict[str, Any]:
        """What the probe has seen since."""
        return self.request("/probe")[1]

    def wait_for_the_sampler(self, alive: Callable[[], bool]) -> None:
        """Until the watched generation's first step is done; an error if it ended before."""
        while not self.seen()["steps"]:
            assert alive(), f"the generation ended before its first step:\n{self.log()[-3000:]}"
            time.sleep(0.05)

    @cached_property
    def upscaler(self) -> str:
        """Name of the one of a hires pass: in latent space where the WebUI has that."""
        modes = {one["name"] for one in self.request("/sdapi/v1/latent-upscale-modes")[1]}
        return "Latent" if "Latent" in modes else "None"

    def options(self, **values: Any) -> None:
        assert self.request("/sdapi/v1/options", values)[0] == 200

    def use(self, checkpoint: str) -> None:
        """Switch the checkpoint, by file name."""
        self.options(sd_model_checkpoint=checkpoint)


def to_array(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2] or text))) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def to_text(pixels: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def knows(folder: Path, flag: str) -> bool:
    """Whether a WebUI takes a flag: one of the files that declare them has it. An unknown one stops the start."""
    declared = [folder / file for file in DECLARED if (folder / file).is_file()]
    return any(f'"{flag}"' in file.read_text(encoding="utf-8") for file in declared)


def _flags(folder: Path, wanted: Sequence[str]) -> list[str]:
    """FLAGS that the WebUI has, on the CPU, in whole precision where the wanted flags do not say otherwise."""
    own = [flag for flag in FLAGS if knows(folder, flag)]
    cpu = next((flag for flag in ("--always-cpu", "--cpu") if knows(folder, flag)), None)
    whole = [] if {*PRECISIONS} & {*wanted} or not knows(folder, "--no-half") else ["--no-half"]
    return [*own, *([cpu] if cpu else ["--use-cpu", "all"]), *whole, *wanted]


def _python(folder: Path) -> str:
    """The interpreter that the WebUI runs with."""
    named = os.environ.get("FACESNAP_WEBUI_PYTHON")
    inside = folder / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    return named or str(inside if inside.is_file() else sys.executable)
