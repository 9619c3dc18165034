"""A photo of 60 megapixels leaves the process about as large as it was, with a face and without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.live.webui import ROOT

LEFT_MB, PEAK_MB = 100, 500
# In a process of its own: memory that other tests have freed would hide what stays.
REQUESTS = """
import base64, gc, json, sys, tempfile
from pathlib import Path
from fastapi.testclient import TestClient
from tests.webui.standin.server import running, with_routes

def memory(entry):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry)) / 1024

def send(client, file):
    body = {"image": base64.b64encode(Path(file).read_bytes()).decode()}
    answer = client.post("/facesnap/v1/analyse", json=body)
    gc.collect()
    return answer.status_code, memory("VmRSS")

pack, *files = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder, running(Path(folder), Path(pack)) as server:
    with TestClient(with_routes(server, service=server.service())) as client:
        found = [send(client, file) for file in files]
peak = memory("VmHWM")  # getrusage would count the process that started this one
print(json.dumps({"found": found, "peak": peak}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_photo_leaves_no_memory_behind(tmp_path: Path, face_pack: Path, astronaut: np.ndarray) -> None:
    small, faceless, large = (tmp_path / name for name in ("small.png", "faceless.jpg", "large.jpg"))
    Image.fromarray(astronaut).save(small)
    ground = Image.fromarray(data.coffee()).resize((9504, 6336))
    ground.save(faceless, quality=85)
    ground.paste(Image.fromarray(astronaut).resize((1536, 1536)), (4000, 2000))
    ground.save(large, quality=85)
    command = [sys.executable, "-c", REQUESTS, str(face_pack), *map(str, (small, faceless, large))]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    (_, before), (status, without), (found, after) = report["found"]
    assert (status, found) == (422, 200)
    assert max(without, after) - before <= LEFT_MB, report
    assert report["peak"] - before <= PEAK_MB, report
