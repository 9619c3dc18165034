"""The installer in real environments, with a real package index: what each WebUI pins, then FaceSnap's needs, imported.

Minutes and a network: `make nightly`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Of each WebUI's own list, what face analysis meets: A1111 1.10.1, Forge dfdcbab6, Neo 2.26.
PINS = {
    "a1111": (
        "3.10",
        "numpy==1.26.2 protobuf==3.20.0 Pillow==9.5.0 scikit-image==0.21.0 tqdm opencv-python==4.11.0.86",
    ),
    "forge": ("3.10", "numpy==1.26.2 protobuf==3.20.0 Pillow==9.5.0 scikit-image==0.21.0 tqdm opencv-python==4.8.1.78"),
    "neo": (
        "3.13",
        "numpy==2.3.5 protobuf==4.25.9 Pillow==12.2.0 scikit-image==0.25.2 tqdm==4.67.3 opencv-python==4.10.0.84",
    ),
}
BROKEN = "onnx==1.23.2"  # needs protobuf 6.31.1 and says so when it is imported
USE = "import insightface.model_zoo, onnx, onnxruntime, cv2; print(onnx.__version__, insightface.__version__)"

pytestmark = pytest.mark.thorough


def python_of(version: str) -> str:
    """An interpreter of this version that runs; skips where there is none."""
    for name in (f"python{version}", sys.executable):
        program = shutil.which(name)
        call = [program, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"] if program else []
        if call and subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip() == version:
            return str(program)
    pytest.skip(f"there is no Python {version} here")


class WebUI:
    """An environment with a WebUI's pins, and the extension in its place beside it."""

    def __init__(self, folder: Path, name: str, uv: str = "") -> None:
        version, pins = PINS[name]
        base = python_of(version)
        make = [uv, "venv", "--python", base] if uv else [base, "-m", "venv"]
        subprocess.run([*make, str(folder / "venv")], check=True)
        self.python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self._install = (
            [uv, "pip", "install", "--python", str(self.python)] if uv else [str(self.python), "-m", "pip", "install"]
        )
        self.extension = folder / "extensions" / "facesnap"
        (self.extension / "facesnap").mkdir(parents=True)
        shutil.copy(ROOT / "install.py", self.extension)
        shutil.copy(ROOT / "facesnap" / "requirements.py", self.extension / "facesnap")
        self.install(*pins.split())

    def install(self, *packages: str) -> None:
        subprocess.run([*self._install, "-q", *packages], check=True)

    def start(self) -> str:
        """The installer's part of a start of the WebUI; gives what it says."""
        call = [str(self.python), str(self.extension / "install.py")]
        return subprocess.run(call, capture_output=True, text=True, check=True, encoding="utf-8").stdout

    def run(self, code: str) -> str:
        done = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def versions(self) -> dict[str, str]:
        """Of everything installed."""
        code = "import json; from importlib.metadata import distributions as d; "
        return json.loads(self.run(code + "print(json.dumps({i.metadata['Name'].lower(): i.version for i in d()}))"))


@pytest.fixture(params=PINS)
def webui(request: pytest.FixtureRequest, tmp_path: Path) -> WebUI:
    return WebUI(tmp_path, request.param)


def _stays(before: dict[str, str], after: dict[str, str], but: tuple[str, ...] = ()) -> None:
    assert {name: after.get(name) for name in before if name not in but} == {
        n: v for n, v in before.items() if n not in but
    }


def test_a_fresh_webui(webui: WebUI) -> None:
    before = webui.versions()
    said = webui.start()
    assert "installing insightface" in said and "cannot" not in said, said
    print(webui.run(USE))
    _stays(before, webui.versions())
    assert webui.start() == ""


def test_a_broken_onnx_is_replaced(webui: WebUI) -> None:
    webui.install("--no-deps", BROKEN)
    before = webui.versions()
    said = webui.start()
    assert "onnx cannot be imported" in said, said
    print(webui.run(USE))
    _stays(before, webui.versions(), but=("onnx",))
    assert webui.start() == ""


@pytest.mark.parametrize("broken", [False, True])
def test_an_environment_that_uv_made(tmp_path: Path, broken: bool) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("there is no uv here")
    webui = WebUI(tmp_path, "neo", uv)
    if broken:
        webui.install("--no-deps", BROKEN)
    before = webui.versions()
    assert "pip" not in before
    said = webui.start()
    assert "could not" not in said, said
    print(webui.run(USE))
    _stays(before, webui.versions(), but=("onnx",))
    assert webui.start() == ""
