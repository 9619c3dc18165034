"""`facesnap identity make | compare | show`: identities from photos, in files."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from facesnap.cli.options import (
    add_choose_argument,
    add_encoder_argument,
    add_pack_arguments,
    analyser_from,
    encoder_from,
)
from facesnap.errors import CheckpointError
from facesnap.faces import FaceAnalyser, choose_face
from facesnap.faces.identity import AnalysedIdentity, Identity, ReferenceFace, similarity
from facesnap.landmarks.detect import LandmarkDetector
from facesnap.pipeline.shape import landmarks_of

logger = logging.getLogger("facesnap")

IDENTITY_SUFFIX = ".safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="make|compare|show")

    make = actions.add_parser("make", help="identity from one or several photos of one person")
    make.add_argument("photos", nargs="+", metavar="PHOTO")
    make.add_argument("--out", type=Path, required=True, help=f"file to write (*{IDENTITY_SUFFIX})")
    add_encoder_argument(make)
    make.add_argument("--levels", type=int, nargs="+", help="encoder levels (-2; for PuLID's tower 4 8 12 16 20)")
    make.add_argument("--name", help="the person's name (default: the first photo's)")
    make.add_argument("--keep-crops", action="store_true", help="also store the aligned 224 px face crops")

    compare = actions.add_parser("compare", help="cosine similarity of two identities or photos")
    compare.add_argument("a", metavar="A", help="identity file or photo")
    compare.add_argument("b", metavar="B", help="identity file or photo")

    show = actions.add_parser("show", help="what an identity file holds")
    show.add_argument("file", type=Path)

    for action in (make, compare):
        add_pack_arguments(action)
        add_choose_argument(action)
    for action in (make, compare, show):
        action.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(args: argparse.Namespace) -> int:
    if args.action == "show":
        identity = Identity.load(args.file)
        _print(describe(identity) | {"file": str(args.file), "warnings": identity.doubts()}, args.json)
        return 0
    return _make(args) if args.action == "make" else _compare(args)


def _make(args: argparse.Namespace) -> int:
    if args.out.suffix.lower() != IDENTITY_SUFFIX:
        raise CheckpointError(
            f"Identity file {args.out}.",
            expected=f"a name that ends in {IDENTITY_SUFFIX}.",
            remedy="change --out.",
        )
    encoder, analyser = encoder_from(args), analyser_from(args)
    found = [analyser.faces(Path(photo), name=photo) for photo in args.photos]
    faces = [choose_face(one, args.choose) for one in found]
    name = args.name or Path(args.photos[0]).stem
    landmarks = landmarks_of(LandmarkDetector(analyser.pack.folder, analyser.provider), faces)
    identity = Identity.from_faces(faces, encoder, args.levels, name, args.keep_crops, landmarks)
    identity.save(args.out)
    doubts = AnalysedIdentity(identity, tuple(map(ReferenceFace.of, faces, found))).doubts
    for doubt in doubts:
        logger.warning("%s", doubt)
    more = {"file": str(args.out), "references_found_by": [face.found_by for face in faces], "warnings": doubts}
    _print(describe(identity) | more, args.json)
    return 0


def _compare(args: argparse.Namespace) -> int:
    analyser: FaceAnalyser | None = None
    identities = []
    for source in (args.a, args.b):
        if Path(source).suffix.lower() == IDENTITY_SUFFIX:
            identities.append(Identity.load(source))
            continue
        analyser = analyser or analyser_from(args)
        face = analyser.face(Path(source), args.choose, name=source)
        identities.append(Identity.from_faces([face], name=Path(source).stem))
    cosine = similarity(*identities)
    if args.json:
        _print({"a": args.a, "b": args.b, "recogniser": identities[0].recogniser, "cosine": cosine}, True)
    else:
        print(f"cosine similarity of {args.a} and {args.b}: {cosine:.3f} (by the recogniser of {identities[0].alias})")
    return 0


def describe(identity: Identity) -> dict:
    """The report of an identity, as show and make print it."""
    return {
        "name": identity.name,
        "recogniser": f"{identity.alias} ({identity.recogniser[:12]})",
        "encoder": f"{identity.encoder_name} ({identity.encoder[:12]})" if identity.encoder else None,
        "levels": {str(level): list(states.shape) for level, states in identity.hidden.items()},
        "encoder_pictures": identity.preparation or None,
        "references": identity.references,
        "scores": [round(float(score), 4) for score in identity.scores],
        "weights": [round(float(weight), 4) for weight in identity.weights],
        "landmarks": f"{identity.landmarks.kind} by {identity.landmarks.model}" if identity.landmarks else None,
        "crops_stored": identity.crops is not None,
        "digest": identity.digest,
    }


def _print(content: dict, as_json: bool) -> None:
    if as_json:
        print(json.dumps(content, indent=1))
        return
    for key, value in content.items():
        print(f"{key.replace('_', ' ')}: {value if value not in (None, {}, []) else 'none'}")
