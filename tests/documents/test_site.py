"""The built site: no warning, no dead link, signatures as in the code; a browser clicks through it, searches, and narrows it."""

from __future__ import annotations

import functools
import http.server
import importlib
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from enum import IntEnum
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from test_reference import NAMES, UNSEEN, found

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("sphinx", "myst_parser", "furo", "sphinx_copybutton", "sphinx_gallery")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
EXTERNAL = re.compile(r"https?://[\w-]+(\.[\w-]+)+(:\d+)?(/[\w.~/%+:@=,-]*)?(\?[\w=&%.+-]*)?(#[\w.-]+)?")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f'pip install "dcl-layers[docs]": {", ".join(MISSING)} not installed'),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site without the output of its gallery, whose examples have tests of their own. A warning is an error."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *["-W", "--keep-going", "-n", "-q", "-b", "html", "-D", "plot_gallery=0", "docs"], out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


class Page(HTMLParser):
    """ids, links, and for each documented name the parameters of the signatures shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.signatures: dict[str, list[list[str]]] = {}
        self._name, self._parameter = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if "id" in given:
            self.ids.add(given["id"])
        self.links += [given[name] for name in ("href", "src") if name in given]
        if tag == "dt" and "sig" in given.get("class", ""):
            self._name = given.get("id", self._name)
            self.signatures.setdefault(self._name, []).append([])
        if tag == "em" and "sig-param" in given.get("class", ""):
            self._parameter = True

    def handle_data(self, data: str) -> None:
        name = data.strip()
        if self._parameter and name.isidentifier():
            self.signatures[self._name][-1].append(name)
            self._parameter = False


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_no_link_is_dead(pages: dict[Path, Page]) -> None:
    dead, links = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                if not EXTERNAL.fullmatch(link):
                    dead.append(f"{path.name}: {link} is no address")
                continue
            if parts.scheme in ("data", "mailto") or not link.strip("#"):
                continue
            links += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                dead.append(f"{path.name}: {link} leads nowhere")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in pages[target].ids:
                dead.append(f"{path.name}: {link}: no such place on the page")
    assert not dead
    assert links > 1000


def test_every_page_can_be_reached(site: Path, pages: dict[Path, Page]) -> None:
    seen, todo = set(), [site / "index.html"]
    while todo:
        path = todo.pop()
        if path in seen or path not in pages:
            continue
        seen.add(path)
        todo += [
            (path.parent / unquote(urlsplit(link).path)).resolve() for link in pages[path].links if ".html" in link
        ]
    assert set(pages) - seen <= {site / "search.html", site / "genindex.html", site / "py-modindex.html"}


def test_signatures_are_those_of_the_code(pages: dict[Path, Page]) -> None:
    shown: dict[str, list[list[str]]] = {}
    for page in pages.values():
        shown |= page.signatures
    compared = 0
    for name in NAMES:
        assert name in shown, f"{name} is on no page"
        members = [key for key in shown if key.startswith(f"{name}.")]
        for full in (name, *members):
            thing: Any = found(name)
            thing = thing if full == name else getattr(thing, full.rsplit(".", 1)[1])
            if inspect.isclass(thing) and issubclass(thing, IntEnum):
                continue
            function = thing.__init__ if inspect.isclass(thing) else thing
            if not inspect.isfunction(function) or not any(shown[full]):
                continue
            parameters = [p for p in inspect.signature(function).parameters if p not in UNSEEN]
            for one in shown[full]:
                assert one == parameters, full
                compared += 1
    assert compared > 60


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium, or no chromedriver, is installed")
    pytest.importorskip("selenium")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    flags = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    for flag in (*flags.split(), "disable-component-update", "disable-sync", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chromium.implicitly_wait(20)
    yield chromium
    chromium.quit()


def sized(browser: Any, width: int) -> None:
    browser.set_window_size(width, 900)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}  # windows have a least width
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_navigation(browser: Any, address: str) -> None:
    sized(browser, 1280)
    browser.get(f"{address}/index.html")
    assert browser.find_element("tag name", "h1").text.startswith("dcl: differentiable")
    assert browser.execute_script("return document.querySelector('article img').naturalWidth") > 0
    way = [
        "Quickstarts",
        "A quant with pandas",
        "Reference",
        "Layers",
        "Lessons: the derivative of an argmin",
        "5. Inequalities",
    ]
    for link in way:
        browser.find_element("css selector", ".sidebar-tree").find_element("link text", link).click()
        assert browser.find_element("tag name", "h1").text.startswith(link.split(":")[0])
    assert browser.find_elements("tag name", "math")
    following = browser.find_element("css selector", "a.next-page")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", following)
    following.click()
    assert browser.find_element("tag name", "h1").text.startswith("6. Bilevel")
    assert browser.get_log("browser") == []


def test_search(browser: Any, address: str) -> None:
    sized(browser, 1280)
    browser.get(f"{address}/index.html")
    box = browser.find_element("css selector", ".sidebar-search")
    box.send_keys("active_range")
    box.submit()
    results = browser.find_elements("css selector", "ul.search li a")
    assert "active_range" in {result.text.split(".")[-1] for result in results}
    next(result for result in results if result.text.endswith("active_range")).click()
    assert browser.find_element("tag name", "h1").text == "Programs"
    assert "#dcl." in browser.current_url


def test_narrow_pages_do_not_scroll_sideways(browser: Any, address: str, site: Path, pages: dict[Path, Page]) -> None:
    sized(browser, 400)
    too_wide = []
    for path in sorted(pages):
        browser.get(f"{address}/{path.relative_to(site)}")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        if width > 400:
            too_wide.append(f"{path.relative_to(site)}: {width}")
    assert not too_wide
    browser.get(f"{address}/index.html")
    browser.find_element("css selector", "label.nav-overlay-icon, .mobile-header label[for=__navigation]").click()
    assert browser.find_element("link text", "Install").is_displayed()
