"""`facesnap download`: public adapters, encoders and packs into the WebUI's folders, with consent to their licences."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from facesnap.errors import SettingsError
from facesnap.faces.known import Item
from facesnap.faces.packs import webui_roots
from facesnap.weights.catalogue import CATALOGUE, find
from facesnap.weights.fetch import Progress, describe_state, fetch, is_there
from facesnap.weights.folders import Folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="*", metavar="NAME", help="what to fetch; see --list")
    parser.add_argument("--list", action="store_true", help="show the catalogue, or the state of NAME, and stop")
    parser.add_argument("--folder", type=Path, help="the WebUI's folder of models (default: of the WebUI around)")
    parser.add_argument("--facesnap-dir", type=Path, help="FaceSnap's own folder (default: FaceSnap below --folder)")
    parser.add_argument("--accept-licence", "--accept-license", action="store_true",
                        help="you have read the licence and accept it; no question is asked")  # fmt: skip
    parser.add_argument("--mirror", default="", metavar="URL",
                        help="in place of https://huggingface.co (as HF_ENDPOINT) and https://github.com")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a report as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    if not args.list and not args.name:
        raise SettingsError("Nothing to download was named.", expected="a NAME", remedy="choose one: --list shows all")
    items = [find(name) for name in args.name]
    folders = _folders(args, needed=not args.list)
    if args.list:
        _list(items, folders, args.json)
        return 0
    report = [{"name": item.name, "path": str(_fetch(item, folders, args))} for item in items]
    print(json.dumps(report, indent=1) if args.json else "\n".join(one["path"] for one in report))
    return 0


def _folders(args: argparse.Namespace, needed: bool) -> Folders:
    folder = args.folder or next((root / "models" for root in webui_roots()), None)
    if folder is None and needed:
        raise SettingsError(
            "There is no WebUI around, so it is not known where models go.",
            expected="the folder `models` of a WebUI, or any folder that FACESNAP_MODELS names",
            remedy="give it: --folder path/to/models",
        )
    return Folders.of(folder or Path("models"), args.facesnap_dir)


def _list(items: list[Item], folders: Folders, as_json: bool) -> None:
    listed = [item for item in CATALOGUE if not items or item in items]
    if as_json:
        keys = ("name", "title", "purpose", "megabytes", "licence", "page")
        rows = [{key: getattr(item, key) for key in keys} | {"there": is_there(item, folders)} for item in listed]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for item in listed:
        state = describe_state(item, folders) if items else ("there" if is_there(item, folders) else "")
        print(f"{item.name:<28} {item.megabytes:6.0f} MB  {item.title}; {item.purpose}{f' [{state}]' if state else ''}")
        print(f"{'':<28}            licence: {item.licence}; {item.page}")


def _fetch(item: Item, folders: Folders, args: argparse.Namespace) -> Path:
    accept = args.accept_licence or _ask(item)
    bars: dict[str, tqdm] = {}

    def show(progress: Progress) -> None:
        if progress.file not in bars:
            bars[progress.file] = tqdm(
                total=progress.total or None, unit="B", unit_scale=True, desc=progress.file, initial=progress.done
            )
        bars[progress.file].update(progress.done - bars[progress.file].n)

    try:
        return fetch(item, folders, accept, show, mirror=args.mirror)
    finally:
        for bar in bars.values():
            bar.close()


def _ask(item: Item) -> bool:
    """Consent on a terminal; without one there is none."""
    if not sys.stdin.isatty():
        return False
    print(f"{item.title}, {item.megabytes:.0f} MB, from {item.page}\nLicence: {item.licence}", file=sys.stderr)
    print("Do you accept it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
