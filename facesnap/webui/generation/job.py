"""From the script's arguments to the host: attach, refuse or leave alone. Nothing fails silently."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from facesnap.attach import Topology, read_topology
from facesnap.errors import FaceSnapError
from facesnap.hosts.base import NOTE, Parts
from facesnap.hosts.webui import WebUI
from facesnap.pipeline.portrait import facts_of, resolved
from facesnap.settings import infotext
from facesnap.settings.model import Settings
from facesnap.version import __version__
from facesnap.webui.generation import xyz
from facesnap.webui.generation.args import parse
from facesnap.webui.generation.loader import PipelineLoader, Prepared
from facesnap.webui.generation.photos import resolve
from facesnap.webui.generation.pictures import decode
from facesnap.webui.generation.results import RESULTS, PersonFound, Result
from facesnap.webui.options import MOST_PEOPLE_KEY

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """FaceSnap's knowledge of one processing object, from `process` to `postprocess`.

    Attributes:
        p: the processing object; copies of it carry a job that is not theirs. settings: as read, axes applied.
        prepared: for the UNet that the generation begins with. score: whether results are compared with the people.
        seen: facts about each person for the infotext. similarity: for each picture made, of each person.
        result: the entry that the API's route shows.
    """

    p: Any
    settings: Settings
    prepared: Prepared
    score: bool
    seen: list[infotext.PersonFacts]
    result: Result
    similarity: list[tuple[float | None, ...]] = field(default_factory=list)

    @property
    def fields(self) -> dict[str, str]:
        """The infotext's keys and texts."""
        adapter = self.prepared.pipeline.adapter
        named = infotext.Named(self.settings.adapter or adapter.spec.name, adapter.digest)
        people = tuple(resolved(person, adapter) for person in self.settings.people)
        return infotext.fields(replace(self.settings, people=people), named, self.seen, version=__version__)


def begin(
    host: WebUI, loader: PipelineLoader, p: Any, args: Sequence[Any], host_options: Any = None
) -> Settings | None:
    """A script's `process`: never raises, because the hosts swallow it and make the picture all the same.

    Args:
        host: who owns the UNet. loader: what generations share.
        p: the host's processing object. args: what the WebUI hands the script.
        host_options: the host's `opts`, which say where the API's pictures may come from.

    Returns:
        The settings where FaceSnap is on, else None.
    """
    p.facesnap_job = None
    _forget(p)  # an earlier run of the same object, or of the one that it was copied from
    try:
        options = loader.options()
        settings = xyz.apply_notes(parse(args, options[MOST_PEOPLE_KEY]), p)
        if not settings.enabled:
            host.release(p)
            return None
        _enlist(host, loader, p, resolve(settings, options, host_options), options)
        return settings
    except Exception as error:  # kept on p, and raised from its sampling
        if not isinstance(error, FaceSnapError):
            logger.exception("FaceSnap failed before the sampling")
        host.refuse(p, error)
        RESULTS.begin().finish(error)
    return None


def after_picture(p: Any, image: Any) -> None:
    """A script's `postprocess_image`: how much a Pillow image shows the people, for its infotext."""
    job: Job | None = getattr(p, "facesnap_job", None)
    if job is None or job.p is not p or not job.score:
        return
    people = [known.identity for known in job.prepared.people]
    found = tuple(job.prepared.pipeline.similarity(image, identity) for identity in people)
    for n, similarity in enumerate(found, 1):
        job.result.score(n, len(job.similarity), similarity)
    job.similarity.append(found)
    job.seen = [replace(seen, similarity=value) for seen, value in zip(job.seen, found, strict=True)]
    _forget(p, keep=(NOTE,))
    p.extra_generation_params.update(job.fields)


def finish(p: Any, processed: Any) -> None:
    """A script's `postprocess`: facts for the answer of the API, beyond the pictures' infotexts: the
    `extra_generation_params` of the host's result are part of the API's `info`."""
    job: Job | None = getattr(p, "facesnap_job", None)
    if job is None or job.p is not p:
        return
    job.result.finish()
    facts = job.result.infotext()
    for n, person in enumerate(job.prepared.people):
        prefix = infotext.key_prefix(n)
        if person.faces:
            facts[f"{prefix} faces"] = ", ".join(f"{one.index} of {one.faces}" for one in person.faces)
        if job.similarity:
            values = (found[n] for found in job.similarity)
            facts[f"{prefix} similarity"] = ", ".join("none" if one is None else f"{one:.3f}" for one in values)
    processed.extra_generation_params.update(facts)


def _forget(p: Any, keep: Sequence[str] = ()) -> None:
    """Remove our keys from the infotext."""
    for key in [key for key in p.extra_generation_params if key.startswith(infotext.NAME) and key not in keep]:
        del p.extra_generation_params[key]


def _enlist(host: WebUI, loader: PipelineLoader, p: Any, settings: Settings, options: Mapping[str, Any]) -> None:
    images = getattr(p, "init_images", None) if any(one.pose.source == "init" for one in settings.people) else None
    size, init = picture_size(p), cache(lambda: decode(images[0], "the init image") if images else None)
    made: dict[tuple[Any, ...], Prepared] = {}
    began = time.perf_counter()

    def prepare(topology: Topology) -> Parts:
        if topology.sizes not in made:
            made[topology.sizes] = loader.prepare(settings, topology, size, init())
        return made[topology.sizes].parts

    try:
        topology = read_topology(host.live_unet())
        prepare(topology)  # here, where the message comes before any work of the host's
    except FaceSnapError as error:
        if (settings.on_error or options["facesnap_on_error"]) != "skip":
            raise
        host.release(p)
        host.warn(p, f"without FaceSnap: {error}")
        p.extra_generation_params.update(infotext.skipped(error))
        return
    prepared = made[topology.sizes]
    p.facesnap_job = job = _job(p, settings, prepared, options["facesnap_score"], time.perf_counter() - began)
    host.enlist(p, prepare, settings.hires, job.result.finish)
    p.extra_generation_params.update(job.fields)
    for note in _notes(p, settings, prepared):
        host.note(p, note)
        job.result.note(note)


def _job(p: Any, settings: Settings, prepared: Prepared, score: bool, seconds: float) -> Job:
    pairs = list(zip(settings.people, prepared.people, strict=True))
    seen = [facts_of(one.identity, person) for person, one in pairs]
    found = [PersonFound(person.identity, one.identity.digest, one.faces) for person, one in pairs]
    adapter = prepared.pipeline.adapter
    result = RESULTS.begin(adapter=adapter.spec.name, digest=adapter.digest, people=found, seconds=seconds)
    for n, doubts in enumerate(prepared.doubts, 1):
        for doubt in doubts:
            result.warn(n, doubt)
    return Job(p, settings, prepared, score, seen, result)


def picture_size(p: Any) -> tuple[int, int]:
    """(width, height) of the whole picture, which coordinates are fractions of: for "only masked" inpainting that of
    the picture painted into."""
    if getattr(p, "inpaint_full_res", False) and getattr(p, "image_mask", None) is not None and p.init_images:
        width, height = p.init_images[0].size
        return int(width), int(height)
    return int(p.width), int(p.height)


def _notes(p: Any, settings: Settings, prepared: Prepared) -> list[str]:
    """Remarks on a generation that can be made all the same."""
    adapter, several = prepared.pipeline.adapter, len(settings.people) > 1
    notes = []
    for n, (person, doubts) in enumerate(zip(settings.people, prepared.doubts, strict=True), 1):
        whose = f"person {n}: " if several else ""
        notes += [whose + text for text in (*doubts, *person.empty_windows(adapter.ffrnet is not None))]
        pose, name = person.pose, adapter.spec.name or "the adapter"
        posed = pose.source not in ("none", "reference") or pose.numbers or pose.expression
        if adapter.ffrnet is None and person.structure != 0 and posed:
            notes.append(f"{whose}{name} brings no landmarks network, the pose is not used")
    prompts = p.prompt if isinstance(p.prompt, (list, tuple)) else [p.prompt]
    doubled = prepared.pipeline.family.loras_in_prompt(" ".join(map(str, prompts))) if prepared.parts.loras else []
    if doubled:
        notes.append(f"the LoRA {', '.join(doubled)} of the prompt is part of the adapter too: it is applied twice")
    return notes
