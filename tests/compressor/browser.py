"""Headless Chromium, driven through its debugging pipe (the DevTools protocol): no driver program, no open port."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


_LAUNCH = """import os, sys
os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4)
os.execvp(sys.argv[3], sys.argv[3:])"""


def _moved(descriptor: int) -> int:
    """The same descriptor at a number of 10 or more."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


class Browser:
    """One browser with one tab. `events` collects everything that the tab reported."""

    def __init__(self, profile: Path, timeout_s: float = 60.0) -> None:
        self.timeout_s = timeout_s
        self.events: list[dict[str, Any]] = []
        self._buffer = b""
        self._last_id = 0
        self._session: str | None = None
        commands, self._write = os.pipe()
        self._read, replies = os.pipe()
        # The browser reads commands from its descriptor 3 and writes replies to 4; ours must not be in their way.
        commands, replies = _moved(commands), _moved(replies)
        arguments = [sys.executable, "-c", _LAUNCH, str(commands), str(replies), "chromium", *FLAGS]
        arguments += [f"--user-data-dir={profile}", "about:blank"]
        log = (profile.parent / f"{profile.name}.log").open("wb")
        with log:
            self._process = subprocess.Popen(arguments, pass_fds=(commands, replies), stdout=log, stderr=log)
        os.close(commands)
        os.close(replies)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **parameters: Any) -> Any:
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        """The next message; events are kept."""
        deadline = time.monotonic() + self.timeout_s
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium said nothing for {self.timeout_s} s")
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise RuntimeError(f"Chromium ended with code {self._process.wait()}")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        value: dict[str, Any] = json.loads(message)
        if "method" in value:
            self.events.append(value)
        return value

    def size(self, width_px: int, height_px: int = 900) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=height_px,
            deviceScaleFactor=1,
            mobile=width_px < 600,
        )

    def scheme(self, name: str, medium: str = "") -> None:
        """ "light" or "dark"; `medium`: "print" or "" for the screen."""
        self._call(
            "Emulation.setEmulatedMedia", media=medium, features=[{"name": "prefers-color-scheme", "value": name}]
        )

    def scripting(self, allowed: bool) -> None:
        self._call("Emulation.setScriptExecutionDisabled", value=not allowed)

    def open(self, path: Path, until: str = "true") -> None:
        """Load a file and wait until the expression `until` is true."""
        self.events.clear()
        self._call("Page.navigate", url=path.resolve().as_uri())
        self.wait(f"location.protocol === 'file:' && document.readyState === 'complete' && Boolean({until})")

    def wait(self, expression: str) -> None:
        deadline = time.monotonic() + self.timeout_s
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never true: {expression}")
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression (a promise is awaited)."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:1000])
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"Enter": "\r", " ": " "}.get(key, "") if kind == "keyDown" else ""
            code = {"Enter": 13, "Tab": 9, " ": 32, "ArrowRight": 39}[key]
            self._call("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, and uncaught exceptions, since the page was opened."""
        self.evaluate("0")  # everything reported so far has arrived when this answers
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(parameters["exceptionDetails"])[:500])
            if event["method"] == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(parameters["args"])[:500])
            if event["method"] == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(parameters["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for, without those that it carries itself (data:)."""
        self.evaluate("0")
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def screenshot(self, path: Path, full_page: bool = True) -> None:
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=full_page)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self._call("Page.printToPDF", printBackground=False)["data"])

    def close(self) -> None:
        self._session = None
        with contextlib.suppress(RuntimeError, OSError):  # it may go before it answers
            self._call("Browser.close")
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
