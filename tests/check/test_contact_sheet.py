"""The page that `diffusion-train check` writes: what is on it, and what a browser makes of it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from diffusion_train.utils.exit_code import Exit

RIGHTS = b'{"license": "CC0-1.0"}'
HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> \u202e\x1b[2J {caption} $(touch canary) '\"&amp;"


def sample(key, image, caption=b"a caption"):
    return [(f"{key}.png", image), (f"{key}.txt", caption), (f"{key}.json", RIGHTS)]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "out" / "contact_sheet.html"


def test_it_shows_what_is_trained_on_and_nothing_of_strangers_raw(make_tar, make_png, check, page):
    members = [
        *sample("plain", make_png(1, 40, 20), b"a red apple"),
        *sample("<b>bold", make_png(2), HOSTILE.encode()),
        *sample("torn", make_png(3, 200, 200)[:-500]),
    ]
    code, report = check([make_tar(members)])
    assert code == Exit.FOUND
    assert {entry["rule"] for entry in report} == {"undecodable-image"}
    text = page.read_text("utf-8")
    assert text.count("<img ") == 2  # the torn one has none, and stands among the findings as well
    assert text.count("undecodable-image: damaged image") == 2
    assert "a red apple" in text
    assert "40 x 20 → 16 x 16" in text
    for raw in ("<script", "<b>", "<img src=x", "\u202e", "\x1b"):
        assert raw not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "\\u202e" in text


def test_it_says_what_is_held_out_and_what_is_left_out(make_tar, make_png, check, page):
    members = [m for i in range(6) for m in sample(f"k{i}", make_png(i))]
    check([make_tar([*members, *sample("small", make_png(9, 10, 10))])], "data.holdout=2", "data.min_side=16")
    text = page.read_text("utf-8")
    assert "4 trained on, 2 held out, 1 neither" in text
    assert text.count('<span class="tag">held out</span>') == 2
    assert text.count('<span class="tag">not trained on</span>') == 1


def test_it_shows_images_in_the_shape_of_their_bucket(make_tar, make_png, check, page):
    members = [m for i in range(2) for m in sample(f"k{i}", make_png(i, 64, 32))]
    check([make_tar(members)], "data.buckets={max_ratio: 4, divisor: 4}", "data.batch_size=1")
    assert "64 x 32 → 20 x 12" in page.read_text("utf-8")


def test_a_shard_that_is_no_tar_beside_a_good_one_is_told_and_the_good_one_shown(
    make_tar, make_png, check, page, tmp_path
):
    bad = tmp_path / "bad.tar"
    bad.write_text("<html>not found</html>")
    code, report = check([bad, make_tar(sample("good", make_png(1)))])
    assert code == Exit.FOUND
    assert [(entry["rule"], entry["key"]) for entry in report] == [("not-a-tar", None)]
    assert page.read_text("utf-8").count("<img ") == 1


@pytest.mark.slow
def test_a_browser_shows_it_and_runs_nothing_of_strangers(make_tar, make_png, check, page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no chromium is installed")
    members = [m for i in range(20) for m in sample(f"k{i}", make_png(i))]
    check([make_tar([*members, *sample("hostile", make_png(99), HOSTILE.encode())])], "num_shown=21")
    found = opened(browser, tmp_path / "profile", f"file://{page}")
    assert found["complaints"] == []
    assert found["widths"] == [16] * 21
    assert found["scripts"] == 0
    assert HOSTILE.split()[0] in found["text"]
    assert "\u202e" not in found["text"]


SEEN = """({
    widths: [...document.images].map(image => image.complete ? image.naturalWidth : -1),
    scripts: document.scripts.length,
    text: document.body.innerText,
})"""


def opened(browser: str, profile: Path, url: str) -> dict[str, Any]:
    """What a browser makes of a page, by its own debugging protocol: errors, dialogs, messages are complaints."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += ["--disable-component-update", "--disable-sync", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    process = subprocess.Popen([browser, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return asyncio.run(seen(port_of(profile), url))
    finally:
        process.terminate()
        process.wait(20)


def port_of(profile: Path) -> int:
    file, deadline = profile / "DevToolsActivePort", time.monotonic() + 60
    while not (file.is_file() and file.read_text().count("\n")):
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.1)
    return int(file.read_text().split()[0])


async def seen(port: int, url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            [page] = [tab for tab in await answer.json() if tab["type"] == "page"]
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            return await seen_in(Tab(socket), url)


async def seen_in(tab: Tab, url: str) -> dict[str, Any]:
    for domain in ("Page", "Runtime", "Log"):
        await tab.call(f"{domain}.enable")
    await tab.call("Page.navigate", url=url)
    await tab.until("Page.loadEventFired")
    answer = await tab.call("Runtime.evaluate", expression=SEEN, returnByValue=True)
    kinds = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening")
    complaints = [event for event in tab.events if event["method"] in kinds]
    return {**answer["result"]["value"], "complaints": complaints}


class Tab:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.number, self.events = socket, 0, []

    async def call(self, method: str, **params: Any) -> Any:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        while (message := await self.socket.receive_json()).get("id") != self.number:
            self.events.append(message)
        return message["result"]

    async def until(self, method: str) -> None:
        while all(event["method"] != method for event in self.events):
            self.events.append(await self.socket.receive_json())
