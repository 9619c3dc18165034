"""The installer: what it plans for any environment, and what it does in throw-away ones with a pip of our own."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facesnap.requirements import (
    NEEDS,
    ONNXRUNTIMES,
    OPENCVS,
    PROBED,
    Installed,
    InstallStep,
    advice,
    blame,
    command,
    constraints,
    normalised,
    notes,
    pins,
    plan,
    replacement,
)

ROOT = Path(__file__).resolve().parents[1]
HOST = {"numpy": "1.26.2", "protobuf": "3.20.0", "pillow": "9.5.0", "scikit-image": "0.21.0", "torch": "2.1.2+cu121",
        "scipy": "1.13.1", "tqdm": "4.66.1", "requests": "2.31.0", "opencv-python": "4.11.0.86"}  # fmt: skip
A1111 = Installed(HOST, frozenset({*NEEDS, "cv2"}))
MODULE_OF = {**{d: m for m, d in NEEDS.items()}, **dict.fromkeys(ONNXRUNTIMES, "onnxruntime"),
             **dict.fromkeys(OPENCVS, "cv2"), "onnx": "onnx", "insightface": "insightface"}  # fmt: skip


def test_in_a1111_only_three_things_are_added() -> None:
    assert [(step.package, step.no_deps, step.again) for step in plan(A1111)] == [
        ("onnx==1.17.0", True, False),
        ("onnxruntime>=1.17,<1.27", False, False),
        ("insightface>=2.1,<3", True, False),
    ]
    lines = constraints(A1111, plan(A1111)[1])
    assert set(lines) == {f"{name}=={version}" for name, version in HOST.items()}


@st.composite
def states(draw: st.DrawFn) -> Installed:
    """Any mix of what may be installed; modules without a distribution are a system's or conda's."""
    names = [*MODULE_OF, "protobuf", "ml-dtypes", "typing-extensions", "torch"]
    chosen = draw(st.lists(st.sampled_from(names), unique=True))
    versions = {name: draw(st.sampled_from(["0.7.3", "1.17.0", "3.20.0", "4.25.1", "7.36.2"])) for name in chosen}
    modules = {MODULE_OF[name] for name in chosen if name in MODULE_OF and draw(st.integers(0, 9))}
    modules |= set(draw(st.lists(st.sampled_from([*PROBED, *NEEDS]), max_size=2)))
    broken = draw(st.lists(st.sampled_from(sorted(modules & set(PROBED)) or ["cv2"]), unique=True, max_size=2))
    return Installed(versions, frozenset(modules), {name: "why" for name in broken if name in modules})


@given(states(), st.sampled_from(["onnxruntime", "onnxruntime-gpu"]))
def test_nothing_that_works_is_touched(state: Installed, wheel: str) -> None:
    steps = plan(state, wheel)
    for step in steps:
        name, module = step.distribution, MODULE_OF.get(step.distribution)
        if name in state.versions or (module in state.modules and module is not None):
            assert name in ("onnx", "insightface")  # no WebUI pins these
            assert module not in state.modules or (module in state.broken and step.again)
        held = constraints(state, step)
        assert all(line.split("==")[0] != name for line in held)
        assert {line.split("==")[0] for line in held} == set(state.versions) - {name}
        assert step.no_deps == (name in ("onnx", "insightface"))
    planned = [step.distribution for step in steps]
    for names, module in ((ONNXRUNTIMES, "onnxruntime"), (OPENCVS, "cv2")):
        there = [name for name in names if name in state.versions]
        added = [name for name in planned if name in names]
        assert len(added) <= 1 and not (added and (there or module in state.modules))
    assert len(planned) == len(set(planned))


@given(states())
def test_what_is_planned_leads_to_nothing_more_to_do(state: Installed) -> None:
    """A successful pip adds the distribution and its module and mends it: at most two plans are carried out."""
    state = dataclasses.replace(state, broken={k: v for k, v in state.broken.items() if k in ("onnx", "insightface")})
    for _ in range(2):
        for step in plan(state):
            module = MODULE_OF.get(step.distribution)
            broken = {name: why for name, why in state.broken.items() if name != module}
            modules = state.modules | ({module} if module else set())
            state = Installed({**state.versions, step.distribution: "9.9"}, frozenset(modules), broken)
    assert plan(state) == []


def test_an_insightface_that_cannot_be_imported_is_replaced_only_when_the_fault_is_its_own() -> None:
    there = {**HOST, "insightface": "0.7.3", "onnx": "1.17.0", "onnxruntime-gpu": "1.18.0"}
    whole = Installed(there, frozenset({*NEEDS, *PROBED}))
    assert plan(whole) == [] and advice(whole) == []
    abi = "numpy.dtype size changed"
    (step,) = plan(dataclasses.replace(whole, broken={"insightface": abi}))
    assert step.distribution == "insightface" and step.no_deps and step.again and abi in step.why
    for other in ("cv2", "onnxruntime"):  # a missing system library: no wheel of ours would help
        state = dataclasses.replace(whole, broken={"insightface": abi, other: "libGL.so.1"})
        assert plan(state) == [] and any("libGL" in line for line in advice(state))
    # A wheel that is listed but has no module: nothing of ours would help, and insightface is not to blame.
    state = Installed(there, whole.modules - {"onnxruntime"}, {"insightface": "needs ONNX Runtime"})
    assert plan(state) == [] and "onnxruntime is missing." in advice(state)


@pytest.mark.parametrize(
    ("protobuf", "python", "onnx"),
    [
        ("3.20.0", (3, 10), "onnx==1.17.0"), ("4.25.0", (3, 12), "onnx==1.17.0"),
        ("4.25.1", (3, 10), "onnx>=1.18,<1.23"),
        ("4.25.9", (3, 13), "onnx>=1.18,<1.23"), ("6.31.0", (3, 13), "onnx>=1.18,<1.23"),
        ("6.31.1", (3, 13), "onnx>=1.17,<2"), ("7.36.2", (3, 11), "onnx>=1.17,<2"),
    ],
)  # fmt: skip
def test_the_onnx_that_suits_protobuf(protobuf: str, python: tuple[int, int], onnx: str) -> None:
    state = Installed({**HOST, "protobuf": protobuf}, A1111.modules, python=python)
    new = [] if onnx == "onnx==1.17.0" else ["ml-dtypes", "typing-extensions"]
    assert [step.package for step in plan(state)][: len(new) + 1] == [*new, onnx]
    broken = dataclasses.replace(
        state, versions={**state.versions, "onnx": "1.25.0"}, modules=state.modules | {"onnx"},
        broken={"onnx": "cannot import name 'runtime_version'"},
    )  # fmt: skip
    (step,) = (step for step in plan(broken) if step.distribution == "onnx")
    assert step.package == onnx and step.again and step.no_deps


def test_where_no_onnx_suits_this_is_said_with_what_helps() -> None:
    state = Installed(HOST, A1111.modules, python=(3, 13))
    assert "onnx" not in [step.distribution for step in plan(state)]
    (line,) = (line for line in advice(state) if "3.13" in line)
    assert "protobuf 3.20.0" in line and "Python 3.10 to 3.12" in line
    assert not any("3.13" in line for line in advice(dataclasses.replace(state, python=(3, 12))))
    bare = {name: version for name, version in HOST.items() if name != "protobuf"}
    packages = [step.package for step in plan(dataclasses.replace(state, versions=bare))]
    assert "protobuf>=4.25.8,<5" in packages and "onnx>=1.18,<1.23" in packages


def test_what_others_bring_back_is_replaced_once() -> None:
    there = {**HOST, "insightface": "2.1", "onnx": "1.16.1", "onnxruntime": "1.26.0"}
    state = Installed(there, frozenset({*NEEDS, *PROBED}), {"onnx": "why"})
    (step,) = plan(state)
    entry = replacement(state, step)
    assert entry == "onnx 1.16.1" and plan(state, replaced=[entry]) == []
    newer = dataclasses.replace(state, versions={**there, "onnx": "1.25.0"})
    assert [one.distribution for one in plan(newer, replaced=[entry])] == ["onnx"]


def test_extensions_that_pin_other_versions_are_found_and_named(tmp_path: Path) -> None:
    extensions, builtin = tmp_path / "extensions", tmp_path / "extensions-builtin"
    texts = {
        extensions
        / "reactor"
        / "install.py": 'run_pip(f"install insightface==0.7.3")\nrun("onnxruntime-gpu == 1.20.0")',
        extensions / "reactor" / "requirements.txt": "onnx==1.16.1\nopencv-python>=4.7\ninsightface>=0.7\n",
        extensions / "facesnap" / "install.py": "onnx==1.17.0",
        extensions / "harmless" / "install.py": "import onnx\nprint('onnx == installed')",
        builtin / "legacy" / "requirements.txt": "insightface[gpu]<1.0\n",
    }
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (extensions / "broken" / "install.py").mkdir(parents=True)
    found = list(pins([extensions, builtin, tmp_path / "nowhere"], extensions / "facesnap"))
    assert [(pin.extension, pin.file, pin.requirement) for pin in found] == [
        ("reactor", "install.py", "insightface==0.7.3"), ("reactor", "install.py", "onnxruntime-gpu==1.20.0"),
        ("reactor", "requirements.txt", "onnx==1.16.1"), ("legacy", "requirements.txt", "insightface<1.0"),
    ]  # fmt: skip
    lines = blame(Installed({"onnx": "1.16.1"}, frozenset()), {"onnx": "1.22.0"}, found)
    assert lines[0] == "onnx is 1.16.1 now and was 1.22.0 when face analysis worked."
    assert "The extension reactor asks for onnx==1.16.1 (requirements.txt)" in " ".join(lines)


def test_the_call_of_uv() -> None:
    call = command(
        InstallStep("why", "onnx>=1.18,<1.23", no_deps=True, again=True), "py", "c.txt", "https://m", uv="/uv"
    )
    assert call[:5] == ["/uv", "pip", "install", "--python", "py"] and call[-1] == "onnx>=1.18,<1.23"
    assert call[call.index("--reinstall-package") + 1] == "onnx" and call[call.index("--constraint") + 1] == "c.txt"


def test_doubled_wheels_are_named() -> None:
    state = Installed({**HOST, "onnxruntime": "1.18", "onnxruntime-gpu": "1.18"}, frozenset({*NEEDS, *PROBED}))
    assert "onnxruntime and onnxruntime-gpu" in notes(state)[0]
    assert plan(state) == [] and advice(state) == []  # it may work: nobody is told that it does not


def test_the_call_of_pip() -> None:
    call = command(InstallStep("why", "onnx==1.17.0", no_deps=True), "py", "c.txt", "https://mirror/simple")
    assert call[:4] == ["py", "-m", "pip", "install"] and call[-1] == "onnx==1.17.0" and "--no-deps" in call
    assert call[call.index("--constraint") + 1] == "c.txt" and "https://mirror/simple" in call
    assert normalised("Ort_Nightly.gpu") == "ort-nightly-gpu"


# A pip that writes down how it was called and then installs an empty module, or fails as without network.
FAKE_PIP = """
import os, pathlib, shutil, sys
here = pathlib.Path(__file__).resolve().parents[1]
with (here / "calls.txt").open("a", encoding="utf-8") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
constraints = pathlib.Path(sys.argv[sys.argv.index("--constraint") + 1]).read_text(encoding="utf-8")
assert "numpy==1.26.2" in constraints and "protobuf==3.20.0" in constraints
if (here / "offline").exists():
    print("ERROR: Could not find a version that satisfies the requirement")
    sys.exit(1)
if (here / "useless").exists():
    sys.exit(0)
import re
name = re.match("[A-Za-z0-9-]+", sys.argv[-1])[0]
module = {"scikit-image": "skimage", "opencv-python": "cv2"}.get(name, name).replace("-gpu", "")
(here / module).mkdir(exist_ok=True)
(here / module / "__init__.py").write_text("", encoding="utf-8")
for old in here.glob(f"{name.replace('-', '_')}-*.dist-info"):
    shutil.rmtree(old)
info = here / f"{name.replace('-', '_')}-9.9.dist-info"
info.mkdir(exist_ok=True)
(info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 9.9\\n", encoding="utf-8")
"""


class Environment:
    """An empty interpreter beside a folder that plays site-packages, with the installer copied next to it."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.site, self.extension, self.python = folder / "site", folder / "extension", python
        for name, version in HOST.items():
            self.add(name, version)
        (self.site / "pip").mkdir()
        (self.site / "pip" / "__init__.py").touch()
        (self.site / "pip" / "__main__.py").write_text(FAKE_PIP, encoding="utf-8")
        target = self.extension / "facesnap"
        target.mkdir(parents=True)
        shutil.copy(ROOT / "install.py", self.extension)
        shutil.copy(ROOT / "facesnap" / "requirements.py", target)

    def add(self, name: str, version: str, code: str = "") -> None:
        info = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(text, encoding="utf-8")
        if name in MODULE_OF:
            module = self.site / MODULE_OF[name]
            module.mkdir()
            (module / "__init__.py").write_text(code, encoding="utf-8")

    def start(self, *args: str, **variables: str) -> str:
        """One start of the WebUI; never anything but exit code 0."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "COMMANDLINE"))}
        environment |= {"PYTHONPATH": str(self.site), **variables}
        call = [str(self.python), str(self.extension / "install.py"), *args]
        done = subprocess.run(call, env=environment, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout

    @property
    def calls(self) -> list[str]:
        """What pip was asked to install, by its last word."""
        log = self.site / "calls.txt"
        return [line.split()[-1] for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(folder)
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


@pytest.fixture
def environment(tmp_path: Path, bare_python: Path) -> Environment:
    return Environment(tmp_path, bare_python)


def test_the_first_start_installs_and_the_second_calls_no_pip(environment: Environment) -> None:
    assert "installing onnx==1.17.0" in environment.start()
    wanted = ["onnx==1.17.0", "onnxruntime>=1.17,<1.27", "insightface>=2.1,<3"]
    assert environment.calls == wanted
    (environment.site / "offline").touch()
    assert environment.start() == "" and environment.calls == wanted


def test_without_network_the_webui_starts_and_the_next_start_tries_again(environment: Environment) -> None:
    (environment.site / "offline").touch()
    said = environment.start()
    assert "could not be installed" in said and "ERROR: Could not find" in said and "insightface is missing" in said
    assert environment.calls == ["onnx==1.17.0"]  # one failure is enough
    (environment.site / "offline").unlink()
    environment.start()
    assert environment.calls[1:] == ["onnx==1.17.0", "onnxruntime>=1.17,<1.27", "insightface>=2.1,<3"]


def test_a_gpu_onnxruntime_stays_the_only_one(environment: Environment) -> None:
    environment.add("onnxruntime-gpu", "1.18.0")
    environment.start()
    assert environment.calls == ["onnx==1.17.0", "insightface>=2.1,<3"]


def test_the_wheel_can_be_chosen_where_there_is_none(environment: Environment) -> None:
    environment.start(FACESNAP_ONNXRUNTIME="onnxruntime-gpu")
    assert "onnxruntime-gpu>=1.17,<1.27" in environment.calls


def test_an_insightface_that_imports_is_kept_and_a_broken_one_replaced_once(environment: Environment) -> None:
    for name in ("onnx", "onnxruntime"):
        environment.add(name, "1.17.0")
    environment.add("insightface", "0.7.3")
    assert environment.start() == "" and environment.calls == []
    (environment.site / "insightface" / "__init__.py").write_text("raise ImportError('ABI')", encoding="utf-8")
    (environment.extension / ".facesnap_installed.json").unlink()
    assert "ABI" in environment.start() and environment.calls == ["insightface>=2.1,<3"]
    (environment.site / "insightface" / "__init__.py").write_text("raise ImportError('ABI')", encoding="utf-8")
    (environment.extension / ".facesnap_installed.json").unlink()
    (environment.site / "useless").touch()
    environment.start()
    assert "ABI" in environment.start() and len(environment.calls) == 2  # still broken: said, not tried for ever


def test_a_tug_of_war_ends_after_one_turn_and_names_the_other(environment: Environment) -> None:
    """Another extension brings a broken onnx back at every start."""
    for name in ("onnx", "onnxruntime", "insightface"):
        environment.add(name, "1.17.0")
    assert environment.start() == ""
    reactor = environment.extension.parent / "reactor"
    reactor.mkdir()
    (reactor / "requirements.txt").write_text("onnx==1.16.1", encoding="utf-8")

    def bring_back() -> None:
        for old in (*environment.site.glob("onnx-*.dist-info"), environment.site / "onnx"):
            shutil.rmtree(old)
        environment.add("onnx", "1.16.1", "raise ImportError('runtime_version')")

    bring_back()
    assert "installing onnx==1.17.0" in environment.start() and environment.calls == ["onnx==1.17.0"]
    for _ in range(2):
        bring_back()
        said = environment.start()
        assert environment.calls == ["onnx==1.17.0"]
        assert "onnx is 1.16.1 now and was 9.9 when face analysis worked" in said
        assert "The extension reactor asks for onnx==1.16.1 (requirements.txt)" in said
    shutil.rmtree(reactor)  # the other one is gone: it is worth another try
    bring_back()
    (environment.site / "marker-1.dist-info").mkdir()
    (environment.site / "marker-1.dist-info" / "METADATA").write_text("Name: marker\nVersion: 1\n", encoding="utf-8")
    environment.start()
    assert environment.calls == ["onnx==1.17.0"] * 2


def test_what_no_wheel_mends_is_said_at_every_start_without_pip(environment: Environment) -> None:
    for name in ("onnx", "onnxruntime", "insightface"):
        environment.add(name, "1.17.0")
    (environment.site / "cv2" / "__init__.py").write_text("raise ImportError('libGL.so.1')", encoding="utf-8")
    said = environment.start()
    assert "cv2 cannot be imported: libGL.so.1" in said and environment.calls == []
    assert "libGL" in environment.start() and environment.calls == []
    (environment.site / "cv2" / "__init__.py").write_text("", encoding="utf-8")  # the library has come
    assert environment.start() == "" and environment.calls == []


@pytest.mark.parametrize("text", ["", "[]", '{"worked": []}', '{"replaced": 3}', '{"state": null}', "\x00"])
def test_a_damaged_stamp_is_as_none(environment: Environment, text: str) -> None:
    for name in ("onnx", "onnxruntime"):
        environment.add(name, "1.17.0")
    environment.add("insightface", "0.7.3")
    (environment.site / "cv2" / "__init__.py").write_text("raise ImportError('libGL.so.1')", encoding="utf-8")
    (environment.extension / ".facesnap_installed.json").write_text(text, encoding="utf-8")
    assert "libGL" in environment.start() and environment.calls == []


def test_a_dry_run_prints_and_does_nothing(environment: Environment) -> None:
    said = environment.start("--dry-run")
    assert '"onnxruntime>=1.17,<1.27"' in said and "--no-deps onnx==1.17.0" in said
    assert environment.calls == [] and not (environment.extension / ".facesnap_installed.json").exists()
    for name in ("onnx", "onnxruntime", "insightface"):
        environment.add(name, "1.17.0")
    assert "nothing to install" in environment.start("--dry-run")


def test_skip_install_is_honoured(environment: Environment) -> None:
    assert environment.start(COMMANDLINE_ARGS="--api --skip-install --medvram") == ""
    assert environment.start("--skip-install") == "" and environment.calls == []


def test_without_any_pip_the_webui_starts(environment: Environment) -> None:
    shutil.rmtree(environment.site / "pip")
    assert "No module named pip" in environment.start()
