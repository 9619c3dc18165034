"""Small ONNX landmark nets with the signatures of insightface's models and of others, for testing the real
runners.

Each net answers with the same points whatever its input is; where they land in the picture shows how the
runner cut and placed its crop.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def constant_net(path: Path, shape: tuple[int, ...], answer: np.ndarray) -> None:
    """Input float `shape`; output (1, answer.size): `answer`, plus 0 x the mean of the input so that it is
    used."""
    nodes = [
        helper.make_node("ReduceMean", ["data"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["answer", "nothing"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "landmarks",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, answer.size))],
        [
            numpy_helper.from_array(answer.reshape(1, -1).astype(np.float32), "answer"),
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
