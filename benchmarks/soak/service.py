"""The server under test: a real process, observed from outside."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

READY_S = 120.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Service:
    """`imagemint serve` over a repository.

    Args:
        repository: what it serves.
        log: where its log goes.
        options: further flags.
    """

    def __init__(self, repository: Path, log: Path, options: Sequence[str]) -> None:
        self.log = log
        command = [
            *(str(Path(sys.executable).with_name("imagemint")), "serve"),
            *("--repository", str(repository), *options),
            *("--grpc-address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"),
        ]
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(command, stderr=stderr)  # noqa: S603 - our own command
        ready = self._wait_until_ready()
        self.grpc_address: str = ready["grpc_address"]
        self.metrics_address: str = ready["metrics_address"]

    def _wait_until_ready(self) -> dict[str, str]:
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            # The last line may be half written.
            for line in self.log.read_text().splitlines(keepends=True):
                row = json.loads(line) if line.endswith("\n") else {}
                if row.get("event") == "ready" and "grpc_address" in row:
                    return dict(row)
            time.sleep(0.1)
        raise RuntimeError(f"the server did not become ready; its log is {self.log}")

    @property
    def pid(self) -> int:
        """Process id of the started process: the supervisor, if there are several processes."""
        return self._process.pid

    def list_workers(self) -> list[int]:
        """Returns the process ids of the workers, the oldest first."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        found = [
            int(pid)
            for pid in children
            if _read_rss_mb(int(pid)) and "processes.worker" in _read_command_line(pid)
        ]
        return sorted(found, key=_read_start_time) or [self.pid]

    def measure_memory_mb(self) -> dict[int, float]:
        """Returns the resident memory of each process, in MB of 2^20 bytes."""
        return {pid: _read_rss_mb(pid) for pid in {self.pid, *self.list_workers()}}

    async def read_metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Returns all samples of /metrics."""

        def read() -> str:
            with _DIRECT.open(f"http://{self.metrics_address}/metrics", timeout=30) as answer:
                return str(answer.read().decode())

        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(await asyncio.to_thread(read))
            for sample in family.samples
        }

    async def sum_metric(self, name: str) -> float:
        """Returns the sum of a metric over its labels."""
        return sum(
            value for (each, _), value in (await self.read_metrics()).items() if each == name
        )

    def kill_worker(self) -> int | None:
        """Kills the youngest of several workers; the oldest stays, to measure its memory."""
        workers = self.list_workers()
        if len(workers) < 2:  # noqa: PLR2004 - one to kill, one to stay
            return None
        os.kill(workers[-1], signal.SIGKILL)
        return workers[-1]

    def ask_to_stop(self) -> None:
        """Sends SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    async def wait_until_stopped(self) -> int:
        """Waits for the end and returns the exit status."""
        return await asyncio.to_thread(self._process.wait, READY_S)

    def kill(self) -> None:
        """Kills the remaining processes after a failure of the driver."""
        if self._process.poll() is None:
            self._process.kill()


def compute_slope_mb_per_hour(times_s: Sequence[float], values_mb: Sequence[float]) -> float:
    """Returns the slope of the least-squares line through the values."""
    return float(np.polyfit(np.asarray(times_s) / 3600, np.asarray(values_mb), 1)[0])


def _read_rss_mb(pid: int) -> float:
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def _read_command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except FileNotFoundError:
        return ""


def _read_start_time(pid: int) -> int:
    """Returns the start time of a process in clock ticks since boot (field 22 of stat)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except FileNotFoundError:
        return sys.maxsize
