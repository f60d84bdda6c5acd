"""A real server of the host: started on the CPU with the pack linked into its custom_nodes, talked to over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path


class Server:
    """`main.py --cpu` with a base directory of its own, for as long as the context is open.

    host: a ComfyUI checkout.  pack: the pack's root.  base: an empty directory for models, input and output.
    more: other packs to link beside it.  options: further ones of its command line.
    """

    def __init__(
        self, host: Path, pack: Path, base: Path, more: Sequence[Path] = (), options: Sequence[str] = ()
    ) -> None:
        self.host, self.base, self.options = host, base, options
        for name in ("custom_nodes", "models/checkpoints", "models/scedit", "models/controlnet", "input", "output"):
            (base / name).mkdir(parents=True, exist_ok=True)
        for name, folder in [("ComfyUI-SCEdit", pack), *((each.name, each) for each in more)]:
            link = base / "custom_nodes" / name
            if not link.exists():
                link.symlink_to(folder, target_is_directory=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = base / "server.log"

    def __enter__(self) -> Server:
        command = [sys.executable, "main.py", "--cpu", "--base-directory", str(self.base), "--port", str(self.port)]
        command += [
            "--disable-auto-launch",
            "--disable-api-nodes",
            "--database-url",
            "sqlite:///:memory:",
            *self.options,
        ]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, cwd=self.host, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                self.get("/system_stats")
                return self
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.5)
        self.__exit__()
        raise RuntimeError(f"the host's server did not start; its log ends with:\n{self.log.read_text()[-4000:]}")

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> dict:
        """GET as JSON."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def fetch(self, path: str) -> bytes:
        """GET as bytes."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def queue(self, graph: dict, **more) -> tuple[str | None, dict]:
        """POST a graph in API form; gives its id, or None with the server's answer where it is refused."""
        body = json.dumps({"prompt": graph, **more}).encode()
        request = urllib.request.Request(self.url + "/prompt", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = json.load(answer)
                return body["prompt_id"], body
        except urllib.error.HTTPError as refusal:
            return None, json.load(refusal)

    def wait(self, prompt_id: str, seconds: float = 300) -> dict:
        """The history entry of a graph once it has run or failed."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None and entry["status"].get("status_str") in ("success", "error"):
                return entry
            time.sleep(0.3)
        raise TimeoutError(f"the graph was not done in {seconds} s; the log ends with:\n{self.log.read_text()[-3000:]}")

    def images(self, entry: dict) -> list[bytes]:
        """The pictures that a graph has saved."""
        found = []
        for output in entry["outputs"].values():
            for image in output.get("images", ()):
                query = f"filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
                found.append(self.fetch(f"/view?{query}"))
        return found


def error_of(entry: dict) -> str:
    """The message of the node that failed."""
    for name, details in entry["status"]["messages"]:
        if name == "execution_error":
            return details["exception_message"].strip()
    return ""
