"""The report in a real browser: Debian's Chromium without a screen, driven by Selenium. Skipped where there is none."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldsmith.report.collect import collect
from foldsmith.report.page import write_page
from tests.conftest import Chain

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip(
        "Chromium is not installed: apt-get install chromium chromium-driver (.ci/run does)", allow_module_level=True
    )

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)
EVIL = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def page(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain's report; one class has a name that would be markup."""
    content = collect([chain.runs, chain.ensemble])
    for table in content["classes"].values():
        table["columns"]["name"] = [EVIL if name == "africa" else name for name in table["columns"]["name"]]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(path, content)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, page: Path) -> Iterator:
    """The page at 1280 px, light; whatever the console says fails the test."""
    show(browser, page, 1280, "light")
    yield browser
    assert browser.get_log("browser") == [] and browser.title == "foldsmith report"


def show(browser, page: Path, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


def column(browser, section: str, title: str) -> list[str]:
    """The cells of a table's column, as they stand."""
    headings = [each.text.strip() for each in browser.find_elements(By.CSS_SELECTOR, f"#{section} thead th")]
    script = "return [...document.querySelectorAll(arguments[0])].map((row) => row.children[arguments[1]].textContent)"
    return browser.execute_script(script, f"#{section} tbody tr", headings.index(title))


def heading(browser, section: str, title: str):
    buttons = browser.find_elements(By.CSS_SELECTOR, f"#{section} thead button")
    return next(button for button in buttons if button.text.strip() == title)


def test_all_sections_are_there(opened):
    titles = [each.text for each in opened.find_elements(By.CSS_SELECTOR, "h2")]
    assert titles == [
        "Leaderboard",
        "Learning curves",
        "Score against threshold",
        "Members",
        "Classes",
        "Images",
        "Folds",
    ]
    assert [each.text for each in opened.find_elements(By.CSS_SELECTOR, "nav a")] == titles
    assert len(opened.find_elements(By.CSS_SELECTOR, "#curves polyline")) == 6  # score, two losses; two folds
    assert len(opened.find_elements(By.CSS_SELECTOR, "#threshold polyline")) == 3
    assert len(opened.find_elements(By.CSS_SELECTOR, "#members rect")) == 4


def test_tables_sort_by_click_and_by_key(opened):
    images = [int(text) for text in column(opened, "classes", "Images")]
    assert images == sorted(images, reverse=True) and len(images) == 55
    button = heading(opened, "classes", "Precision")
    cell = button.find_element(By.XPATH, "..")
    button.click()
    assert cell.get_attribute("aria-sort") == "descending"
    values = column(opened, "classes", "Precision")
    numbers = [float(text) for text in values if text != "–"]
    assert numbers == sorted(numbers, reverse=True) and values[len(numbers) :] == ["–"] * (55 - len(numbers))
    button.send_keys(Keys.ENTER)
    assert cell.get_attribute("aria-sort") == "ascending"
    values = column(opened, "classes", "Precision")
    numbers = [float(text) for text in values if text != "–"]
    assert numbers == sorted(numbers) and values[: len(numbers)][0] != "–"
    sorted_by = opened.find_elements(By.CSS_SELECTOR, "#classes th[aria-sort]:not([aria-sort=none])")
    assert len(sorted_by) == 1


def test_tables_filter_and_say_how_many(opened):
    field = opened.find_element(By.CSS_SELECTOR, "#classes input")
    field.send_keys("food")
    assert column(opened, "classes", "Class") == ["food"]
    assert opened.find_element(By.CSS_SELECTOR, "#classes .count").text == "1 of 55"
    field.clear()
    field.send_keys("onerror")
    assert column(opened, "classes", "Class") == [EVIL]
    field = opened.find_element(By.CSS_SELECTOR, "#leaderboard input")
    field.send_keys("forgiving")
    assert column(opened, "leaderboard", "Experiment") == ["b"]


def test_another_model_s_classes_and_pictures(opened):
    chosen = opened.find_element(By.CSS_SELECTOR, "#classes select")
    before = column(opened, "classes", "Predicted")
    names = [option.text for option in chosen.find_elements(By.TAG_NAME, "option")]
    assert sorted(names) == ["a", "b", "best"]
    chosen.send_keys("a" if names[0] != "a" else "b")
    assert column(opened, "classes", "Predicted") != before
    widths = opened.execute_script("return [...document.querySelectorAll('#gallery img')].map((i) => i.naturalWidth)")
    assert len(widths) >= 48 and min(widths) > 10
    shown = opened.find_elements(By.CSS_SELECTOR, "#gallery .shot")[0].text
    assert "labels" in shown and "predicted" in shown


def test_a_pointer_over_a_curve_reads_it(opened):
    chart = opened.find_element(By.CSS_SELECTOR, "#threshold svg")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    webdriver.ActionChains(opened).move_to_element(chart).perform()
    text = opened.find_element(By.CSS_SELECTOR, "#threshold .read").text
    assert text.split(":")[0] in {"a", "b", "best"} and "at threshold 0." in text


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_well(browser, page, width, scheme):
    show(browser, page, width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # Nothing but the frames that scroll is wider than the window.
    wide = (
        "return [...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll') && "
        "e.getBoundingClientRect().right > innerWidth + 1).length"
    )
    assert browser.execute_script(wide) == 0
    data = browser.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), dtype=np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture.shape[1] == width
    assert picture.mean() > 200 if scheme == "light" else picture.mean() < 70
    for selector in ("p", "td", "h2", ".about", ".tag.miss", "nav a"):
        assert contrast(browser, selector) >= 4.5, selector
    assert browser.get_log("browser") == []


def contrast(browser, selector: str) -> float:
    """WCAG 2's contrast of an element's text and what lies behind it."""
    script = """
      let node = document.querySelector(arguments[0]), back = node;
      const clear = (e) => getComputedStyle(e).backgroundColor === "rgba(0, 0, 0, 0)";
      while (clear(back)) back = back.parentElement;
      return [getComputedStyle(node).color, getComputedStyle(back).backgroundColor];
    """
    levels = []
    for text in browser.execute_script(script, selector):
        rgb = np.array([float(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        levels.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(levels) + 0.05) / (min(levels) + 0.05)
