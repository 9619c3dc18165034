"""The list of adapters as people choose from it: family, base, what fits, what each suggests and needs.

Nothing is loaded or hashed for it: names and shapes do (see `headers`), remembered as long as a file stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from facesnap.checkpoints.adapter import FamilyMatch, WeightsFile
from facesnap.errors import CheckpointError, EncoderError
from facesnap.faces.encoder_files import find_encoder
from facesnap.faces.known import BASE_TITLES, advice, encoder_key
from facesnap.faces.packs import is_installed
from facesnap.faces.recognisers import RECOGNISERS
from facesnap.families import registry
from facesnap.families.base import NATIVE, Family
from facesnap.remedies import remedy
from facesnap.settings.field_types import Number
from facesnap.settings.model import PERSON
from facesnap.settings.words import FAMILY_MARK, TITLE_MARK
from facesnap.weights.catalogue import item_of_file
from facesnap.weights.folders import Folders, ModelFile, choose_adapter, list_adapters
from facesnap.weights.headers import ADAPTER, FAMILY
from facesnap.weights.packs import WantedRecogniser

SIDES = {"sd15": 512, "sdxl": 1024}


@dataclass(frozen=True)
class Need:
    """Something that an adapter does not bring.

    Attributes:
        what: for people. there: whether it lies in the usual places, by name; None where the name leaves it open.
        download: its name for `facesnap download`, or "".
    """

    what: str
    there: bool | None
    download: str = ""

    def __str__(self) -> str:
        state = {True: "there", False: "missing", None: "looked for when the adapter is loaded"}[self.there]
        return f"{self.what}: {state}"


@dataclass(frozen=True)
class ListedAdapter:
    """One adapter of the list.

    Attributes:
        name: as `Settings.adapter` takes it. title: name, family and base for a dropdown, joined by TITLE_MARK.
        path: its file. structure: the file beside it that belongs to it (InstantID's IdentityNet), or None.
        size: bytes of both.
        family: "facesnap" or a key of `registry.FAMILIES`; "" where the file cannot be used.
        family_title: the same for people. base: "sd15", "sdxl" or "".
        fits: whether it can be used with the loaded model.
        defaults: fields of `facesnap.settings.model.Person` with the values that it suggests.
        hint: CFG and size of the picture. needs: what it takes besides. licence: of the weights.
        note: how the family was found, or why the file cannot be used.
        recogniser: which one it was trained with.
        remedy: what to do where the file cannot be used.
        choice: whether it is one of several families that the file can be of; people choose it, nothing else does.
    """

    name: str
    title: str
    path: Path
    structure: Path | None
    size: int
    family: str
    family_title: str
    base: str
    fits: bool
    defaults: Mapping[str, float]
    hint: str
    needs: tuple[Need, ...]
    licence: str
    note: str
    recogniser: WantedRecogniser
    remedy: str = ""
    choice: bool = False

    @property
    def explanation(self) -> str:
        """The note, with the remedy where there is one."""
        return f"{self.note} Remedy: {self.remedy}." if self.remedy else self.note


def entries(folders: Folders, base: str | None = None, places: Sequence[str] | None = None) -> list[ListedAdapter]:
    """All adapters in the folders, those that fit first, then by name.

    A file whose family is left open comes once for each that it can be of, as "NAME as FAMILY".

    Args:
        base: of the loaded model, "sd15" or "sdxl"; None where none is loaded, then everything fits.
        places: where packs and encoders are looked for, `folders.packs` where None.
    """
    look = DiskLookup(folders.packs if places is None else places)
    found = [one for file in list_adapters(folders) for one in _entries(file, base, look)]
    return sorted(found, key=lambda entry: (not entry.fits, entry.name.lower()))


def chosen(name: str, folders: Folders, base: str | None = None) -> ListedAdapter | None:
    """The adapter of a name or hash; without a name the one that is found by itself: the first that fits the base
    model, our own before others, those with all they need before those without; None where there is none.

    Args:
        base: of the loaded model; None where none is loaded.

    Raises:
        UnknownAdapterError: there is none of that name. CheckpointError: there are several.
    """
    if name:
        file, family = choose_adapter(name, list_adapters(folders))
        facts = _own(file.header.metadata) if file.header.kind == ADAPTER else _public(file, family)
        return _entry(file, facts, base, DiskLookup(folders.packs), "by your word" if family else "")
    fitting = [
        one for one in entries(folders, base) if one.fits and one.family and not one.choice and base in (None, one.base)
    ]
    return min(fitting, key=lambda one: (any(n.there is False for n in one.needs), one.family != NATIVE), default=None)


@dataclass
class _Facts:
    """The facts of an adapter, of whichever kind."""

    family: str = ""
    title: str = ""
    note: str = ""
    structure: Path | None = None
    kind: Family = field(default_factory=lambda: registry.find(NATIVE))
    recogniser: str = ""
    recogniser_sha256: str = ""
    encoder: str = ""
    licence: str = ""
    defaults: dict[str, float] = field(default_factory=dict)


def _entries(file: ModelFile, base: str | None, look: DiskLookup) -> list[ListedAdapter]:
    header = file.header
    if header.kind == ADAPTER:
        return [_entry(file, _own(header.metadata), base, look)]
    facts = _public(file)
    if facts.family or header.problem:
        return [_entry(file, facts, base, look)]
    return [_entry(file, _public(file, one), base, look, facts.note) for one in header.families]


def _entry(file: ModelFile, facts: _Facts, base: str | None, look: DiskLookup, left_open: str = "") -> ListedAdapter:
    """left_open: why nothing but people's word says the family, or ""."""
    header = file.header
    fits = not header.problem and (not base or not header.base or header.base == base)
    name = f"{file.name}{FAMILY_MARK}{facts.family}" if left_open else file.name
    parts = [name, facts.title, BASE_TITLES.get(header.base, "")]
    if header.problem:
        parts.append("cannot be used")
    elif not fits:
        parts.append(f"does not fit {BASE_TITLES.get(base or '', base)}")
    return ListedAdapter(
        name=name,
        title=TITLE_MARK.join(part for part in parts if part),
        path=file.path,
        structure=facts.structure,
        size=file.size + (facts.structure.stat().st_size if facts.structure else 0),
        family=facts.family,
        family_title=facts.title,
        base=header.base,
        fits=fits,
        defaults=facts.defaults,
        hint=_hint(facts.kind, header.base),
        needs=() if header.problem else _needs(facts, look),
        licence=facts.licence,
        note=header.problem or left_open or facts.note,
        recogniser=WantedRecogniser(facts.recogniser_sha256, facts.recogniser),
        remedy=_remedy(file),
        choice=bool(left_open),
    )


def _remedy(file: ModelFile) -> str:
    """How to come by a file that cannot be used; "" for the others."""
    item = item_of_file(file.path.name) if file.header.problem else None
    return file.header.remedy if item is None else remedy("download", name=item.name, licence=item.licence)


def _own(metadata: Mapping[str, Any]) -> _Facts:
    """Of a FaceSnap checkpoint, by its metadata, which are not checked yet."""
    ffrnet = metadata.get("ffrnet")
    defaults = {"strength": _within("strength", metadata.get("strength"))}
    if isinstance(ffrnet, dict):
        defaults["structure"] = _within("structure", ffrnet.get("strength"))
    return _Facts(
        family=NATIVE,
        title=registry.find(NATIVE).title,
        note="by its metadata",
        kind=registry.find(str(metadata.get("family", ""))),
        recogniser=str(metadata.get("recogniser_name") or metadata.get("recogniser", "")),
        recogniser_sha256=str(metadata.get("recogniser", "")),
        encoder=str(metadata.get("encoder_name", "")),
        licence=str(metadata.get("licence", "")),
        defaults=_with_shortcut(defaults, metadata.get("shortcut") is True),
    )


def _public(file: ModelFile, family: str = "") -> _Facts:
    """Of a public adapter, by its family; family: the user's word."""
    options = file.header.families
    try:
        detection = (
            registry.decide(options, WeightsFile(file.path, family=family))
            if options
            else FamilyMatch("", file.header.problem)
        )
    except CheckpointError as error:
        detection = FamilyMatch("", f"{error.what} {error.remedy[:1].upper()}{error.remedy[1:]}.")
    candidates = (detection.family,) if detection.family else options
    if not candidates:
        title = "public adapter" if file.header.kind == FAMILY else "no weights"
        return _Facts(title=title, note=detection.why, defaults={"strength": _within("strength", None)})
    kinds = [registry.find(one) for one in candidates]
    kind = kinds[0]
    defaults = {"strength": kind.strength}
    if detection.structure is not None and kind.structure is not None:
        defaults["structure"] = kind.structure
    return _Facts(
        family=detection.family,
        title=" or ".join(one.title.removeprefix("IP-Adapter ") for one in kinds),
        note=detection.why,
        structure=detection.structure,
        kind=kind,
        recogniser=kind.recogniser,
        encoder=kind.encoder,
        licence=kind.licence,
        defaults=_with_shortcut(defaults, any(one.shortcut for one in kinds)),
    )


def _with_shortcut(defaults: dict[str, float], shortcut: bool) -> dict[str, float]:
    return defaults | ({"s_struct": PERSON["s_struct"].default} if shortcut else {})


def _within(name: str, value: Any) -> float:
    """A number of the metadata inside the limits of the setting's slider; its first value where it is none."""
    field, kind = PERSON[name], PERSON[name].kind
    assert isinstance(kind, Number)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return float(field.initial)
    low, high = field.slider or (kind.low, kind.high)
    return float(min(max(value, low), high))


def _hint(kind: Family, base: str) -> str:
    usual = SIDES.get(base)
    side = kind.side or usual
    parts = [f"CFG {kind.cfg:g}"] if kind.cfg else []
    if side:
        parts.append(f"{side} x {side}" + (f", not {usual}" if usual and side != usual else ""))
    return " · ".join(parts)


def _needs(facts: _Facts, look: DiskLookup) -> tuple[Need, ...]:
    found, kind, net = look.needs(facts.recogniser, facts.encoder), facts.kind, facts.structure
    if kind.companion and facts.family == kind.key:
        download = "" if net or not kind.downloads else kind.downloads[0].name
        found.append(Need(f"{kind.companion}{f' ({net.name})' if net else ''}", net is not None, download))
    return tuple(found)


class DiskLookup:
    """Packs and encoders in folders of models (as `facesnap.faces.packs` takes them), each looked for once."""

    def __init__(self, places: Sequence[str]) -> None:
        self._has_pack = cache(lambda name: is_installed(name, places))
        self._has_encoder = cache(lambda key: _has_encoder(key, places))

    def needs(self, recogniser: str, encoder: str) -> list[Need]:
        """The pack and the encoder of an adapter; "" where it needs none."""
        return [*([self.pack(recogniser)] if recogniser else []), *([self.encoder(encoder)] if encoder else [])]

    def pack(self, recogniser: str) -> Need:
        """A pack that holds the recogniser, a key of RECOGNISERS or its sha256, where a file names no more."""
        known = {one.sha256: name for name, one in RECOGNISERS.items()}
        name = known.get(recogniser, recogniser)
        if name not in RECOGNISERS:
            return Need(f"a pack with the recogniser {name[:20]}", None)
        packs = RECOGNISERS[name].packs
        return Need(f"pack {' or '.join(packs)}", any(map(self._has_pack, packs)), packs[0])

    def encoder(self, name: str) -> Need:
        """An encoder by its `ImageEncoder.name`."""
        key = encoder_key(name)
        return Need(f"image encoder {name}", self._has_encoder(key), key.lower() if advice(key, "") else "")


def _has_encoder(key: str, places: Sequence[str]) -> bool:
    try:
        return find_encoder(key, places).is_file()
    except EncoderError:
        return False
