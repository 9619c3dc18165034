"""Measurements of rows of pictures as numbers over people, a Markdown table and a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from facesnap.evaluation.cases import EvaluatedPerson
from facesnap.evaluation.measure import copying, diversity
from facesnap.evaluation.recognisers import Recogniser
from facesnap.evaluation.statistics import Estimate, difference, estimate, person_means
from facesnap.sheet import contact_sheet
from facesnap.world.measure import equal_error_rate

TRUTH, BARE = "true pictures", "none"
# metric -> (title, factor for the table, its unit)
METRICS: dict[str, tuple[str, float, str]] = {
    "face_sim": ("FaceSim to the reference", 1, ""),
    "sim_truth": ("FaceSim to another true picture", 1, ""),
    "rank1": ("named among all people", 100, " %"),
    "no_face": ("no face found", 100, " %"),
    "nme72": ("NME72", 100, " %"),
    "obedience": ("prompt obedience", 100, " %"),
    "diversity": ("diversity (HOG of the face)", 1, ""),
    "copy_paste": ("copy-paste M_CP", 1, ""),
}
PAIRED = ("face_sim", "nme72", "obedience")
SHEET_PEOPLE, CELL = 8, 192  # people on the sheet, and px of its cells

Measurements = dict[str, dict[str, Any]]  # case name -> what was measured


@dataclass(frozen=True, eq=False)
class Table:
    """By metric a value a person, (P,), NaN where there is none; and obedience by attribute."""

    values: dict[str, np.ndarray]
    attributes: dict[str, float]


def table_of(
    people: Sequence[EvaluatedPerson],
    looked: Measurements,
    references: Sequence[np.ndarray | None],
    truths: Measurements,
    judge: Recogniser,
) -> Table:
    """One row's numbers.

    Args:
        looked: of this row's pictures. references: the vector of each person's reference, None where it shows no face.
        truths: of the true pictures, for M_CP.
    """
    pictures = max(len(person.cases) for person in people)
    grids = {name: np.full((len(people), pictures), np.nan) for name in METRICS if name != "diversity"}
    spread = np.full(len(people), np.nan)
    right: dict[str, list[float]] = {}
    for i, person in enumerate(people):
        hogs = []
        shown = {id(case.truth): case.name for case in person.cases}  # a photo may be the truth of many prompts
        for j, case in enumerate(person.cases):
            one, truth = looked.get(case.name), truths.get(case.name, {})
            if one is None:
                continue
            grids["no_face"][i, j] = float(not one["found"])
            grids["rank1"][i, j] = _named(one, i, references, judge)
            grids["nme72"][i, j] = one.get("nme72", np.nan)
            if one.get("right"):
                grids["obedience"][i, j] = np.mean(list(one["right"].values()))
                for name, value in one["right"].items():
                    right.setdefault(name, []).append(value)
            if one["found"]:
                if looked is not truths or shown[id(case.truth)] == case.name:
                    hogs.append(np.array(one["hog"]))
                made, reference = np.array(one["embedding"]), references[i]
                if reference is not None:
                    grids["face_sim"][i, j] = judge.similarity(made, reference)
                if truth.get("found") and looked is not truths:
                    other = np.array(truth["embedding"])
                    grids["sim_truth"][i, j] = judge.similarity(made, other)
                    if reference is not None:
                        grids["copy_paste"][i, j] = copying(made, other, reference)
        spread[i] = diversity(hogs)
    values = {name: spread if name == "diversity" else person_means(grids[name]) for name in METRICS}
    return Table(values, {name: float(np.mean(found)) for name, found in right.items()})


def _named(one: dict[str, Any], own: int, references: Sequence[np.ndarray | None], judge: Recogniser) -> float:
    """1 where a picture is more like its person's reference than like any other person's, else 0; also without a face.

    NaN where there is no other person, or no reference.
    """
    reference = references[own]
    others = [other for j, other in enumerate(references) if j != own and other is not None]
    if reference is None or not others:
        return float("nan")
    if not one["found"]:
        return 0.0
    made = np.array(one["embedding"])
    return float(judge.similarity(made, reference) > max(judge.similarity(made, other) for other in others))


def calibration(
    people: Sequence[EvaluatedPerson], references: Sequence[np.ndarray | None], truths: Measurements, judge: Recogniser
) -> dict[str, Any]:
    """The judge's scale on true pictures: `same` person's reference and others; `different` people's; and EER."""
    found: dict[bool, list[float]] = {True: [], False: []}  # same person -> likenesses
    for i, person in enumerate(people):
        for case in {id(c.truth): c for c in person.cases}.values():  # one photo may be the truth of many prompts
            one = truths.get(case.name, {})
            for j, reference in enumerate(references):
                if one.get("found") and reference is not None:
                    found[i == j].append(judge.similarity(np.array(one["embedding"]), reference))
    same, different = (np.array(found[key]) for key in (True, False))
    return {
        "scale": judge.scale, "same": float(same.mean()) if len(same) else None,
        "different": float(different.mean()) if len(different) else None,
        "eer": equal_error_rate(same, different) if len(same) and len(different) else None,
    }  # fmt: skip


def summary(tables: dict[str, Table]) -> dict[str, Any]:
    """All rows' estimates, and the paired differences of every two rows."""
    rows = {
        name: {
            **{metric: asdict(one) if (one := estimate(values)) else None for metric, values in table.values.items()},
            "obedience_by_attribute": table.attributes,
        }
        for name, table in tables.items()
    }
    pairs = []
    for first, second in combinations(reversed(list(tables)), 2):  # later rows are compared with earlier ones
        found = {m: difference(tables[first].values[m], tables[second].values[m]) for m in METRICS}
        pairs.append({"row": first, "minus": second, **{m: asdict(one) if one else None for m, one in found.items()}})
    return {"rows": rows, "differences": pairs}


def markdown(report: dict[str, Any]) -> str:
    """The report as tables; metrics without any value are left out."""
    rows, pairs, scale = report["rows"], report["differences"], report["calibration"]
    shown = [name for name in METRICS if any(row[name] for row in rows.values())]
    floor = (rows.get(TRUTH) or {}).get("nme72")
    lines = [
        f"{report['people']} people, {report['pictures']} pictures a row; mean over people [95 % bootstrap interval "
        "over people]; the same prompts and seeds in every row.",
        f"Judge of faces: {report['recogniser']} ({scale['scale']}). On true pictures: same person "
        f"{_number(scale['same'])}, different people {_number(scale['different'])}, EER {_number(scale['eer'])}.",
    ]
    if floor:
        lines.append(f"The landmark judge's own error on true pictures (its floor): {_cell(floor, 100, ' %')}.")
    lines += ["", "| row | " + " | ".join(METRICS[name][0] for name in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name, row in rows.items():
        cells = [_cell(row[metric], *METRICS[metric][1:]) for metric in shown]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    paired = [name for name in PAIRED if name in shown]
    if pairs and paired:
        lines += ["", "Differences, person by person (bold: the interval excludes 0):", ""]
        lines += ["| row | minus | " + " | ".join(METRICS[name][0] for name in paired) + " |"]
        lines += ["|---" * (len(paired) + 2) + "|"]
        for pair in pairs:
            cells = [_cell(pair[metric], *METRICS[metric][1:], signed=True) for metric in paired]
            lines.append(f"| {pair['row']} | {pair['minus']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(found: dict[str, Any] | None, factor: float, unit: str, signed: bool = False) -> str:
    if found is None:
        return "-"
    digits, sign = (1 if factor > 1 else 3), "+" if signed else ""
    mean, low, high = (f"{found[key] * factor:{sign}.{digits}f}" for key in ("mean", "low", "high"))
    sure = signed and Estimate(**found).excludes_zero
    return f"{'**' if sure else ''}{mean}{unit}{'**' if sure else ''} [{low}, {high}]"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"


def sheet(
    people: Sequence[EvaluatedPerson], files: dict[str, dict[str, Path]], looked: dict[str, Measurements],
    references: Sequence[np.ndarray | None], judge: Recogniser, title: str,
) -> Image.Image:  # fmt: skip
    """A row a person: reference, true picture, and their first picture of every row with its likeness.

    Args:
        files: row -> case -> picture. looked: row -> measurements.
    """
    lines = []
    for i, person in enumerate(people[:SHEET_PEOPLE]):
        case = person.cases[0]
        cells = [(Image.fromarray(person.references[0]), f"reference {person.name}")]
        if case.truth is not None:
            cells.append((Image.fromarray(case.truth), case.prompt))
        for name, of_row in files.items():
            one, text = looked[name][case.name], "no face"
            reference = references[i]
            if one["found"] and reference is not None:
                text = f"{judge.similarity(np.array(one['embedding']), reference):.2f}"
            with Image.open(of_row[case.name]) as picture:
                cells.append((picture.convert("RGB"), f"{name}: {text}"))
        lines.append([(_enlarged(picture), text) for picture, text in cells])
    return contact_sheet(lines, cell=CELL, title=title)


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = CELL / max(picture.size)
    return picture if factor <= 1 else ImageOps.scale(picture, factor, Image.Resampling.LANCZOS)
