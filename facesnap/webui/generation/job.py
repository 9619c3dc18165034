"""From the script's arguments to the host: attach, refuse or leave alone. Nothing fails silently."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from facesnap.attach import read_topology
from facesnap.errors import FaceSnapError, UnusableSettingError
from facesnap.faces.analyser import FaceAnalyser
from facesnap.faces.identity import AnalysedIdentity
from facesnap.hosts.base import NOTE
from facesnap.hosts.webui import WebUI
from facesnap.pipeline.pipeline import similarity
from facesnap.pipeline.portrait import facts_of, resolved
from facesnap.settings import infotext
from facesnap.settings.model import Settings
from facesnap.version import __version__
from facesnap.webui.generation import xyz
from facesnap.webui.generation.args import parse
from facesnap.webui.generation.loader import PipelineLoader, Prepared
from facesnap.webui.generation.photos import resolve
from facesnap.webui.generation.pictures import decode
from facesnap.webui.generation.preparation import Preparation
from facesnap.webui.generation.results import RESULTS, PersonFound, Result
from facesnap.webui.options import MOST_PEOPLE_KEY

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """FaceSnap's knowledge of one processing object, from `process` to `postprocess`.

    Attributes:
        p: the processing object, weakly, since it holds its job; copies of it carry a job that is not theirs.
        preparation: holds what the sampling needs. people: as they were found, in the settings' order; empty where
            results are not compared with them. analyser: compares.
        settings: as the infotext has them. adapter: by name and hash.
        seen: facts about each person for the infotext. similarity: for each picture made, of each person.
        result: the entry that the API's route shows.
    """

    p: weakref.ref[Any]
    preparation: Preparation
    people: tuple[AnalysedIdentity, ...]
    analyser: FaceAnalyser | None
    settings: Settings
    adapter: infotext.Named
    seen: list[infotext.PersonFacts]
    result: Result
    similarity: list[tuple[float | None, ...]] = field(default_factory=list)

    @property
    def prepared(self) -> Prepared | None:
        """What was prepared for the UNet; None where it has been given back."""
        return self.preparation.prepared

    @property
    def fields(self) -> dict[str, str]:
        """The infotext's keys and texts."""
        return infotext.fields(self.settings, self.adapter, self.seen, version=__version__)


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
    p.facesnap_result = None
    _forget(p)  # an earlier run of the same object, or of the one that it was copied from
    skips = False
    try:
        options = loader.options()
        settings = xyz.apply_notes(parse(args, options[MOST_PEOPLE_KEY]), p)
        if not settings.enabled:
            host.release(p)
            return None
        skips = (settings.on_error or options["facesnap_on_error"]) == "skip"
        _enlist(host, loader, p, resolve(settings, options, host_options), options)
        return settings
    except Exception as error:
        _refuse(host, p, error, skips)
    return None


def _refuse(host: WebUI, p: Any, error: Exception, skips: bool) -> None:
    """Make the picture without FaceSnap where that is wanted, else keep the error, to be raised from the sampling.

    Args:
        skips: for what FaceSnap cannot do; settings that are wrong in themselves are refused in any case.
    """
    result = RESULTS.begin()
    result.finish(error)
    if getattr(error, "details", ""):
        logger.debug("%s", getattr(error, "details", ""))
    if not isinstance(error, FaceSnapError):
        logger.exception("FaceSnap failed before the sampling")
    if skips and isinstance(error, FaceSnapError) and not isinstance(error, UnusableSettingError):
        host.release(p)
        host.warn(p, f"without FaceSnap: {error}")
        p.extra_generation_params.update(infotext.skipped(error))
        p.facesnap_result = result
    else:
        host.refuse(p, error)


def after_picture(p: Any, image: Any) -> None:
    """A script's `postprocess_image`: how much a Pillow image shows the people, for its infotext."""
    job = _job_of(p)
    if job is None or not job.people:
        return
    found = tuple(similarity(job.analyser, image, known.identity) for known in job.people)
    for n, cosine in enumerate(found, 1):
        job.result.score(n, len(job.similarity), cosine)
    job.similarity.append(found)
    job.seen = [replace(seen, similarity=value) for seen, value in zip(job.seen, found, strict=True)]
    _forget(p, keep=(NOTE,))
    p.extra_generation_params.update(job.fields)


def finish(p: Any, processed: Any) -> None:
    """A script's `postprocess`: facts for the answer of the API, beyond the pictures' infotexts: the
    `extra_generation_params` of the host's result are part of the API's `info`. Nothing of the adapter is held after
    it."""
    skipped: Result | None = getattr(p, "facesnap_result", None)
    if skipped is not None:
        processed.extra_generation_params.update(skipped.infotext())
    job = _job_of(p)
    if job is None:
        return
    p.facesnap_job = None
    job.preparation.let_go()
    job.result.finish()
    facts = job.result.infotext()
    for n, person in enumerate(job.result.people):
        prefix = infotext.key_prefix(n)
        if person.references:
            facts[f"{prefix} faces"] = ", ".join(f"{one.index} of {one.faces}" for one in person.references)
        if job.similarity:
            values = (found[n] for found in job.similarity)
            facts[f"{prefix} similarity"] = ", ".join("none" if one is None else f"{one:.3f}" for one in values)
    processed.extra_generation_params.update(facts)


def _job_of(p: Any) -> Job | None:
    """Its own, not that of the object which it was copied from."""
    job: Job | None = getattr(p, "facesnap_job", None)
    own: Any = None if job is None else job.p()
    return job if own is p else None


def _forget(p: Any, keep: Sequence[str] = ()) -> None:
    """Remove our keys from the infotext."""
    for key in [key for key in p.extra_generation_params if key.startswith(infotext.NAME) and key not in keep]:
        del p.extra_generation_params[key]


def _enlist(host: WebUI, loader: PipelineLoader, p: Any, settings: Settings, options: Mapping[str, Any]) -> None:
    images = getattr(p, "init_images", None) if any(one.pose.source == "init" for one in settings.people) else None
    init = cache(lambda: decode(images[0], "the init image") if images else None)
    preparation, began = Preparation(loader, settings, picture_size(p), init), time.perf_counter()
    # Here, where a message comes before any work of the host's.
    prepared = preparation.of(read_topology(host.live_unet()))
    settings = prepared.settings
    job = _job(p, settings, preparation, prepared, time.perf_counter() - began)
    if options["facesnap_score"]:
        job.people, job.analyser = prepared.people, prepared.pipeline.analyser
    p.facesnap_job = job
    host.enlist(p, preparation, settings.hires, partial(_failed, preparation, job.result))
    p.extra_generation_params.update(job.fields)
    for note in _notes(p, settings, prepared):
        host.note(p, note)
        job.result.note(note)


def _failed(preparation: Preparation, result: Result, error: Exception) -> None:
    """The sampling has ended with an error: no `postprocess` follows."""
    result.finish(error)
    preparation.let_go()


def _job(p: Any, settings: Settings, preparation: Preparation, prepared: Prepared, seconds: float) -> Job:
    pairs = list(zip(settings.people, prepared.people, strict=True))
    seen = [facts_of(one.identity, person) for person, one in pairs]
    found = [PersonFound(person.identity, one.identity.digest, one.faces) for person, one in pairs]
    adapter = prepared.pipeline.adapter
    result = RESULTS.begin(adapter=adapter.spec.name, digest=adapter.digest, people=found, seconds=seconds)
    for n, doubts in enumerate(prepared.doubts, 1):
        for doubt in doubts:
            result.warn(n, doubt)
    # By name and number: the infotext needs no photos.
    people = tuple(replace(resolved(person, adapter), references=()) for person in settings.people)
    named = infotext.Named(settings.adapter or adapter.spec.name, adapter.digest)
    return Job(weakref.ref(p), preparation, (), None, replace(settings, people=people), named, seen, result)


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
    notes = list(prepared.notes)
    for n, (person, doubts) in enumerate(zip(settings.people, prepared.doubts, strict=True), 1):
        whose = f"person {n}: " if several else ""
        notes += [whose + text for text in (*doubts, *person.empty_windows(adapter.ffrnet is not None))]
    prompts = p.prompt if isinstance(p.prompt, (list, tuple)) else [p.prompt]
    doubled = prepared.pipeline.family.loras_in_prompt(" ".join(map(str, prompts))) if prepared.parts.loras else []
    if doubled:
        notes.append(f"the LoRA {', '.join(doubled)} of the prompt is part of the adapter too: it is applied twice")
    return notes
