"""A pack's recogniser, an ONNX file, as a differentiable torch module: the judge of the identity loss.

The graph is walked node by node with torch functions. The operators are those of ArcFace's iresnet and MobileFaceNet
exports; any other is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facesnap.errors import PackError, importing

Attributes = dict[str, Any]


class TorchRecogniser(nn.Module):
    """A frozen recogniser.

    Attributes:
        mean, std: of pixels 0..255, as the file wants them (insightface's rule: a graph that begins with its own
            subtraction takes raw pixels).
        side: of the crop in pixels.
    """

    def __init__(self, graph: Any, where: str) -> None:
        super().__init__()
        from onnx import numpy_helper

        self.where = where
        self._nodes = [(n.op_type, list(n.input), list(n.output), _attributes(n)) for n in graph.node]
        unknown = sorted({op for op, *_ in self._nodes} - set(OPERATORS))
        if unknown:
            raise PackError(
                f"{where} uses the operators {', '.join(unknown)}, which cannot be differentiated here.",
                expected=f"the operators of ArcFace's networks: {', '.join(sorted(OPERATORS))}",
                remedy="name another pack's recogniser for the identity loss",
            )
        self._constants: dict[str, str] = {}
        for i, tensor in enumerate(graph.initializer):
            self._constants[tensor.name] = f"w{i}"
            self.register_buffer(f"w{i}", torch.from_numpy(np.array(numpy_helper.to_array(tensor))))
        inputs = [value for value in graph.input if value.name not in self._constants]
        self._input, self._output = inputs[0].name, graph.output[0].name
        self.side = int(inputs[0].type.tensor_type.shape.dim[-1].dim_value) or 112
        early = [op for op, *_ in self._nodes[:8]]
        raw = "Sub" in early and "Mul" in early
        self.mean, self.std = (0.0, 1.0) if raw else (127.5, 127.5)

    @classmethod
    def load(cls, file: Path | str) -> TorchRecogniser:
        """Read an ONNX file.

        Raises:
            PackError: not readable, or not an ArcFace network. MissingDependencyError: onnx is missing.
        """
        with importing(
            "onnx is needed to train with the identity loss", "onnx 1.13 or newer", 'pip install "facesnap[train]"'
        ):
            import onnx
        try:
            model = onnx.load(str(file))
        except Exception as error:  # protobuf raises kinds of its own
            raise PackError(
                f"{file} cannot be read ({type(error).__name__}: {error}).",
                expected="a recogniser's ONNX file",
                remedy="correct losses.recogniser, or fetch the pack again",
            ) from error
        return cls(model.graph, str(file)).eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) RGB in 0..1 -> (B, 512), not normalised."""
        values: dict[str, Tensor] = {name: getattr(self, key) for name, key in self._constants.items()}
        values[self._input] = (pictures.float() * 255 - self.mean) / self.std
        for op, inputs, outputs, attributes in self._nodes:
            arguments = [values[name] if name else None for name in inputs]
            values[outputs[0]] = OPERATORS[op](attributes, *arguments)
        return values[self._output].flatten(1)


def _attributes(node: Any) -> Attributes:
    from onnx import helper, numpy_helper

    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Constant":
        found["value"] = torch.from_numpy(np.array(numpy_helper.to_array(found["value"])))
    return found


def _convolution(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, a.get("strides", [1, 1]), 0, a.get("dilations", [1, 1]), a.get("group", 1))


def _gemm(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x = x.T if a.get("transA") else x
    out = a.get("alpha", 1.0) * (x @ (weight.T if a.get("transB") else weight))
    return out if bias is None else out + a.get("beta", 1.0) * bias


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [x.shape[i] if s == 0 else s for i, s in enumerate(shape.tolist())]
    if len(sizes) == 2 and sizes[0] in (1, -1):  # exports of one picture fold a batch into one vector
        return x.flatten(1)
    return x.reshape(sizes)


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    x = F.pad(x, (left, right, top, bottom), value=-torch.inf)
    return F.max_pool2d(x, a["kernel_shape"], a.get("strides", [1, 1]))


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda a, x, y: x + y,
    "BatchNormalization": lambda a, x, weight, bias, mean, var: F.batch_norm(
        x, mean, var, weight, bias, eps=a.get("epsilon", 1e-5)
    ),
    "Constant": lambda a: a["value"],
    "Conv": _convolution,
    "Div": lambda a, x, y: x / y,
    "Dropout": lambda a, x, *rest: x,
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "Identity": lambda a, x: x,
    "MatMul": lambda a, x, y: x @ y,
    "MaxPool": _max_pool,
    "Mul": lambda a, x, y: x * y,
    "PRelu": lambda a, x, slope: torch.where(x >= 0, x, x * slope),  # (C, 1, 1) or (1,): it broadcasts
    "Relu": lambda a, x: F.relu(x),
    "Reshape": _reshape,
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Sub": lambda a, x, y: x - y,
}
