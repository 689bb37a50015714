"""The server's own metrics, read before and after a measurement."""

import re
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass

from imagemint.client.channel import is_loopback, split_address

_BATCHES = re.compile(
    r"^imagemint_batch_images_bucket\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE
)
_BOUND = re.compile(r'\ble="(?P<bound>[^"]+)"')
_CPU = re.compile(r"^process_cpu_seconds_total(?:\{.*\})? (?P<value>\S+)$", re.MULTILINE)
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """Counters of the server for one model."""

    batches: dict[str, int]
    """Number of batches by their images: the upper bound of each bucket, as Prometheus writes it,
    in ascending order. A bucket reaches down to the bound before it."""
    cpu_s: float
    """CPU time of all processes of the server."""


def parse_metrics(text: str, model: str) -> ServerMetrics:
    """Returns the counters of one model from the text of /metrics."""
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
    return ServerMetrics(batches, sum(float(found["value"]) for found in _CPU.finditer(text)))


def subtract(before: ServerMetrics, after: ServerMetrics) -> ServerMetrics:
    """Returns the counters of the time between two readings."""
    return ServerMetrics(
        {bound: count - before.batches.get(bound, 0) for bound, count in after.batches.items()},
        after.cpu_s - before.cpu_s,
    )


def read_metrics(address: str, model: str) -> ServerMetrics:
    """Reads http://`address`/metrics.

    Raises:
        OSError: there is no answer at this address; the message names it.
    """
    handlers = []
    if is_loopback(split_address(address)[0]):
        handlers.append(urllib.request.ProxyHandler({}))  # no proxy of the environment
    opener = urllib.request.build_opener(*handlers)
    url = f"http://{address}/metrics"
    try:
        with opener.open(url, timeout=_TIMEOUT_S) as response:
            return parse_metrics(response.read().decode(), model)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"cannot read {url}: {error}") from None
    except OSError as error:
        raise OSError(f"cannot read {url}: {getattr(error, 'reason', error)}") from None
