"""The recogniser in torch: the file's own numbers, with gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from facesnap.errors import PackError
from facesnap.faces.packs import load_pack
from facesnap.training.arcface import TorchRecogniser


def test_equals_onnxruntime_and_gradients_flow(face_pack: Path, astronaut: np.ndarray) -> None:
    import onnxruntime

    file = load_pack(face_pack).recogniser
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    net = TorchRecogniser.load(file)
    crops = np.stack([astronaut[y : y + 112, x : x + 112] for y, x in ((0, 150), (80, 170), (300, 10))])
    pictures = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
    pixels = ((pictures * 255 - net.mean) / net.std).numpy()
    wanted = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    found = net(pictures.requires_grad_(True))
    scale = float(np.abs(wanted).max())
    assert np.abs(found.detach().numpy() - wanted).max() < 1e-4 * max(scale, 1.0)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.1 * scale
    found.square().sum().backward()
    assert float(pictures.grad.abs().max()) > 0 and all(not p.requires_grad for p in net.parameters())


def test_unknown_operators_are_named(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 112, 112])  # noqa: E731
    graph = helper.make_graph([helper.make_node("Softsign", ["x"], ["y"])], "g", [value("x")], [value("y")])
    onnx.save(helper.make_model(graph), tmp_path / "odd.onnx")
    with pytest.raises(PackError, match="Softsign"):
        TorchRecogniser.load(tmp_path / "odd.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\x99" * 50)
    with pytest.raises(PackError, match=r"broken\.onnx"):
        TorchRecogniser.load(tmp_path / "broken.onnx")
