"""`facesnap analyse PHOTO...`: the faces in photos, as FaceSnap finds them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from facesnap.cli.options import add_choose_argument, add_pack_arguments, analyser_from
from facesnap.errors import SettingsError

if TYPE_CHECKING:
    from facesnap.faces import Face, FaceAnalyser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO")
    add_pack_arguments(parser)
    add_choose_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--draw", type=Path, metavar="OUT.png", help="picture of the first photo with what was found")


def run(args: argparse.Namespace) -> int:
    from facesnap.faces import choose_face

    if args.draw and len(args.photos) > 1:
        raise SettingsError("--draw with several photos.", expected="one photo.", remedy="call once for each photo.")
    analyser = analyser_from(args)
    found = {photo: analyser.faces(Path(photo), name=photo) for photo in args.photos}
    chosen = {photo: choose_face(faces, args.choose) for photo, faces in found.items()}
    if args.draw:
        from facesnap.faces.drawing import draw_faces, save_png

        photo = args.photos[0]
        save_png(draw_faces(found[photo], chosen[photo]), args.draw)
    if args.json:
        print(json.dumps(report(analyser, found, chosen), indent=1))
        return 0
    print(f"pack {analyser.pack.name} ({analyser.pack.licence}), recogniser {analyser.recogniser[:12]}")
    print(f"running on {analyser.provider}")
    for photo, faces in found.items():
        width, height = faces[0].picture_size
        count = "1 face" if len(faces) == 1 else f"{len(faces)} faces"
        print(f"{photo}: {width} x {height}, {count}, found by {faces[0].found_by}")
        for index, face in enumerate(faces):
            print(f"  {'*' if face is chosen[photo] else ' '} {index}: {_line(face)}")
            for doubt in face.quality.doubts:
                print(f"       low confidence: {doubt}")
    return 0


def report(analyser: FaceAnalyser, found: dict[str, list[Face]], chosen: dict[str, Face]) -> dict:
    """The object that --json prints."""
    photos = [
        {
            "photo": photo,
            "size": list(faces[0].picture_size),
            "chosen": faces.index(chosen[photo]),
            "faces": [face.json() for face in faces],
        }
        for photo, faces in found.items()
    ]
    pack = analyser.pack
    return {
        "pack": pack.name,
        "pack_folder": str(pack.folder),
        "licence": pack.licence,
        "recogniser": analyser.recogniser,
        "provider": analyser.provider,
        "photos": photos,
    }


def _line(face: Face) -> str:
    left, top, right, bottom = (round(float(value)) for value in face.box)
    quality = face.quality
    return (
        f"box {left},{top} to {right},{bottom}  score {face.score:.2f}  quality {quality.score:.2f} "
        f"(sharp {quality.sharpness:.2f}, frontal {quality.frontalness:.2f}, size {quality.size:.2f})"
    )
