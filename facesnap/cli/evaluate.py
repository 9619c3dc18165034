"""`facesnap evaluate`: measure adapters against each other and against the bare base."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from facesnap.cli.options import add_pack_arguments, analyser_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", nargs="*", metavar="NAME=FILE[:strength[:structure]]",
                        help="an adapter each; strength 0 with a structure is the paper's wiring")  # fmt: skip
    parser.add_argument("--base", required=True, type=Path, help="diffusers folder or single-file checkpoint")
    parser.add_argument("--encoder", help="image encoder of the adapters: file, folder or name")
    parser.add_argument("--recogniser", required=True, type=Path, metavar="DIR",
                        help="who judges likeness: folder of dlib's two .dat files, or another face pack")  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a run goes on where it stopped")
    add_pack_arguments(parser)
    who = parser.add_argument_group("people", "of the synthetic world, or photos of your own")
    who.add_argument("--first", type=int, default=1_000_000, metavar="SEED", help="first held-out person (%(default)s)")
    who.add_argument("--people", type=int, default=40, metavar="N", help="of the world (%(default)s)")
    who.add_argument("--pictures", type=int, default=4, metavar="K", help="of each of them (%(default)s)")
    who.add_argument("--judges", type=Path, metavar="STATE", help="state of `facesnap tiny` with the world's judges")
    who.add_argument(
        "--photos", type=Path, metavar="DIR", help="one sub-folder of photos a person, in place of the world"
    )
    who.add_argument("--prompts", type=Path, metavar="FILE", help="with --photos: one prompt a line")
    who.add_argument(
        "--references", type=int, default=1, metavar="N", help="with --photos: first N photos (%(default)s)"
    )
    picture = parser.add_argument_group("picture")
    picture.add_argument("--size", type=int, default=128, help="side in pixels (%(default)s)")
    picture.add_argument("--steps", type=int, default=20)
    picture.add_argument("--cfg", type=float, default=3.0)
    picture.add_argument("--sampler", default="DPM++ 2M")
    picture.add_argument("--device", help="cuda where there is one, else cpu")


def run(args: argparse.Namespace) -> int:
    from facesnap.evaluation.evaluate import Evaluation, TableRow
    from facesnap.evaluation.measure import Judges
    from facesnap.evaluation.recognisers import load_recogniser
    from facesnap.faces.encoder_files import find_encoder
    from facesnap.faces.tower import load_encoder
    from facesnap.families.registry import load_adapter
    from facesnap.hosts.diffusers import DiffusersHost, Sampling

    rows = [TableRow.parse(text) for text in args.rows]
    people, asked = _people(args)
    host = DiffusersHost.load(args.base, device=args.device)
    judges = Judges(analyser_from(args), load_recogniser(args.recogniser))
    if args.judges is not None:
        from facesnap.evaluation.attribute_judge import AttributeJudge
        from facesnap.evaluation.landmark_judge import LandmarkJudge

        judges.points = LandmarkJudge.load(args.judges / "landmarks" / "landmarks.safetensors")
        judges.attributes = AttributeJudge.load(args.judges / "attributes" / "attributes.safetensors")
    sampling = Sampling("", sampler=args.sampler, steps=args.steps, cfg=args.cfg, size=(args.size, args.size))
    evaluation = Evaluation(
        args.out, host, people, judges, sampling, asked=asked, say=lambda line: print(line, flush=True)
    )
    if args.encoder:
        evaluation.encoder = load_encoder(find_encoder(args.encoder, args.model_dir), args.model_dir)
    evaluation.run([(row, load_adapter(row.file, topology=host.topology)) for row in rows])
    print((args.out / "report.md").read_text(encoding="utf-8"))
    print(f"{args.out / 'report.json'}\n{args.out / 'sheet.png'}")
    return 0


def _people(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """People of the evaluation, and what settings.json keeps of the choice."""
    from facesnap.errors import SettingsError
    from facesnap.evaluation.cases import folder_people, world_people

    if args.photos is None:
        world = {"first": args.first, "people": args.people, "pictures": args.pictures}
        return world_people(**world, size=args.size), {"world": world}
    if args.prompts is None or args.judges is not None:
        raise SettingsError(
            "--photos without --prompts." if args.prompts is None else "--photos with --judges.",
            expected="prompts, and no judges that know the synthetic world alone",
            remedy="give --prompts FILE, and leave --judges out",
        )
    people = folder_people(args.photos, args.prompts, args.references)
    return people, {"photos": args.photos.name, "references": args.references}
