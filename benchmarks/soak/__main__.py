"""Stresses a server for a while, and checks for lost requests, wrong images and leaks.

Askers, streams, cancellations, deadline storms, readers that do not read, versions rolled out
twice a minute, broken bundles, and workers killed with SIGKILL, all at once; every image is
compared with what an engine of the driver's own computes for its serial number. At the end: no
lost request, no wrong byte, empty queues, flat memory, and exit status 0 of a SIGTERM under load.
The exit status is 1 if any of these fails.

    python benchmarks/soak --minutes 20 --json benchmarks/results/soak.json
"""

import argparse
import asyncio
import datetime as dt
import json
import os
import platform
import random
import re
import sys
import tempfile
import time
from pathlib import Path

from actors import CAST, Stage
from ledger import Bundles, Ledger
from service import Service, compute_slope_mb_per_hour

from imagemint.client import AsyncClient

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_S = 5.0
# Memory for loading, warm-up and first uses is not a leak.
SETTLING_SHARE = 0.25
MOST_MB_PER_HOUR = 60.0


async def soak(options: argparse.Namespace, workshop: Path) -> dict[str, object]:
    """Returns the report."""
    for name in ("repository", "prepared", "references"):
        (workshop / name).mkdir()
    bundles = Bundles(options.bundle, workshop / "prepared", workshop / "repository")
    ledger = Ledger(bundles, workshop / "references")
    bundles.publish()
    service = Service(workshop / "repository", options.log, options.serve)
    try:
        return await _run_actors(options, bundles, ledger, service)
    finally:
        service.kill()


async def _run_actors(
    options: argparse.Namespace, bundles: Bundles, ledger: Ledger, service: Service
) -> dict[str, object]:
    dice = random.Random(options.seed)  # noqa: S311 - reproducible load
    over = asyncio.Event()
    began = time.monotonic()
    memory: list[dict[str, object]] = []
    async with AsyncClient(service.grpc_address, timeout_s=60) as client:
        stage = Stage(client, service, bundles, ledger, over)
        cast = [
            asyncio.create_task(actor(stage, random.Random(dice.random())))  # noqa: S311 - likewise
            for actor, number in CAST.items()
            for _ in range(number)
        ]
        while (elapsed := time.monotonic() - began) < 60 * options.minutes:
            memory.append({"s": round(elapsed, 1), "mb": service.measure_memory_mb()})
            if any(task.done() for task in cast):
                break  # an actor broke down: what it raised is raised below
            await stage.pause(SAMPLE_S)
        over.set()
        await asyncio.gather(*cast)
        queued = await _wait_until_zero(service, "imagemint_queue_images")
        inflight = await _wait_until_zero(service, "imagemint_inflight_requests")
        served = await service.sum_metric("imagemint_images_total")
        drain = await _drain(stage)
    return {
        "ended": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": _describe_machine(),
        "minutes": round((time.monotonic() - began) / 60, 2),
        "serve": options.serve,
        "cast": {actor.__name__: number for actor, number in CAST.items()},
        "outcomes": dict(sorted(ledger.outcomes.items())),
        "images_checked": ledger.images_checked,
        "images_wrong": ledger.images_wrong,
        "images_served": served,
        "versions_seen": len(ledger.versions),
        "failures": ledger.failures[:50],
        "queue_images_at_end": queued,
        "inflight_requests_at_end": inflight,
        "memory": _compute_slopes(memory, 60 * options.minutes),
        "drain": drain,
    }


def _describe_machine() -> dict[str, str | int]:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": found[1] if found else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


async def _wait_until_zero(service: Service, name: str) -> float:
    """Waits up to ten seconds until a gauge is 0, and returns its value."""
    deadline_s = time.monotonic() + 10
    while True:
        value = await service.sum_metric(name)
        if not value or time.monotonic() > deadline_s:
            return value
        await asyncio.sleep(0.1)


async def _drain(stage: Stage) -> dict[str, object]:
    """Sends SIGTERM during calls, and checks that each of them is answered."""
    calls = [
        asyncio.create_task(stage.client.generate(stage.bundles.model, 64, seed=seed))
        for seed in range(32)
    ]
    # A call is accepted once the server counts it; a later call may be refused.
    while await stage.service.sum_metric("imagemint_inflight_requests") < 1:
        if all(call.done() for call in calls):
            break
    stage.service.ask_to_stop()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if not isinstance(outcome, BaseException):
            await stage.ledger.check("drain", outcome, 0, 64)
    refused = sorted({type(o).__name__ for o in outcomes if isinstance(o, BaseException)})
    answered = sum(not isinstance(outcome, BaseException) for outcome in outcomes)
    status = await stage.service.wait_until_stopped()
    return {"answered": answered, "refused": 32 - answered, "by": refused, "exit_status": status}


def _compute_slopes(memory: list[dict[str, object]], seconds: float) -> dict[str, object]:
    """Returns the slope of each process that ran the whole time, and the samples."""
    rows = [row for row in memory if float(str(row["s"])) >= SETTLING_SHARE * seconds]
    series = [dict(row["mb"]) for row in rows if isinstance(row["mb"], dict)]
    times = [float(str(row["s"])) for row in rows]
    throughout = set.intersection(*(set(each) for each in series)) if len(series) > 1 else set()
    return {
        "settling_share": SETTLING_SHARE,
        "processes": {
            str(pid): {
                "first_mb": round(series[0][pid], 1),
                "last_mb": round(series[-1][pid], 1),
                "largest_mb": round(max(each[pid] for each in series), 1),
                "slope_mb_per_hour": round(
                    compute_slope_mb_per_hour(times, [each[pid] for each in series]), 2
                ),
            }
            for pid in sorted(throughout)
        },
    }


def judge(report: dict[str, object]) -> dict[str, bool]:
    """Returns each criterion, and whether it is met."""
    memory, drain, outcomes = report["memory"], report["drain"], report["outcomes"]
    if not (isinstance(memory, dict) and isinstance(drain, dict) and isinstance(outcomes, dict)):
        raise TypeError("not a report")
    slopes = [each["slope_mb_per_hour"] for each in memory["processes"].values()]
    return {
        "no request lost": not any("LOST" in name for name in outcomes),
        "no byte wrong": report["images_checked"] != 0 and report["images_wrong"] == 0,
        "queues empty": report["queue_images_at_end"] == report["inflight_requests_at_end"] == 0,
        "memory flat": bool(slopes) and max(slopes) < MOST_MB_PER_HOUR,
        "drain clean": drain["exit_status"] == 0 and set(drain["by"]) <= {"Unavailable"},
    }


def main() -> int:
    """Prints the report; with --json writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--bundle", type=Path, default=ROOT / "models/mnist/1")
    parser.add_argument("--seed", type=int, default=0, help="seed of the actors' random choices")
    parser.add_argument("--json", type=Path, help="file for the report")
    parser.add_argument(
        "--log", type=Path, default=Path("soak.log"), help="file for the server log"
    )
    parser.add_argument(
        "--serve",
        nargs=argparse.REMAINDER,
        default=[
            *("--processes", "2", "--model-control", "poll", "--poll-interval-s", "1"),
            *("--version-policy", "latest:1"),
        ],
        help="last: other options of `imagemint serve`",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imagemint-soak-") as workshop:
        report = asyncio.run(soak(options, Path(workshop)))
    report["verdicts"] = held = judge(report)
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text)
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
