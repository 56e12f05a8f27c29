"""Models as web pages: the folder, the page in a browser, and what is read there.

Most tests put a stub in the place of the runtime. The one with the mark `network` downloads it.
"""

import base64
import functools
import http.server
import io
import itertools
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageCms
from playwright.sync_api import Browser, FilePayload, Page, expect, sync_playwright

from crnn_jax.data.images import Preprocessing, decode
from crnn_jax.exporting import web
from crnn_jax.exporting.contents import DESCRIPTION
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.trained_model import TrainedModel
from tests.test_report_page import EXECUTABLE

IMAGES = sorted((Path(__file__).parent / "data" / "captcha_keras_v2" / "images").glob("*.png"))
LABEL = "226md"  # of the first image
PAGE = Path(web.__file__).parent / "page"

expect.set_options(timeout=30_000)  # a machine may have more to do

needs_browser = pytest.mark.skipif(not EXECUTABLE, reason="no Chromium on this machine")

STUB = """
export const env = { wasm: {} };
export class Tensor { constructor(...parts) { [this.type, this.data, this.dims] = parts; } }
const logs = [0.5, 0.9, 0.75, 0.25, 0.5, 0.5].map(Math.log);
const run = async ({ images }) => {
  globalThis.images = images;
  return {
    classes: { data: Int32Array.of(0, 2, 2, 0, 2, 1) },
    log_probabilities: { data: Float32Array.from(logs) },
    confidence: { data: Float32Array.of(0.625) },
  };
};
export const InferenceSession = { create: async () => ({ run }) };
"""
"""A runtime that reads `bba` in each image, and keeps the image."""


def test_a_folder_has_the_page_the_model_and_the_runtime_with_its_license(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "read_package", lambda _, names: [name.encode() for name in names])
    form = web.WebFormat()
    form.write(TrainedModel.load("captcha"), tmp_path, [])
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert found == {
        *(path.name for path in PAGE.iterdir()),
        *("README.md", "model.json", "model.onnx", "onnxruntime/ThirdPartyNotices.txt"),
        *(f"onnxruntime/{name}" for name in web.RUNTIME_FILES),
    }
    runtime = tmp_path / "onnxruntime"
    assert (runtime / web.RUNTIME_FILES[0]).read_text() == "dist/ort.wasm.bundle.min.mjs"
    assert (runtime / "LICENSE").read_text().startswith("MIT License")
    with Image.open(IMAGES[0]) as image:
        outputs = form.load(tmp_path)(np.asarray(image.convert("RGB"))[None])
    characters = json.loads((tmp_path / DESCRIPTION).read_text())["characters"]
    text = "".join(characters[k - 1] for k, _ in itertools.groupby(outputs.classes[0]) if k)
    assert text == LABEL


def test_the_program_has_forty_lines() -> None:
    assert len((PAGE / "reader.mjs").read_text(encoding="utf-8").splitlines()) <= 40


# --- the page ---


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """That of `python -m http.server`, without its messages."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE)
        yield browser
        browser.close()


def served(folder: Path) -> Iterator[str]:
    """The address of a folder on a server of static files."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with the stub."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(PAGE, folder, dirs_exist_ok=True)
    (folder / "onnxruntime").mkdir()
    (folder / "onnxruntime" / web.RUNTIME_FILES[0]).write_text(STUB, encoding="utf-8")
    description = {"name": "stub", "step": 7, "characters": "ab"}
    (folder / DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def address(stub: Path) -> Iterator[str]:
    yield from served(stub)


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A tab; the page must not complain, nor ask another server for anything."""
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: check(request.url))

    def check(url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "blob:", "data:")):
            problems.append(url)

    yield page
    context.close()
    assert not problems


def payload(file: Path | FilePayload) -> FilePayload:
    if isinstance(file, Path):
        return {"name": file.name, "mimeType": "image/png", "buffer": file.read_bytes()}
    return file


def choose(page: Page, *files: Path | FilePayload) -> None:
    page.locator("#file").set_input_files([payload(file) for file in files])
    finished(page)


def finished(page: Page) -> None:
    expect(page.locator(".card:not([aria-busy])").first).to_be_visible()
    expect(page.locator(".card[aria-busy]")).to_have_count(0)


def transfer(page: Page, event: Literal["drop", "paste"], *files: Path) -> None:
    """Drops or pastes files, as browsers do it."""
    page.evaluate(
        """([event, files]) => {
          const transfer = new DataTransfer();
          for (const [name, content] of files) {
            const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
            transfer.items.add(new File([bytes], name));
          }
          const what = event === "drop"
            ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
          document.querySelector("#zone").dispatchEvent(what);
        }""",
        [event, [(file.name, base64.b64encode(file.read_bytes()).decode()) for file in files]],
    )


def results(page: Page) -> list[tuple[str, float]]:
    """The texts on the page and their confidences, from above."""
    cards = page.locator(".card:not(.failed)")
    texts = cards.locator(".text").all_inner_texts()
    values = cards.locator(".confidence data").evaluate_all("all => all.map((one) => one.value)")
    return list(zip(texts, map(float, values), strict=True))


NO_IMAGE: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"}


@needs_browser
def test_what_is_read_is_shown(tab: Page, address: str) -> None:
    tab.goto(address)
    expect(tab.get_by_role("status")).to_have_text("Ready.")
    expect(tab.locator("#model")).to_have_text("stub, step 7")
    choose(tab, IMAGES[0])
    assert results(tab) == [("bba", 0.625)]
    expect(tab.get_by_role("status")).to_have_text("bba, confidence 62.5%")
    expect(tab.get_by_role("heading", level=3)).to_have_text(IMAGES[0].name)
    characters = tab.get_by_role("list", name="Characters").locator("li")
    assert [" ".join(text.split()) for text in characters.all_inner_texts()] == [
        *("b 90%", "b 50%", "a 50%")
    ]
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.get_by_role("button", name="Copy").click()
    expect(tab.get_by_role("button", name="Copied")).to_be_visible()
    assert tab.evaluate("navigator.clipboard.readText()") == "bba"


@needs_browser
def test_the_text_is_copied_where_the_clipboard_is_refused(tab: Page, address: str) -> None:
    """By the older command; where that is refused, too, the text is at least selected."""
    tab.goto(address)
    choose(tab, IMAGES[0])
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.evaluate(
        """async () => {
          await navigator.clipboard.writeText("before");
          navigator.clipboard.writeText = async () => { throw new DOMException("no"); };
        }"""
    )
    tab.get_by_role("button", name="Copy").click()
    expect(tab.get_by_role("button", name="Copied")).to_be_visible()
    assert tab.evaluate("navigator.clipboard.readText()") == "bba"
    tab.evaluate("() => { getSelection().empty(); document.execCommand = () => false; }")
    tab.get_by_role("button", name="Copied").click()
    expect(tab.get_by_role("alert")).to_contain_text("refused to copy")
    assert tab.evaluate("String(getSelection())") == "bba"


@needs_browser
def test_images_are_chosen_dropped_and_pasted(tab: Page, address: str) -> None:
    """The newest are above; a file that is no image does not stop the others."""
    tab.goto(address)
    choose(tab, IMAGES[0], NO_IMAGE, IMAGES[1])
    expect(tab.get_by_role("status")).to_have_text("2 of 3 images read.")
    transfer(tab, "drop", *IMAGES[2:4])
    transfer(tab, "paste", IMAGES[4])
    finished(tab)
    order = [IMAGES[4].name, IMAGES[2].name, IMAGES[3].name]
    order += [IMAGES[0].name, "notes.txt", IMAGES[1].name]
    assert tab.get_by_role("heading", level=3).all_inner_texts() == order
    assert len(results(tab)) == 5
    failed = tab.locator(".failed")
    assert failed.inner_text().splitlines()[-1] == (
        "The browser cannot open this file; choose a PNG, JPEG or WebP image that is not too large."
    )
    for event in ("drop", "paste"):
        transfer(tab, event)
        assert re.search("clipboard|dropped", tab.get_by_role("alert").inner_text())
    assert len(tab.locator(".card").all()) == 6
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Choose images").press("Enter")
    assert chooser.value.is_multiple()
    tab.set_viewport_size({"width": 390, "height": 800})
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Take a photo").click()
    assert chooser.value.element.get_attribute("capture") == "environment"


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def kinds() -> dict[str, tuple[bytes, int]]:
    """Image files, and by how much pixels may differ from those of Pillow."""
    colors = Image.merge("RGB", [Image.open(path).convert("L") for path in IMAGES[:3]])
    turned = Image.Exif()
    turned[0x112] = 6  # orientation: turn it by 90 degrees
    # A color profile by which red and blue are swapped.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = re.sub(rb"[rb]XYZ", lambda tag: b"bXYZ" if tag[0] == b"rXYZ" else b"rXYZ", profile)
    holes = colors.copy()
    light = Image.open(IMAGES[3]).convert("L")
    holes.putalpha(light.point([0] * 128 + [255] * 128))
    glass = colors.copy()
    glass.putalpha(light)
    palette = colors.quantize(16)
    return {
        "gray.png": (encoded(colors.convert("L"), "PNG"), 0),
        "colors.png": (encoded(colors, "PNG", icc_profile=profile), 0),
        "palette.png": (encoded(palette, "PNG", transparency=3), 0),
        "holes.png": (encoded(holes, "PNG"), 0),
        "glass.png": (encoded(glass, "PNG"), 1),
        "colors.webp": (encoded(colors, "WEBP", lossless=True), 0),
        "turned.jpg": (encoded(colors, "JPEG", exif=turned), 0),
        "animation.gif": (encoded(palette, "GIF", save_all=True, append_images=[palette]), 0),
    }


@needs_browser
def test_the_network_gets_the_pixels_that_pillow_has(tab: Page, address: str) -> None:
    """Also of files with transparency, a color profile, or the order to turn the image."""
    tab.goto(address)
    for name, (content, tolerance) in kinds().items():
        choose(tab, {"name": name, "mimeType": "", "buffer": content})
        kind, size, data = tab.evaluate(
            "[images.type, images.dims, btoa(String.fromCharCode(...images.data))]"
        )
        pixels = np.frombuffer(base64.b64decode(data), np.uint8).reshape(size)[0]
        expected = np.asarray(decode(content, Preprocessing(channels=3), name)).astype(int)
        assert kind == "uint8" and pixels.shape == expected.shape, name
        assert np.abs(pixels - expected).max() <= tolerance, name


@needs_browser
def test_large_photos_are_made_smaller(tab: Page, address: str) -> None:
    """Those of a size that resizing has memory for stay as they are."""
    tab.goto(address)
    for size, expected in (
        ((3000, 2000), [1, 1633, 2450, 3]),
        ((20_000, 10), [1, 9, 16_384, 3]),
    ):
        photo = encoded(Image.new("L", size), "PNG")
        choose(tab, {"name": "photo.png", "mimeType": "image/png", "buffer": photo})
        assert tab.evaluate("images.dims") == expected


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_inaccessible(scheme: Literal["light", "dark"], tab: Page, address: str) -> None:
    """By the rules of axe-core, contrast included: before, and with results and errors."""
    tab.emulate_media(color_scheme=scheme)
    tab.goto(address)
    for full in (False, True):
        if full:
            choose(tab, IMAGES[0], NO_IMAGE)
            transfer(tab, "paste")
        found = Axe().run(tab)
        assert not found.response["violations"], found.generate_report()


@needs_browser
def test_a_phone_scrolls_down_only(tab: Page, address: str) -> None:
    tab.goto(address)
    choose(tab, IMAGES[0], {"name": "long" * 50, "mimeType": "", "buffer": b""})
    tab.evaluate("document.querySelector('.text').textContent = 'W'.repeat(200)")
    for width in (320, 360, 390, 620, 1280):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") == width


@needs_browser
def test_a_page_opened_as_a_file_says_what_to_do(browser: Browser, stub: Path) -> None:
    page = browser.new_page()
    page.goto((stub / "index.html").as_uri())
    expect(page.get_by_role("alert")).to_contain_text("run python -m http.server")
    expect(page.get_by_role("button")).to_have_count(0)
    page.close()


@needs_browser
def test_a_model_that_cannot_be_loaded(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.route("**/model.json", lambda route: route.fulfill(status=404, body="nothing here"))
    page.goto(address)
    expect(page.get_by_role("alert")).to_contain_text("The model could not be loaded")
    expect(page.get_by_role("status")).to_have_text("")
    page.close()


# --- the page with its runtime ---


@pytest.mark.network
@needs_browser
def test_the_browser_reads_what_python_reads(tab: Page, tmp_path: Path) -> None:
    model = TrainedModel.load("captcha")
    web.WebFormat().write(model, tmp_path, [])
    recognizer = Recognizer(model)
    files = IMAGES[:20]
    for name, (content, _) in kinds().items():
        files.append(tmp_path / name)
        files[-1].write_bytes(content)
    expected = [(one.text, one.confidence) for one in recognizer(files)]
    assert len({text for text, _ in expected}) > 20

    for address in served(tmp_path):
        tab.goto(address)
        expect(tab.get_by_role("status")).to_have_text("Ready.")
        for way in ("choose", "drop", "paste"):
            tab.reload()
            if way == "choose":
                choose(tab, *files)
            else:
                transfer(tab, way, *files)
                finished(tab)
            found = results(tab)
            assert [text for text, _ in found] == [text for text, _ in expected]
            for (text, one), (_, other) in zip(found, expected, strict=True):
                assert one == pytest.approx(other, abs=1e-3), text
        axe = Axe().run(tab)
        assert not axe.response["violations"], axe.generate_report()
