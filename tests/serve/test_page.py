"""The page in a real browser: it asks, classifies, fills and continues, from the keyboard, and on a phone."""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.conftest import Server

playwright: Any = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    playwright.expect.set_options(timeout=60_000)
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    made = browser.new_page(viewport={"width": 390, "height": 800})
    made.faults = []
    made.outside = []
    made.on("pageerror", lambda error: made.faults.append(str(error)))
    made.on("console", lambda line: made.faults.append(line.text) if line.type == "error" else None)
    made.on("request", lambda request: made.outside.append(request.url) if server.url not in request.url else None)
    made.goto(server.url)
    made.get_by_role("tab", name="Ask").wait_for()
    yield made
    assert made.faults == [] and [url for url in made.outside if not url.startswith("data:")] == []
    made.close()


def done(page: Any, kind: str) -> str:
    """Wait for the time under the answer; it."""
    time = page.locator(f"#{kind} .time")
    playwright.expect(time).to_have_text(re.compile("^(?:first after )?[0-9]+ ms"))  # the page forbids scripts to wait
    told: str = time.inner_text()
    return told


def test_an_answer_is_marked_in_the_text(page: Any, server: Server) -> None:
    """Where it stands, past characters that a browser counts twice."""
    context = "🦜🏽 Zoë lit the 灯 in 1811, and left."
    page.fill("#ask textarea, #answer textarea", context)
    page.fill("#answer input[name=question]", "Who?")
    page.press("#answer input[name=question]", "Enter")
    assert done(page, "answer").endswith("ms")
    right = server.post("/answer", question="Who?", context=context).json()["text"]
    assert page.locator("#answer output mark").inner_text() == right
    assert page.locator("#answer output").inner_text() == context


def test_classes_are_bars(page: Any) -> None:
    page.get_by_role("tab", name="Ask").press("ArrowRight")
    page.press("#classify input[name=text]", "Enter")
    done(page, "classify")
    assert page.locator("#classify .bar").count() == 3
    widths = [
        float(bar.evaluate("bar => bar.style.width.replace('%', '')")) for bar in page.locator("#classify .bar i").all()
    ]
    assert sum(widths) == pytest.approx(100, abs=0.1) and widths == sorted(widths, reverse=True)


def test_masks_and_texts(page: Any) -> None:
    page.get_by_role("tab", name="Fill").click()
    page.press("#fill input[name=text]", "Control+Enter")
    done(page, "fill")
    assert page.locator("#fill .bar").count() == 5
    page.get_by_role("tab", name="Continue").click()
    page.press("#complete textarea", "Control+Enter")
    assert "in all" in done(page, "complete")
    playwright.expect(page.locator("#complete .go")).to_have_text("Continue")
    assert len(page.locator("#complete output mark").inner_text()) > 20


def test_vectors_are_near_or_far(page: Any, server: Server) -> None:
    page.get_by_role("tab", name="Embed").click()
    page.fill("#embed textarea", "a cat\n\na cat\nstocks fell")
    page.press("#embed textarea", "Control+Enter")
    done(page, "embed")
    a, b = server.post("/embed", texts=["a cat", "stocks fell"], model="plain").json()["vectors"]
    cosine = sum(x * y for x, y in zip(a, b, strict=True))
    shown = [float(bar.inner_text()) for bar in page.locator("#embed .bar span:last-child").all()]
    assert shown == pytest.approx([1, 1, cosine], abs=1e-3)


def test_an_error_is_told(page: Any) -> None:
    page.get_by_role("tab", name="Fill").click()
    page.fill("#fill input[name=text]", "nothing to guess")
    page.press("#fill input[name=text]", "Enter")
    page.locator("#fill .bad").wait_for()
    assert "the text has no [MASK]" in page.locator("#fill .bad").inner_text()
    page.faults = [fault for fault in page.faults if "400" not in fault]  # the browser's own line about the status


def test_it_fits_a_phone(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.querySelectorAll('input:not([aria-label]), textarea').length"
                         " === document.querySelectorAll('label input, label textarea').length")  # fmt: skip


def test_the_interface_is_described(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/docs")
    page.get_by_role("heading", name="POST /answer").wait_for()
