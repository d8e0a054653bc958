"""A headless chromium, driven over its DevTools protocol: what a page logs, and what happens when somebody uses it."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

T = TypeVar("T")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=1280,900",
]


class Tab:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.number = socket, 0
        self.complaints: list[str] = []  # errors, warnings and refusals of the page
        self.requests: list[str] = []
        self.downloaded = False
        self.loaded = False

    async def call(self, method: str, **params: Any) -> Any:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        while True:
            message = await self._next()
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    async def run(self, expression: str) -> Any:
        """The value of an expression of JavaScript, as if a user did it."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the browser did not get there"
            await self._next()

    async def open(self, page: Path) -> None:
        self.loaded = False
        await self.call("Page.navigate", url=page.as_uri())
        await self.until(lambda: self.loaded)

    async def picture(self, path: Path, whole: bool = False) -> None:
        found = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    async def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = await self.socket.receive_json(timeout=60)
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown" or (method == "Runtime.consoleAPICalled" and params["type"] != "log"):
            self.complaints.append(str(params))
        if method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if method == "Browser.downloadProgress" and params["state"] == "completed":
            self.downloaded = True
        if method == "Page.loadEventFired":
            self.loaded = True
        return message


def drive(profile: Path, downloads: Path, use: Callable[[Tab], Awaitable[T]]) -> T:
    """What `use` returns of a tab. Skips the test where there is no chromium."""
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("chromium is not installed")
    process = subprocess.Popen(
        [browser, *_FLAGS, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
    )
    try:
        return asyncio.run(_drive(_port(profile), downloads, use))
    finally:
        process.terminate()
        process.wait(30)


def _port(profile: Path) -> int:
    file, end = profile / "DevToolsActivePort", time.monotonic() + 60
    while not file.is_file() or not file.read_text():
        assert time.monotonic() < end, "chromium did not start"
        time.sleep(0.1)
    return int(file.read_text().split()[0])


async def _drive(port: int, downloads: Path, use: Callable[[Tab], Awaitable[T]]) -> T:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [one for one in await answer.json() if one["type"] == "page"]
        async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.call(f"{domain}.enable")
            await tab.call(
                "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads), eventsEnabled=True
            )
            return await use(tab)
