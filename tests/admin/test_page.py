"""The page, as a person meets it: in a real browser, before the real endpoint of a bridge that is invented."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium, of the extra dev, is not installed")
pytest.importorskip("h11", reason="the extra admin is not installed")

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from hvbridge.admin import sse as events
from hvbridge.splice import Reason

from .page_support import PATIENCE, LiveBridge, Server, browsing
from .support import RDP, SSH, connection

TOKEN = "a-token-of-these-tests"
NAUGHTY = "<script>window.isHurt = 1</script><img src=x onerror='window.isHurt = 1'>"
"""What a page that takes names for HTML would run."""


class Page:
    """What a test does with the page, and sees of it."""

    def __init__(self, browser: Chrome, server: Server) -> None:
        self.browser = browser
        self.server = server
        self.bridge = server.bridge

    def open(self, *, token: str | None = TOKEN) -> None:
        """Open it, give the token, and wait for the first snapshot."""
        self.browser.get(self.server.url)
        if token is not None:
            self.give(token)
            self.wait(lambda: self.all(".forward") or self.one("#no-forwards").text.startswith("This"))

    def give(self, token: str) -> None:
        """Answer the question for the token."""
        self.wait(lambda: self.one("#ask-token").is_displayed())
        self.one("#token").send_keys(token, Keys.ENTER)

    def all(self, css: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, css)

    def js(self, script: str, *arguments: object) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait(self, happened: Callable[[], object]) -> Any:
        """Wait until ``happened`` returns something true, and return that."""
        waiting = WebDriverWait(self.browser, PATIENCE, 0.05, [StaleElementReferenceException])
        return waiting.until(lambda _: happened())

    def wait_for_snapshots(self, count: int = 2) -> None:
        """Wait until so many more have come and have been drawn."""
        for _ in range(count):
            most = self.bridge.states[0].max_connections + 1  # a number of no consequence tells them apart
            self.bridge.change(self.bridge.states[0].name, max_connections=most)
            self.wait(partial(self._shows, f"of {most:,}"))

    def _shows(self, text: str) -> bool:
        return text in self.one(".forward").text

    def wait_for_notice(self, text: str) -> None:
        self.wait(lambda: text in self.one("#notice").text)

    def rows(self, table: str = "connections") -> list[str]:
        """The rows of a table as text, each on one line."""
        return [" ".join(row.text.split()) for row in self.all(f"#{table}-rows > tr")]

    def keys(self, *keys: str) -> None:
        """Press keys on whatever has the focus."""
        ActionChains(self.browser).send_keys(*keys).perform()

    def focus(self) -> str:
        """The text of what has the focus, also what only a screen reader reads."""
        return str(self.js("return document.activeElement.textContent"))

    def emulate(self, **features: str) -> None:
        """Have a person's preferences, such as ``prefers_color_scheme="dark"``."""
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One Chromium for all tests here; a start takes longer than most of them."""
    chromium = shutil.which("chromium")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip(
            "Chromium and its driver are not installed (Debian: apt install chromium chromium-driver)"
        )
    with browsing(chromium, chromedriver, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Start endpoints that end with the test, and send snapshots so often that nobody waits for them."""
    servers: list[Server] = []
    monkeypatch.setattr(events, "SNAPSHOT_INTERVAL", 0.2)
    monkeypatch.setattr(events, "PACE", 0.1)

    def start(bridge: LiveBridge, token: str | None = TOKEN) -> Server:
        servers.append(Server(bridge, token))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def page(browser: Chrome, serve: Callable[..., Server]) -> Iterator[Page]:
    """The page of a bridge that has a token, in a tab of its own; not opened yet."""
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what is there belongs to the test before
    yield Page(browser, serve(LiveBridge()))
    browser.close()
    browser.switch_to.window(first)


def test_shows_forwards_and_connections(page: Page) -> None:
    """The page shows how each forward is and why, and each connection, in units that people read."""
    down = replace(RDP, upstream="down", upstream_cause="no service listens there")
    page.bridge.states = [SSH, down]
    page.bridge.live = [
        connection(
            1, peer="192.0.2.7:50001", seconds=200.0, client_to_upstream=1536, upstream_to_client=5 << 20
        ),
        connection(2, state="dialling"),
    ]
    page.open()
    ssh, rdp = (" ".join(forward.text.split()) for forward in page.all(".forward"))
    assert "ssh Listening Upstream up tcp://127.0.0.1:2222 → to hyperv://dev-box/ssh" in ssh
    assert "2 of 1,024" in ssh
    assert "2 accepted · 0 refused · 0 failed dials" in ssh
    assert "Upstream down" in rdp
    assert "no service listens there" in rdp
    first, second = page.rows()
    assert first.startswith("ssh 192.0.2.7:50001 hyperv://dev-box/ssh 1.50 KiB 5.00 MiB 3 min Close")
    assert "dialling" in second
    page.wait(lambda: page.one("#ready").text == "Ready")
    assert page.one("#total-connections").text == "2"


def test_follows_what_happens(page: Page) -> None:
    """Bytes, rates, a forward's upstream and what has closed change on the page while it is open."""
    page.open()
    page.wait_for_snapshots()
    page.bridge.move(7, 3 << 20, 1 << 10)
    page.wait(lambda: "3.00 MiB" in page.rows()[0])
    page.wait(lambda: page.one("[data-part=upLine]").get_attribute("d"))
    assert "peak" in page.one("[data-part=peak]").text
    page.bridge.change("ssh", upstream="down", upstream_cause="connection refused")
    page.bridge.ready = False
    page.wait(lambda: "connection refused" in page.one(".forward").text)
    page.wait(lambda: page.one("#ready").text == "Not ready")
    page.bridge.ready = True
    page.wait(lambda: page.one("#ready").text == "Ready")
    page.bridge.end(7, Reason.RESET_BY_UPSTREAM, "connection reset by peer")
    page.wait(lambda: page.rows("closings"))
    page.wait(lambda: page.rows() == [])
    (closing,) = page.rows("closings")
    assert "ssh 127.0.0.1:50000 Reset by upstream connection reset by peer 3.00 MiB 1.20 KiB 1.5 s" in closing


def test_close_button_closes_that_connection(page: Page) -> None:
    """Closing asks first; then that connection goes, and shows up as closed by an admin."""
    page.bridge.live = [connection(number, peer=f"192.0.2.{number}:50000") for number in (1, 2, 3)]
    page.open()
    page.all("#connections-rows button")[1].click()
    assert page.bridge.done == []
    assert "192.0.2.2:50000" in page.one("#confirm-what").text
    page.one("#confirm-yes").click()
    page.wait(lambda: len(page.rows()) == 2)
    assert page.bridge.done == ["close 2"]
    assert not any("192.0.2.2" in row for row in page.rows())
    page.wait(lambda: page.rows("closings"))
    assert "Closed by admin" in page.rows("closings")[0]
    page.wait_for_notice("Closed 192.0.2.2:50000 on ssh.")


def test_escape_closes_nothing_but_the_question(page: Page) -> None:
    """Escape takes the question away, leaves the connection, and gives the focus back."""
    page.open()
    page.one("#connections-rows button").send_keys(Keys.ENTER)
    page.wait(lambda: page.one("#confirm").is_displayed())
    page.keys(Keys.ESCAPE)
    page.wait(lambda: not page.one("#confirm").is_displayed())
    assert page.focus() == "Close 127.0.0.1:50000 on ssh"
    page.wait_for_snapshots()
    assert page.bridge.done == []
    assert len(page.rows()) == 1


def test_connection_that_ended_by_itself_is_no_error(page: Page) -> None:
    """A connection that ends while the page asks whether to close it is told to have ended."""
    page.bridge.live = [connection(1), connection(2)]
    page.open()
    page.one("#connections-rows button").click()
    page.bridge.end(1, Reason.EOF)
    page.wait(lambda: len(page.rows()) == 1)
    page.one("#confirm-yes").click()
    page.wait_for_notice("already closed")
    assert page.bridge.done == []


def test_drain_button_drains(page: Page) -> None:
    """Draining asks first; then the forward shows that it drains, and cannot be drained twice."""
    page.open()
    page.one(".forward button").click()
    assert "1 open connection" in page.one("#confirm-effect").text
    page.one("#confirm-yes").click()
    page.wait(lambda: "Draining" in page.one(".forward").text)
    page.one(".forward button").click()
    assert not page.one("#confirm").is_displayed()
    assert page.bridge.done == ["drain ssh"]


def test_reload_tells_what_changed(page: Page) -> None:
    """A reload that succeeds is told."""
    page.open()
    page.one("#reload").click()
    page.wait_for_notice("nothing")
    assert page.bridge.done == ["reload"]


def test_reload_faults_are_shown_as_text(page: Page) -> None:
    """Every fault of a new config is shown, and nothing in it is run."""
    page.bridge.faults = [f"line 3: forward {NAUGHTY} has no connect", "line 9: unknown setting"]
    page.open()
    page.one("#reload").click()
    page.wait(lambda: page.one("#faults").is_displayed())
    assert [fault.text for fault in page.all("#faults-list li")] == page.bridge.faults
    page.keys(Keys.ESCAPE)
    page.wait(lambda: not page.one("#faults").is_displayed())
    assert page.js("return document.activeElement.id") == "reload"
    assert page.js("return window.isHurt") is None


def test_names_and_peers_are_never_markup(page: Page) -> None:
    """Names of forwards, peers, causes and details are text, whatever they look like."""
    page.bridge.states = [
        replace(SSH, name=NAUGHTY, connect=NAUGHTY, upstream="down", upstream_cause=NAUGHTY)
    ]
    page.bridge.live = [connection(number, NAUGHTY, peer=NAUGHTY, upstream=NAUGHTY) for number in (1, 2)]
    page.open()
    page.bridge.end(2, Reason.RESET_BY_CLIENT, NAUGHTY)
    page.wait(lambda: page.rows("closings"))
    page.one("#connections-rows button").click()
    page.wait(lambda: NAUGHTY in page.one("#confirm-what").text)
    assert page.one(".forward h3").text == NAUGHTY
    assert page.all("main img, main script, dialog img, dialog script") == []
    assert page.js("return window.isHurt") is None


def test_asks_for_the_token_until_it_is_right(page: Page) -> None:
    """A wrong token is told, the right one lets in, and a reload of the page does not ask again."""
    page.open(token=None)
    page.give("wrong")
    page.wait(lambda: "rejected" in page.one("#token-wrong").text)
    page.give(TOKEN)
    page.wait(lambda: page.all(".forward"))
    assert not page.one("#ask-token").is_displayed()
    page.browser.refresh()
    page.wait(lambda: page.all(".forward"))
    assert not page.one("#ask-token").is_displayed()


def test_token_can_be_given_later(page: Page) -> None:
    """Who closes the question for the token sees that it is needed, and can still give it."""
    page.open(token=None)
    page.wait(lambda: page.one("#ask-token").is_displayed())
    page.keys(Keys.ESCAPE)
    page.wait(lambda: not page.one("#ask-token").is_displayed())
    page.one("#link button").click()
    page.give(TOKEN)
    page.wait(lambda: page.all(".forward"))
    assert page.one("#link").text == ""


def test_change_that_is_refused_says_why(page: Page, serve: Callable[..., Server]) -> None:
    """Where the bridge takes no changes, for want of a token, the page shows, and says why it cannot do."""
    page.server = serve(page.bridge, None)
    page.open(token=None)
    page.wait(lambda: page.all("#connections-rows button"))[0].click()
    page.one("#confirm-yes").click()
    page.wait_for_notice("token_file")
    assert page.bridge.done == []
    assert len(page.rows()) == 1


def test_tells_a_lost_connection_and_recovers(page: Page) -> None:
    """A bridge that goes is told, what was known stays, and one that comes back is shown again."""
    page.open()
    page.server.stop()
    page.wait(lambda: "Connection lost, trying again." in page.one("#link").text)
    assert page.one("#ready").text == "No connection"
    assert len(page.rows()) == 1
    page.bridge.live = [connection(8), connection(9)]
    page.server.start()
    page.wait(lambda: len(page.rows()) == 2)
    page.wait(lambda: page.one("#link").text == "")
    assert page.one("#ready").text == "Ready"


def test_nothing_is_asked_of_another_host_and_nothing_goes_wrong(page: Page) -> None:
    """In ordinary use the browser's console stays empty, and only the bridge is asked."""
    page.open(token=None)
    page.js(f"sessionStorage.setItem('hvbridge-token', '{TOKEN}')")
    page.wait(lambda: page.one("#ask-token").is_displayed())
    page.browser.get_log("browser")  # has the 401 that made it ask
    page.browser.refresh()
    page.wait(lambda: page.all(".forward"))
    for button in (".forward button", "#connections-rows button"):
        page.one(button).click()
        page.one("#confirm-yes").click()
    page.one("#reload").click()
    page.wait(lambda: len(page.bridge.done) == 3)
    page.wait_for_snapshots()
    assert [entry["message"] for entry in page.browser.get_log("browser") if entry["level"] != "DEBUG"] == []
    events = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.endswith("/api/v1/events") for url in asked)
    assert [url for url in asked if not url.startswith((page.server.url, "data:"))] == []


LONG = "a-forward-with-a-name-as-long-as-anybody-would-want-it-and-then-some-more-of-it"


@pytest.mark.parametrize("width", [320, 360, 820, 1280])
def test_page_is_never_wider_than_the_screen(page: Page, width: int) -> None:
    """On a phone, too, nothing is cut off or has to be scrolled to the side, however long the names are."""
    page.bridge.states = [
        replace(
            SSH, name=LONG, connect=f"hyperv://{LONG}/ssh", upstream="down", upstream_cause=f"{LONG} " * 5
        )
    ]
    page.bridge.live = [
        connection(number, LONG, peer=f"vm {LONG}", upstream=f"hyperv://{LONG}/ssh", seconds=1e6)
        for number in (1, 2)
    ]
    page.resize(width, 780)
    page.open()
    page.bridge.end(2, Reason.DIAL_FAILED, f"hyperv://{LONG}/ssh: " + LONG)
    page.wait(lambda: page.rows("closings"))
    overflowing = """
        const boxes = [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility());
        return boxes.filter((node) => !node.closest(".unseen, .skip, .desk") && (
            node.getBoundingClientRect().right > innerWidth + 0.5 || node.getBoundingClientRect().left < -0.5
        )).map((node) => node.outerHTML.slice(0, 100));
    """
    assert page.js(overflowing) == []
    assert page.js("return document.documentElement.scrollWidth") <= width
    for box in ("connections-box", "closings-box"):
        wide, high = page.js(
            f"const b = document.getElementById('{box}'); return [b.scrollWidth, b.clientWidth]"
        )
        assert wide <= high
    page.one("#connections-rows button").click()
    page.wait(lambda: page.one("#confirm").is_displayed())
    assert page.js(overflowing) == []


def test_keyboard_reaches_and_uses_close(page: Page) -> None:
    """Tab comes to a connection's button, visibly; Enter asks, and the focus goes on to the next connection."""
    page.bridge.live = [connection(number, peer=f"192.0.2.{number}:50000") for number in (1, 2, 3)]
    page.open()
    for _ in range(20):
        page.keys(Keys.TAB)
        if page.focus() == "Close 192.0.2.1:50000 on ssh":
            break
    assert page.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keys(Keys.ENTER)
    page.wait(lambda: page.focus() == "Cancel")
    page.keys(Keys.TAB, Keys.ENTER)
    page.wait(lambda: len(page.rows()) == 2)
    assert page.bridge.done == ["close 1"]
    assert page.focus() == "Close 192.0.2.2:50000 on ssh"


def test_focus_stays_while_rows_come_and_go(page: Page) -> None:
    """Whoever is on a connection's button stays there, whatever happens to the other connections."""
    page.bridge.live = [connection(number, peer=f"192.0.2.{number}:50000") for number in (1, 2, 3)]
    page.open()
    page.js("document.querySelectorAll('#connections-rows button')[1].focus()")
    page.bridge.end(1, Reason.EOF)
    page.bridge.live = [*page.bridge.live, connection(4)]
    page.wait(lambda: len(page.rows()) == 3 and "192.0.2.2" in page.rows()[0])
    assert page.focus() == "Close 192.0.2.2:50000 on ssh"
    page.bridge.live = []
    page.wait(lambda: page.rows() == [])
    assert page.focus() == "Connections"


def test_screen_readers_hear_of_changes_and_of_no_numbers(page: Page) -> None:
    """What is read out unasked is that an upstream went down; numbers that change every second are not."""
    page.open()
    page.wait_for_snapshots()
    page.js("""
        window.heard = [];
        const listen = (node) => new MutationObserver(() => heard.push(node.textContent)).observe(
            node, { childList: true, characterData: true, subtree: true });
        document.querySelectorAll("[role=status], [role=alert], [role=log], [aria-live]").forEach(listen);
    """)
    page.bridge.move(7, 1 << 20, 1 << 20)
    page.wait_for_snapshots()
    page.bridge.change("ssh", upstream="down", upstream_cause="connection refused")
    page.wait(lambda: page.js("return heard"))
    assert page.js("return heard") == ["Upstream of ssh is down."]


LEAST_CONTRAST = """
    const parse = (color) => color.match(/[\\d.]+/g).map(Number);
    const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const [r, g, b, a = 1] = parse(getComputedStyle(node).backgroundColor);
            if (a === 1) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const hasText = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    const texts = [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility() && hasText(node));
    return texts.map((node) => {
        const both = [light(parse(getComputedStyle(node).color)), light(ground(node))];
        return [(Math.max(...both) + 0.05) / (Math.min(...both) + 0.05), node.outerHTML.slice(0, 100)];
    }).sort(([a], [b]) => a - b)[0];
"""


@pytest.mark.parametrize(("scheme", "is_dark"), [("light", False), ("dark", True)])
def test_legible_in_light_and_in_dark(page: Page, scheme: str, is_dark: bool) -> None:
    """The page takes the colours that the system asks for, and every text stands out by 4.5 to 1 (WCAG AA)."""
    page.bridge.states = [SSH, replace(RDP, upstream="down", upstream_cause="no", state="draining")]
    page.emulate(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    page.open()
    page.bridge.end(7, Reason.DIAL_FAILED, "nobody there")
    page.wait(lambda: page.rows("closings"))
    red = int(page.js("return getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red < 64) is is_dark
    contrast, where = page.js(LEAST_CONTRAST)
    assert contrast >= 4.5, where


def test_nothing_moves_for_those_who_want_no_motion(page: Page) -> None:
    """With prefers-reduced-motion nothing has a transition or an animation."""
    page.emulate(prefers_reduced_motion="reduce")
    page.open()
    moving = """
        return [...document.querySelectorAll("*")].map((node) => getComputedStyle(node))
            .filter((style) => parseFloat(style.transitionDuration) || style.animationName !== "none").length
    """
    assert page.js(moving) == 0


def test_ten_thousand_connections_do_not_freeze_it(page: Page) -> None:
    """Of very many connections the first 500 are shown, it says so, and the page stays at hand."""
    page.bridge.live = [connection(number, peer=f"192.0.2.1:{number}") for number in range(1, 10_001)]
    page.open()
    page.wait(lambda: page.js("return document.getElementById('connections-rows').children.length") == 500)
    assert page.one("#connections-count").text == "the first 500 of 10,000"
    assert page.one("#total-connections").text == "10,000"
    page.js("""
        window.longest = 0;
        new PerformanceObserver((list) => {
            for (const task of list.getEntries()) longest = Math.max(longest, task.duration);
        }).observe({ type: "longtask" });
    """)
    for number in (1, 2, 3):
        page.bridge.move(number, 1 << 30, 1 << 30)
        page.bridge.live = page.bridge.live[100:]
        page.wait_for_snapshots(1)
    assert page.js("return longest") < 500  # ms; no task takes 50 where the machine has nothing else to do
