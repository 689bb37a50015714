"""What the server's /metrics says of the time between two readings."""

import re
import urllib.request
from collections import Counter
from dataclasses import dataclass

from imagemint.client.channel import host_and_port, is_loopback

_BATCHES = re.compile(
    r"^imagemint_batch_images_bucket\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE
)
_BOUND = re.compile(r'\ble="(?P<bound>[^"]+)"')
_CPU = re.compile(r"^process_cpu_seconds_total(?:\{.*\})? (?P<value>\S+)$", re.MULTILINE)
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ServerSide:
    """What the server counted."""

    batches: dict[str, int]
    """Passes of the model by the number of images in them: the upper bound of each bucket, as
    Prometheus writes it, in ascending order; a bucket reaches down to the bound before it."""
    cpu_s: float
    """CPU time of all its processes."""


def parsed(text: str, model: str) -> ServerSide:
    """The state that a reading shows, of one model."""
    cumulative: Counter[str] = Counter()
    for found in _BATCHES.finditer(text):
        bound = _BOUND.search(found["labels"])
        if bound and f'model="{model}"' in found["labels"]:
            cumulative[bound["bound"]] += round(float(found["value"]))
    below = 0
    batches = {}
    for bound_text in sorted(cumulative, key=float):
        batches[bound_text] = cumulative[bound_text] - below
        below = cumulative[bound_text]
    return ServerSide(batches, sum(float(found["value"]) for found in _CPU.finditer(text)))


def between(before: ServerSide, after: ServerSide) -> ServerSide:
    """What happened between two readings."""
    return ServerSide(
        {bound: count - before.batches.get(bound, 0) for bound, count in after.batches.items()},
        after.cpu_s - before.cpu_s,
    )


def read(address: str, model: str) -> ServerSide:
    """Reads http://`address`/metrics.

    Raises:
        OSError: nobody answers there.
    """
    handlers = []
    if is_loopback(host_and_port(address)[0]):
        handlers.append(urllib.request.ProxyHandler({}))  # no proxy of the environment
    opener = urllib.request.build_opener(*handlers)
    with opener.open(f"http://{address}/metrics", timeout=_TIMEOUT_S) as answer:
        return parsed(answer.read().decode(), model)
