"""Training checkpoints with objects beside their tensors: the parts load, no object is made."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import io
import pathlib
import random
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from facesnap.checkpoints.files import read_file, read_outline
from facesnap.errors import CheckpointError
from facesnap.families.registry import load_adapter
from facesnap.weights.headers import FAMILY, read_header
from tests.checkpoints.test_containers import OPTIMISER, flat, parts

MADE: list[str] = []  # objects of this module that a pickle has made


class Precision(enum.Enum):
    HALF = "half"


class Stages(enum.IntFlag):
    FIRST = 1


@dataclasses.dataclass
class Arguments:
    lr: float = 1e-4
    stages: Stages = Stages.FIRST

    def __setstate__(self, state: dict[str, Any]) -> None:
        MADE.append("Arguments")


class Callbacks:
    """An object, as Lightning keeps them beside the weights."""

    class Inner:
        """A class within a class, which pickle writes as getattr."""

    def __reduce__(self) -> tuple[Any, ...]:
        return made, ("Callbacks",), {"x": 1}, iter([1, 2]), iter({"a": 1}.items())


def made(name: str) -> None:
    MADE.append(name)


class Words(dict[str, Any]):
    """A dictionary of a library's own, as omegaconf and addict have them."""


class Kept(torch.Tensor):
    """A tensor of a library's own class."""


def of_other_libraries() -> dict[str, Any]:
    """Objects whose modules are not on this machine when they are read."""
    found = {}
    for module, name in (("omegaconf.dictconfig", "DictConfig"), ("pytorch_lightning.callbacks", "ModelCheckpoint"),
                         ("deepspeed.runtime.config", "DeepSpeedConfig")):  # fmt: skip
        for end in range(1, module.count(".") + 1):  # the packages above it
            above = module.rsplit(".", end)[0]
            sys.modules.setdefault(above, types.ModuleType(above))
        home = types.ModuleType(module)
        home.__dict__[name] = type(name, (), {"__module__": module})
        sys.modules[module] = home
        found[name] = home.__dict__[name]()
        found[name].__dict__["_content"] = {"lr": 0.1, "seeds": {1, 2}}
    return found


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "sizes": lambda: {"size": torch.Size([2, 3]), "dtype": torch.bfloat16, "device": torch.device("cuda:0")},
    "sets": lambda: {"seen": {1, 2}, "fixed": frozenset({"a"}), "range": range(4), "slice": slice(1), "z": 1j,
                     "bytes": b"abc", "bytearray": bytearray(b"abc"), "type": int, "none": type(None), "big": 1 << 300},
    "collections": lambda: {"counter": collections.Counter("aab"), "ordered": collections.OrderedDict(a=1),
                            "default": collections.defaultdict(list, a=[1]), "deque": collections.deque([1], 3)},
    "numpy": lambda: {"loss": np.float64(0.5), "step": np.int64(3), "array": np.arange(4), "t": np.array(["a"]),
                      "objects": np.array([1, None], object), "dtype": np.dtype("f4"),
                      "generator": np.random.get_state(), "rng": np.random.default_rng(1)},
    "a large array": lambda: {"latents": np.zeros((1100, 1000), np.float32)},
    "namespace": lambda: {"args": argparse.Namespace(lr=0.1, out=pathlib.Path("a")),
                          "simple": types.SimpleNamespace(a=1)},
    "times": lambda: {"at": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc), "took": datetime.timedelta(1)},
    "paths": lambda: {"out": pathlib.PurePosixPath("a/b"), "windows": pathlib.PureWindowsPath("c:/a")},
    "enumerations": lambda: {"precision": Precision.HALF, "stages": Stages.FIRST, "class": Precision},
    "dataclasses": lambda: {"args": Arguments(), "callbacks": Callbacks(), "inner": Callbacks.Inner},
    "hyper parameters": lambda: {"hyper_parameters": of_other_libraries(), "hparams_name": "kwargs",
                                 "loops": {"a": None}},
    "deepspeed": lambda: {"optimizer": None, "lr_scheduler": None, "ds_config": {"fp16": {"enabled": True}},
                          "param_shapes": [collections.OrderedDict(a=torch.Size([2, 3]))], "buffer_names": ["x"],
                          "dtype": torch.float16, "ds_version": "0.14", "loss_scaler": of_other_libraries()},
    "optimiser": lambda: {"optimizer": OPTIMISER, "by": collections.defaultdict(dict, {0: OPTIMISER["state"]})},
    "functions": lambda: {"collate": made, "schedule": torch.optim.AdamW, "module": nn.Linear(2, 2),
                          "layout": torch.strided, "parameter": nn.Parameter(torch.ones(2))},
    "other tensors": lambda: {"sparse": torch.ones(2).to_sparse(), "complex": torch.ones(2, dtype=torch.complex64),
                              "own": torch.ones(2).as_subclass(Kept),
                              "wide": torch.ones(2).to(getattr(torch, "uint16", torch.int16))},
    "long names": lambda: {"seen": {"a" * 5000: {"b": torch.Size([1])}}, "pairs": {(1, 2): 3}},
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "protocol 4": {"pickle_protocol": 4},
    "protocol 5": {"pickle_protocol": 5},
    "old": {"_use_new_zipfile_serialization": False},
}


def forget_libraries() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in ("omegaconf", "pytorch_lightning", "deepspeed"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _other_libraries_are_not_there() -> Iterator[None]:
    MADE.clear()
    yield
    forget_libraries()


def same(found: Any, plain: Any) -> bool:
    pairs = ((found.mixer, plain.mixer), (found.projections, plain.projections))
    equal = all(torch.equal(t, b.state_dict()[k]) for a, b in pairs for k, t in a.state_dict().items())
    return equal and all(torch.equal(t, plain.lora.tensors()[k]) for k, t in found.lora.tensors().items())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CASES)
def test_the_parts_load_whatever_stands_beside_them(tmp_path: Path, name: str, options: str) -> None:
    state, path = parts(), tmp_path / "checkpoint.ckpt"
    torch.save(state, tmp_path / "plain.bin")
    torch.save({"epoch": 3, "state_dict": flat(state, above="module."), **CASES[name]()}, path, **OPTIONS[options])
    forget_libraries()
    assert same(load_adapter(path), load_adapter(tmp_path / "plain.bin"))
    assert not MADE and "omegaconf.dictconfig" not in sys.modules
    header = read_header(path)  # the list sees the same
    assert (header.kind, header.families, header.base, header.problem) == (FAMILY, ("faceid",), "sd15", "")


def test_whole_checkpoints_of_deepspeed(tmp_path: Path) -> None:
    state = parts()
    torch.save(state, tmp_path / "plain.bin")
    torch.save({"module": flat(state), **CASES["deepspeed"]()}, tmp_path / "mp_rank_00_model_states.pt")
    assert same(load_adapter(tmp_path / "mp_rank_00_model_states.pt"), load_adapter(tmp_path / "plain.bin"))


def test_dictionaries_of_other_classes_hold_tensors(tmp_path: Path) -> None:
    """Their entries are data, whatever the class would make of them; Python 2 wrote ordered ones as lists of pairs."""
    state = parts()
    torch.save(state, tmp_path / "plain.bin")
    for number, kind in enumerate((Words, collections.OrderedDict, lambda d: collections.defaultdict(dict, d))):
        inner = {part: kind({f"module.{k}": t for k, t in tensors.items()}) for part, tensors in state.items()}
        torch.save(kind({**inner, "size": torch.Size([1])}), tmp_path / f"{number}.bin")
        assert same(load_adapter(tmp_path / f"{number}.bin"), load_adapter(tmp_path / "plain.bin"))


@pytest.mark.parametrize("options", ("", "old"))
def test_tensors_of_every_kind_are_what_torch_reads(tmp_path: Path, options: str) -> None:
    base = torch.arange(24, dtype=torch.float32)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
             torch.uint8, torch.bool)  # fmt: skip
    tensors = {
        "a.transposed": base.view(4, 6).t(), "a.part": base[5:17:2], "a.wide": base[:1].expand(7), "a.number": base[3],
        "a.parameter": nn.Parameter(base.clone()), "a.with_state": with_state(base), "a.own": base.as_subclass(Kept),
        **{f"b.{kind}": base.to(kind) for kind in kinds},
    }  # fmt: skip
    torch.save({**tensors, "out": Path("a")}, tmp_path / "a.bin", **OPTIONS[options])
    found, outline = read_file(tmp_path / "a.bin"), read_outline(tmp_path / "a.bin")
    assert found.tensors.keys() == outline.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found.tensors[name], tensor.detach().as_subclass(torch.Tensor)), name
        assert found.tensors[name].dtype == outline.tensors[name].dtype == tensor.dtype, name
        assert outline.tensors[name].is_meta and outline.tensors[name].shape == tensor.shape, name
    assert found.objects == outline.objects and any("Path" in one for one in found.objects)


def with_state(tensor: torch.Tensor) -> nn.Parameter:
    found = nn.Parameter(tensor.clone())
    found.note = "kept by a trainer"
    return found


@pytest.mark.parametrize("name", ("float8_e4m3fn", "float8_e5m2"))
def test_float8_beside_objects(tmp_path: Path, name: str) -> None:
    tensor = torch.tensor([0.5, 1.5]).to(getattr(torch, name))
    torch.save({"a": tensor, "size": torch.Size([1])}, tmp_path / "a.bin")
    assert read_file(tmp_path / "a.bin").tensors["a"].tolist() == [0.5, 1.5]


def test_objects_in_the_place_of_weights_are_named(tmp_path: Path) -> None:
    state, path = parts(), tmp_path / "a.bin"
    for content, said in (
        ({**state, "image_proj": {**state["image_proj"], "proj.0.weight": np.ones(3)}},
         r"image_proj\.proj\.0\.weight is numpy"),
        ({**state, "image_proj": {**state["image_proj"], "norm.weight": torch.ones(2).to_sparse()}},
         r"image_proj\.norm\.weight is torch\._utils\._rebuild_sparse"),
        ({**state, "image_proj": {**state["image_proj"], "norm.weight": torch.ones(2, dtype=torch.complex64)}},
         r"image_proj\.norm\.weight is a tensor of ComplexFloat"),
        ({**state, "image_proj": nn.Linear(2, 2)}, r"image_proj is torch\.nn\.modules\.linear\.Linear.*dictionary of"),
        ({"model": Callbacks()}, r"objects and no tensor \(\S*test_objects"),
        ({"state_dict": {**flat(state), "adapter_modules.1.to_k_ip.weight": Callbacks()}},
         r"1\.to_k_ip\.weight is \S*made"),
    ):  # fmt: skip
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=said) as caught:
            load_adapter(path)
        assert ".safetensors" in str(caught.value) and not MADE


def test_objects_within_a_part_that_is_whole_do_not_matter(tmp_path: Path) -> None:
    state = parts()
    torch.save(state, tmp_path / "plain.bin")
    torch.save({"image_proj": {**state["image_proj"]}, "ip_adapter": {**state["ip_adapter"]},
                "hyper_parameters": {"image_proj": Arguments(), "ip_adapter": Arguments()}},
               tmp_path / "a.ckpt")  # fmt: skip
    assert same(load_adapter(tmp_path / "a.ckpt"), load_adapter(tmp_path / "plain.bin"))


def test_asking_for_memory_takes_none(tmp_path: Path) -> None:
    """Classes that would ask for a terabyte are not made."""

    class Large:
        def __init__(self, kind: Any) -> None:
            self.kind = kind

        def __reduce__(self) -> tuple[Any, ...]:
            return self.kind, (1 << 40,)

    content = {**parts(), "sizes": [Large(kind) for kind in (torch.Tensor, torch.UntypedStorage, bytearray)]}
    torch.save(content, tmp_path / "a.bin")
    assert load_adapter(tmp_path / "a.bin").spec.family == "faceid"


def test_damaged_lists_are_refused_or_read_right(tmp_path: Path) -> None:
    """One byte of a list changed at a time: a message, or the same tensors."""
    draws = random.Random(5)
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        buffer = io.BytesIO()
        torch.save({"a": torch.arange(4.0), "args": Arguments(), "c": collections.Counter("a")}, buffer, **options)
        data = buffer.getvalue()
        end = data.index(b"Counter") + 40
        for _ in range(400):
            wrong = bytearray(data)
            wrong[draws.randrange(20, end)] = draws.randrange(256)
            (tmp_path / "a.bin").write_bytes(wrong)
            try:
                found = read_file(tmp_path / "a.bin").tensors
            except CheckpointError:
                continue
            assert all(t.numel() <= 4 for t in found.values())
    assert not MADE


def test_keys_that_are_tuples_of_tuples_are_passed_over(tmp_path: Path) -> None:
    """A small file whose keys take 2^60 steps to hash; its parts load at once."""
    tower: tuple[Any, ...] = ()
    for _ in range(60):
        tower = (tower, tower)

    class Tower:
        def __reduce__(self) -> tuple[Any, ...]:
            return collections.OrderedDict, ([[tower, 1]],)

    torch.save(parts(), tmp_path / "plain.bin")
    buffer = io.BytesIO()
    content = {**parts(), "seen": Tower()}
    torch.save(content, buffer)
    (tmp_path / "a.bin").write_bytes(buffer.getvalue())
    assert same(load_adapter(tmp_path / "a.bin"), load_adapter(tmp_path / "plain.bin"))
