"""The page of all metrics, from the registries that the server exports."""

from collections.abc import Iterable, Iterator
from types import ModuleType

from markdown_text import GENERATED, escape, format_table
from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from imagemint.server.processes.supervisor_metrics import WorkersMetrics
from imagemint.server.telemetry.gpu import DeviceCollector
from imagemint.server.telemetry.metrics import IMAGES, SECONDS, DroppedLines, Metrics

_HEAD = """\
# Metrics

`http://HOST:8002/metrics` has these metrics for Prometheus, and `http_metrics` adds them to the
HTTP interface. [Operating the server](../operating.md#metrics) says how to read them, and [the
runbook](../runbook.md) what the alerts on them mean. Durations are in seconds. Label values are
only names of existing models, versions and classes, never input of callers.
"""
_TAIL = f"""
Histograms of seconds have the bounds {", ".join(f"{bound:g}" for bound in SECONDS)}. Those of
images have the bounds {", ".join(f"{bound:g}" for bound in IMAGES)}.

`imagemint_build_info{{version,onnxruntime}}` is 1 and names what runs. `process_*` and
`python_info` are the standard metrics of a Python process; with several processes, they have the
label `worker`.
"""


def render() -> dict[str, str]:
    """Returns the page by name: `metrics.md`."""
    server = [each for each in vars(Metrics()).values() if hasattr(each, "describe")]
    workers = WorkersMetrics(1, lambda: None, dict)
    families = [*_list_families([workers.restarts, workers.ready]), *workers.registry.collect()]
    text = GENERATED + _HEAD + "\n## Every server\n\n"
    text += _format_table(_list_families([*server, DroppedLines()]))
    text += "\n## A server with several processes\n\n"
    text += _format_table(
        family for family in families if family.name.startswith("imagemint_worker")
    )
    text += "\n## A machine with GPUs\n\nThe extra `gpu` has the library that reads them.\n\n"
    text += _format_table(_list_families([DeviceCollector(ModuleType("pynvml"), 0)]))
    return {"metrics.md": text + _TAIL}


def _list_families(collectors: Iterable[Collector]) -> Iterator[Metric]:
    for collector in collectors:
        for family in getattr(collector, "describe", tuple)():
            # The library shows the labels of a metric without samples nowhere else.
            names = getattr(family, "_labelnames", ()) or getattr(collector, "_labelnames", ())
            family.samples = [Sample(family.name, dict.fromkeys(names, ""), 0.0)]
            yield family


def _format_table(families: Iterable[Metric]) -> str:
    rows: dict[str, tuple[str, str, str, str]] = {}
    for family in families:
        name = family.name + "_total" * (family.type == "counter")
        labels = ", ".join(
            f"`{each}`" for each in (family.samples[0].labels if family.samples else ())
        )
        rows.setdefault(name, (f"`{name}`", family.type, labels, escape(family.documentation)))
    return format_table(("metric", "type", "labels", "meaning"), rows.values())
