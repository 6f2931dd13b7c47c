"""The report in a real browser: Debian's Chromium without a screen, driven by Selenium. Skipped where there is none."""

import base64
import copy
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldsmith.ensemble.file import read_ensemble
from foldsmith.report.collect import collect
from foldsmith.report.page import write_page
from tests.conftest import Chain
from tests.test_chain import csv_rows, member_probabilities

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
def content(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The chain's report. c, slow and not predicted, is a copy of b; one class has a name that would be markup."""
    c = tmp_path_factory.mktemp("report") / "c"
    shutil.copytree(chain.runs / "b", c, ignore=shutil.ignore_patterns("*.npy", "*.safetensors", "*.ckpt", "b_f*"))
    (c / "b.yml").rename(c / "c.yml")
    rows = (c / "fold0" / "timings.csv").read_text().splitlines()[0] + "\n1,7200,100,9.5,0.1,\n"
    for fold in (0, 1):
        (c / f"fold{fold}" / "timings.csv").write_text(rows)
    content = collect([chain.runs, chain.ensemble, c])
    for table in content["classes"].values():
        table["columns"]["name"] = [EVIL if name == "africa" else name for name in table["columns"]["name"]]
    return content


@pytest.fixture(scope="module")
def page(content: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
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
    assert browser.current_url.startswith("file://") and loaded(browser) == []


def show(browser, page: Path, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


def loaded(browser) -> list[str]:
    """What the page fetched beside itself."""
    script = "return performance.getEntriesByType('resource').map((e) => e.name).filter((n) => !n.startsWith('data:'))"
    return browser.execute_script(script)


def column(browser, section: str, title: str) -> list[str]:
    """The cells of a table's column, as they stand."""
    headings = [each.text.strip() for each in browser.find_elements(By.CSS_SELECTOR, f"#{section} thead th")]
    script = "return [...document.querySelectorAll(arguments[0])].map((row) => row.children[arguments[1]].textContent)"
    return browser.execute_script(script, f"#{section} tbody tr:not(.below)", headings.index(title))


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


LEADERBOARD = {
    "#": "place",
    "Score (f2)": "score",
    "Held out": "nested",
    "Validation": "validation_score",
    "Threshold": "threshold",
    "Epochs": "epochs",
    "Time": "seconds",
    "Train/s": "train_speed",
    "Predict/s": "predict_speed",
}


def ordered(values: list, down: bool) -> bool:
    """Whether numbers rise or fall, and what is empty stands last."""
    numbers = [value for value in values if value is not None]
    return numbers == sorted(numbers, reverse=down) and values[len(numbers) :] == [None] * (len(values) - len(numbers))


def test_the_leaderboard_sorts_by_every_column_empty_cells_last(opened, content):
    lines = {line["name"]: line for line in content["leaderboard"]}
    assert column(opened, "leaderboard", "Experiment") == list(lines) and list(lines)[-1] == "c"
    assert column(opened, "leaderboard", "#") == ["1", "2", "3", "–"]
    assert column(opened, "leaderboard", "Train/s")[-1] == "10" and lines["c"]["train_speed"] == 9.5
    assert column(opened, "leaderboard", "Time")[-1] == "4.1 h"
    for title, key in LEADERBOARD.items():
        button = heading(opened, "leaderboard", title)
        first = title != "#"  # places rise at the first click, all other numbers fall
        for down in (first, not first):
            button.click()
            sort = button.find_element(By.XPATH, "..").get_attribute("aria-sort")
            assert sort == ("descending" if down else "ascending")
            names = column(opened, "leaderboard", "Experiment")
            assert sorted(names) == sorted(lines) and ordered([lines[name][key] for name in names], down), title
    for down in (False, True):
        heading(opened, "leaderboard", "Experiment").click()
        assert column(opened, "leaderboard", "Experiment") == sorted(lines, reverse=down)


CLASSES = {
    "Images": "images",
    "Predicted": "predicted",
    "Precision": "precision",
    "Recall": "recall",
    "F2": "score",
    "Threshold": "threshold",
    "Best threshold": "best_threshold",
    "F2 there": "best_score",
}


def test_classes_sort_by_click_and_by_key(opened, content):
    columns = content["classes"]["best"]["columns"]
    at = {token: index for index, token in enumerate(columns["token"])}
    assert None in columns["precision"], "some class is never predicted"
    images = [columns["images"][at[token]] for token in column(opened, "classes", "Label")]
    assert ordered(images, True) and len(images) == 55
    for title, key in CLASSES.items():
        button = heading(opened, "classes", title)
        cell = button.find_element(By.XPATH, "..")
        button.click()
        down = title != "Images"  # by which the table is sorted already
        for _ in range(2):
            assert cell.get_attribute("aria-sort") == ("descending" if down else "ascending")
            tokens = column(opened, "classes", "Label")
            assert ordered([columns[key][at[token]] for token in tokens], down), title
            shown = column(opened, "classes", title)
            digits = 0 if key in ("images", "predicted") else 3
            numbers = [columns[key][at[token]] for token in tokens]
            for text, number in zip(shown, numbers, strict=True):
                assert text == ("–" if number is None else f"{number:.{digits}f}") or abs(float(text) - number) < 6e-4
            button.send_keys(Keys.ENTER)
            down = not down
        assert len(opened.find_elements(By.CSS_SELECTOR, "#classes th[aria-sort]:not([aria-sort=none])")) == 1


def test_a_search_stays_while_the_table_is_sorted(opened, content):
    columns = content["classes"]["best"]["columns"]
    opened.find_element(By.CSS_SELECTOR, "#classes input").send_keys("AN")
    wanted = {name for name in columns["name"] if "an" in name.lower()}
    assert set(column(opened, "classes", "Class")) == wanted and 2 < len(wanted) < 55
    heading(opened, "classes", "Recall").click()
    names = column(opened, "classes", "Class")
    assert set(names) == wanted
    assert ordered([columns["recall"][columns["name"].index(name)] for name in names], True)
    assert opened.find_element(By.CSS_SELECTOR, "#classes .count").text == f"{len(wanted)} of 55"


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
    assert column(opened, "leaderboard", "Experiment") == ["b", "c"]
    field.send_keys(" b")
    assert opened.find_element(By.CSS_SELECTOR, "#leaderboard .count").text == "1 of 4"


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


def test_members_show_weights_and_correlation(opened, chain):
    oof = [member_probabilities(chain, name).ravel().astype(np.float64) for name in ("a", "b")]
    correlation = np.corrcoef(oof)[0, 1]
    cells = [each.text for each in opened.find_elements(By.CSS_SELECTOR, "#members svg text")]
    assert cells.count(f"{correlation:.2f}") == 2 and cells.count("1.00") == 2
    titles = [each.get_attribute("textContent") for each in opened.find_elements(By.CSS_SELECTOR, "#members title")]
    assert f"a and b: {correlation:.4f}" in titles
    assert column(opened, "members", "Mean correlation") == [f"{correlation:.3f}"] * 2
    weights = {each.name: each.weight for each in read_ensemble(chain.ensemble).members}
    assert column(opened, "members", "Weight in best") == [f"{weights.get(name, 0):.3f}" for name in ("a", "b")]


def test_the_fold_table(opened, chain):
    folds = [int(row["fold"]) for row in csv_rows(chain.runs / "a" / "folds.csv")]
    labels = {row["id"]: row["attribute_ids"].split() for row in csv_rows(chain.folder / "train.csv")}
    of_fold: list[set[str]] = [set(), set()]
    for tokens, fold in zip(labels.values(), folds, strict=True):
        of_fold[fold].update(tokens)
    assert column(opened, "folds", "Images") == [str(folds.count(0)), str(folds.count(1))] == ["200", "200"]
    assert column(opened, "folds", "Share") == ["50.0 %", "50.0 %"]
    absent = [str(len(of_fold[1 - fold] - of_fold[fold])) for fold in (0, 1)]
    assert column(opened, "folds", "Classes absent") == absent


def test_many_models_and_a_blend_with_rules_of_its_own(browser, content, tmp_path):
    content = copy.deepcopy(content)
    (best,) = [line for line in content["leaderboard"] if line["name"] == "best"]
    rule = {"threshold": [0.1] * 55, "min_labels": 1, "max_labels": 3}
    best |= rule
    content["classes"]["best"] |= rule
    sweeps = content["groups"][0]["sweeps"]
    sweeps += [{**sweeps[0], "name": f"n{number}", "y": [0.1] * len(sweeps[0]["y"])} for number in range(9)]
    write_page(tmp_path / "many.html", content)
    show(browser, tmp_path / "many.html", 1280, "light")
    assert column(browser, "leaderboard", "Threshold")[0] == "by classat least 1, at most 3"
    heading(browser, "leaderboard", "Threshold").click()
    assert column(browser, "leaderboard", "Experiment") == ["b", "a", "best", "c"]
    about = browser.find_elements(By.CSS_SELECTOR, "#classes .about")[0].text
    assert "above a threshold of each class's own, at least 1, at most 3 an image." in about
    names = "return [...document.querySelectorAll('#threshold .legend span')].map((e) => e.textContent)"
    shown = browser.execute_script(names)
    assert len(shown) == 8 and shown[0] == "best" and set(shown) >= {"a", "b"}, "the best ones"
    browser.find_element(By.CSS_SELECTOR, "#threshold select").send_keys("all")
    assert len(browser.execute_script(names)) == 12 and browser.get_log("browser") == []


def test_1103_classes_and_all_pictures_in_the_browser(browser, wide, tmp_path):
    write_page(tmp_path / "wide.html", wide)
    assert (tmp_path / "wide.html").stat().st_size < 15_000_000
    show(browser, tmp_path / "wide.html", 390, "light")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.find_element(By.CSS_SELECTOR, "#classes .count").text == "1103 of 1103"
    heading(browser, "classes", "F2").click()
    scores = [float(text) for text in column(browser, "classes", "F2")]
    assert scores == sorted(scores, reverse=True) and len(scores) == 1103
    browser.find_element(By.CSS_SELECTOR, "#classes input").send_keys("culture::550")
    assert column(browser, "classes", "Class") == ["culture::550"]
    lacking = ["culture::0" in names.split(", ") for names in column(browser, "folds", "Which")]
    assert lacking == [False, True, True], "its one image is in fold 0"
    shown = "return [...document.querySelectorAll('#gallery img')].filter((i) => i.naturalWidth === 352).length"
    missing = "return document.querySelectorAll('#gallery .pic span').length"
    assert (found := browser.execute_script(shown)) >= 36 and found + browser.execute_script(missing) == 72
    assert browser.get_log("browser") == [] and loaded(browser) == []


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
    low, *_ = levels = sorted(contrasts(browser), key=lambda each: each["contrast"])
    assert low["contrast"] >= 4.5, low
    kinds = {each["kind"] for each in levels}
    assert kinds >= {"tag", "tag hit", "tag miss", "tag false", "about", "count", "heat", "placeholder", "A", "BUTTON"}
    assert browser.get_log("browser") == [] and loaded(browser) == []


LONG = {"a": "imet_seresnext101_288", "b": "imet_efficientnet_b5_320", "c": "imet_inception_resnet_v2"}


def renamed(value, names: dict[str, str]):
    """A report's content with other names for its experiments."""
    if isinstance(value, dict):
        return {names.get(key, key): renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def long(content, tmp_path_factory) -> Path:
    """The report with everything as wide as it gets: names, speeds, times, limits, and many keys that differ."""
    content = renamed(content, LONG)
    for line in content["leaderboard"]:
        line |= {"train_speed": 1234.0, "predict_speed": 2345.0, "seconds": 130_000.0, "epochs": 12.5}
        if line["kind"] == "blend":
            line |= {"min_labels": 1, "max_labels": 3, "single_is_better": True}
        else:
            line["differs"] = {"model.arch": "se_resnext101_32x4d", "train.learning_rate": 0.0003} | {
                f"augmentations.key_{number}": [288, 288] for number in range(6)
            }
    path = tmp_path_factory.mktemp("long") / "report.html"
    write_page(path, content)
    return path


def test_tables_fit_the_page_with_long_names(browser, long):
    show(browser, long, 1280, "light")
    script = "return [...document.querySelectorAll('.scroll')].map((e) => [e.ariaLabel, e.clientWidth, e.scrollWidth])"
    sizes = browser.execute_script(script)
    assert [name for name, *_ in sizes] == ["Leaderboard", "Members", "Classes", "Folds"]
    assert [size for size in sizes if size[2] > size[1]] == [], "a table is wider than the page"
    cut = (
        "const frame = document.querySelector('#leaderboard .scroll').getBoundingClientRect();"
        "return [...document.querySelectorAll('#leaderboard .tag')].map((e) => e.getBoundingClientRect())"
        ".filter((box) => box.right > frame.right || box.left < frame.left).length"
    )
    assert len(browser.find_elements(By.CSS_SELECTOR, "#leaderboard .tag")) >= 26
    marks = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#leaderboard .tag.false")]
    assert marks == ["held out, the best single is better"]
    for width in (1280, 390):
        show(browser, long, width, "light")
        assert browser.execute_script(cut) == 0, f"a tag is cut through at {width}"


def test_a_telephone_shows_score_and_interval_uncut(browser, long):
    show(browser, long, 390, "light")
    right = "return arguments[0].getBoundingClientRect().right"
    frame = browser.execute_script(right, browser.find_element(By.CSS_SELECTOR, "#leaderboard .scroll"))
    intervals = browser.find_elements(By.CSS_SELECTOR, "#leaderboard .interval")
    assert len(intervals) == 3
    assert max(browser.execute_script(right, each) for each in intervals) <= frame


CONTRASTS = """
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], back) => [r, g, b].map((part, i) => part * a + back[i] * (1 - a));
  const behind = (node) => {  // what lies below, transparent layers and all
    const layers = [];
    for (let each = node; each; each = each.parentElement) layers.push(parse(getComputedStyle(each).backgroundColor));
    return layers.reverse().reduce((back, layer) => over(layer, back), [255, 255, 255]);
  };
  const level = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const add = (kind, text, color, back) => {
    const [x, y] = [level(over(parse(color), back)), level(back)].sort((a, b) => b - a);
    found.push({ kind, text: text.slice(0, 40), contrast: (x + 0.05) / (y + 0.05) });
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const parent = node.parentElement, style = getComputedStyle(parent);
    if (!node.data.trim() || parent.closest("script,noscript,option,title")) continue;
    const drawn = parent instanceof SVGElement;
    let back = behind(parent), kind = drawn ? "svg" : parent.getAttribute("class") || parent.tagName;
    if (drawn && parent.previousElementSibling?.tagName === "rect") {  // the heat map's numbers
      const box = getComputedStyle(parent.previousElementSibling);
      back = over([...parse(box.fill).slice(0, 3), Number(box.fillOpacity)], back);
      kind = "heat";
    }
    add(kind.trim(), node.data, drawn ? style.fill : style.color, back);
  }
  for (const input of document.querySelectorAll("input"))
    add("placeholder", input.placeholder, getComputedStyle(input, "::placeholder").color, behind(input));
  return found;
"""


def contrasts(browser) -> list[dict]:
    """WCAG 2's contrast of every text of the page with what lies behind it."""
    return browser.execute_script(CONTRASTS)
