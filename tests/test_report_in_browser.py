"""Tests of the report in a headless browser: dragging, sorting, zooming, keys."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="needs selenium, of the extra dev")

from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from browser import emulate, start_chromium
from sdcodec_eval.report import write_report


@pytest.fixture(scope="module")
def chromium(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    browser = start_chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def address(evaluated: Path) -> str:
    return write_report(evaluated).resolve().as_uri()


@pytest.fixture
def browser(chromium: Chrome, address: str) -> Iterator[Chrome]:
    """Open the report; check afterwards that the browser logged no errors."""
    emulate(chromium)
    chromium.get(address)
    yield chromium
    assert chromium.get_log("browser") == []


def one(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def first_handle(browser: Chrome) -> WebElement:
    """Return the slider of the first card after its images have loaded."""
    handle = one(browser, ".card .handle")
    browser.execute_script("arguments[0].closest('.card').scrollIntoView({block: 'center'})", handle)
    pictures = "return [...document.querySelector('.card').querySelectorAll('.layer img:not([hidden])')]"
    loaded = f"{pictures}.length > 1 && {pictures[7:]}.every(i => i.complete && i.naturalWidth)"
    WebDriverWait(browser, 10).until(lambda b: b.execute_script(loaded))
    return handle


def split(browser: Chrome) -> tuple[int, str, str]:
    """Return the value of the slider, its position, and the clip of the upper image."""
    return browser.execute_script(
        "const c = document.querySelector('.card'), h = c.querySelector('.handle');"
        "return [Number(h.getAttribute('aria-valuenow')), h.style.left, c.querySelector('.layer.right').style.clipPath]"
    )


def test_the_split_follows_the_mouse(browser: Chrome):
    handle = first_handle(browser)
    assert split(browser) == [50, "50%", "inset(0px 0px 0px 50%)"]
    width = one(browser, ".card .frame").size["width"]
    ActionChains(browser).click_and_hold(handle).move_by_offset(round(width * 0.25), 10).release().perform()
    value, left, clip = split(browser)
    assert 74 <= value <= 76
    assert clip == f"inset(0px 0px 0px {left})"


def test_the_split_follows_the_keys(browser: Chrome):
    handle = first_handle(browser)
    handle.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert split(browser) == [53, "53%", "inset(0px 0px 0px 53%)"]
    handle.send_keys(Keys.HOME)
    assert split(browser)[0] == 0
    handle.send_keys(Keys.SPACE)
    assert split(browser)[0] == 100


def test_the_tab_key_focuses_the_slider_visibly(browser: Chrome):
    browser.execute_script("document.querySelector('.swap').focus()")
    for _ in range(12):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        active = browser.switch_to.active_element
        if active.get_attribute("role") == "slider":
            break
    assert active.get_attribute("role") == "slider"
    assert "AVIF on the left and sdcodec on the right" in active.get_attribute("aria-label")
    knob = active.find_element(By.CSS_SELECTOR, ".knob")
    assert knob.value_of_css_property("outline-style") == "solid"


def test_a_double_click_zooms_to_pixels_and_keys_move_the_image(browser: Chrome):
    first_handle(browser)
    frame, image = one(browser, ".card .frame"), one(browser, ".card .layer.left img")
    assert image.value_of_css_property("image-rendering") == "auto"
    ActionChains(browser).move_to_element_with_offset(frame, -100, 0).double_click().perform()
    assert image.value_of_css_property("image-rendering") == "pixelated"
    assert image.size["width"] == 8 * 128
    before = image.get_attribute("style")
    frame.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert image.get_attribute("style") != before
    assert image.get_attribute("style") == one(browser, ".card .layer.right img").get_attribute("style")
    frame.send_keys(Keys.ESCAPE)
    assert image.value_of_css_property("image-rendering") == "auto"


def test_another_codec_and_size_can_be_chosen(browser: Chrome):
    first_handle(browser)
    before = one(browser, ".card .layer.left img").get_attribute("src")
    Select(one(browser, "[name=left]")).select_by_visible_text("Original")
    assert one(browser, ".card .layer.left img").get_attribute("src") != before
    assert one(browser, ".card .tag.left").text == "Original"
    Select(one(browser, "[name=left]")).select_by_visible_text("JPEG")
    one(browser, "[name=point][value='500']").send_keys(Keys.SPACE)
    absent = one(browser, ".card .layer.left .absent")
    assert absent.is_displayed() and absent.text.startswith("JPEG cannot reach ")
    assert not one(browser, ".card .layer.left img").is_displayed()


def test_a_file_over_budget_is_shown_as_such(browser: Chrome, evaluated: Path, tmp_path: Path):
    folder = Path(shutil.copytree(evaluated, tmp_path / "results"))
    lines = (folder / "results.csv").read_text(encoding="utf-8").splitlines()
    beyond = next(line for line in lines if ",unreachable," in line and line.startswith("ear,jpeg,"))
    longer = next(line for line in lines if line.startswith("ear,jpeg,") and ",1000," in line)
    cells = dict(zip(lines[0].split(","), longer.split(","), strict=True))
    cells |= {"budget_bytes": "500", "limit_bytes": "499", "status": "unreachable"}
    text = "\n".join(",".join(cells.values()) if line == beyond else line for line in lines)
    (folder / "results.csv").write_text(text, encoding="utf-8")
    browser.get(write_report(folder).resolve().as_uri())
    Select(one(browser, "[name=left]")).select_by_visible_text("JPEG")
    one(browser, "[name=point][value='500']").send_keys(Keys.SPACE)
    tag = one(browser, "#image-ear .tag.left")
    assert tag.text == f"JPEG · {int(cells['bytes']):,} B, over budget"


def test_left_and_right_can_be_swapped(browser: Chrome):
    first_handle(browser)
    left = one(browser, ".card .layer.left img").get_attribute("src")
    right = one(browser, ".card .layer.right img").get_attribute("src")
    one(browser, ".swap").click()
    assert one(browser, ".card .layer.left img").get_attribute("src") == right
    assert one(browser, ".card .layer.right img").get_attribute("src") == left


def test_the_original_can_be_shown(browser: Chrome):
    handle = first_handle(browser)
    original = one(browser, ".card .layer.original")
    assert not original.is_displayed()
    handle.send_keys("o")
    assert original.is_displayed()
    one(browser, ".card .peek").click()
    assert not original.is_displayed()


def test_images_are_in_the_selected_order(browser: Chrome):
    def values() -> list[float]:
        cells = ".card tbody tr:first-child td:nth-child(3)"  # read at once: cards near the screen are filled again
        return browser.execute_script(
            f"return [...document.querySelectorAll('{cells}')].map(c => Number(c.textContent))"
        )

    lpips = values()
    assert lpips == sorted(lpips, reverse=True) and len(lpips) == 2
    Select(one(browser, "[name=metric]")).select_by_value("")
    assert [name.text for name in browser.find_elements(By.CSS_SELECTOR, ".card h3 .name")] == ["ear", "eye"]


def column(browser: Chrome, number: int) -> list[str]:
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, f"#means tbody tr > :nth-child({number})")]


def test_a_table_sorts_by_click_and_by_key(browser: Chrome):
    head = one(browser, "#means thead th:nth-child(4) button")
    before = column(browser, 4)
    head.click()
    assert one(browser, "#means thead th:nth-child(4)").get_attribute("aria-sort") == "ascending"
    reached = [float(text) for text in column(browser, 4) if text != "–"]
    assert reached == sorted(reached) and column(browser, 4) != before
    assert column(browser, 4)[len(reached) :] == ["–"] * (len(before) - len(reached))
    head.send_keys(Keys.ENTER)
    assert one(browser, "#means thead th:nth-child(4)").get_attribute("aria-sort") == "descending"
    reached = [float(text) for text in column(browser, 4) if text != "–"]
    assert reached == sorted(reached, reverse=True)
    assert column(browser, 4)[len(reached) :] == ["–"] * (len(before) - len(reached))


def test_every_row_can_be_opened_and_filtered(browser: Chrome):
    details = one(browser, "#rows")
    details.find_element(By.TAG_NAME, "summary").click()
    WebDriverWait(browser, 5).until(lambda b: details.find_element(By.TAG_NAME, "output").text)
    assert details.find_element(By.TAG_NAME, "output").text == "27 of 27 rows"
    details.find_element(By.TAG_NAME, "input").send_keys("eye avif")
    assert details.find_element(By.TAG_NAME, "output").text == "3 of 27 rows"


def test_the_theme_follows_the_system_and_the_button(browser: Chrome):
    def paper() -> str:
        return one(browser, "body").value_of_css_property("background-color")

    light = paper()
    emulate(browser, dark=True)
    dark = paper()
    assert dark != light
    one(browser, ".theme").click()
    assert paper() == light
    one(browser, ".theme").send_keys(Keys.ENTER)
    assert paper() == dark
    browser.execute_script("localStorage.clear()")


def test_pointer_and_keys_show_the_values_of_a_point(browser: Chrome):
    chart = one(browser, ".chart[data-metric=lpips_alex] svg")
    tip = one(browser, ".chart[data-metric=lpips_alex] .tip")
    browser.execute_script("arguments[0].focus()", chart)
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    first = tip.text
    assert first.startswith("sdcodec\nLPIPS-Alex ") and "bpp" in first and "2 of 2 images" in first
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    assert tip.text.startswith("sdcodec\n") and tip.text != first
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not tip.is_displayed()
    marker = one(browser, ".chart[data-metric=lpips_alex] .series-0 .marker")
    ActionChains(browser).move_to_element(marker).perform()
    assert tip.text.startswith("sdcodec\n")


def test_a_curve_can_be_hidden(browser: Chrome):
    key = one(browser, ".legend .key.codec")
    assert browser.find_elements(By.CSS_SELECTOR, ".chart .curve.codec.series-0")
    key.click()
    assert key.get_attribute("aria-pressed") == "false"
    assert not browser.find_elements(By.CSS_SELECTOR, ".chart .curve.codec.series-0")


def test_a_phone_scrolls_vertically_only(browser: Chrome):
    emulate(browser, width=390, height=844)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    first_handle(browser)
    assert one(browser, ".card .frame").size["width"] > 340
