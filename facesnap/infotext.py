"""The text that travels inside a picture: everything needed to make it again, never the photo."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

from facesnap.attach import Speed
from facesnap.checkpoints.adapter import Adapter
from facesnap.faces.identity import Identity
from facesnap.hosts.diffusers import Sampling
from facesnap.landmarks.presets import format_expression
from facesnap.portrait import PersonSettings, Portrait
from facesnap.shape import PoseSettings
from facesnap.version import __version__

KEY = "parameters"  # of the PNG text chunk, as the WebUIs have it


def infotext(
    sampling: Sampling,
    model: str,
    adapter: Adapter,
    people: Sequence[tuple[Identity, PersonSettings]],
    portrait: Portrait,
    speed: Speed = Speed.BALANCED,
) -> str:
    """Parameters in the WebUI's form: prompt, negative prompt, then `key: value` pairs; defaults are omitted."""
    fields: dict[str, object] = {
        "Steps": sampling.steps,
        "Sampler": sampling.sampler,
        "CFG scale": sampling.cfg,
        "Seed": portrait.seed,
        "Size": f"{sampling.size[0]}x{sampling.size[1]}",
        "Model": model,
        "FaceSnap adapter": f"{adapter.spec.name} {adapter.digest[:10]}".strip(),
    }
    for n, (identity, settings) in enumerate(people):
        prefix = "FaceSnap" if n == 0 else f"FaceSnap {n + 1}"
        fields |= {f"{prefix} {k}": v for k, v in _person_fields(identity, settings).items()}
        if n < len(portrait.similarity) and portrait.similarity[n] is not None:
            fields[f"{prefix} similarity"] = f"{portrait.similarity[n]:.3f}"
    if adapter.ffrnet is not None and speed is not Speed.BALANCED:
        fields["FaceSnap speed"] = speed.value
    fields["FaceSnap version"] = __version__
    lines = [sampling.prompt]
    if sampling.negative_prompt:
        lines.append(f"Negative prompt: {sampling.negative_prompt}")
    lines.append(", ".join(f"{key}: {_quote(str(value))}" for key, value in fields.items()))
    return "\n".join(lines)


def _person_fields(identity: Identity, settings: PersonSettings) -> Mapping[str, object]:
    fields: dict[str, object] = {"identity": f"{identity.name} {identity.digest[:10]}"}
    if identity.references > 1:
        fields["references"] = identity.references
    default = PersonSettings()
    if settings.strength is not None:
        fields["strength"] = settings.strength
    if settings.s_struct != default.s_struct:
        fields["s_struct"] = settings.s_struct
    if (settings.start, settings.end) != (default.start, default.end):
        fields["window"] = f"{settings.start}-{settings.end}"
    if settings.block_strengths:
        fields["blocks"] = " ".join(f"{k}={v}" for k, v in sorted(settings.block_strengths.items()))
    if settings.lora != default.lora:
        fields["LoRA"] = settings.lora
    if settings.lora_in_region:
        fields["LoRA region"] = "masked"
    if settings.region is not None:
        fields["region"] = "masked"
    if settings.structure is not None:
        fields["structure"] = settings.structure
    if (settings.structure_start, settings.structure_end) != (default.structure_start, default.structure_end):
        fields["structure window"] = f"{settings.structure_start}-{settings.structure_end}"
    if settings.pose is not None and settings.structure != 0:
        fields |= _pose_fields(settings.pose)
    return fields


def _pose_fields(pose: PoseSettings) -> Mapping[str, object]:
    """The pose by numbers; of a driver picture only its content's digest, never the picture."""
    fields: dict[str, object] = {}
    if pose.driver is not None and not isinstance(pose.driver, str):
        fields["driver"] = pose.driver_digest[:10]
    elif pose.driver is None:
        fields["driver"] = "none"
    values = {name: value for name, value in vars(pose.numbers).items() if value is not None}
    if "position" in values:
        values["position"] = "/".join(f"{v:g}" for v in values["position"])
    if "expression" in values and not isinstance(values["expression"], str):
        values["expression"] = format_expression(values["expression"])
    if values:
        fields["pose"] = " ".join(f"{name}={value}" for name, value in values.items())
    default = PoseSettings()
    if pose.framing != default.framing:
        fields["framing"] = pose.framing
    if pose.expression_gain != default.expression_gain:
        fields["expression gain"] = pose.expression_gain
    return fields


def _quote(value: str) -> str:
    """Quoted as JSON where a comma, colon or line break would be read as a separator."""
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ',:\n"') else value


def save_png(image: Image.Image, path: Path, text: str) -> None:
    """Write a picture with its parameters inside."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, text) if not text.isascii() else info.add_text(KEY, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, pnginfo=info)
