"""A headless Chromium without a network, driven through its DevTools protocol."""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A page in headless Chromium; use it in a `with` block.

    Attributes:
        requested: URLs of all requests of the page.
        console: what it wrote to its console as errors.
    """

    def __init__(self, *, width: int = 1280, height: int = 900) -> None:
        self.size = width, height
        self.requested: list[str] = []
        self.console: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._number = 0

    def __enter__(self) -> "Browser":
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--remote-debugging-port=0", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--no-first-run", "--hide-scrollbars", f"--user-data-dir={self._profile.name}",
            f"--window-size={self.size[0]},{self.size[1]}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._loop.run_until_complete(self._connect())
        for domain in ("Page", "Network", "Runtime", "DOM", "Log"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._session.close())
        self._process.terminate()
        self._process.wait(20)
        self._profile.cleanup()
        self._loop.close()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; its result."""
        return self._loop.run_until_complete(self._send(method, params))

    def open(self, url: str) -> None:
        """Go to a page."""
        self.send("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str, *, seconds: float = 60) -> Any:
        """Wait until a JavaScript expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(f"Boolean({script})")):
            assert time.monotonic() < end, f"{script} is {value!r}; the page says: {self.text()[:2000]}"
            time.sleep(0.1)
        return value

    def wait_until_idle(self) -> None:
        """Wait until the page's scripts have done what they had to do: what is drawn may not listen before."""
        self.evaluate("new Promise(done => requestIdleCallback(() => done(), {timeout: 5000}))")

    def text(self) -> str:
        """Text that is visible on the page."""
        return str(self.evaluate("document.body.innerText"))

    def click(self, expression: str) -> None:
        """Click with the mouse on the middle of the element that a JavaScript expression gives."""
        self.wait(expression)
        self.wait_until_idle()
        place = self.evaluate(
            f"(e => {{ e.scrollIntoView({{block: 'nearest'}}); const r = e.getBoundingClientRect(); "
            f"return [r.x + r.width / 2, r.y + r.height / 2] }})({expression})"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def choose(self, label: str, option: str) -> None:
        """Choose an option, by the beginning of its text, in the drop-down list of a label.

        On a busy machine the list is drawn before it listens, and a click that it missed has given it the focus, after
        which a further click opens nothing: the focus is taken away and the click repeated until the list opens.
        """
        options = "[...document.querySelectorAll('[role=option]')]"
        end = time.monotonic() + 60
        while not self.evaluate(f"{options}.length"):
            assert time.monotonic() < end, f"the list of {label} does not open; the page says: {self.text()[:2000]}"
            self.evaluate("document.activeElement?.blur()")
            self.click(f"document.querySelector('input[aria-label={label}]')")
            for _ in range(20):
                if self.evaluate(f"{options}.length"):
                    break
                time.sleep(0.1)
        self.click(f"{options}.find(o => o.innerText.trim().replace(/^✓\\s*/, '').startsWith({json.dumps(option)}))")

    def upload(self, selector: str, path: Path) -> None:
        """Choose a file in an <input type=file>."""
        self.wait_until_idle()
        document = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=document, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def screenshot(self, path: Path) -> None:
        """Save what is visible as a PNG file."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    async def _connect(self) -> None:
        ports = Path(self._profile.name, "DevToolsActivePort")
        end = time.monotonic() + 60
        while not (ports.is_file() and len(ports.read_text().splitlines()) > 1):
            assert self._process.poll() is None, "Chromium ended at once"
            assert time.monotonic() < end, "Chromium did not start"
            await asyncio.sleep(0.1)
        port = ports.read_text().splitlines()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json") as answer:
            page = next(target for target in await answer.json() if target["type"] == "page")
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=2**28)

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = json.loads((await asyncio.wait_for(self._socket.receive(), 60)).data)
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Network.requestWillBeSent":
            self.requested.append(message["params"]["request"]["url"])
        elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.console.append(message["params"]["entry"]["text"] + " " + message["params"]["entry"].get("url", ""))
