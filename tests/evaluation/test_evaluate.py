"""`facesnap evaluate`: numbers that are right on known data, runs that go on, judges that are independent."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from facesnap.cli import main
from facesnap.errors import IdentityMismatchError, LandmarkError, SettingsError
from facesnap.evaluation import report as reports
from facesnap.evaluation.attribute_judge import AttributeJudge
from facesnap.evaluation.cases import Case, EvaluatedPerson, folder_people, world_people
from facesnap.evaluation.evaluate import AskedShapes, Evaluation, TableRow
from facesnap.evaluation.landmark_judge import LandmarkJudge
from facesnap.evaluation.measure import Judges, copying, diversity, hog_of
from facesnap.evaluation.recognisers import DlibRecogniser, PackRecogniser
from facesnap.evaluation.statistics import difference, estimate, person_means
from facesnap.faces.analyser import FaceAnalyser
from facesnap.hosts.diffusers import Sampling
from facesnap.settings.model import Pose
from facesnap.world import World
from tests.world.conftest import portraits as portraits


class ByColour:
    """A recogniser for tests: the mean colour of the box."""

    name, sha256, scale = "mean colour", "c" * 64, "1 - distance"

    def embed(self, picture: np.ndarray, box: np.ndarray, kps: np.ndarray) -> np.ndarray:
        left, top, right, bottom = np.clip(np.round(box).astype(int), 0, None)
        return picture[top:bottom, left:right].mean((0, 1)) / 255

    def similarity(self, a: np.ndarray, b: np.ndarray) -> float:
        return 1 - float(np.linalg.norm(a - b))


SAMPLING = Sampling("", steps=2, cfg=2.0, size=(64, 64), sampler="Euler")


@pytest.fixture(scope="module")
def people(astronaut: np.ndarray) -> list[EvaluatedPerson]:
    """Two "people" that are one, with two cases each; one of them asks for points."""
    points = np.random.default_rng(0).uniform(10, 50, (72, 2))
    other = np.ascontiguousarray(astronaut[:, ::-1])
    return [
        EvaluatedPerson(name, [photo], [Case(f"{name}-{n}", f"prompt {n}", n, truth, points) for n in (1, 2)])
        for name, photo, truth in (("a", astronaut, other), ("b", other, astronaut))
    ]


def first_cases(people: list[EvaluatedPerson]) -> list[EvaluatedPerson]:
    """The people with one case each, where a second one would promise nothing more."""
    return [replace(person, cases=person.cases[:1]) for person in people]


@pytest.fixture(scope="module")
def whole(
    world: SimpleNamespace, people: list[EvaluatedPerson], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, dict[str, object]]:
    """An evaluation of all rows, done, and its report."""
    judges, out = Judges(world.analyser, ByColour()), tmp_path_factory.mktemp("evaluation") / "out"
    done = Evaluation(out, world.host, [people[0], first_cases(people)[1]], judges, SAMPLING, world.encoder)
    return done, done.run(rows(world))


@pytest.fixture
def evaluation(world: SimpleNamespace, people: list[EvaluatedPerson], tmp_path: Path) -> Evaluation:
    judges = Judges(world.analyser, ByColour())
    return Evaluation(tmp_path / "out", world.host, first_cases(people), judges, SAMPLING, world.encoder)


def rows(world: SimpleNamespace) -> list[tuple[TableRow, object]]:
    return [
        (TableRow("tokens", world.file, 1.0, 0.0), world.adapter),
        (TableRow("paper", world.file, 0.0, 1.0), world.adapter),
        (TableRow("nothing", world.file, 0.0, 0.0), world.adapter),
    ]


def test_the_interval_is_right_on_known_data() -> None:
    """For a mean of many, the bootstrap's interval is the normal one; a constant has no width."""
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = estimate(values)
    assert found is not None and found.people == 400 and np.isclose(found.mean, values.mean())
    half = 1.96 * values.std() / 20
    assert np.isclose(found.low, values.mean() - half, atol=0.02) and np.isclose(
        found.high, values.mean() + half, atol=0.02
    )
    constant = estimate(np.full(10, 0.7))
    assert constant is not None and constant.low == constant.high == pytest.approx(0.7)
    assert found == estimate(values) and estimate(np.array([np.nan])) is None
    # Two people, one 0 and one 1: a quarter of the resamples is all zeros, a quarter all ones.
    two = estimate(np.array([0.0, 1.0, np.nan]))
    assert two is not None and (two.low, two.mean, two.high, two.people) == (0, 0.5, 1, 2)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(200):
        found = estimate(rng.exponential(1.0, 60), seed=3)
        assert found is not None
        covered.append(found.low <= 1.0 <= found.high)
    assert 0.88 <= np.mean(covered) <= 0.99


def test_paired_differences_see_what_people_have_in_common() -> None:
    rng = np.random.default_rng(4)
    people = rng.normal(0, 5, 50)
    first, second = people + 0.3 + rng.normal(0, 0.1, 50), people + rng.normal(0, 0.1, 50)
    second[0] = np.nan
    paired = difference(first, second)
    assert paired is not None and paired.people == 49 and paired.excludes_zero and abs(paired.mean - 0.3) < 0.1
    alone = [estimate(values) for values in (first, second)]
    assert alone[0] and alone[1] and alone[0].low < alone[1].high, "unpaired, the intervals overlap"


def test_a_persons_mean_is_over_known_pictures() -> None:
    means = person_means(np.array([[1.0, np.nan, 3.0], [np.nan] * 3, [2.0, 2.0, 2.0]]))
    assert means[0] == 2 and np.isnan(means[1]) and means[2] == 2


def test_copying_is_one_for_the_reference_and_not_for_the_truth() -> None:
    reference, truth = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    assert copying(reference, truth, reference) == pytest.approx(1)
    assert copying(truth, truth, reference) == pytest.approx(-1)
    assert copying(reference + truth, truth, reference) == pytest.approx(0, abs=1e-9)


def test_diversity_is_zero_for_one_picture_and_more_for_others(astronaut: np.ndarray) -> None:
    one, other = hog_of(astronaut[:112, 200:312]), hog_of(astronaut[100:212, 100:212])
    assert diversity([one, one, one]) == pytest.approx(0, abs=1e-9)
    assert diversity([one, other]) > 0.05 and np.isnan(diversity([one]))


def looked(embedding: list[float], nme: float, right: dict[str, float], found: bool = True) -> dict[str, object]:
    hog = [1.0, 0.0]
    return {"found": found, "right": right, **({"embedding": embedding, "hog": hog, "nme72": nme} if found else {})}


def test_the_table_holds_what_was_measured(people: list[EvaluatedPerson]) -> None:
    truths = {case.name: looked([0.0, 1.0], 0.02, {"hair": 1.0}) for person in people for case in person.cases}
    made = {
        "a-1": looked([1.0, 0.0], 0.04, {"hair": 1.0, "light": 0.0}),
        "a-2": looked([], 0, {"hair": 0.0, "light": 0.0}, found=False),
        "b-1": looked([0.0, 1.0], 0.06, {"hair": 1.0}),
        "b-2": looked([0.0, 1.0], 0.10, {"hair": 1.0}),
    }
    references = [np.array([1.0, 0.0]), np.array([1.0, 0.0])]
    judge = ByColour()
    tables = {
        reports.TRUTH: reports.table_of(people, truths, references, truths, judge),
        "row": reports.table_of(people, made, references, truths, judge),
    }
    values = tables["row"].values
    far = 1 - np.sqrt(2)
    assert np.allclose(values["face_sim"], [1, far]) and np.allclose(values["sim_truth"], [far, 1])
    assert np.allclose(values["no_face"], [0.5, 0]) and np.allclose(values["nme72"], [0.04, 0.08])
    assert np.allclose(values["obedience"], [0.25, 1]) and np.allclose(values["copy_paste"], [1, -1])
    assert tables["row"].attributes == {"hair": 0.75, "light": 0.0}
    assert np.isnan(tables[reports.TRUTH].values["sim_truth"]).all()
    scale = reports.calibration(people, references, truths, judge)
    assert scale["same"] == pytest.approx(far) and scale["different"] == pytest.approx(far)

    found = reports.summary(tables)
    report = {"people": 2, "pictures": 4, "recogniser": "x", "calibration": scale, **found}
    text = reports.markdown(report)
    assert "| row | FaceSim to the reference |" in text and "its floor): 2.0 % [2.0, 2.0]" in text
    lines = [line for line in text.splitlines() if line.startswith("| row |")]
    assert "6.0 % [4.0, 8.0]" in lines[1] and "| row | true pictures |" in lines[-1]
    assert "**+4.0 %** [+2.0, +6.0]" in lines[-1], "the error over the floor, person by person"


def test_people_are_named_among_all(people: list[EvaluatedPerson]) -> None:
    made = {
        "a-1": looked([1.0, 0.0], 0, {}),
        "a-2": looked([], 0, {}, found=False),
        "b-1": looked([0.6, 0.8], 0, {}),
        "b-2": looked([0.8, 0.6], 0, {}),
    }

    def named(*references: np.ndarray | None) -> np.ndarray:
        return reports.table_of(people, made, references, {}, ByColour()).values["rank1"]

    a, b = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert np.allclose(named(a, b), [0.5, 0.5])  # a: one of them shows no face; b: one is more like a
    assert np.allclose(named(b, a), [0, 0.5])
    assert np.allclose(named(a, a), [0, 0]), "alike to both is not named"
    assert np.isnan(named(a, None)).all(), "no other person to mistake them for"


def test_a_run_that_was_broken_off_ends_with_the_same_files(
    world: SimpleNamespace, whole: tuple[Evaluation, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation, report = whole
    parts = replace(evaluation, out=tmp_path / "parts")
    made, sample = [], world.host.sample

    def dies(*args: object, **kwargs: object) -> object:
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(args)
        return sample(*args, **kwargs)

    monkeypatch.setattr(world.host, "sample", dies)
    with pytest.raises(KeyboardInterrupt):
        parts.run(rows(world))
    monkeypatch.setattr(world.host, "sample", sample)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "parts").rglob("*.png")}
    assert len(files) == 5
    assert parts.run(rows(world)) == report
    assert all(file.stat().st_mtime_ns == when for file, when in files.items()), "finished pictures stay"
    for file in sorted(evaluation.out.rglob("*")):
        if file.is_file():
            assert (parts.out / file.relative_to(evaluation.out)).read_bytes() == file.read_bytes(), file.name


def test_rows_share_prompts_and_seeds_and_differ_by_their_adapter(
    whole: tuple[Evaluation, dict[str, dict]],
) -> None:
    evaluation, report = whole
    assert list(report["rows"]) == [reports.TRUTH, reports.BARE, "tokens", "paper", "nothing"]
    pictures = {
        name: np.asarray(Image.open(evaluation.out / "rows" / name / "a-1.png"))
        for name in (reports.BARE, "tokens", "paper", "nothing")
    }
    assert np.array_equal(pictures[reports.BARE], pictures["nothing"]), "strength 0 changes no bit"
    assert not np.array_equal(pictures[reports.BARE], pictures["tokens"])
    assert not np.array_equal(pictures[reports.BARE], pictures["paper"]), "FFRNet alone, the paper's wiring"
    assert not np.array_equal(pictures["tokens"], pictures["paper"])
    assert report["rows"][reports.TRUTH]["no_face"]["mean"] == 0 and report["calibration"]["same"] is not None
    text = (evaluation.out / "report.md").read_text(encoding="utf-8")
    assert "| nothing | none |" in text and Image.open(evaluation.out / "sheet.png").width > 5 * 192


def test_the_same_folder_refuses_another_evaluation(world: SimpleNamespace, evaluation: Evaluation) -> None:
    evaluation.run([])
    with pytest.raises(SettingsError, match="differs in sampling"):
        replace(evaluation, sampling=replace(SAMPLING, steps=3)).run([])
    evaluation.run(rows(world)[:1])
    with pytest.raises(SettingsError, match="differs in strength"):
        evaluation.run([(TableRow("tokens", world.file, 0.5, 0.0), world.adapter)])
    with pytest.raises(SettingsError, match="another name"):
        evaluation.run([rows(world)[0], rows(world)[0]])


def test_the_conditioning_recogniser_is_refused_as_judge(
    world: SimpleNamespace, evaluation: Evaluation, face_pack: Path
) -> None:
    judge = PackRecogniser(FaceAnalyser(face_pack))
    assert judge.sha256 == world.adapter.spec.recogniser
    with pytest.raises(IdentityMismatchError, match="conditioned on"):
        replace(evaluation, judges=Judges(world.analyser, judge)).run(rows(world))
    assert not (evaluation.out / "rows").exists(), "refused before any picture is made"


def test_ffrnet_gets_exactly_the_points_that_are_asked_for(
    world: SimpleNamespace, people: list[EvaluatedPerson]
) -> None:
    shapes = AskedShapes(world.analyser)
    with pytest.raises(LandmarkError, match="No landmarks"):
        shapes.shape(None, Pose(), (64, 64))  # type: ignore[arg-type]
    case = people[0].cases[0]
    shapes.case = case
    assert case.points is not None
    found = shapes.shape(None, Pose(), (64, 128))  # type: ignore[arg-type]
    assert np.allclose(found.landmarks.points * [64, 128], case.points)


def test_rows_are_read_from_the_command_line() -> None:
    assert TableRow.parse("mixer=a.safetensors") == TableRow("mixer", Path("a.safetensors"))
    assert TableRow.parse("paper=a.safetensors:0:1") == TableRow("paper", Path("a.safetensors"), 0.0, 1.0)
    assert TableRow.parse(r"x=C:\models\a.safetensors:0.8") == TableRow("x", Path(r"C:\models\a.safetensors"), 0.8)
    for wrong in ("a.safetensors", "none=a", "=a", "x=", "true pictures=a"):
        with pytest.raises(SettingsError, match="NAME=FILE"):
            TableRow.parse(wrong)


def test_the_worlds_cases_know_their_truth_and_refuse_training_people(portraits: World) -> None:
    with pytest.raises(SettingsError, match="held-out"):
        world_people(17, 1, 1, 64, portraits)
    (person,) = world_people(1_000_000, 1, 2, 64, portraits)
    again = world_people(1_000_000, 1, 2, 64, portraits)[0]
    assert [case.seed for case in person.cases] == [case.seed for case in again.cases]
    assert len({case.seed for case in person.cases}) == 2 and len({case.prompt for case in person.cases}) == 2
    for case in person.cases:
        assert case.truth is not None and case.points is not None and case.attributes is not None
        assert case.truth.shape == (64, 64, 3) and case.points.shape == (72, 2) and case.attributes["hair"]
    assert not np.array_equal(person.references[0], person.cases[0].truth)


def test_measurements_are_kept_for_the_same_judges_alone(world: SimpleNamespace) -> None:
    points, others = LandmarkJudge().eval(), AttributeJudge().eval()
    keys = [Judges(world.analyser, ByColour(), *known).key for known in ((), (points,), (points, others), (points,))]
    assert keys[1] == keys[3] and len(set(keys)) == 3


def photo_folder(folder: Path, astronaut: np.ndarray) -> tuple[Path, Path]:
    for name, photos in (("one", [astronaut, astronaut[:, ::-1]]), ("größer", [astronaut])):
        (folder / "people" / name).mkdir(parents=True)
        for i, photo in enumerate(photos):
            Image.fromarray(np.ascontiguousarray(photo)).save(folder / "people" / name / f"{i}.png")
    prompts = folder / "prompts.txt"
    prompts.write_text("a photo of a person\n\na person in a garden\n", encoding="utf-8")
    return folder / "people", prompts


def test_photos_of_ones_own_are_measured_by_what_can_be(
    world: SimpleNamespace, astronaut: np.ndarray, tmp_path: Path
) -> None:
    folder, prompts = photo_folder(tmp_path, astronaut)
    people = folder_people(folder, prompts)
    assert [person.name for person in people] == ["größer", "one"] and len(people[0].cases) == 2
    assert people[0].cases[0].truth is None and people[1].cases[0].truth is not None
    judges = Judges(world.analyser, ByColour())
    done = Evaluation(tmp_path / "out", world.host, first_cases(people), judges, SAMPLING, world.encoder)
    report = done.run(rows(world)[:1])
    assert all(row["nme72"] is None and row["obedience"] is None for row in report["rows"].values())
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "NME72" not in text and "no face found" in text
    with pytest.raises(SettingsError, match="at least 2"):
        folder_people(folder, prompts, references=2)
    with pytest.raises(SettingsError, match="0 people"):
        folder_people(tmp_path / "nowhere", prompts)


def test_the_command_needs_prompts_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--base", "x", "--recogniser", "x", "--photos", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *options]) == 1
    assert "--photos without --prompts" in capsys.readouterr().err


@pytest.fixture
def dlib_folder(components: Path) -> Path:
    if not os.environ.get("CI"):
        pytest.importorskip("dlib")
    return components / "dlib"


def test_dlib_tells_people_apart_and_is_no_conditioning_recogniser(
    dlib_folder: Path, components: Path, world: SimpleNamespace
) -> None:
    judge = DlibRecogniser(dlib_folder)
    assert judge.sha256 != world.adapter.spec.recogniser
    vectors = {}
    for name in ("obama.jpg", "obama2.jpg", "biden.jpg"):
        picture = np.asarray(Image.open(components / "photos" / name).convert("RGB"))
        face = world.analyser.face(picture)
        vectors[name] = judge.embed(picture, face.box, face.kps)
    same = judge.similarity(vectors["obama.jpg"], vectors["obama2.jpg"])
    other = judge.similarity(vectors["obama.jpg"], vectors["biden.jpg"])
    assert same > 0.4 > other, (same, other)


def test_the_command_writes_a_report(
    dlib_folder: Path, world: SimpleNamespace, astronaut: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people, prompts = photo_folder(tmp_path, astronaut)
    prompts.write_text("a photo of a person", encoding="utf-8")
    encoder = world.folder / "encoder.safetensors"
    options = ["--base", world.folder / "model", "--recogniser", dlib_folder, "--encoder", encoder,
               "--pack", world.pack, "--photos", people, "--prompts", prompts, "--size", 64, "--steps", 2,
               "--out", tmp_path / "out", f"mixer={world.file}:1:0"]  # fmt: skip
    assert main(["evaluate", *map(str, options)]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["recogniser"] == "dlib ResNet v1" and set(report["rows"]) == {reports.TRUTH, reports.BARE, "mixer"}
    assert "| mixer |" in capsys.readouterr().out
