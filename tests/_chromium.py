"""Chromium, driven by its own protocol over two pipes: real clicks, drags and keys."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# The keys that a page listens to: their code and what they type.
KEYS = {
    **{f"Arrow{way}": 37 + i for i, way in enumerate(("Left", "Up", "Right", "Down"))},
    **{"Tab": 9, "Enter": 13, " ": 32, "Home": 36, "End": 35, "PageUp": 33, "PageDown": 34},
}
TYPED = {"Enter": "\r", " ": " "}


class Browser:
    """A page in a window of any size; `console` and `requests` are what it said and asked for."""

    def __init__(self, folder: Path) -> None:
        self.console: list[str] = []
        self.requests: list[str] = []
        self._ids = itertools.count(1)
        self._rest = b""
        mine, self._out = os.pipe()
        self._in, theirs = os.pipe()
        # Out of the way of the protocol's descriptors, which are 3 and 4.
        mine, theirs = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (mine, theirs))
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
        shell = f'exec "$@" 3<&{mine} 4>&{theirs}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", str(CHROMIUM), *flags, "about:blank"],
            pass_fds=(mine, theirs),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(mine)
        os.close(theirs)
        self._session = ""
        (page,) = (
            each for each in self.send("Target.getTargets")["targetInfos"] if each["type"] == "page"
        )
        attach = {"targetId": page["targetId"], "flatten": True}
        self._session = self.send("Target.attachToTarget", **attach)["sessionId"]
        for room in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{room}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.terminate()
        self._process.wait(10)
        os.close(self._out)
        os.close(self._in)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers; what it tells meanwhile is noted."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            told = self._told()
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]
            self._note(told)

    def _told(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._in, 1 << 16)
            assert more, "the browser ended"
            self._rest += more
        one, self._rest = self._rest.split(b"\0", 1)
        return json.loads(one)

    def _note(self, told: dict[str, Any]) -> None:
        method, params = told.get("method"), told.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.console.append(json.dumps(params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.console.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def window(self, width: int, height: int, **media: str) -> None:
        """Makes the window so large; media as prefers_color_scheme="dark"."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": n.replace("_", "-"), "value": v} for n, v in media.items()]
        self.send("Emulation.setEmulatedMedia", features=features)

    def open(self, address: str) -> None:
        """Opens a page anew and waits until it is there."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=address)
        there = json.dumps(address.split("#")[0])
        done = "document.readyState === 'complete'"
        self.until(f"location.href.startsWith({there}) && {done}")
        self.requests = [url for url in self.requests if url != "about:blank"]

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        got = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        result = got["result"]
        if "unserializableValue" in result:  # NaN, Infinity or -0
            return float(result["unserializableValue"])
        return result.get("value")

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Does what follows in the frame that the page has inside."""
        outer = self._session
        found: list[str] = []
        end = time.monotonic() + 20
        while not found:
            assert time.monotonic() < end, "there is no frame"
            there = self.send("Target.getTargets")["targetInfos"]
            found = [each["targetId"] for each in there if each["type"] == "iframe"]
        attach = {"targetId": found[0], "flatten": True}
        self._session = self.send("Target.attachToTarget", **attach)["sessionId"]
        self.send("Runtime.enable")
        self.send("Log.enable")
        yield
        self._session = outer

    def until(self, script: str, seconds: float = 30) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never: {script[:200]}"
            time.sleep(0.02)

    def middle(self, element: str) -> tuple[float, float]:
        """Where an element is, scrolled into view."""
        script = f"""(() => {{
          const element = {element};
          element.scrollIntoView({{ block: "center", behavior: "instant" }});
          const box = element.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }})()"""
        return tuple(self.run(script))

    def click(self, element: str) -> None:
        x, y = self.middle(element)
        self.drag(x, y, 0, 0)

    def drag(self, x: float, y: float, by_x: float, by_y: float) -> None:
        """Presses the mouse at a place, moves it in four parts, and lets go."""

        def mouse(kind: str, part: float) -> None:
            at = {"x": x + by_x * part, "y": y + by_y * part, "button": "left", "clickCount": 1}
            buttons = 0 if kind == "mouseReleased" else 1
            self.send("Input.dispatchMouseEvent", type=kind, buttons=buttons, **at)

        mouse("mousePressed", 0)
        for part in (0.25, 0.5, 0.75, 1.0) if by_x or by_y else ():
            mouse("mouseMoved", part)
        mouse("mouseReleased", 1)

    def press(self, key: str, times: int = 1) -> None:
        """Presses a key of the keyboard, in whatever has the focus."""
        code = {"key": key, "code": "Space" if key == " " else key}
        code |= {"windowsVirtualKeyCode": KEYS.get(key, 0)}
        for _ in range(times):
            kind = "keyDown" if key in TYPED else "rawKeyDown"
            typed = {"text": TYPED[key]} if key in TYPED else {}
            self.send("Input.dispatchKeyEvent", type=kind, **code, **typed)
            self.send("Input.dispatchKeyEvent", type="keyUp", **code)

    def picture(self, file: Path, whole: bool = False) -> None:
        """Writes what the window shows, or the whole page, as a PNG."""
        got = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(got["data"]))
