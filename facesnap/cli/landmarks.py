"""`facesnap landmarks`: a person's landmarks in the pose of a driver picture or of sliders."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facesnap.cli.options import add_choose_argument, add_pack_arguments, analyser_from, picture_size
from facesnap.errors import SettingsError
from facesnap.faces import Face, FaceAnalyser, choose_face
from facesnap.faces.doubts import different_people
from facesnap.faces.drawing import save_png
from facesnap.landmarks.basis import Basis
from facesnap.landmarks.detect import Detection, LandmarkDetector
from facesnap.landmarks.fitting import Fit, fit
from facesnap.landmarks.predictor import LandmarkPredictor
from facesnap.landmarks.recombination import PoseSpec
from facesnap.landmarks.render import render_five_points, render_landmarks
from facesnap.landmarks.sheet import contact_sheet
from facesnap.pipeline.shape import pose_spec
from facesnap.settings import arguments
from facesnap.settings.model import PERSON, POSE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reference", nargs="+", required=True, metavar="PHOTO", help="photos of the person; more are better"
    )
    arguments.add(parser, POSE, ["image"])
    parser.add_argument("--size", type=picture_size, default=(1024, 1024), metavar="WxH", help="of the picture drawn")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.png", help="landmark picture to write")
    parser.add_argument("--five", type=Path, metavar="OUT.png", help="also write InstantID's five-point picture")
    parser.add_argument("--sheet", action="store_true", help="write a contact sheet of poses and expressions instead")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_pose_arguments(parser)
    parser.add_argument("--no-point-49", action="store_true", help="leave out the dot that the paper's figure lacks")
    parser.add_argument("--basis", type=Path, metavar="FILE", help="another face basis than the built-in one")
    add_pack_arguments(parser)
    add_choose_argument(parser)
    parser.add_argument(
        "--choose-driver", default=PERSON["face"].default, metavar="CHOICE",
        help="which face of the driver picture, in the words of --choose, which is for the references (%(default)s)",
    )  # fmt: skip


def add_pose_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that set a pose; without a driver and without any of them the reference's own pose is kept."""
    group = parser.add_argument_group("pose and expression; over a driver picture they replace its own")
    arguments.add(group, POSE, [name for name in POSE if name not in ("source", "image")])


def run(args: argparse.Namespace) -> int:
    pose = arguments.pose(args)
    if args.sheet and (args.five or pose.source != "reference"):
        raise SettingsError(
            "--sheet together with a driver, a pose or --five.",
            expected="--sheet with references alone.",
            remedy="call twice.",
        )
    analyser = analyser_from(args)
    detector = LandmarkDetector(analyser.pack.folder, analyser.provider)
    predictor = LandmarkPredictor(detector, Basis.load(args.basis))
    faces = [_face(analyser, photo, args.choose) for photo in args.reference]
    warnings = [f"{face.source}: {doubt}" for face in faces for doubt in face.quality.doubts]
    warnings += different_people(np.stack([face.embedding for face in faces]), args.reference)
    found = [predictor.detect(face) for face in faces]
    source = fit(predictor.basis, [one.observation for one in found])
    reference = describe(args.reference, found, source)
    report: dict[str, Any] = {"out": str(args.out), "reference": reference, "warnings": warnings}
    if args.sheet:
        picture = contact_sheet(predictor.basis, source, faces[0].picture)
    else:
        spec = pose_spec(pose)
        driver: Fit | PoseSpec = source if pose.source == "reference" else spec
        if args.driver:
            choose = PERSON["face"].read(args.choose_driver, "--choose-driver")
            detection = predictor.detect(_face(analyser, str(args.driver), choose))
            driver = fit(predictor.basis, detection.observation)
            report["driver"] = describe([str(args.driver)], [detection], driver)
        override = spec if isinstance(driver, Fit) else None
        gain, framing = pose.expression_gain, pose.framing
        landmarks = predictor.predict(
            source, driver, args.size, override=override, expression_gain=gain, framing=framing
        )
        picture = render_landmarks(landmarks.points, args.size, draw_point_49=not args.no_point_49)
        if args.five:
            save_png(Image.fromarray(render_five_points(landmarks.five, args.size)), args.five)
        report.update(
            size=list(args.size),
            points=landmarks.points.round(6).tolist(),
            five=landmarks.five.round(6).tolist(),
            box=[round(side, 6) for side in landmarks.box],
        )
    save_png(Image.fromarray(picture), args.out)
    print(json.dumps(report, indent=1) if args.json else _text(report))
    return 0


def describe(photos: list[str], found: list[Detection], result: Fit) -> dict[str, Any]:
    """A fit as --json reports it."""
    pictures = []
    for photo, detection, view in zip(photos, found, result.views, strict=True):
        yaw, pitch, roll = (round(angle, 2) for angle in view.angles)
        pictures.append({
            "photo": photo, "landmarks": detection.kind, "model": detection.model, "noise": round(detection.sigma, 4),
            "yaw": yaw, "pitch": pitch, "roll": roll, "error": round(view.error, 4),
        })  # fmt: skip
    return {
        "pictures": pictures,
        "pose_only": result.pose_only,
        "confident": result.confident,
        "doubts": list(result.doubts),
        "residual_gain": round(result.residual_gain, 3),
    }


def _face(analyser: FaceAnalyser, photo: str, choose: str) -> Face:
    return choose_face(analyser.faces(Path(photo), name=photo), choose)


def _text(report: dict[str, Any]) -> str:
    lines = []
    for role in ("reference", "driver"):
        for one in report.get(role, {}).get("pictures", []):
            lines.append(
                f"{role} {one['photo']}: {one['landmarks']} landmarks from {one['model']}, "
                f"yaw {one['yaw']:.0f}, pitch {one['pitch']:.0f}, roll {one['roll']:.0f} degrees, "
                f"error {one['error']:.1%} of the eyes' distance"
            )
        lines += [f"{role}: low confidence: {doubt}" for doubt in report.get(role, {}).get("doubts", [])]
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    return "\n".join([*lines, f"wrote {report['out']}"])
