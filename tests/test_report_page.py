"""The pages of reports in a browser: what is shown, filters and sorting, themes, accessibility."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from crnn_jax.reports.comparison import compare, comparison_page
from crnn_jax.reports.page import report_page
from crnn_jax.reports.schema import Report
from tests.test_reports import HOSTILE, make_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
EXECUTABLE = next((path for name in BROWSERS if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(not EXECUTABLE, reason="no Chromium on this machine")

Open = Callable[..., Page]

LABELS = ["abc", "abd", "hello", "x", "00", "o0", "abc", "l1I", "zz top", "end"]
TEXTS = ["abc", "abb", "hallo", "x", "oo", "o0", "abc", "l11", "zztop", "end"]
CONFIDENCES = [0.99, 0.9, 0.6, 0.95, 0.2, 0.8, 0.97, 0.4, 0.3, 1.0]
CURVES = [
    *(f'{{"step": {step}, "split": "train", "loss": {10 / step}}}' for step in range(1, 30)),
    *(
        f'{{"step": {step}, "split": "validation", "loss": 1, "exact_match": 0.5, "cer": 0.2}}'
        for step in range(10, 30, 5)
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(reduced_motion="reduce")
    yield context.new_page()
    context.close()


@pytest.fixture
def show(tab: Page, tmp_path: Path) -> Iterator[Open]:
    """Opens a page; at the end no page may have complained, or asked for another file."""
    file = tmp_path / "index.html"
    problems: list[str] = []
    listeners: dict[Any, Callable[[Any], None]] = {
        "console": lambda message: problems.append(message.text),
        "pageerror": lambda error: problems.append(str(error)),
        "request": lambda request: requested(request.url),
    }

    def requested(url: str) -> None:
        if url != file.as_uri() and not url.startswith("data:image/jpeg;"):
            problems.append(url)

    def open_page(html: str, width: int = 1280, scheme: Literal["light", "dark"] = "light") -> Page:
        file.write_text(html, encoding="utf-8")
        tab.set_viewport_size({"width": width, "height": 800})
        tab.emulate_media(color_scheme=scheme)
        tab.goto(file.as_uri())
        return tab

    for event, listener in listeners.items():
        tab.on(event, listener)
    yield open_page
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    tab.evaluate("localStorage.clear()")
    assert not problems


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report(LABELS, TEXTS, CONFIDENCES, CURVES)


def shown(page: Page) -> list[str]:
    """The labels of the images that can be seen, in their order."""
    return page.locator(".card:visible dl > div:first-child .text").all_inner_texts()


def labels(report: Report, order: Callable[[int], float], right: bool = False) -> list[str]:
    """The labels of the wrong images, or of the right ones, in an order."""
    places = [i for i, one in enumerate(report.results) if one.right is right]
    return [report.results[place].label for place in sorted(places, key=order)]


def test_images_are_filtered_and_ordered(show: Open, report: Report) -> None:
    page = show(report_page(report))
    by_confidence = labels(report, lambda i: report.results[i].confidence)
    worst = shown(page)
    assert worst[0] == "00" and sorted(worst) == sorted(by_confidence)
    status = page.get_by_role("status")
    assert status.inner_text() == "5 images shown"
    page.get_by_label("Order").select_option("unsure")
    assert shown(page) == by_confidence
    page.get_by_label("Order").select_option("sure")
    assert shown(page) == by_confidence[::-1]
    page.get_by_role("combobox", name="Length").select_option("3")
    assert shown(page) == ["abd", "l1I"]
    page.get_by_label("Show").select_option("right")
    assert sorted(shown(page)) == ["abc", "abc", "end"]
    page.get_by_role("combobox", name="Length").select_option("")
    page.get_by_label("Show").select_option("all")
    page.get_by_label("Search").fill("HALLO")
    assert shown(page) == ["hello"] and status.inner_text() == "1 image shown"
    page.get_by_label("Search").fill("00004.png")  # a name
    assert shown(page) == ["00"]
    page.get_by_label("Search").fill("nothing of the kind")
    assert shown(page) == [] and "No image fits" in status.inner_text()


def test_a_mistake_leads_to_its_images(show: Open, report: Report) -> None:
    page = show(report_page(report))
    page.get_by_label("Search").fill("x")
    page.get_by_role("button", name="0 as o").click()
    assert shown(page) == ["00"]
    mistake = page.get_by_label("Mistake")
    assert mistake.evaluate("one => one.selectedOptions[0].text") == "0 as o (2)"
    mistake.select_option(label="␣ left out (1)")
    assert shown(page) == ["zz top"]


def test_more_images_are_shown_on_demand(show: Open) -> None:
    page = show(report_page(make_report(["ab"] * 30, ["ac"] * 30)))
    assert len(shown(page)) == 24 and page.get_by_role("status").inner_text() == (
        "24 of 30 images shown"
    )
    page.get_by_role("button", name="Show more").click()
    assert len(shown(page)) == 30
    assert page.evaluate("document.activeElement.dataset.index") == "24"
    assert not page.get_by_role("button", name="Show more").is_visible()


def test_tables_are_sorted(show: Open, report: Report) -> None:
    page = show(report_page(report))
    table = page.get_by_role("table", name="Precision and recall of every character")
    heading = table.get_by_role("columnheader", name="In labels")

    def column(place: int) -> list[str]:
        return table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()

    before = column(1)
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    counts = list(map(int, column(2)))
    assert counts == sorted(counts, reverse=True) and counts != list(map(int, sorted(column(2))))
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert list(map(int, column(2))) == sorted(counts)
    table.get_by_role("columnheader", name="Character").get_by_role("button").click()
    assert column(1) == before and heading.get_attribute("aria-sort") is None


def test_images_load_and_have_the_proportions_of_their_files(show: Open, report: Report) -> None:
    page = show(report_page(report))
    page.get_by_label("Show").select_option("all")
    sizes = page.evaluate(
        "Promise.all([...document.images].map((one) => one.decode().then(() =>"
        " [one.naturalWidth, one.naturalHeight, one.clientWidth / one.clientHeight])))"
    )
    assert len(sizes) == len(LABELS)
    for place, (width, height, proportions) in enumerate(sorted(sizes)):
        assert width > 0 and height == 20
        assert proportions == pytest.approx((60 + place) / 20, rel=0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_inaccessible(
    scheme: Literal["light", "dark"], show: Open, report: Report
) -> None:
    """By the rules of axe-core, contrast included; with all tables and images shown."""
    other = make_report(LABELS, LABELS[:-3] + TEXTS[-3:])
    for html in (report_page(report), comparison_page(compare(report, other))):
        page = show(html, scheme=scheme)
        page.get_by_label("Show").select_option("all")
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        found = Axe().run(page)
        assert not found.response["violations"], found.generate_report()


def test_the_theme_is_the_systems_until_it_is_chosen(show: Open, report: Report) -> None:
    page = show(report_page(report), scheme="dark")
    button = page.get_by_role("button", name="Dark")
    color = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(color)
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and page.evaluate(color) != dark
    page.reload()
    assert page.evaluate(color) != dark


LONG = "w" * 400
PAGES = {
    "usual": lambda: make_report(LABELS, TEXTS, CONFIDENCES, CURVES),
    "no mistakes": lambda: make_report(LABELS, LABELS),
    "one image": lambda: make_report(["ab"], ["ab"]),
    "unreadable": lambda: make_report(["ab"], [None]),
    "hostile": lambda: make_report(HOSTILE, [f"{text}x" for text in HOSTILE], names=HOSTILE),
    "long": lambda: make_report([LONG, "a"], ["a", LONG], names=[LONG, "a/" * 300], model=LONG),
    "other scripts": lambda: make_report(
        ["京A12345", "שלום עולם", "مرحبا"], ["京A1234S", "שלום עולס", "مرحب"], CONFIDENCES[:3]
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_scrolls_down_only(name: str, show: Open) -> None:
    report = PAGES[name]()
    for html in (report_page(report), comparison_page(compare(report, report))):
        page = show(html, width=360)
        if page.get_by_label("Show").count():
            page.get_by_label("Show").select_option("all")
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        for width in (320, 360, 390, 620):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.get_by_role("heading", level=1).count() == 1


def test_without_a_script_everything_is_shown(browser: Browser, report: Report) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(report_page(report))
    assert page.locator(".card:visible").count() == len(LABELS)
    assert not page.get_by_label("Search").is_visible()
    context.close()


def test_texts_from_right_to_left_stay_in_their_place(show: Open) -> None:
    """The direction of one text does not change that of what stands around it."""
    page = show(report_page(PAGES["other scripts"]()))
    boxes = page.locator(".card:visible .text").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).unicodeBidi)"
    )
    assert set(boxes) == {"isolate"}
