"""The text inside pictures that the command line makes; the WebUI extension reads it like its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, PngImagePlugin

from facesnap.attach import Speed
from facesnap.checkpoints.adapter import Adapter
from facesnap.faces.identity import Identity
from facesnap.hosts.diffusers import Sampling
from facesnap.landmarks.presets import parse_expression
from facesnap.pipeline.person import PersonSettings
from facesnap.pipeline.pipeline import Portrait
from facesnap.pipeline.shape import PoseSettings
from facesnap.settings.field_types import expressions
from facesnap.settings.infotext import Named, PersonFacts, fields, line
from facesnap.settings.model import Person, Pose, Settings

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
    params: dict[str, object] = {
        "Steps": sampling.steps,
        "Sampler": sampling.sampler,
        "CFG scale": sampling.cfg,
        "Seed": portrait.seed,
        "Size": f"{sampling.size[0]}x{sampling.size[1]}",
        "Model": model,
    }
    scores = [*portrait.similarity, *[None] * len(people)]
    shaped = Settings().speed if adapter.ffrnet is None else speed.value
    card = any(one.match_model_card for _, one in people)
    settings = Settings(
        enabled=True, speed=shaped, model_card=card, people=tuple(_person(adapter, *one) for one in people)
    )
    seen = [
        PersonFacts(who.digest, who.references, score, pose_picture=one.pose.driver_digest if one.pose else "")
        for (who, one), score in zip(people, scores, strict=False)
    ]
    params |= fields(settings, Named(adapter.spec.name, adapter.digest), seen)
    for n, (_, one) in enumerate(people):
        params |= {f"FaceSnap{f' {n + 1}' if n else ''} {key}": value for key, value in _own(one).items()}
    lines = [sampling.prompt]
    if sampling.negative_prompt:
        lines.append(f"Negative prompt: {sampling.negative_prompt}")
    return "\n".join([*lines, line(params)])


def _person(adapter: Adapter, identity: Identity, settings: PersonSettings) -> Person:
    """The same in the WebUI's words; what FFRNet is told is left out where it is off."""
    person = Person(
        identity=identity.name,
        strength=adapter.spec.strength if settings.strength is None else settings.strength,
        structure=0.0,
        start=settings.start,
        end=settings.end,
        s_struct=settings.s_struct,
        blocks=dict(settings.block_strengths),
        region=settings.region,
    )
    suggested = 0.0 if adapter.ffrnet_spec is None else adapter.ffrnet_spec.strength
    structure = suggested if settings.structure is None else settings.structure
    if adapter.ffrnet is None or structure == 0.0:
        return person
    return replace(
        person,
        structure=structure,
        structure_start=settings.structure_start,
        structure_end=settings.structure_end,
        pose=_pose(settings.pose or PoseSettings()),
    )


def _pose(pose: PoseSettings) -> Pose:
    numbers = pose.numbers
    x, y = numbers.position or (None, None)
    frontal = "canvas" if pose.driver is None else "reference"
    return Pose(
        source=frontal if pose.driver is None or isinstance(pose.driver, str) else "picture",
        image=None if pose.driver is None or isinstance(pose.driver, str) else pose.driver,
        yaw=numbers.yaw,
        pitch=numbers.pitch,
        roll=numbers.roll,
        x=x,
        y=y,
        size=numbers.size,
        expression=None if numbers.expression is None else parse_expression(numbers.expression, expressions()),
        framing=pose.framing,
    )


def _own(settings: PersonSettings) -> dict[str, object]:
    """What the command line has and the WebUI has not."""
    default = PersonSettings()
    own: dict[str, object] = {}
    if settings.lora != default.lora:
        own["LoRA"] = settings.lora
    if settings.lora_in_region:
        own["LoRA region"] = "masked"
    if settings.pulid_mode is not None:
        own["PuLID mode"] = settings.pulid_mode
    if settings.pose is not None and settings.pose.expression_gain != 1.0:
        own["expression gain"] = settings.pose.expression_gain
    return own


def save_png(image: Image.Image, path: Path, text: str) -> None:
    """Write a picture with its parameters inside."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, text) if not text.isascii() else info.add_text(KEY, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, pnginfo=info)
