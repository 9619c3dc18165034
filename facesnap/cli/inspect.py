"""`facesnap inspect`: what a file is, what it brings, what it needs, and how its family was found."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from facesnap.checkpoints.adapter import Adapter
from facesnap.families.base import NATIVE
from facesnap.families.registry import FAMILIES, find, load_adapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="FaceSnap checkpoint or public adapter (.safetensors, .bin, .pt, .pth)")
    parser.add_argument("--family", choices=FAMILIES, help="where tensors and name leave a choice")
    parser.add_argument("--json", action="store_true", help="print a report as JSON on stdout")


def run(args: argparse.Namespace) -> int:
    report = describe(load_adapter(args.file, args.family))
    if args.json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
        return 0
    width = max(map(len, report))
    for key, value in report.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{key:<{width}}  {shown if shown not in (None, '') else '-'}")
    return 0


def describe(adapter: Adapter) -> dict[str, Any]:
    """The facts of an adapter that people choose by."""
    spec, family = adapter.spec, find(adapter.spec.family)
    modules = {"mixer": adapter.mixer, "projections": adapter.projections, "FFRNet": adapter.ffrnet,
               "control mixer": adapter.control_mixer}  # fmt: skip
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in modules.items() if m is not None}
    if adapter.lora is not None:
        sizes["LoRA"] = adapter.lora.parameters
    return {
        "name": spec.name,
        "sha256": adapter.digest,
        "family": family.title,
        "chosen": adapter.detection.why if adapter.detection else "",
        "base": spec.base,
        "sites": len(adapter.projections.widths),
        "tokens": dict(adapter.mixer.config.token_counts),
        "parameters": sizes,
        "LoRA rank": adapter.lora.rank if adapter.lora else None,
        "FFRNet looks at": adapter.ffrnet.config.donor_picture if adapter.ffrnet else None,
        "FFRNet's file": adapter.detection.structure.name
        if adapter.detection and adapter.detection.structure
        else None,
        "recogniser": spec.recogniser_name or spec.recogniser,
        "pack": family.pack or None,
        "vector": spec.id_vector,
        "encoder": spec.encoder_name or spec.encoder or None,
        "encoder looks at": None if family.key == NATIVE else family.crop,
        "levels": list(adapter.levels) or None,
        "unconditional": spec.uncond,
        "rule": spec.rule.value,
        "strength": spec.strength,
        "suggested CFG": family.cfg,
        "licence": spec.licence,
        "official example": family.official_preprocessing.text or None,
    }
