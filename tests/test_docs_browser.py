"""The site of `make docs`, opened from disk in a real browser: its search works without a server and a network."""

import pytest

from tests.test_docs import build
from tests.test_report_browser import By, browser  # noqa: F401, without Chromium these are skipped, too

ui = pytest.importorskip("selenium.webdriver.support.ui", reason="selenium is not installed: pip install selenium")
LINKS = "return [...document.querySelectorAll('.md-search-result__link')].map((link) => link.getAttribute('href'))"
LOADED = "return performance.getEntriesByType('resource').map((entry) => entry.name)"


@pytest.mark.slow
def test_the_search_works_from_disk(browser, tmp_path):  # noqa: F811
    build(tmp_path / "site")
    browser.get((tmp_path / "site" / "commands" / "train.html").as_uri())
    box = browser.find_element(By.CSS_SELECTOR, "input.md-search__input")
    browser.execute_script("arguments[0].focus()", box)
    box.send_keys("passphrase")
    wait = ui.WebDriverWait(browser, 20)
    links = wait.until(lambda _: browser.execute_script(LINKS))
    assert any("encryption.html" in link for link in links)
    box.send_keys("zzzz")
    wait.until(lambda _: not browser.execute_script(LINKS))
    assert all(name.startswith("file:") for name in browser.execute_script(LOADED))
    assert browser.get_log("browser") == []
