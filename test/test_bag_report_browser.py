"""The report in a real browser: it opens without an error and does what its controls say."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import evaluation, picture, sequence

from stmem_ros.video import TimedVideo
from training.bag.report import write_report
from training.bag.result import Comparison

for package in ("jinja2", "plotly"):
    pytest.importorskip(package, reason=f"{package}, which the report needs, is not installed")
webdriver, waiting = (
    pytest.importorskip(f"selenium.webdriver{part}", reason="selenium, which drives the browser, is not installed")
    for part in ("", ".support.wait")
)
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="there is no chromium or no chromedriver: apt-get install chromium chromium-driver",
)

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900"),
)
DEADLINE = 60
LONG_NAME = "2026-11-23_a_recording_with_a_long_name_" + "x" * 120


class Browser:
    """One Chromium, and what a user does with it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1280, theme: str = "light") -> None:
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.command(
            "Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": theme}]
        )
        self.driver.get_log("browser")
        self.driver.get(page.as_uri())
        self.wait(lambda: self.run("return 'ready' in document.documentElement.dataset"))

    def command(self, name: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], Any]) -> None:
        waiting.WebDriverWait(self.driver, DEADLINE, poll_frequency=0.02).until(lambda _: condition())

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def press(self, selector: str) -> None:
        element = self.find(selector)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def column(self, table: str, place: int) -> list[str]:
        return self.run(
            f"return [...document.querySelectorAll('#{table} tbody tr')].filter((row) => !row.hidden)"
            f".map((row) => row.cells[{place}].textContent.trim())"
        )

    @property
    def second(self) -> str:
        """Where the viewer is, as it says it: `0.40 s`."""
        return self.find("#readout").text.partition(" ·")[0]

    @property
    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks on three bags; the second bag has other pictures, the third none."""
    several = [
        sequence(
            bag, model=model, seed=seed, shots=shots, flicker=picture(9000 + seed, ".jpg"), notes=(f"{bag}: note",)
        )
        for model in ("small", "large")
        for bag, seed, shots in (("first", 1, 5), ("second", 2, 4), (LONG_NAME, 3, 0))
    ]
    compared = (Comparison("small", "large", "miou", 0.5, 0.25, 0.75, "bags", 3),)
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(
        evaluation(
            *several, comparisons=compared, failures={"fourth": "fourth is no bag"}, settings={"command": "x " * 200}
        ),
        path,
    )
    return path


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network, without ground truth, on twelve bags."""
    path = tmp_path_factory.mktemp("blind") / "report.html"
    write_report(evaluation(*(sequence(f"bag {place}", truth=False, seed=place) for place in range(12))), path)
    return path


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["page", "blind"])
def test_it_opens_without_an_error_and_fits(
    browser: Browser, request: pytest.FixtureRequest, name: str, width: int, theme: str
) -> None:
    browser.open(request.getfixturevalue(name), width, theme)
    assert browser.errors == []
    assert browser.run("return document.scrollingElement.scrollWidth <= innerWidth")
    # Nothing lies beside the window but what scrolls within itself.
    assert browser.run("return innerWidth") == width
    beyond = """return [...document.querySelectorAll('body *')].filter((element) => {
        const box = element.getBoundingClientRect();
        return box.right > innerWidth + 1 && box.width && !element.closest('.scroll, svg, .skip');
    }).map((element) => element.outerHTML.slice(0, 100))"""
    assert browser.run(beyond) == []
    assert (
        browser.run("return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:')).length")
        == 0
    )
    dark = browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 27)"
    assert dark == (theme == "dark")


def test_text_stands_out_from_what_is_behind_it(browser: Browser, page: Path) -> None:
    contrast = """
        const channel = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        const light = (text) => {
            const [r, g, b] = text.match(/[\\d.]+/g).map((part) => channel(Number(part) / 255));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = (element) => {
            const color = getComputedStyle(element).backgroundColor;
            return color === 'rgba(0, 0, 0, 0)' ? behind(element.parentElement) : color;
        };
        return [...document.querySelectorAll('body *')].filter((element) => element.checkVisibility()
            && !element.closest('svg, :disabled')
            && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
        ).map((element) => {
            const [one, two] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
            return [(one + 0.05) / (two + 0.05), element.outerHTML.slice(0, 80)];
        }).filter(([ratio]) => ratio < 4.5)"""
    for theme in ("light", "dark"):
        browser.open(page, theme=theme)
        assert browser.run(contrast) == []


def test_every_control_and_picture_has_a_name(browser: Browser, page: Path) -> None:
    browser.open(page)
    for element in browser.all("button, select, input"):
        if element.is_displayed():
            assert element.accessible_name, element.get_attribute("outerHTML")
    assert browser.run("return [...document.images].filter((each) => !each.alt).length") == 0
    assert browser.run("return [...document.images].filter((each) => each.src && !each.naturalWidth).length") == 0


class TestTables:
    def test_a_click_sorts_by_any_column(self, browser: Browser, page: Path) -> None:
        browser.open(page)
        heading = "#class-table thead th:nth-child({})"
        assert browser.column("class-table", 0) == ["road", "car", "tree"]
        for place, first, order in (
            (3, "descending", ["tree", "road", "car"]),
            (1, "ascending", ["car", "road", "tree"]),
        ):
            browser.press(heading.format(place) + " button")
            assert browser.find(heading.format(place)).get_attribute("aria-sort") == first
            assert browser.column("class-table", 0) == order
            browser.press(heading.format(place) + " button")
            assert browser.find(heading.format(place)).get_attribute("aria-sort") != first
            assert browser.column("class-table", 0) == order[::-1]
        sorts = [each.get_attribute("aria-sort") for each in browser.all("#class-table thead th")]
        assert sorts == ["descending", "none", "none", "none", "none"]

    @pytest.mark.parametrize("key", [webdriver.Keys.ENTER, webdriver.Keys.SPACE])
    def test_a_key_sorts(self, browser: Browser, page: Path, key: str) -> None:
        browser.open(page)
        browser.find("#class-table thead th:nth-child(3) button").send_keys(key)
        assert browser.column("class-table", 0) == ["tree", "road", "car"]

    def test_names_sort_by_the_numbers_in_them(self, browser: Browser, blind: Path) -> None:
        browser.open(blind)
        browser.press("#bag-table thead th:nth-child(1) button")
        assert browser.column("bag-table", 0) == [f"bag {place}" for place in range(12)]

    def test_bags_are_found_by_what_their_row_says(self, browser: Browser, blind: Path) -> None:
        browser.open(blind)
        browser.find("#filter").send_keys("BAG 1")
        assert browser.column("bag-table", 0) == ["bag 1", "bag 10", "bag 11"]
        assert browser.find("#filter-count").text == "3 of 12"


class TestFrames:
    @pytest.fixture(autouse=True)
    def opened(self, browser: Browser, page: Path) -> None:
        browser.open(page)
        assert browser.second == "0.00 s"

    def sources(self, browser: Browser) -> list[str]:
        return [image.get_attribute("src") or "" for image in browser.all("#panels img")]

    def test_the_slider_moves_frame_and_cursor(self, browser: Browser) -> None:
        before = self.sources(browser)
        assert len(before) == 6 and all(before)
        browser.find("#scrubber").send_keys(webdriver.Keys.ARROW_RIGHT, webdriver.Keys.ARROW_RIGHT)
        assert browser.second == "0.80 s"
        assert not set(self.sources(browser)) & set(before)
        assert browser.run("return document.getElementById('timeline').layout.shapes[0].x0") == 0.8
        assert browser.find("#scrubber").get_attribute("aria-valuetext") == "0.80 s, 3 of 5"
        assert "62.00 %" in browser.find("#scores").text
        browser.find("#scrubber").send_keys(webdriver.Keys.END)
        assert browser.second == "1.60 s"

    def test_arrow_keys_and_buttons_step(self, browser: Browser) -> None:
        browser.press("#next")
        assert browser.second == "0.40 s"
        browser.find("#next").send_keys(
            webdriver.Keys.ARROW_RIGHT, webdriver.Keys.ARROW_RIGHT, webdriver.Keys.ARROW_LEFT
        )
        assert browser.second == "0.80 s"
        for _ in range(4):
            browser.press("#previous")
        assert browser.second == "0.00 s"

    def test_it_plays_to_the_end(self, browser: Browser) -> None:
        browser.press("#play")
        assert browser.find("#play").get_attribute("aria-pressed") == "true"
        browser.wait(lambda: browser.second == "1.60 s")
        browser.wait(lambda: browser.find("#play").get_attribute("aria-pressed") == "false")

    def test_a_click_on_a_timeline_leads_to_the_nearest_frame(self, browser: Browser) -> None:
        drag = browser.all("#timeline .nsewdrag")[0]
        browser.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", drag)
        # 1.3 of 1.9 seconds: the frame at 1.2 s is nearest.
        where = """const axis = document.getElementById('timeline')._fullLayout.xaxis;
            return axis.l2p(1.3) - axis._length / 2"""
        x = round(browser.run(where))
        webdriver.ActionChains(browser.driver, duration=50).move_to_element_with_offset(drag, x - 5, 0).move_by_offset(
            5, 0
        ).perform()
        browser.wait(lambda: browser.all("#timeline .hoverlayer .legend, #timeline .hoverlayer .hovertext"))
        webdriver.ActionChains(browser.driver).click().perform()
        browser.wait(lambda: browser.second == "1.20 s")

    def test_a_network_may_be_hidden(self, browser: Browser) -> None:
        lines = "return document.getElementById('timeline').data.filter((line) => line.name).map((line) => line.name)"
        assert sorted(set(browser.run(lines))) == ["large", "small"]
        browser.press("[data-shown='0']")
        assert set(browser.run(lines)) == {"large"}
        browser.press("[data-shown='0']")
        assert sorted(set(browser.run(lines))) == ["large", "small"]

    def test_a_thumbnail_leads_to_its_frame(self, browser: Browser) -> None:
        thumbnail = ".thumbnail[data-recording='1'][data-frame='3']"
        browser.press(thumbnail)
        assert browser.second == "1.20 s"
        assert browser.find("#recording").get_attribute("value") == "1"
        assert browser.run("return document.activeElement.id") == "scrubber"

    def test_another_bag_may_be_chosen(self, browser: Browser) -> None:
        before = self.sources(browser)
        browser.find("#recording").send_keys("second")
        browser.wait(lambda: "of 4 frames" in browser.find("#readout").text)
        assert not set(self.sources(browser)) & set(before)
        browser.press("#bag-table tbody tr:nth-child(1) .link")
        assert browser.find("#recording").get_attribute("value") == "0"
        assert self.sources(browser) == before
        current = browser.all("#bag-table tr[aria-current]")
        assert [row.text.split()[0] for row in current] == ["first"]
        assert browser.errors == []

    def test_a_bag_without_pictures_says_so(self, browser: Browser) -> None:
        browser.find("#recording").send_keys(LONG_NAME[:12])
        browser.wait(lambda: browser.find("#nothing-kept").is_displayed())
        assert not browser.find("#panels").is_displayed()
        assert not browser.find("#scrubber").is_enabled()
        assert "no image of this bag" in browser.find("#timeline-hint").text
        assert browser.errors == []


def test_figures_take_the_systems_colours_at_once(browser: Browser, page: Path) -> None:
    browser.open(page, theme="light")
    paper = "return document.getElementById('timeline')._fullLayout.paper_bgcolor"
    assert browser.run(paper) == "#fff"
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.wait(lambda: browser.run(paper) == "#1a2027")


def test_it_prints_light_and_within_the_paper(browser: Browser, page: Path) -> None:
    browser.open(page, theme="dark")
    browser.run("""window.printed = [];
        window.addEventListener("beforeprint", () => {
            const layout = document.getElementById("timeline")._fullLayout;
            window.printed.push(layout.paper_bgcolor, layout.width);
        });""")
    assert browser.command("Page.printToPDF")["data"]
    assert browser.run("return window.printed") == ["#fff", 660]
    assert browser.run("return document.getElementById('timeline')._fullLayout.paper_bgcolor") == "#1a2027"
    assert browser.errors == []


def test_a_video_plays_to_its_end(browser: Browser, tmp_path: Path) -> None:
    with TimedVideo(tmp_path / "overlay.mp4", 25.0) as video:
        for number in range(10):
            video.add(np.full((36, 64, 3), 25 * number, np.uint8), number * 40_000_000)
    if video.note:
        pytest.skip(video.note)
    page = tmp_path / "page.html"
    page.write_text(
        '<video muted src="overlay.mp4"></video><script>document.documentElement.dataset.ready = ""</script>'
    )
    browser.open(page)
    browser.run("window.video = document.querySelector('video'); window.video.play()")
    browser.wait(lambda: browser.run("return window.video.ended || window.video.error"))
    assert browser.run("return [video.ended, video.duration, video.videoWidth]") == [True, pytest.approx(0.4), 64]
