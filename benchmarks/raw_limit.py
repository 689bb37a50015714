"""Measures ONNX Runtime alone on a bundle and the available cores: the limit of any server.

The graph of the file runs unchanged, without the engine.
"""

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from imagemint.engine.bundle import read_bundle
from imagemint.engine.sampling import draw_latents

BATCH = 64
# Share of each measurement for the time of a single image.
SINGLE_SHARE = 0.2


@dataclass(frozen=True)
class Raw:
    """One measurement.

    Attributes:
        images_per_s: throughput of the best arrangement of sessions and threads, in batches of 64.
        arrangement: sessions and threads of the best arrangement.
        single_ms: median time of a batch of one in the fastest session.
    """

    images_per_s: float
    arrangement: str
    single_ms: float


class RawLimit:
    """All ways to divide the cores into sessions of equal numbers of threads.

    On two cores: two parallel sessions of one thread, and one session of two threads.

    Args:
        directory: the bundle.
    """

    def __init__(self, directory: Path) -> None:
        spec = read_bundle(directory).spec
        self._batch: dict[str, NDArray[Any]] = {"z": draw_latents(0, 0, BATCH, spec.z_dim)}
        if spec.conditional:
            self._batch["class_id"] = np.arange(BATCH).reshape(BATCH, 1) % spec.num_classes
        self._single = {name: values[:1] for name, values in self._batch.items()}
        cores = len(os.sched_getaffinity(0))
        self._arrangements = {
            f"{count} x {cores // count} threads": [
                _open_session(directory, cores // count) for _ in range(count)
            ]
            for count in range(1, cores + 1)
            if cores % count == 0
        }

    def measure(self, seconds: float) -> Raw:
        """Measures all arrangements for equal parts of the time, and returns the best."""
        part = seconds / len(self._arrangements)
        rates = {
            name: self._measure_rate(sessions, part * (1 - SINGLE_SHARE))
            for name, sessions in self._arrangements.items()
        }
        best = max(rates, key=lambda name: rates[name])
        single_ms = min(
            self._measure_time_ms(sessions[0], part * SINGLE_SHARE)
            for sessions in self._arrangements.values()
        )
        return Raw(rates[best], best, single_ms)

    def _measure_rate(self, sessions: list[ort.InferenceSession], seconds: float) -> float:
        began = time.perf_counter()

        def work(session: ort.InferenceSession) -> int:
            done = 0
            while time.perf_counter() - began < seconds:
                session.run(None, self._batch)
                done += BATCH
            return done

        with ThreadPoolExecutor(len(sessions)) as pool:
            done = sum(pool.map(work, sessions))
        return done / (time.perf_counter() - began)

    def _measure_time_ms(self, session: ort.InferenceSession, seconds: float) -> float:
        session.run(None, self._single)  # the first run with a shape allocates memory
        times: list[float] = []
        deadline_s = time.perf_counter() + seconds
        while (began := time.perf_counter()) < deadline_s or not times:
            session.run(None, self._single)
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1e3


def _open_session(directory: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return ort.InferenceSession(
        directory / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
