"""A headless Chromium for tests, driven through a pipe: no package and no open port is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-pipe", "--hide-scrollbars",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip
_PATIENCE = 120  # seconds for one answer; only a browser that hangs needs them


def find_chromium():
    """Return the path of a Chromium; None where there is none, or no bash to hand over the pipe."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return found if shutil.which("bash") and os.name == "posix" else None


class Chromium:
    """A browser with one page; it keeps all requests, errors and violations that it sees."""

    def __init__(self, path, profile=None):
        self._folder = tempfile.mkdtemp(prefix="chromium-", dir=profile)
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4.
        script = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out} 2>/dev/null'
        command = ["bash", "-c", script, path, *FLAGS, f"--user-data-dir={self._folder}"]
        self._process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out))
        os.close(theirs_in)
        os.close(theirs_out)
        self._read, self._write = ours_in, ours_out
        self._buffer, self._number, self._session = b"", 0, None
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Audits", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Network.setCacheDisabled", cacheDisabled=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with suppress(OSError, RuntimeError):
            self.call("Browser.close", on_page=False)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method, *, on_page=True, **parameters):
        """Send a command of the DevTools protocol; return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session and on_page:
            message["sessionId"] = self._session
        self._send(json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _send(self, data):
        while data:
            data = data[os.write(self._write, data[:65_536]) :]

    def _receive(self):
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, until - time.monotonic()))
            if not ready or not (chunk := os.read(self._read, 1 << 20)):
                raise RuntimeError("the browser has ended, or does not answer")
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, address):
        """Open an address, forget earlier events, and wait until the document has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not any(each.get("method") == "Page.loadEventFired" for each in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression):
        """Return the value of an expression of JavaScript, which may be a promise."""
        done = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")

    def wait_for(self, expression):
        """Wait until an expression is true."""
        until = time.monotonic() + _PATIENCE
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > until:
                raise RuntimeError(f"never true: {expression}")
            time.sleep(0.02)

    def choose(self, selector, paths):
        """Put files into an input of the page, as a person chooses them."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(each) for each in paths], nodeId=node)

    def drop(self, paths, x=200, y=200):
        """Drop files onto the page."""
        data = {"items": [], "files": [str(each) for each in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def screenshot(self, path, width=1280, height=800, scheme="light", *, whole=False):
        """Write a picture of the page, as it is on a window of this size."""
        narrow = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=narrow,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        time.sleep(0.3)  # the page is drawn again
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def requests(self):
        """Return the addresses of all requests since the page was opened."""
        self.evaluate("1")  # what has happened until now has arrived
        sent = [each for each in self.events if each.get("method") == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]

    def complaints(self):
        """Return what the browser reports: errors, warnings, violations of the policy."""
        self.evaluate("1")
        return [text for each in self.events if (text := _complaint(each))]


def _complaint(event):
    method, found = event.get("method"), event.get("params", {})
    if method == "Runtime.exceptionThrown":
        details = found["exceptionDetails"]
        return details.get("exception", {}).get("description", details["text"])
    if method == "Runtime.consoleAPICalled" and found["type"] in {"error", "warning", "assert"}:
        return " ".join(str(each.get("value", each.get("description"))) for each in found["args"])
    if method == "Log.entryAdded" and found["entry"]["level"] in {"error", "warning"}:
        return f"{found['entry']['text']} {found['entry'].get('url', '')}"
    if method == "Audits.issueAdded" and "Security" in found["issue"]["code"]:
        return json.dumps(found["issue"])
    return None
