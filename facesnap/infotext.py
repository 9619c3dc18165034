"""The text inside pictures that the command line makes; the WebUI extension reads it like its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

from facesnap.checkpoints.adapter import Adapter
from facesnap.faces.identity import Identity
from facesnap.hosts.diffusers import Sampling
from facesnap.portrait import PersonSettings, Portrait
from facesnap.webui.infotext import Named, Seen, fields, line
from facesnap.webui.model import Person, Settings

KEY = "parameters"  # of the PNG text chunk, as the WebUIs have it


def infotext(
    sampling: Sampling,
    model: str,
    adapter: Adapter,
    people: Sequence[tuple[Identity, PersonSettings]],
    portrait: Portrait,
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
    settings = Settings(enabled=True, people=tuple(_person(adapter, *one) for one in people))
    seen = [
        Seen(identity.digest, identity.references, score)
        for (identity, _), score in zip(people, scores, strict=False)
    ]  # fmt: skip
    params |= fields(settings, Named(adapter.spec.name, adapter.digest), seen)
    lines = [sampling.prompt]
    if sampling.negative_prompt:
        lines.append(f"Negative prompt: {sampling.negative_prompt}")
    return "\n".join([*lines, line(params)])


def _person(adapter: Adapter, identity: Identity, settings: PersonSettings) -> Person:
    """The same in the WebUI's words. There is no FFRNet here: structure is 0."""
    return Person(
        identity=identity.name,
        strength=adapter.spec.strength if settings.strength is None else settings.strength,
        structure=0.0,
        start=settings.start,
        end=settings.end,
        s_struct=settings.s_struct,
        blocks=dict(settings.block_strengths),
        region=settings.region,
    )


def save_png(image: Image.Image, path: Path, text: str) -> None:
    """Write a picture with its parameters inside."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, text) if not text.isascii() else info.add_text(KEY, text)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, pnginfo=info)
