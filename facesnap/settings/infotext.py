"""Settings <-> the text that travels inside a picture: defaults omitted, people by name and short hash, no photo.

Fields are handed to the WebUI as plain texts (`p.extra_generation_params`), which quotes them itself; `parameters`,
`line` and `parse_parameters` do as the WebUI does, for the command line. Keys of older command lines are read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from facesnap.errors import SettingsError
from facesnap.settings.field_types import Box, RegionType, Text
from facesnap.settings.fields import Field
from facesnap.settings.model import (
    MOST_PEOPLE,
    PEOPLE,
    PERSON,
    POSE,
    SETTINGS,
    WINDOWS,
    Person,
    Pose,
    Settings,
    check_windows,
)
from facesnap.settings.words import PRESET, PRESETS

NAME = "FaceSnap"
VERSION, SKIPPED = f"{NAME} version", f"{NAME} skipped"
SHORT = 10  # characters of a hash
_PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_NAMED = re.compile(r"(?P<name>.*?)(?: ?\[(?P<hash>[0-9a-f]*)\])?", re.DOTALL)
_PERSON = re.compile(rf"{NAME}(?: (\d))? (?:identity|photos)")
_SIZE = re.compile(r"\d+x\d+")  # the WebUI takes such a value apart into two


@dataclass(frozen=True)
class Named:
    """A thing by name and hash, as texts write it: `Zoe [0123456789]`."""

    name: str = ""
    digest: str = ""

    def __str__(self) -> str:
        if self.digest:
            return f"{self.name} [{self.digest[:SHORT]}]".lstrip()
        misread = _SIZE.fullmatch(self.name) or self.name[:1] + self.name[-1:] == '""' or self.name.endswith("]")
        return f"{self.name} []" if misread else self.name

    @classmethod
    def read(cls, text: str) -> Named:
        match = _NAMED.fullmatch(text.strip())
        assert match is not None  # the pattern takes everything
        return cls(match["name"].strip(), match["hash"] or "")


@dataclass(frozen=True)
class PersonFacts:
    """Facts about one person of a generation, beyond the settings.

    Attributes:
        digest: of the Identity. references: how many photos it was made of.
        similarity: cosine to the picture made, -1..1; None where it was not measured or shows no face.
        region_mask, pose_picture: hashes of these pictures, where there are some.
    """

    digest: str = ""
    references: int = 1
    similarity: float | None = None
    region_mask: str = ""
    pose_picture: str = ""


def fields(
    settings: Settings, adapter: Named | None = None, seen: Sequence[PersonFacts] = (), *, version: str
) -> dict[str, str]:
    """Keys and texts of one generation; empty where FaceSnap is off.

    Args:
        adapter: the one really used; None writes the settings' own.
        seen: one for each of the settings' people, as far as known.
        version: FaceSnap's own.
    """
    if not settings.enabled:
        return {}
    adapter = adapter or Named(settings.adapter)
    written = {f"{NAME} adapter": str(adapter)} if adapter != Named() else {}
    written |= _changed(SETTINGS, settings, NAME, settings.preset, skip=("enabled", "adapter"))
    for n, person in enumerate(settings.people):
        prefix = key_prefix(n)
        written |= _who(prefix, person, seen[n] if n < len(seen) else PersonFacts(references=len(person.references)))
        written |= _changed(PERSON, person, prefix, settings.preset, skip=("identity", "region"))
        written |= _changed(POSE, person.pose, prefix, settings.preset)
    return {**written, VERSION: version}


def skipped(error: Exception) -> dict[str, str]:
    """The note of a picture that was made without FaceSnap although it was asked for."""
    return {SKIPPED: " ".join(str(error).split())}


def _who(prefix: str, person: Person, seen: PersonFacts) -> dict[str, str]:
    """The person, and the pictures that belong to it, by name and hash."""
    if person.identity:
        written = {f"{prefix} identity": str(Named(person.identity, seen.digest))}
    else:
        written = {f"{prefix} photos": str(Named(str(seen.references), seen.digest))}
    if isinstance(person.region, Box):
        written[f"{prefix} region"] = PERSON["region"].kind.text(person.region)
    elif person.region is not None:
        written[f"{prefix} region"] = str(Named("mask", seen.region_mask))
    if person.pose.image is not None:
        written[f"{prefix} pose picture"] = str(Named("picture", seen.pose_picture))
    if seen.similarity is not None:
        written[f"{prefix} similarity"] = f"{seen.similarity:.3f}"
    return written


def _changed(
    table: Mapping[str, Field], value: Any, prefix: str, preset: str, skip: Sequence[str] = ()
) -> dict[str, str]:
    """Fields that differ from their default or, where presets fill them in, from the preset's value."""
    written = {}
    for name, declared in table.items():
        one = getattr(value, name)
        default = PRESETS[preset][name] if declared.preset else declared.default
        if declared.infotext and name not in skip and one != default:
            written[f"{prefix} {declared.infotext}"] = declared.text(one)
    return written


def key_prefix(n: int) -> str:
    return NAME if n == 0 else f"{NAME} {n + 1}"


@dataclass(frozen=True)
class Pasted:
    """The settings that a text restores.

    Attributes:
        settings: off where the text has no FaceSnap in it. People whose photos cannot travel are empty.
        missing: identities, photos and masks that are not on this machine or do not travel, one sentence each.
        problems: values that cannot be taken; they are left at their defaults.
    """

    settings: Settings
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass
class _Notes:
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read(params: Mapping[str, Any], most_people: int = PEOPLE, identities: Mapping[str, str] | None = None) -> Pasted:
    """Settings of a text's parameters, as the WebUI has parsed them. Nothing in a text can make it raise.

    Args:
        identities: name -> digest of those on this machine; an identity of another name but the same hash is taken.
            None: names are taken as they are.
    """
    texts = _renamed({str(key): str(value) for key, value in params.items()})
    if VERSION not in texts or SKIPPED in texts:
        return Pasted(Settings())
    notes = _Notes()
    values = _restore(SETTINGS, texts, NAME, notes, skip=("enabled", "adapter", "speed"))
    preset = values.get("preset", PRESET)
    values |= {"speed": PRESETS[preset]["speed"], **_restore({"speed": SETTINGS["speed"]}, texts, NAME, notes)}
    adapter = _named(texts, f"{NAME} adapter", notes)
    values["adapter"] = adapter.name or adapter.digest  # both are names that the API takes
    people = []
    numbered = filter(None, map(_PERSON.fullmatch, texts))
    for n in range(max((int(match[1] or 1) for match in numbered), default=0)):
        if n < most_people:
            people.append(_restore_person(n, texts, preset, identities, notes))
        else:
            notes.missing.append(f"person {n + 1}: this page has room for {most_people}; see the settings")
    settings = Settings(**{**values, "enabled": True}, people=tuple(people))
    return Pasted(settings, tuple(notes.missing), tuple(notes.problems))


def _renamed(texts: dict[str, str]) -> dict[str, str]:
    """The same texts, with those that older command lines wrote under the keys of today."""
    for prefix in map(key_prefix, range(MOST_PEOPLE)):
        if f"{prefix} LoRA" in texts:
            texts.setdefault(f"{prefix} lora", texts[f"{prefix} LoRA"])
        if texts.get(f"{prefix} LoRA region") == "masked":
            texts.setdefault(f"{prefix} lora in region", "true")
        if f"{prefix} PuLID mode" in texts:
            texts.setdefault(f"{NAME} PuLID mode", texts[f"{prefix} PuLID mode"])
    return texts


def _restore_person(
    n: int, texts: Mapping[str, str], preset: str, identities: Mapping[str, str] | None, notes: _Notes
) -> Person:
    prefix, who = key_prefix(n), f"person {n + 1}"
    given = {name: PRESETS[preset][name] for name, declared in PERSON.items() if declared.preset}
    given |= _restore(PERSON, texts, prefix, notes, skip=("identity",))
    named = _named(texts, f"{prefix} identity", notes)
    if named != Named():
        given["identity"] = _identity(named, who, identities, notes)
    else:
        photos = Named.read(texts.get(f"{prefix} photos", ""))
        notes.missing.append(f"{who}: the reference photos ({photos}) do not travel in a picture, give them again")
    if f"{prefix} pose picture" in texts:
        notes.missing.append(f"{who}: the pose picture does not travel in a picture, give it again")
    try:
        check_windows(given, lambda name: f"{prefix} {PERSON[name].infotext}")
    except SettingsError as error:
        notes.problems.append(str(error))
        given |= {name: PRESETS[preset][name] for window in WINDOWS for name in window}
    return Person(**given, pose=Pose(**_restore(POSE, texts, prefix, notes)))


def _named(texts: Mapping[str, str], key: str, notes: _Notes) -> Named:
    named = Named.read(texts.get(key, ""))
    try:
        return Named(Text().read(named.name, key), named.digest)
    except SettingsError as error:
        notes.problems.append(str(error))
        return Named()


def _identity(named: Named, who: str, identities: Mapping[str, str] | None, notes: _Notes) -> str:
    if identities is None:
        return named.name
    known = {digest[:SHORT]: name for name, digest in identities.items()}
    if named.digest and identities.get(named.name, "")[:SHORT] != named.digest and named.digest in known:
        return known[named.digest]
    if named.name not in identities:
        notes.missing.append(f"{who}: the identity {named} is not on this machine")
    elif named.digest and identities[named.name][:SHORT] != named.digest:
        notes.missing.append(f"{who}: the identity {named} is on this machine with other content")
    return named.name


def _restore(
    table: Mapping[str, Field], texts: Mapping[str, str], prefix: str, notes: _Notes, skip: Sequence[str] = ()
) -> dict[str, Any]:
    """The fields that a text gives; others are left to their defaults."""
    found: dict[str, Any] = {}
    for name, declared in table.items():
        key = f"{prefix} {declared.infotext}"
        if not declared.infotext or name in skip or key not in texts:
            continue
        if isinstance(declared.kind, RegionType) and Named.read(texts[key]).name == "mask":
            notes.missing.append(f"{prefix}: the region mask does not travel in a picture, give it again")
            continue
        try:
            found[name] = declared.parse_text(texts[key], key)
        except SettingsError as error:
            notes.problems.append(str(error))
    return found


def parameters(prompt: str, negative_prompt: str, params: Mapping[str, Any]) -> str:
    """The whole text of a picture: prompt, negative prompt where there is one, then the parameters in one line."""
    lines = [prompt, f"Negative prompt: {negative_prompt}"] if negative_prompt else [prompt]
    return "\n".join([*lines, line(params)])


def line(params: Mapping[str, Any]) -> str:
    """The last line of an infotext."""
    texts = {key: str(value) for key, value in params.items()}
    # As the WebUI writes them: as JSON where a comma, colon or line break would end the value.
    quoted = {key: json.dumps(text, ensure_ascii=False) for key, text in texts.items() if set(text) & set(",:\n")}
    return ", ".join(f"{key}: {text}" for key, text in (texts | quoted).items())


def parse_parameters(text: str) -> dict[str, str]:
    """The parameters in the last line of an infotext."""
    return {key: _unquote(value) for key, value in _PARAMETER.findall(text.strip().split("\n")[-1])}


def _unquote(text: str) -> str:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text
