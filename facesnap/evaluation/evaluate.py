"""`facesnap evaluate`: rows of adapters on one base, the same people, prompts and seeds for all.

    OUT/settings.json                 what is asked for; another evaluation is refused in the same folder
    OUT/rows/ROW/row.json, *.png      the pictures, each with what was measured on it
    OUT/report.json, report.md, sheet.png

A picture appears under its name only when it is whole, and everything follows from the settings: a run that was killed
goes on where it stopped and ends with the same files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facesnap.checkpoints.adapter import Adapter
from facesnap.errors import LandmarkError, SettingsError
from facesnap.evaluation import report as reports
from facesnap.evaluation.cases import Case, EvaluatedPerson
from facesnap.evaluation.measure import Judges, measured
from facesnap.evaluation.recognisers import require_independent
from facesnap.faces.face_encoder import FaceEncoder
from facesnap.faces.identity import Identity
from facesnap.faces.picture import read_picture
from facesnap.files import write_atomically
from facesnap.hosts.diffusers import DiffusersHost, Sampling
from facesnap.landmarks.predictor import Landmarks
from facesnap.pipeline.cache import ContentCache
from facesnap.pipeline.pipeline import FaceSnapPipeline
from facesnap.pipeline.shape import Shape, Shapes
from facesnap.settings.model import Person, Pose
from facesnap.training.shards import claim, write_json

CACHE_BYTES = 64 << 20
_ROW = re.compile(
    r"(?P<name>[^=/\\]+)=(?P<file>.+?)(?::(?P<strength>\d+(?:\.\d+)?))?(?::(?P<structure>\d+(?:\.\d+)?))?"
)


@dataclass(frozen=True)
class TableRow:
    """NAME=FILE[:strength[:structure]]: an adapter, and how much of its two parts; None is the adapter's suggestion.

    Strength 0 with a structure is the paper's wiring: the identity comes through FFRNet alone.
    """

    name: str
    file: Path
    strength: float | None = None
    structure: float | None = None

    @staticmethod
    def parse(text: str) -> TableRow:
        """Raises SettingsError where it is no row."""
        found = _ROW.fullmatch(text)
        if found is None or found["name"].strip() in ("", reports.BARE, reports.TRUTH):
            raise SettingsError(
                f"The row {text!r}.",
                expected=f"NAME=FILE[:strength[:structure]], NAME neither {reports.BARE!r} nor {reports.TRUTH!r}",
                remedy="write it like mixer=adapter.safetensors:1:0",
            )
        numbers = (None if found[key] is None else float(found[key]) for key in ("strength", "structure"))
        return TableRow(found["name"].strip(), Path(found["file"]), *numbers)


@dataclass(eq=False)
class Evaluation:
    """One evaluation.

    Attributes:
        out: folder. host: the base. people: who, and what is asked for. judges: who measures.
        sampling: of all pictures; prompt and seed come from each case.
        encoder: the image encoder, where an adapter looks at pictures.
        asked: what the people came from, for settings.json. say: takes progress lines.
    """

    out: Path
    host: DiffusersHost
    people: Sequence[EvaluatedPerson]
    judges: Judges
    sampling: Sampling
    encoder: FaceEncoder | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None

    def run(self, rows: Sequence[tuple[TableRow, Adapter]]) -> dict[str, Any]:
        """Make what pictures are missing, measure all of them and write the report; returns what report.json holds.

        Args:
            rows: with their loaded adapters; the bare base is always the first row.

        Raises:
            SettingsError: the folder holds another evaluation, or two rows have one name.
            IdentityMismatchError: a judge is the recogniser that an adapter is conditioned on.
        """
        names = [row.name for row, _ in rows]
        if len(set(names)) != len(names):
            raise SettingsError(f"The rows {names}.", expected="another name for each", remedy="rename one")
        for row, adapter in rows:
            require_independent(self.judges.recogniser, adapter.spec.recogniser, f"the row {row.name!r}")
            adapter.check_unet(self.host.topology)
        if rows:
            require_independent(self.judges.recogniser, self.judges.analyser.recogniser, "every row")
        _claim(self.out / "settings.json", self._settings())
        files = {reports.BARE: self._pictures(reports.BARE, {"adapter": None}, self._bare)}
        for row, adapter in rows:
            record = {"adapter": adapter.digest, "strength": row.strength, "structure": row.structure}
            files[row.name] = self._pictures(row.name, record, self._attached(row, adapter))
        return self._report(files)

    def _settings(self) -> dict[str, Any]:
        sampling = {k: v for k, v in asdict(self.sampling).items() if k not in ("prompt", "seed", "count")}
        cases = [[case.name, case.prompt, case.seed] for person in self.people for case in person.cases]
        return json.loads(json.dumps({"base": _mark(self.host), "sampling": sampling, "cases": cases, **self.asked}))

    def _sampling(self, case: Case) -> Sampling:
        return replace(self.sampling, prompt=case.prompt, seed=case.seed, count=1)

    def _bare(self, person: EvaluatedPerson, case: Case) -> Image.Image:
        return self.host.sample(self._sampling(case), [])[0]

    def _attached(self, row: TableRow, adapter: Adapter) -> Callable[[EvaluatedPerson, Case], Image.Image]:
        """Makes the pictures of one row."""
        given = any(case.points is not None for person in self.people for case in person.cases)
        shapes = AskedShapes(self.judges.analyser) if given else None
        encoder = self.encoder if adapter.mixer.config.clip_levels else None
        pipeline = FaceSnapPipeline(adapter, self.judges.analyser, encoder, shapes=shapes)
        settings = Person(strength=row.strength, structure=row.structure)

        def make(person: EvaluatedPerson, case: Case) -> Image.Image:
            names = [f"reference {n} of {person.name}" for n in range(len(person.references))]
            identity = pipeline.identity(person.references, name=person.name, names=names)
            if shapes is not None:
                shapes.case = case
            return pipeline.generate(self.host, self._sampling(case), [(identity, settings)])[0].image

        return make

    def _pictures(
        self, name: str, record: dict[str, Any], make: Callable[[EvaluatedPerson, Case], Image.Image]
    ) -> dict[str, Path]:
        """The files of a row, case by case; those that are missing are made."""
        folder = self.out / "rows" / re.sub(r"[^\w+.-]", "_", name)
        _claim(folder / "row.json", {"row": name, **record})
        files = {case.name: folder / f"{case.name}.png" for person in self.people for case in person.cases}
        for number, person in enumerate(self.people, 1):
            missing = [case for case in person.cases if not files[case.name].is_file()]
            for case in missing:
                write_atomically(files[case.name], partial(make(person, case).save, format="PNG"))
            if missing:
                self.say(f"{name}: {number} of {len(self.people)} people")
        return files

    def _report(self, files: dict[str, dict[str, Path]]) -> dict[str, Any]:
        judge, look = self.judges.recogniser, partial(measured, self.judges, self.judges.key)
        folder = self.out / "truth"
        folder.mkdir(parents=True, exist_ok=True)
        references: list[np.ndarray | None] = []
        for person in self.people:
            looks = [
                look(picture, None, folder / f"{person.name}-reference-{n}.json")
                for n, picture in enumerate(person.references)
            ]
            vectors = [np.array(one["embedding"]) for one in looks if one["found"]]
            references.append(np.mean(vectors, axis=0) if vectors else None)
        cases = [case for person in self.people for case in person.cases]
        truths = {
            case.name: look(case.truth, case, folder / f"{case.name}.json") for case in cases if case.truth is not None
        }
        looked: dict[str, reports.Measurements] = {reports.TRUTH: truths} if truths else {}
        for name, of_row in files.items():
            self.say(f"measuring {name}")
            looked[name] = {
                case.name: look(read_picture(of_row[case.name]), case, of_row[case.name].with_suffix(".json"))
                for case in cases
            }
        tables = {
            name: reports.table_of(self.people, found, references, truths, judge) for name, found in looked.items()
        }
        report = {
            "people": len(self.people), "pictures": len(cases), "base": self.host.name,
            "recogniser": judge.name, "recogniser_sha256": judge.sha256,
            "detector": f"that of {self.judges.analyser.pack.name}", "sampling": self._settings()["sampling"],
            "calibration": reports.calibration(self.people, references, truths, judge),
            **reports.summary(tables),
        }  # fmt: skip
        write_json(self.out / "report.json", report)
        (self.out / "report.md").write_text(reports.markdown(report), encoding="utf-8")
        title = f"The number is the likeness to the reference by {judge.name}."
        reports.sheet(self.people, files, looked, references, judge, title).save(self.out / "sheet.png")
        return report


class AskedShapes(Shapes):
    """Gives FFRNet exactly the points that `case` asks for, without any detection or fit in between."""

    def __init__(self, analyser: Any) -> None:
        super().__init__(analyser, ContentCache(CACHE_BYTES))
        self.case: Case | None = None

    def shape(self, identity: Identity, pose: Pose, size: tuple[int, int]) -> Shape:
        if self.case is None or self.case.points is None:
            raise LandmarkError(
                "No landmarks were asked for.",
                expected="a case with points",
                remedy="give every picture of the evaluation its points, or none of them",
            )
        return Shape(Landmarks(self.case.points / np.array(size)), size)


def _mark(host: DiffusersHost) -> str:
    """The base's name with a digest of its UNet's first and last layer, which every training moves."""
    digest = hashlib.sha256()
    for layer in (host.pipeline.unet.conv_in, host.pipeline.unet.conv_out):
        digest.update(layer.weight.detach().float().cpu().numpy().tobytes())
    return f"{host.name} {digest.hexdigest()[:16]}"


def _claim(file: Path, wanted: dict[str, Any]) -> None:
    """Write what a folder is for, or check that it is for this."""
    other = claim(file, wanted)
    if other:
        raise SettingsError(
            f"{file} is of another evaluation: it differs in {', '.join(other)}.",
            expected="the settings that its pictures were made with",
            remedy="give those, or another --out folder",
        )
