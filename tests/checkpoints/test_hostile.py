"""Damaged and hostile files: every one refused with a CheckpointError, nothing executed, memory bounded."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from facesnap.checkpoints import pickles
from facesnap.checkpoints.files import DTYPES, read_file, read_outline
from facesnap.errors import CheckpointError
from tests.networks import CONTEXT
from tests.public_files import public_state

WIDTHS = [32] * 2 + [64] * 7 + [64] * 3 + [32] * 3 + [64]
MARKER = "facesnap-was-here"
MEMORY = 64 << 20  # bytes that refusing one file may take, torch's own code pages included; the bombs hold 200 MB
ROOT = Path(__file__).resolve().parents[2]


def good(family: str = "faceid") -> dict:
    return public_state(family, WIDTHS, CONTEXT["sd15"])


def flat(state: dict) -> dict[str, torch.Tensor]:
    return {f"{part}.{k}": v.contiguous() for part, tensors in state.items() for k, v in tensors.items()}


def torch_bytes(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def rezip(data: bytes, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED,
          extra: dict[str, bytes] | None = None) -> bytes:  # fmt: skip
    """The archive with its entries changed, compressed or left out (None)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for entry in old.infolist():
            content = change(entry.filename, old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
        for name, content in (extra or {}).items():
            new.writestr(name, content)
    return buffer.getvalue()


def archive_of(pickled: bytes, root: str = "archive", **extra: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name, content in ({"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"} | extra).items():
            new.writestr(f"{root}/{name}", content)
    return buffer.getvalue()


class Call:
    """Pickles as a call of any callable."""

    def __init__(self, function, *args) -> None:
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


INERT = {"tensor", "bytearray", "storage", "complex"}  # of the calls below: classes, which are not made


def code_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Pickles that would leave a marker behind, in every container and place."""
    marker = str(folder / MARKER)
    calls = {
        "system": Call(os.system, f"touch {marker}"),
        "open": Call(open, marker, "w"),
        "exec": Call(exec, f"open({marker!r}, 'w')"),
        "eval": Call(eval, f"open({marker!r}, 'w')"),
        "mkdir": Call(os.mkdir, marker),
        "getattr": Call(getattr, "text", "upper"),
        "import": Call(__import__, "antigravity"),
        "load": Call(torch.load, marker),
        "jit": Call(torch.jit.load, marker),
        "tensor": Call(torch.Tensor, 1 << 40),
        "bytearray": Call(bytearray, 1 << 40),
        "storage": Call(torch.UntypedStorage, 1 << 40),
        "complex": Call(complex, 1, 2),
    }
    for name, call in calls.items():
        if name not in INERT:  # beside parts that would do: what can run programs is no object among others
            content = {**good(), "callbacks": {"x": call}}
            yield f"{name} beside.bin", torch_bytes(content)
            yield f"{name} beside 5.bin", torch_bytes(content, pickle_protocol=5)
            yield f"{name} beside old.bin", torch_bytes(content, _use_new_zipfile_serialization=False)
        for protocol in (2, 4):
            for place, content in (("alone", call), ("inside", {"image_proj": {"proj.0.weight": call}})):
                pickled = pickle.dumps(content, protocol=protocol)
                yield f"{name} {place} {protocol}.bin", archive_of(pickled)
                yield f"{name} {place} {protocol} bare.bin", pickled
    yield "name.safetensors", archive_of(pickle.dumps(calls["system"], protocol=2))
    yield "script.bin", archive_of(pickle.dumps({}, 2), **{"constants.pkl": b"\x80\x02).", "code/a.py": b"import os"})
    module = torch.jit.script(torch.nn.Linear(2, 2))
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    yield "torchscript.pt", buffer.getvalue()
    yield "legacy.pt", torch_bytes({"a": torch.ones(4)}, _use_new_zipfile_serialization=False)


def archive_files() -> Iterator[tuple[str, bytes]]:
    """Archives that lie: bombs, doubles, overlaps, missing and foreign entries."""
    data = torch_bytes(good())
    keep = lambda name, content: content  # noqa: E731
    for kind, method in (("deflated", zipfile.ZIP_DEFLATED), ("bzip2", zipfile.ZIP_BZIP2), ("lzma", zipfile.ZIP_LZMA)):
        yield f"{kind}.bin", rezip(data, keep, method)
    yield "bomb.bin", rezip(data, lambda n, c: bytes(200 << 20) if n.endswith("data/0") else c, zipfile.ZIP_DEFLATED)
    yield "pickle bomb.bin", rezip(data, lambda n, c: bytes(5 << 20) if n.endswith("data.pkl") else c)
    yield "no list.bin", rezip(data, lambda n, c: None if n.endswith("data.pkl") else c)
    yield "no storage.bin", rezip(data, lambda n, c: None if n.endswith("data/0") else c)
    yield "short storage.bin", rezip(data, lambda n, c: c[:-4] if n.endswith("data/3") else c)
    yield "empty storage.bin", rezip(data, lambda n, c: b"" if n.endswith("data/3") else c)
    yield "other root.bin", rezip(data, keep, extra={"other/data.pkl": b"."})
    yield "case.bin", rezip(data, keep, extra={"archive/DATA.pkl": b"."})
    yield "comment.bin", data[:-2] + b"\x05\x00PK\x05\x06"
    yield "appended.bin", data + bytes(64)
    yield "two ends.bin", data + data[-22:]
    end = bytearray(data)
    for field, value in ((8, 3), (10, 3), (12, 1 << 30), (16, 7)):
        lying = bytearray(end)
        lying[len(end) - 22 + field : len(end) - 22 + field + (2 if field < 12 else 4)] = value.to_bytes(
            2 if field < 12 else 4, "little"
        )
        yield f"end {field} {value}.bin", bytes(lying)
    place = data.rfind(b"PK\x01\x02")
    for offset, size in ((20, 4), (24, 4), (42, 4)):
        lying = bytearray(data)
        lying[place + offset : place + offset + size] = (1 << 31).to_bytes(4, "little")
        yield f"entry {offset}.bin", bytes(lying)
    yield "table.bin", archive_of(b"\x80\x02Nr\xff\xff\xff\x7f.")
    yield "zip.bin", archive_of(b"")
    yield "no pickle.bin", rezip(data, lambda n, c: c[: len(c) // 2] if n.endswith("data.pkl") else c)
    yield "noise pickle.bin", rezip(data, lambda n, c: os.urandom(len(c)) if n.endswith("data.pkl") else c)


def content_files() -> Iterator[tuple[str, bytes]]:
    """Well-formed containers with the wrong things in them."""
    one = torch.ones(1)
    wide = torch.as_strided(one, (1 << 20, 1 << 20), (0, 0))
    many = {f"image_proj.{i}": torch.as_strided(torch.ones(1 << 16), (1 << 16,), (1,)) for i in range(4)}
    shared = torch.ones(1 << 18)
    for name, content in {
        "list": [torch.ones(2)], "tensor": torch.ones(2), "number": 5, "text": {"a": "b"}, "none": {"a": None},
        "empty": {}, "empty inside": {"image_proj": {}}, "deep": {"a": {"b": {"c": {"d": {"e": one}}}}},
        "wide": {"a": wide}, "aliases": {str(i): shared for i in range(50)}, "tuple key": {("a", 1): one},
        "long name": {"a" * 5000: one}, "no elements": {"a": torch.zeros(0, 5)}, "sparse": {"a": one.to_sparse()},
        "function in list": {"a": [1, 2]}, "meta": {"a": torch.ones(3, device="meta")}, "set": {"a": {1, 2}},
        "unknown": many, "counters": {"step": 1000, "epoch": 3, "lr": 0.1, "betas": (0.9, 0.99), "on": True},
        "half": {"image_proj": good()["image_proj"], "ip_adapter": {}, "step": 1000},
    }.items():  # fmt: skip
        yield f"{name}.bin", torch_bytes(content)
    tangle: dict = {"z": one}
    for _ in range(60):  # 2^60 paths through one small file
        tangle = {"a": tangle, "b": tangle}
    yield "tangle.bin", torch_bytes(tangle)
    bush: dict = {str(i): one for i in range(400)}
    for _ in range(3):  # 400^2 paths, within the depth that is allowed
        bush = {str(i): bush for i in range(20)}
    yield "bush.bin", torch_bytes(bush)
    hedge: dict = {str(i): i for i in range(1000)}
    for _ in range(3):  # 1000^4 entries without a tensor
        hedge = {str(i): hedge for i in range(1000)}
    yield "hedge.bin", torch_bytes(hedge)


def wrong_tensors() -> Iterator[tuple[str, bytes]]:
    """Right names with wrong shapes, gaps, strangers, and values that are none."""
    for family in ("faceid", "faceid-plusv2"):
        state = flat(good(family))
        names = [n for n in state if n.startswith("image_proj")][:: 2 if family == "faceid" else 8]
        names += ["ip_adapter.1.to_k_ip.weight", "ip_adapter.31.to_v_ip.weight", "ip_adapter.0.to_q_lora.down.weight"]
        for name in names:
            t = state[name]
            for kind, changed in (
                ("missing", None), ("longer", torch.cat((t, t))), ("transposed", t[..., None]), ("scalar", t.sum()),
                ("nan", t * float("nan")), ("infinite", t / 0), ("integers", t.int()),
            ):  # fmt: skip
                new = {k: v for k, v in state.items() if k != name}
                if changed is not None:
                    new[name] = changed.contiguous()
                yield f"{family}-{name}-{kind}.safetensors", save(new)
        for name in ("ip_adapter.33.to_k_ip.weight", "ip_adapter.2.to_k_ip.weight", "ip_adapter.x", "image_proj.extra",
                     "image_proj.perceiver_resampler.layers.999999999.0.norm1.weight",
                     "ip_adapter.99999.to_k_ip.weight",
                     "ip_adapter.40.to_q_lora.up.weight"):  # fmt: skip
            yield f"{family}-more-{name}.safetensors", save(state | {name: torch.ones(4)})


def headers() -> Iterator[tuple[str, bytes]]:
    """safetensors whose header lies, and files that are none."""
    data = save(flat(good()))
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]

    def with_header(change: Callable[[dict], None]) -> bytes:
        new = json.loads(json.dumps(header))
        change(new)
        raw = json.dumps(new).encode()
        return struct.pack("<Q", len(raw)) + raw + body

    name = "image_proj.norm.weight"
    for kind, fields in {
        "shape": {"shape": [1 << 40]}, "negative": {"shape": [-1]}, "dims": {"shape": [1 << 31, 1 << 31, 4]},
        "offset": {"data_offsets": [0, 1 << 50]}, "reversed": {"data_offsets": [8, 4]}, "dtype": {"dtype": "F1"},
        "wider": {"dtype": "F64"}, "overlap": {"data_offsets": [0, 256]}, "text": {"shape": "many"},
        "empty": {"shape": [0], "data_offsets": [0, 0]},
    }.items():  # fmt: skip
        yield f"header {kind}.safetensors", with_header(lambda h, f=fields: h[name].update(f))
    for value in (0, 1, length - 1, length + 1, len(data), 1 << 40, (1 << 64) - 1):
        yield f"length {value}.safetensors", struct.pack("<Q", value) + data[8:]
    yield "huge header.safetensors", struct.pack("<Q", 40 << 20) + b"{" + b" " * (40 << 20)
    nested = b'{"a":' * 100_000
    yield "nested header.safetensors", struct.pack("<Q", len(nested)) + nested
    for kind, content in {
        "page": b"<!DOCTYPE html><html>not found</html>", "lfs": b"version https://git-lfs.github.com/spec/v1\noid x\n",
        "nothing": b"", "short": b"PK\x03\x04", "noise": random.Random(1).randbytes(5000), "zeros": bytes(5000),
        "answer": b'{"error": "gated repository"}          ', "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "pickle": b"\x80\x02}q\x00." + bytes(40), "gzip": b"\x1f\x8b\x08" + bytes(100),
    }.items():  # fmt: skip
        yield f"{kind}.bin", content
        yield f"{kind}.safetensors", content


def object_files() -> Iterator[tuple[str, bytes]]:
    """Pickles with objects, lying or endless."""
    whole = {**good(), "path": Path("a")}
    data = torch_bytes(whole)
    yield "objects short storage.bin", rezip(data, lambda n, c: c[:-4] if n.endswith("data/3") else c)
    yield "objects no storage.bin", rezip(data, lambda n, c: None if n.endswith("data/0") else c)
    yield "objects deflated.bin", rezip(data, lambda n, c: c, zipfile.ZIP_DEFLATED)
    yield "objects big endian.bin", rezip(data, lambda n, c: b"big" if n.endswith("byteorder") else c)
    path = b"cpathlib\nPurePosixPath\n"
    yield "dictionaries.bin", archive_of(b"\x80\x02" + path + b"}" * (15 << 20) + b".")
    yield "marks.bin", archive_of(b"\x80\x02" + path + b"(" * (15 << 20) + b".")
    yield "long text.bin", archive_of(b"\x80\x02" + path + b"X\xff\xff\xff\x7fabc.")
    yield "long bytes.bin", archive_of(b"\x80\x04" + path + b"\x8e" + (1 << 50).to_bytes(8, "little") + b"abc.")
    yield "long frame.bin", archive_of(b"\x80\x04\x95" + (1 << 50).to_bytes(8, "little") + path + b"}.")
    yield "objects table.bin", archive_of(b"\x80\x02" + path + b"r\xff\xff\xff\x7f.")
    yield "laughs.bin", archive_of(b"\x80\x02" + path + b"}(" + b"N\x85q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"Nu.")
    tower = b"N\x85q\x00" + b"h\x00h\x00\x86q\x00" * 60  # hashed or shown, it takes 2^60 steps
    yield "plain laughs.bin", archive_of(b"\x80\x02}(" + tower + b"Nu.")
    yield "laughs in one.bin", archive_of(b"\x80\x02(" + tower + b"Nd.")
    yield "laughs in order.bin", archive_of(b"\x80\x02ccollections\nOrderedDict\n](](" + tower + b"Nee\x85R.")
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    yield "laughs as key.bin", archive_of(b"\x80\x02" + storage + tower + b"X\x03\x00\x00\x00cpuK\x01tQ.")
    yield "extension.bin", archive_of(b"\x80\x02" + path + b"\x82\x01.")
    yield "takes more.bin", archive_of(b"\x80\x02" + path + b"(\x87R.")
    old = torch_bytes(good(), _use_new_zipfile_serialization=False)
    for i in range(1, 20):
        yield f"old cut {i}.bin", old[: len(old) * i // 20]
    yield "old one byte less.bin", old[:-1]
    yield "old under another name.safetensors", old


def cuts() -> Iterator[tuple[str, bytes]]:
    for suffix, data in ((".bin", torch_bytes(good())), (".safetensors", save(flat(good())))):
        for i in range(20):
            yield f"cut {i}{suffix}", data[: len(data) * i // 20]
        yield f"one byte less{suffix}", data[:-1]


def corpus(folder: Path) -> Iterator[tuple[str, bytes]]:
    yield from code_files(folder)
    for files in (archive_files, content_files, wrong_tensors, headers, object_files, cuts):
        yield from files()


class Reader:
    """A process that reads files, each in a fork of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.checkpoints.reader", str(folder)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, encoding="utf-8", cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def read(self, file: Path) -> dict[str, Any]:
        """See `tests.checkpoints.reader.read`."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{file}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    with made.process:  # closes its input, which ends it
        yield made


@pytest.mark.skipif(sys.platform == "win32", reason="Windows neither forks nor reports a process's peak this way")
def test_every_file_of_the_corpus_is_refused_within_memory(tmp_path: Path, reader: Reader) -> None:
    path, names = tmp_path / "ip-adapter-faceid-plusv2_sd15", set()
    for suffix, data in ((".bin", torch_bytes(good())), (".safetensors", save(flat(good())))):
        honest = path.with_suffix(suffix)
        honest.write_bytes(data)
        assert reader.read(honest)["loaded"] == "faceid"  # so a refusal below is the file's own
        honest.unlink()
    for name, data in corpus(tmp_path):
        file = path.with_suffix(Path(name).suffix)
        file.write_bytes(data)
        found = reader.read(file)
        assert "refused" in found, (name, found)
        assert "Expected:" in found["refused"] and "Remedy:" in found["refused"], (name, found)
        assert found["outline_is_meta"], name  # the outline read no tensor
        assert found["peak"] < MEMORY, (name, found)
        assert not (tmp_path / MARKER).exists(), name
        file.unlink()
        names.add(name)
    assert len(names) >= 350


@pytest.mark.skipif(sys.platform == "win32", reason="Windows neither forks nor reports a process's peak this way")
def test_the_peak_of_a_file_is_its_own(tmp_path: Path, reader: Reader) -> None:
    """A large honest file exceeds the bound, and the small one after it does not inherit that peak."""
    large, small = tmp_path / "large.safetensors", tmp_path / "small.safetensors"
    large.write_bytes(save(flat(public_state("faceid", [16 * width for width in WIDTHS], CONTEXT["sd15"] * 8))))
    small.write_bytes(save(flat(good())))
    assert large.stat().st_size > MEMORY
    peaks = [reader.read(file)["peak"] for file in (small, large, small)]
    assert peaks[1] > MEMORY > max(peaks[0], peaks[2])


def test_sparse_file_of_a_terabyte(tmp_path: Path) -> None:
    path = tmp_path / "big.bin"
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match="1099511627776 bytes"):
        read_file(path)
    with pytest.raises(CheckpointError, match="is a folder"):
        read_file(tmp_path)


def test_a_large_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's zipfile would make an object of every entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(2000):
            archive.writestr(f"archive/{i}", b"")
    path = tmp_path / "many.bin"
    path.write_bytes(buffer.getvalue())
    monkeypatch.setattr(pickles, "MOST_DIRECTORY_BYTES", 1000)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(CheckpointError, match=r"its directory takes .* 2000 entries"):
        read_file(path)


def test_what_torch_and_safetensors_write_is_read(tmp_path: Path) -> None:
    """The other way round: no honest file is refused."""
    state = good()
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    for name, content in {
        "nested": state, "flat": flat(state), "module": module.state_dict(),
        "parameters": dict(module.named_parameters()),
        "training": {"state_dict": module.state_dict(), "epoch": 3, "optimizer_states": [{"lr": 0.1}], "empty": {}},
        "dtypes": {str(d): torch.ones(3, dtype=d) for d in (torch.float16, torch.bfloat16, torch.int64, torch.bool)},
        "views": {"a": torch.ones(6, 4)[2:4], "b": torch.ones(3, 5).T},
    }.items():  # fmt: skip
        path = tmp_path / f"{name} größe.bin"
        torch.save(content, path)
        content = content.get("state_dict", content)
        pairs = flat(content) if name == "nested" else content
        found = read_file(path)
        assert found.kind == "pickle" and found.tensors.keys() == pairs.keys()
        assert all(torch.equal(found.tensors[k], v) for k, v in pairs.items())
        outline = read_outline(path).tensors
        assert {k: (v.shape, v.dtype) for k, v in outline.items()} == {k: (v.shape, v.dtype) for k, v in pairs.items()}
    (tmp_path / "renamed.bin").write_bytes(save(flat(state)))
    assert read_file(tmp_path / "renamed.bin").kind == "safetensors"
    outline = read_outline(tmp_path / "renamed.bin").tensors
    assert {k: v.shape for k, v in outline.items()} == {k: v.shape for k, v in flat(state).items()}
    wide = {str(d): torch.ones(3).to(d) for d in set(DTYPES.values())}
    (tmp_path / "dtypes.safetensors").write_bytes(save(wide))
    assert {k: str(v.dtype) for k, v in read_outline(tmp_path / "dtypes.safetensors").tensors.items()} == {
        k: k for k in wide
    }
