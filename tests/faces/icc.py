"""Colour profiles as public cameras and screens have them, written by the specification (ICC.1), and their truth."""

from __future__ import annotations

import struct

import numpy as np

# Primaries as columns: XYZ (D50) of red, green and blue; a curve's exponent.
SPACES = {
    "Adobe RGB": (((0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457)), 2.19921875),
    "Display P3": (((0.51512, 0.29198, 0.15710), (0.24120, 0.69225, 0.06657), (-0.00105, 0.04189, 0.78407)), 2.2),
    "ProPhoto": (((0.79767, 0.13519, 0.03134), (0.28804, 0.71188, 0.00009), (0.0, 0.0, 0.82521)), 1.8),
    "linear": (((0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.71410)), 1.0),
}
SRGB = np.array(SPACES["linear"][0])
WHITE = (0.9642, 1.0, 0.8249)


def rgb_profile(name: str) -> bytes:
    columns, gamma = SPACES[name]
    matrix = np.array(columns)
    xyz = {f"{colour}XYZ": _xyz(matrix[:, i]) for i, colour in enumerate("rgb")}
    return _profile("RGB ", xyz | {f"{colour}TRC": _curve(gamma) for colour in "rgb"})


def grey_profile(gamma: float) -> bytes:
    return _profile("GRAY", {"kTRC": _curve(gamma)})


def rgb_truth(name: str, levels: np.ndarray) -> np.ndarray:
    """Levels (..., 3) of a space -> those of sRGB, 0..255, not rounded."""
    columns, gamma = SPACES[name]
    linear = (levels / 255.0) ** gamma @ np.array(columns).T @ np.linalg.inv(SRGB).T
    return _encoded(linear)


def grey_truth(gamma: float, levels: np.ndarray) -> np.ndarray:
    return _encoded((levels / 255.0) ** gamma)


def _encoded(linear: np.ndarray) -> np.ndarray:
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: np.ndarray | tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(space: str, tags: dict[str, bytes]) -> bytes:
    text = b"a test's own\0"
    tags = {
        "desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78 + -len(text) % 4),
        "cprt": b"text\0\0\0\0" + text + bytes(-len(text) % 4),
        "wtpt": _xyz(WHITE),
        **tags,
    }
    place, table, content = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name.encode() + struct.pack(">II", place + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    size = place + len(content)
    head = struct.pack(">I4sI4s4s4s12s4s", size, b"\0\0\0\0", 0x02100000, b"mntr", space.encode(), b"XYZ ", bytes(12),
                       b"acsp")  # fmt: skip
    head += bytes(28) + b"".join(map(_fixed, WHITE))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content
