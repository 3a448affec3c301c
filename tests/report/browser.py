"""A headless Chromium that tests talk to over a pipe, by the DevTools protocol: real clicks, keys, media and sizes.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars")

# A process that becomes a command, with two of its files as 3 and 4.
BECOME = """
import os, sys
for copy, number in zip([os.dup(int(number)) for number in sys.argv[1:3]], (3, 4)):
    os.dup2(copy, number)
    os.set_inheritable(number, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEY_CODES = {"Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """One tab. `complaints` are what pages wrote to the console, errors included; `requests` the addresses they asked
    for, without data: addresses."""

    def __init__(self, to_chromium: int, from_chromium: int) -> None:
        self.to_chromium, self.from_chromium = os.fdopen(to_chromium, "wb"), os.fdopen(from_chromium, "rb")
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        self.number = 0
        self.session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.to_chromium.write(json.dumps({**message, **self.of_session}).encode() + b"\0")
        self.to_chromium.flush()
        while (answer := self._next()).get("id") != self.number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    @property
    def of_session(self) -> dict[str, str]:
        return {"sessionId": self.session} if self.session else {}

    def open(self, page: Path, width: int = 1280, height: int = 800, scheme: str = "light", part: str = "") -> None:
        """Load a page, at a part such as "#ranks", and wait until it is ready."""
        self.complaints.clear()
        self.requests.clear()
        self.loaded = False
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.media("screen", scheme)
        self.call("Page.navigate", url=page.as_uri() + part)
        while not self.loaded:
            self._next()

    def media(self, kind: str, scheme: str) -> None:
        """Show as on a "screen" or in "print", and in the "light" or "dark" scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited where it is a promise."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """With a mouse, in the middle of the element, which is scrolled to first."""
        x, y = self.run(
            f"(() => {{const element = document.querySelector({json.dumps(selector)});"
            "element.scrollIntoView({block: 'center'}); const box = element.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key by its name, as in "ArrowLeft" or "w"."""
        more = {"text": key} if len(key) == 1 else {"windowsVirtualKeyCode": KEY_CODES[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def wait_for(self, script: str) -> None:
        """Until an expression is true, for 10 s at most."""
        waiting = f"new Promise(done => {{const look = () => ({script}) ? done(true) : setTimeout(look, 10); look();"
        assert self.run(f"{waiting} setTimeout(() => done(false), 10000)}})"), f"never so: {script}"

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _next(self) -> dict[str, Any]:
        """The next message; events are noted."""
        content = bytearray()
        while (byte := self.from_chromium.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            content += byte
        message = json.loads(content)
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.complaints.append(json.dumps(parameters))
            case "Network.requestWillBeSent":
                address = parameters["request"]["url"]
                if not address.startswith("data:"):
                    self.requests.append(address)
            case "Page.loadEventFired":
                self.loaded = True
        return message


@contextmanager
def started_browser(profile: Path) -> Iterator[Browser]:
    """Chromium, which reads commands from its file 3 and writes answers to its file 4."""
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    become = [sys.executable, "-c", BECOME, str(theirs_in), str(theirs_out), *command]
    process = subprocess.Popen(become, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        process.kill()
        process.wait()
