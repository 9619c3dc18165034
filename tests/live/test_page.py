"""The page of a real WebUI in Chromium: what people click, from the photo to the picture.

FACESNAP_SCREENSHOTS names a folder for pictures of every state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, expect

from facesnap.checkpoints import native
from facesnap.faces.known import BASE_TITLES
from facesnap.weights.catalogue import find
from facesnap.weights.identities import IdentityStore
from tests.live.checkpoints import Checkpoints
from tests.live.conftest import FOLDER, start
from tests.live.webui import WebUI
from tests.webui.browser import chromium
from tests.webui.page.driver import Driver
from tests.weights.server import Content, Server, serving

WIDTHS = (1280, 390)
HOSTS_OWN = "Cannot read properties of undefined (reading 'props')"  # AUTOMATIC1111 has it without any extension
pytestmark = pytest.mark.timeout(1800)  # on a busy machine


class HostDriver(Driver):
    """What differs from the stand-in: the accordion is closed, and a generation takes its time."""

    kind = ""

    def arrive(self) -> None:
        expect(self.own("generate")).to_be_visible(timeout=180_000)
        self.settle()

    def settle(self) -> None:
        """Open the accordion and ask for a small picture."""
        expect(self("enabled")).to_be_visible(timeout=180_000)
        if not self("p1_strength").is_visible():
            self("enabled").locator(".label-wrap > span").first.click()
        expect(self("p1_strength")).to_be_visible()
        for name, value in (("width", 64), ("height", 64), ("steps", 2)):
            self.set(name, value)

    def set(self, name: str, value: float) -> None:
        """A slider of the host's."""
        box = self.own(name).locator("input[type=number]")
        box.fill(str(value))
        box.blur()

    def enable(self, on: bool = True) -> None:
        self.enabled().set_checked(on)

    def enabled(self) -> Locator:
        return self.page.locator(f"#facesnap_{self.tab}_enabled-visible-checkbox")

    def press(self) -> None:
        """Generate, without waiting for the end."""
        self.own("generate").click()
        expect(self.own("interrupt")).to_be_visible()

    def generate(self) -> Locator:
        self.press()
        expect(self.own("interrupt")).to_be_hidden(timeout=600_000)
        return self.page.locator(f"#html_info_{self.tab}").first

    def error(self) -> Locator:
        return self.page.locator(f"#html_log_{self.tab} .error").first

    def host(self) -> str:
        return self.kind

    def close(self) -> None:
        self.faults = [fault for fault in self.faults if fault != HOSTS_OWN]
        super().close()


@pytest.fixture(scope="module")
def mirror(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A server with a random file in the place of a public adapter; `item` as the catalogue knows it."""
    item = find(f"faceid-{checkpoints.first.base}")
    content = checkpoints.write_public(tmp_path_factory.mktemp("mirror"), "faceid").read_bytes()
    with serving() as server:
        server.hub(item.repository, item.files[0].source, Content(content))
        yield SimpleNamespace(server=server, item=item, body=content)


@pytest.fixture(scope="module")
def webui(
    checkpoints: Checkpoints, extension: Path, probe: Path, face_pack: Path, mirror: SimpleNamespace,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[WebUI]:  # fmt: skip
    """A WebUI with its page, whose catalogue knows the size and checksum of the mirror's file."""
    data = tmp_path_factory.mktemp("page")
    own, file = shutil.copytree(extension, data / "own"), mirror.item.files[0]
    catalogue = own / "facesnap" / "families" / "faceid.py"
    text = catalogue.read_text(encoding="utf-8")
    for old, new in ((file.sha256, hashlib.sha256(mirror.body).hexdigest()), (f"{file.size:_}", str(len(mirror.body)))):
        assert text.count(old) == 1
        text = text.replace(old, new)
    catalogue.write_text(text, encoding="utf-8")
    shutil.copytree(face_pack, data / "models" / "insightface" / "models" / "buffalo_l")
    served = ["--gradio-allowed-path", FOLDER]  # Gradio 4 refuses the WebUI's own files where its data lies elsewhere
    made = start(
        data, checkpoints, own, probe, face_pack, served, page=True, environment={"HF_ENDPOINT": mirror.server.address}
    )
    made.options(facesnap_pack="test_pack")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def visit(browser: Browser, webui: WebUI) -> Iterator[Callable[..., HostDriver]]:
    HostDriver.kind = "forge" if webui.forge else "a1111"
    opened: list[HostDriver] = []

    def visit(**how) -> HostDriver:
        while opened:
            opened.pop().close()
        opened.append(HostDriver(browser, f"http://127.0.0.1:{webui.port}/", **how))
        return opened[-1]

    yield visit
    while opened:
        opened.pop().close()


@pytest.fixture(scope="module")
def photos(astronaut: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Files to upload: a person, the same one turned, and nobody."""
    folder = tmp_path_factory.mktemp("photos")
    found = SimpleNamespace(**{name: folder / f"{name}.png" for name in ("person", "mirrored", "nobody")})
    Image.fromarray(astronaut).save(found.person)
    Image.fromarray(np.ascontiguousarray(astronaut[:, ::-1])).save(found.mirrored)
    Image.new("RGB", (320, 240), "teal").save(found.nobody)
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_a_photo_becomes_a_picture(visit, photos, width: int) -> None:
    page = visit(width=width)
    page.shoot(f"fresh_{width}")
    page.upload(1, photos.person)
    page.enable()
    infotext = page.generate()
    expect(infotext).to_contain_text(re.compile(r"FaceSnap adapter: .*untrained \[[0-9a-f]{10}\].*FaceSnap photos: 1 "))
    expect(page.own("gallery").locator("img").first).to_be_visible()
    page.shoot(f"generated_{width}")
    page.shoot(f"whole_{width}", page.page.locator("body"))
    inner, outer = page.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert inner <= outer
    page.enable(False)
    expect(page.generate()).not_to_contain_text("FaceSnap")


def test_a_preview_during_a_generation(visit, photos) -> None:
    page = visit()
    page.upload(1, photos.person)
    page.enable()
    page.set("steps", 150)
    page.press()
    page("p1_preview").click()
    looks = page("p1_seen").locator("figure")
    expect(looks).to_have_count(1)
    assert page.own("interrupt").is_visible()  # it still runs
    page.shoot("preview_during_generation", page.page.locator("body"))
    expect(looks.locator("meter")).to_have_count(6)
    page.own("interrupt").click()
    expect(page.own("generate")).to_be_visible()
    expect(page.own("interrupt")).to_be_hidden(timeout=600_000)


@pytest.mark.parametrize("width", WIDTHS)
def test_an_error_is_shown(visit, photos, width: int) -> None:
    page = visit(width=width)
    page.upload(1, photos.nobody)
    page.enable()
    page.generate()
    expect(page.error()).to_contain_text("No face was found in reference 1 of person 1")
    page.shoot(f"error_{width}", page.page.locator("#txt2img_results"))
    page.enable(False)
    expect(page.generate()).to_contain_text("Steps: 2")


TABS = (("img2img", "img2img_image"), ("Sketch", "img2img_sketch"), ("Inpaint", "img2maskimg"),
        ("Inpaint sketch", "inpaint_sketch"), ("Inpaint upload", "img_inpaint_base"))  # fmt: skip


@pytest.mark.parametrize("title, holder", TABS[1:])
def test_the_canvas_has_the_picture_of_the_tab_that_is_open(visit, photos, title: str, holder: str) -> None:
    page = visit()
    page.switch_to("img2img")
    page.settle()
    page.upload(1, photos.person)
    page.page.locator("#img2img_image input[type=file]").first.set_input_files(photos.person)
    page.open("posing")
    copy = page("posing").get_by_role("button", name="Init image")
    expect(copy).to_be_enabled()
    place = "facesnap.canvases.img2img.model.current.drivers.init.translation[0]"
    first = page.page.evaluate(place)
    page.page.locator("#mode_img2img > .tab-nav").get_by_text(title, exact=True).click()
    expect(copy).to_be_hidden()  # nothing is there yet
    page.page.locator(f"#{holder} input[type=file]").first.set_input_files(photos.mirrored)
    expect(copy).to_be_enabled()
    assert page.page.evaluate(place) == pytest.approx(512 - first, abs=8) and abs(2 * first - 512) > 40
    page.shoot(f"tab_{holder}", page("posing"))


def test_the_init_image_poses(visit, photos) -> None:
    page = visit()
    page.switch_to("img2img")
    page.settle()
    page.page.locator("#img2img_image input[type=file]").first.set_input_files(photos.mirrored)
    expect(page.page.locator("#img2img_image img").first).to_be_visible()
    page.upload(1, photos.person)
    page.enable()
    page.pick("p1_pose_source", "init")
    page.open("posing")
    canvas = page("posing")
    canvas.locator("select[aria-label=Backdrop]").select_option("init")
    expect(canvas.locator(".facesnap-canvas-backdrop")).to_have_attribute("href", re.compile(".+"))
    expect(canvas.locator(".facesnap-canvas-face")).to_have_count(1)
    expect(canvas.get_by_role("button", name="Init image")).to_be_enabled()  # its pose has been read
    page.shoot("init_image", canvas)
    expect(page.generate()).to_contain_text(re.compile(r"FaceSnap photos: 1 .*FaceSnap pose: init"))
    page.shoot("img2img", page.page.locator("body"))


def test_an_identity_from_its_saving_to_its_end(visit, photos, webui: WebUI) -> None:
    store = IdentityStore(webui.data / "models" / "FaceSnap" / ".identities")
    page = visit()
    page.enable()
    page.upload(1, photos.person)
    page.open("p1_saving")
    page.fill("p1_name", "Eileen")
    page("p1_save").click()
    expect(page("status")).to_contain_text("Saved 'Eileen' from 1 photo")
    expect(page.generate()).to_contain_text(re.compile(r"FaceSnap identity: Eileen \["))
    page.shoot("identity")
    assert "Eileen" in page.delete_identity(1, sure=False)
    assert [entry.name for entry in store.entries()] == ["Eileen"]
    page.delete_identity(1, sure=True)
    expect(page("status")).to_contain_text("Deleted 'Eileen'")
    expect(page.text("p1_identity")).to_have_value("None")
    page.shoot("deleted")
    assert store.entries() == []
    page.choose("p1_identity", "Eileen")
    page.generate()
    expect(page.error()).to_contain_text("There is no saved identity 'Eileen'")


def test_the_list_tells_what_does_not_fit(visit, webui: WebUI, checkpoints: Checkpoints) -> None:
    page, folder = visit(), webui.data / "models" / "FaceSnap"
    (base, other), (_, own) = sorted(BASE_TITLES.items(), key=lambda one: one[0] == checkpoints.first.base)
    adapter, file = native.load(folder / "untrained.safetensors"), folder / "elsewhere.safetensors"
    spec = dataclasses.replace(adapter.spec, base=base)
    native.save(dataclasses.replace(adapter, spec=spec, ffrnet=None, ffrnet_spec=None), file)
    try:
        page("refresh").click()
        expect(page("status")).to_contain_text("1 of 2 adapters fit")
        page.text("adapter").click()
        unfit = page("adapter").locator("li", has_text=f"elsewhere · FaceSnap · {other} · does not fit {own}")
        expect(unfit).to_have_class(re.compile("facesnap-unfit"))
        expect(page("adapter").locator("li", has_text="untrained")).not_to_have_class(re.compile("facesnap-unfit"))
        page.shoot("unfit")
    finally:
        file.unlink()
    page("refresh").click()
    expect(page("status")).to_contain_text("1 of 1 adapters fit")


def test_a_download_to_its_end(visit, photos, webui: WebUI, mirror: SimpleNamespace) -> None:
    assert webui.request("/probe", {"watch": False, "fail_at": None, "online": True})[0] == 200
    server: Server = mirror.server
    page, name = visit(), mirror.item.name
    page.open("models")
    page.option("download", f"{name}:")
    expect(page("licence")).to_contain_text("non-commercial research only")
    page("start").click()
    expect(page("progress").get_by_role("alert")).to_contain_text("was not accepted")
    assert not server.seen
    page("accept").locator("input").check()
    page("start").click()
    expect(page("progress")).to_contain_text(f"{name} is there")
    page.shoot("downloaded")
    file = webui.data / "models" / "FaceSnap" / mirror.item.files[0].name
    assert file.read_bytes() == mirror.body
    page("refresh").click()
    expect(page("status")).to_contain_text("2 of 2 adapters fit")
    page.option("adapter", file.stem)
    page.upload(1, photos.person)
    page.enable()
    expect(page.generate()).to_contain_text(re.compile(rf"FaceSnap adapter: .*{file.stem} \["))
    page.shoot("with_the_download")
