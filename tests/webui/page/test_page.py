"""The accordion in a browser: what people do with it, in real Gradio and real Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from facesnap.settings.words import PRESETS
from facesnap.weights.identities import IdentityStore
from tests.webui.page.driver import Driver


@pytest.fixture()
def visit(browser, address) -> Iterator[Callable[..., Driver]]:
    opened: list[Driver] = []

    def visit(**how) -> Driver:
        opened.append(Driver(browser, address, **how))
        return opened[-1]

    yield visit
    for driver in opened:
        driver.close()


@pytest.fixture()
def page(visit) -> Driver:
    return visit()


@pytest.fixture(scope="module")
def shared(browser, address) -> Iterator[Driver]:
    """A page for tests that read it and each change another control: to load one takes seconds."""
    driver = Driver(browser, address)
    yield driver
    driver.close()


def test_the_notice_is_shown_once(visit, models: Path) -> None:
    page = visit()
    expect(page("consent")).to_be_visible()
    page.shoot("notice")
    page("understood").click()
    expect(page("consent")).to_be_hidden()
    page.switch_to("img2img")
    expect(page("consent")).to_be_hidden()
    page.until((models / "FaceSnap" / ".consent").is_file)  # the next start leaves it out
    page.page.reload()
    page.tab = "txt2img"
    expect(page("p1_strength")).to_be_visible()
    expect(page("consent")).to_be_hidden()


def test_upload_preview_generate(page: Driver, photos) -> None:
    page.enable()
    page.upload(1, photos.first, photos.second)
    page("p1_preview").click()
    looks = page("p1_seen").locator("figure")
    expect(looks).to_have_count(2)
    expect(looks.first).to_contain_text("Photo 1")
    expect(looks.first.locator("meter")).to_have_count(6)
    widths = looks.first.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert min(widths) >= 112  # the pictures are there, not only their frames
    expect(page("p1_seen")).to_contain_text(re.compile(r"Photo 1 and photo 2: 0\.[89]"))
    page.shoot("preview")
    infotext = page.generate()
    expect(infotext).to_have_value(re.compile(r"FaceSnap adapter: .*untrained \[[0-9a-f]{10}\].*FaceSnap photos: 2 \["))
    expect(page.own("gallery").locator("img").first).to_be_visible()
    page.shoot("generated", page.page.locator("body"))


def test_what_a_preview_warns_of_and_refuses(page: Driver, photos) -> None:
    page("p1_preview").click()
    expect(page("p1_seen")).to_contain_text("neither a reference photo nor an identity")
    page.upload(1, photos.first, photos.other, photos.nobody)
    page("p1_preview").click()
    expect(page("p1_seen").locator("figure")).to_have_count(2)
    expect(page("p1_seen")).to_contain_text("seem to show different people")
    expect(page("p1_seen").get_by_role("alert")).to_contain_text("No face was found in Photo 3")
    page.shoot("warnings")
    page.choose("p1_identity", "Nobody")
    page("p1_preview").click()
    expect(page("p1_seen")).to_contain_text("has reference photos and the identity")


def test_an_error_reaches_the_message_area(page: Driver, photos) -> None:
    page.enable()
    page.generate()
    log = page.page.locator("#html_log_txt2img").first
    expect(log).to_contain_text("neither a reference photo nor an identity")
    page.shoot("error", page.page.locator("body"))
    page.upload(1, photos.nobody)
    page.generate()
    expect(log).to_contain_text("No face was found in reference 1 of person 1")
    expect(page.own("infotext").locator("textarea")).to_have_value("")
    page.enable(False)
    page.generate()
    expect(page.own("infotext").locator("textarea")).to_have_value(re.compile("^a person\nSteps: 4((?!FaceSnap).)*$"))


def test_a_broken_file_is_told_of(page: Driver, photos) -> None:
    page.upload(1, photos.broken)
    expect(page("p1_thumbs").locator(".facesnap-bad")).to_be_visible()
    page("p1_preview").click()
    expect(page("p1_seen").get_by_role("alert")).to_contain_text("reference 1 of person 1")


def test_photos_arrive_whatever_ends_during_their_upload(page: Driver, photos) -> None:
    """Gradio 3 drops the answer to an upload when another event ends before it."""
    held: list[Route] = []
    page.page.route("**/upload*", lambda route: held.append(route), times=1)
    page("p1_references").locator("input[type=file]").set_input_files([photos.first, photos.second])
    page("p1_preview").click()
    expect(page("p1_seen")).not_to_be_empty()
    assert held, "the photos were not being uploaded"
    held[0].continue_()
    expect(page("p1_thumbs").locator(".facesnap-thumbs > *")).to_have_count(2)
    page("p1_preview").click()
    expect(page("p1_seen").locator("figure")).to_have_count(2)


def test_presets_fill_in_the_rest(page: Driver) -> None:
    page.option("preset", "Creative")
    for person in (1, 3):
        page.person(person)
        page.open(f"p{person}_advanced")
        for name in ("strength", "structure", "start", "structure_end"):
            expect(page.number(f"p{person}_{name}")).to_have_value(str(PRESETS["Creative"][name]).removesuffix(".0"))
    page.option("preset", "Fast")
    expect(page.picked("speed")).to_have_value("fast")
    page.shoot("advanced")


def test_pasting_restores_and_unticks(page: Driver, photos) -> None:
    page.enable()
    page.upload(1, photos.first)
    page.option("preset", "Faithful")
    expect(page.number("p1_structure")).to_have_value("1")
    page.number("p1_strength").fill("0.45")
    page.number("p1_strength").blur()
    page.pick("p1_pose_source", "canvas")
    page.open("p1_advanced")
    page.fill("p1_pose_values", "yaw=20 size=0.5")
    page.fill("p1_pose_expression", "smile:0.8")
    page.fill("p1_region", "0 0 0.5 1")
    infotext = page.generate()
    expect(infotext).to_have_value(re.compile("FaceSnap strength: 0.45"))
    text = infotext.input_value()

    page.page.reload()
    expect(page("p1_strength")).to_be_visible()
    page.paste(text)
    expect(page.enabled()).to_be_checked()
    expect(page.text("preset")).to_have_value("Faithful")
    expect(page.number("p1_strength")).to_have_value("0.45")  # the preset's event has not overruled it
    expect(page.number("p1_structure")).to_have_value("1")
    expect(page.picked("p1_pose_source")).to_have_value("canvas")
    expect(page.text("p1_pose_values")).to_have_value("yaw=20 size=0.5")
    expect(page.text("p1_pose_expression")).to_have_value("smile:0.8")
    expect(page.text("p1_region")).to_have_value("0 0 0.5 1")
    expect(page("status")).to_contain_text("the reference photos (1 [")
    page.shoot("pasted")

    page.paste("a person without it\nSteps: 4, Sampler: Euler, CFG scale: 3")
    expect(page.enabled()).not_to_be_checked()
    expect(page.number("p1_strength")).to_have_value("0.45")

    page.paste("a person\nSteps: 4, Sampler: Euler, FaceSnap identity: Zoe [0123456789], FaceSnap version: 1")
    expect(page("status")).to_contain_text("person 1: the identity Zoe [0123456789] is not on this machine")
    expect(page.text("p1_identity")).to_have_value("Zoe")
    page.shoot("missing")


def test_three_people(page: Driver, photos) -> None:
    page.enable()
    for person, photo in ((1, photos.first), (2, photos.other), (3, photos.second)):
        page.person(person)
        page.upload(person, photo)
        page.open(f"p{person}_advanced")
        page.fill(f"p{person}_region", f"{(person - 1) / 4} 0 0.25 1")
    page.shoot("three_people")
    expect(page.generate()).to_have_value(
        re.compile(
            r"FaceSnap photos: 1 .*FaceSnap 2 photos: 1 .*FaceSnap 3 photos: 1 .*FaceSnap 3 region: 0.5 0 0.25 1"
        )
    )


def test_an_empty_person_is_passed_over(page: Driver, photos) -> None:
    page.enable()
    page.person(2)
    page.upload(2, photos.first)
    expect(page.generate()).to_have_value(re.compile(r"^(?=.*FaceSnap photos: 1)((?!FaceSnap 2).)*$", re.DOTALL))


def test_saving_an_identity(page: Driver, photos, models: Path) -> None:
    store = IdentityStore(models / "FaceSnap" / ".identities")
    page.enable()
    page.upload(1, photos.first, photos.second)
    page.open("p1_saving")
    page("p1_save").click()
    expect(page("status").get_by_role("alert")).to_contain_text("has no name")
    page.fill("p1_name", "Eileen")
    page("p1_save").click()
    expect(page("status")).to_contain_text("Saved 'Eileen' from 2 photos")
    expect(page.text("p1_identity")).to_have_value("Eileen")
    expect(page("p1_thumbs").locator("img")).to_have_count(0)  # the photos have gone from the page
    assert [(one.name, one.references) for one in store.entries()] == [("Eileen", 2)]
    page("p1_preview").click()
    expect(page("p1_seen")).to_contain_text("Saved identity 'Eileen' from 2 photos")
    page.shoot("identity")
    expect(page.generate()).to_have_value(re.compile(r"FaceSnap identity: Eileen \["))
    page.upload(1, photos.first)
    page.choose("p1_identity", "None")
    page.fill("p1_name", "eileen")
    page("p1_save").click()
    expect(page("status").get_by_role("alert")).to_contain_text("There is an identity 'Eileen' already")


def test_deleting_an_identity(page: Driver, photos, models: Path) -> None:
    store = IdentityStore(models / "FaceSnap" / ".identities")

    def names() -> list[str]:
        return [entry.name for entry in store.entries()]

    page.open("p1_saving")
    page("p1_delete").click()
    expect(page("status").get_by_role("alert")).to_contain_text("No saved identity is chosen here")
    for name in ("Ada", "Grace"):
        page.choose("p1_identity", "None")
        page.upload(1, photos.first)
        page.fill("p1_name", name)
        page("p1_save").click()
        expect(page("status")).to_contain_text(f"Saved '{name}'")
    page.person(2)
    page.choose("p2_identity", "Grace")
    page.person(1)
    assert "Grace" in page.delete_identity(1, sure=False)
    page("p1_preview").click()
    expect(page("p1_seen")).to_contain_text("Saved identity 'Grace'")
    assert {"Ada", "Grace"} <= {*names()}
    page.shoot("deleting")
    page.delete_identity(1, sure=True)
    expect(page("status")).to_contain_text("Deleted 'Grace'")
    expect(page.text("p1_identity")).to_have_value("None")
    page.person(2)
    expect(page.text("p2_identity")).to_have_value("None")  # whoever else was Grace is nobody now
    assert "Ada" in names() and "Grace" not in names()
    page("p2_identity").locator("input").first.click()
    expect(page("p2_identity").locator("li", has_text="Ada")).to_have_count(1)
    expect(page("p2_identity").locator("li", has_text="Grace")).to_have_count(0)


def test_settings_and_photos_travel_to_img2img(page: Driver, photos) -> None:
    page.enable()
    page.upload(1, photos.first)
    page.number("p1_strength").fill("0.35")
    page.number("p1_strength").blur()
    page.pick("p1_pose_source", "picture")
    page("p1_pose_image").locator("input[type=file]").set_input_files(photos.other)
    expect(page("p1_pose_image").locator("img")).to_be_visible()
    page.own("send_to_img2img").click()
    page.switch_to("img2img")
    expect(page.number("p1_strength")).to_have_value("0.35")
    expect(page.enabled()).to_be_checked()
    expect(page("p1_thumbs").locator("img")).to_have_count(1)
    expect(page("p1_pose_image").locator("img")).to_be_visible()
    page.shoot("sent")
    expect(page.generate()).to_have_value(re.compile(r"FaceSnap photos: 1 \[.*FaceSnap pose: picture", re.DOTALL))


def test_the_pose_canvas_has_the_picture_of_the_open_tab(page: Driver, photos) -> None:
    page.switch_to("img2img")
    page.upload(1, photos.first)
    page.page.locator("#img2img_image input[type=file]").first.set_input_files(photos.first)
    page.open("posing")
    copy = page("posing").get_by_role("button", name="Init image")
    expect(copy).to_be_enabled()
    page.page.locator("#mode_img2img > .tab-nav").get_by_text("Inpaint", exact=True).click()
    expect(copy).to_be_hidden()
    page.page.locator("#img2maskimg input[type=file]").first.set_input_files(photos.other)
    expect(copy).to_be_enabled()
    page.page.locator("#mode_img2img > .tab-nav").get_by_text("Inpaint upload", exact=True).click()
    expect(copy).to_be_hidden()


def test_pose_sources(shared: Driver) -> None:
    page = shared
    page.switch_to("txt2img")
    expect(page("p1_pose_image")).to_be_hidden()
    page.pick("p1_pose_source", "picture")
    expect(page("p1_pose_image")).to_be_visible()
    expect(page("p1_pose_source").get_by_label("init", exact=True)).to_have_count(0)
    page.switch_to("img2img")
    expect(page("p1_pose_source").get_by_label("init", exact=True)).to_have_count(1)
    page.switch_to("txt2img")


def test_an_adapter_says_what_it_suggests(shared: Driver) -> None:
    page = shared
    expect(page("status")).to_contain_text("1 of 2 adapters fit miniature (SD1.5)")
    page("adapter").locator("input").first.click()
    other = page("adapter").locator("li", has_text="another · FaceSnap · SDXL · does not fit SD1.5")
    expect(other).to_have_class(re.compile("facesnap-unfit"))
    expect(page("adapter").locator("li", has_text="untrained")).not_to_have_class(re.compile("facesnap-unfit"))
    page.shoot("unfit")
    page("adapter").locator("li", has_text="untrained").first.click()
    expect(page("status")).to_contain_text("FaceSnap")
    page.shoot("adapter")


def test_the_list_follows_the_checkpoint(shared: Driver) -> None:
    """Without a click on Refresh, and before the host has loaded anything."""
    page = shared
    unfit = re.compile("facesnap-unfit")
    page.option("adapter", "untrained")
    page.checkpoint("drawn-xl")
    expect(page("status")).to_contain_text("does not fit SDXL: choose another adapter, or another checkpoint")
    page.text("adapter").click()
    expect(page("adapter").locator("li", has_text="untrained · FaceSnap · SD1.5 · does not fit SDXL")).to_have_class(
        unfit
    )
    page("adapter").locator("li", has_text="Automatic").first.click()
    page.checkpoint("flux-dev")
    expect(page("status")).to_contain_text("flux-dev is Flux: FaceSnap works on the UNets of SD1.5 and SDXL.")
    page.shoot("flux")
    page.checkpoint("miniature")
    expect(page("status")).to_contain_text("1 of 2 adapters fit miniature (SD1.5)")


def test_no_download_without_consent(shared: Driver) -> None:
    page = shared
    page.open("models")
    page.option("download", "faceid-sd15")
    expect(page("licence")).to_contain_text("Licence:")
    page("start").click()
    expect(page("progress").get_by_role("alert")).to_contain_text("was not accepted")
    page.shoot("models")


@pytest.mark.parametrize("dark", (False, True))
def test_widths_and_themes(visit, photos, dark: bool) -> None:
    """Nothing sticks out of a window or a phone, and nothing is cut off."""
    page = visit(dark=dark)
    page.upload(1, photos.first)
    page("p1_preview").click()
    expect(page("p1_seen").locator("figure")).to_have_count(1)
    page.open("p1_advanced")
    page.open("p1_saving")
    page.open("models")
    for width in (1280, 390):
        page.resize(width)
        page.shoot(f"all_{width}_{'dark' if dark else 'light'}")
        inner, outer = page.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert inner <= outer == width
        out = page("enabled").evaluate(
            """root => [...root.querySelectorAll('*')].filter((one) => {
                const box = one.getBoundingClientRect();
                return box.width > 1 && (box.right > window.innerWidth + 1 || box.left < -1)
                    && getComputedStyle(one).visibility !== 'hidden' && !one.closest('[style*="overflow"]');
            }).map((one) => one.tagName + '.' + one.className + '#' + one.id)"""
        )
        assert out == [], width


def test_every_control_has_a_tooltip_and_a_label_of_its_own(shared: Driver) -> None:
    controls = shared("enabled").locator(".facesnap-control")
    titles = controls.evaluate_all("all => all.map((one) => [one.id, one.title])")
    assert len(titles) > 60 and [name for name, title in titles if not title] == []
