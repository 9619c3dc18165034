"""`facesnap train CONFIG`: train an adapter on prepared photos."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", help="YAML file, or the name of a ready-made configuration (tiny-cpu, sd15-24GB, ...)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="replace a value: --set base.model=FILE"
    )
    parser.add_argument("--no-resume", action="store_true", help="begin anew although there are checkpoints")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="print the configuration as YAML and stop")
    what.add_argument("--plan", choices=("sd15", "sdxl"), help="count the memory of a run on this base and stop")
    parser.add_argument("--card", type=float, metavar="GIB", help="with --plan: the card's memory")
    parser.add_argument("--side", type=int, metavar="PX", help="with --plan: of the pictures; by default 512 or 1024")


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from facesnap.training.config import load_config

    config = load_config(args.config, _changes(args.set))
    if args.print:
        import yaml

        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="")
        return 0
    if args.plan:
        from facesnap.training.memory import plan

        print("\n".join(plan(config, args.plan, args.side).lines(args.card)))
        return 0
    from facesnap.training.trainer import Trainer

    trainer = Trainer(config, resume=not args.no_resume)
    main = trainer.accelerator.is_main_process
    with tqdm(total=config.steps, initial=trainer.step, unit="step", disable=not main) as progress:
        folder = trainer.fit(progress=progress)
    if main:
        print(folder / "adapter.safetensors")
    return 0


def _changes(pairs: list[str]) -> dict[str, Any]:
    import yaml

    from facesnap.errors import SettingsError

    changes = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise SettingsError(f"--set {pair}.", expected="KEY=VALUE", remedy="write it like base.model=FILE")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(
                f"--set {pair}: the value is not YAML ({error}).",
                expected="a number, text, [list] or {mapping}",
                remedy="close its brackets and quotes",
            ) from error
    return changes
