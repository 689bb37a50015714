"""Tests of `imagemint bench` from the command line against a real server on loopback."""

import http.server
import json
import threading
import urllib.request

import grpc
import pytest

from imagemint.bench.latencies import Latencies
from imagemint.bench.report import SCHEMA
from imagemint.client import cli


@pytest.fixture
def verdicts(monkeypatch):
    """The reasons why the client was the limit of each point, or None. Missing ones are None.

    Server and client share this process, so that a real measurement would be random.
    """
    verdicts = []
    limit = "imagemint.bench.generator.explain_limit"
    monkeypatch.setattr(limit, lambda *_: verdicts.pop(0) if verdicts else None)
    return verdicts


@pytest.fixture
def bench(address, capsys, verdicts):
    """A function that runs a command against `mint` and returns status, stdout and stderr."""

    def run(*words):
        line = ("bench", "--server", address, "--model", "tiny", "--warmup-s", 0, *words)
        status = cli.main([str(each) for each in line])
        return status, *capsys.readouterr()

    return run


def test_closed_loop_is_measured(bench, mint, tmp_path):
    """Each number of callers has a row and a point, and every image is counted."""
    file = tmp_path / "out" / "bench.json"
    status, out, _ = bench(
        "--concurrency", "1,3", "--images", 12, "--mix", "count=2", "--json", file
    )
    assert status == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["concurrency", "1"],
        ["concurrency", "3"],
    ]
    found = json.loads(file.read_text())
    assert found["schema"] == SCHEMA
    assert found["settings"]["mix"] == "count=2"
    for point, callers in zip(found["points"], (1, 3), strict=True):
        assert point["load"] == {"kind": "closed", "concurrency": callers}
        assert (point["images"], point["calls"], point["offered_images_per_s"]) == (12, 6, None)
        assert point["latency_ms"]["count"] == 6
        assert len(Latencies.decode(point["kinds"][0]["histogram"])) == 6
    # six calls per point, and one that opens the connection
    assert len(mint.requests) == 2 * 7


@pytest.fixture
def metrics_address():
    """The address of a /metrics endpoint that answers only the first two requests."""
    left = [2]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            left[0] -= 1
            self.send_response(200 if left[0] >= 0 else 503)
            self.end_headers()
            self.wfile.write(b'imagemint_batch_images_bucket{le="4.0",model="tiny"} 7.0\n')

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_points_are_written_if_the_metrics_fail(bench, metrics_address, tmp_path):
    """If /metrics fails, the run ends, and the points before are written."""
    file = tmp_path / "bench.json"
    status, _, err = bench(
        *("--concurrency", "1,3", "--images", 4, "--json", file, "--metrics", metrics_address)
    )
    assert status == 1
    assert f"cannot read http://{metrics_address}/metrics: HTTP Error 503" in err
    (point,) = json.loads(file.read_text())["points"]
    assert point["images"] == 4
    assert point["server"]["batches"] == {"4.0": 0}


def test_point_is_complete_if_the_metrics_fail(bench, metrics_address, tmp_path):
    """A point during which /metrics fails lacks only the server's counts."""
    urllib.request.urlopen(f"http://{metrics_address}/metrics").close()
    file = tmp_path / "bench.json"
    status, _, err = bench(
        *("--concurrency", 1, "--images", 4, "--json", file, "--metrics", metrics_address)
    )
    assert status == 0
    assert "does not answer any more" in err
    (point,) = json.loads(file.read_text())["points"]
    assert (point["images"], point["server"]) == (4, None)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--plot", "a.txt"), 2, "--plot: a.txt is none of NAME.png, NAME.svg, NAME.pdf"),
        (("--json", "there.json"), 1, "there.json exists; --overwrite replaces it"),
        (("--plot", "there.png"), 1, "there.png exists; --overwrite replaces it"),
        (("--json", "there.json/a.json"), 1, "there.json: "),
        (("--json", "/proc/a.json"), 1, "/proc/.a.json.partial"),
    ],
)
def test_invalid_output_is_refused_before_the_load(
    bench, mint, tmp_path, monkeypatch, *, words, status, message
):
    """An existing file and an unknown format are refused before a request is sent."""
    monkeypatch.chdir(tmp_path)
    for name in ("there.json", "there.png"):
        (tmp_path / name).write_text("kept")
    found, _, err = bench("--concurrency", 1, "--images", 1, *words)
    assert found == status
    assert message in err
    assert not mint.requests


def test_open_loop_is_measured(bench, tmp_path):
    """The output has offered and achieved rate, the knee and a plot."""
    picture = tmp_path / "bench.png"
    line = ("--rate", "200,100", "--images", 10, "--p99-ms", 30_000, "--achieved", 0.001)
    status, out, _ = bench(*line, "--plot", picture)
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert [row[:2] for row in rows[1:3]] == [["rate", "100"], ["rate", "200"]]
    assert rows[3][0] == "knee:"
    assert "rate 200" in out.splitlines()[-1]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_mix_has_a_row_per_kind(bench):
    """The first chunks of streams have a row of their own."""
    line = ("--concurrency", 2, "--images", 60, "--mix", "count=1:3, count=8 stream chunk=4")
    status, out, _ = bench(*line)
    assert status == 0
    names = [line[:24].strip() for line in out.splitlines()[1:]]
    assert names == ["concurrency 2", "count=1", "count=8 stream chunk=4", "first chunk"]


def test_sweep_measures_the_capacity_first(bench, monkeypatch):
    """The rates of the sweep are shares of the capacity."""
    monkeypatch.setattr("imagemint.bench.knee.GRID", (0.1, 0.2))
    monkeypatch.setattr("imagemint.bench.knee.FINE", 1.0)
    line = ("--sweep", "--sweep-concurrency", 2, "--images", 8, "--p99-ms", 30_000)
    status, out, _ = bench(*line, "--achieved", 0.001)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "concurrency",
        "rate",
        "rate",
        "knee:",
    ]


def test_run_ends_if_the_client_is_the_limit(bench, tmp_path, verdicts):
    """One line with status 1 is printed. The point is not reported, and earlier ones are."""
    file = tmp_path / "bench.json"
    verdicts.extend([None, "its event loop was busy 99% of the time"])
    status, out, err = bench("--concurrency", "1,2,3", "--images", 4, "--json", file)
    assert status == 1
    assert err.startswith(
        "imagemint bench: concurrency 2: the client, not the server, is the limit"
    )
    assert "busy 99%" in err
    assert out.count("concurrency") == 1
    found = json.loads(file.read_text())
    assert [point["load"]["concurrency"] for point in found["points"]] == [1]
    assert found["aborted"]["load"]["concurrency"] == 2
    assert "images_per_s" not in found["aborted"]


def test_responses_are_verified(bench, mint):
    """Requests are repeated after the measurement, and a difference gives status 1."""
    status, out, _ = bench("--concurrency", 2, "--images", 4, "--verify")
    assert (status, out.splitlines()[-1]) == (
        0,
        "4 answers were equal when the request was sent again",
    )
    asked = []

    def fickle(spec, picture_format, whole=mint._batch):
        batch = whole(spec, picture_format)
        asked.append(spec.first_index)
        batch.images[0].serial += f"-{len(asked)}"
        return batch

    mint._batch = fickle
    status, _, err = bench("--concurrency", 2, "--images", 4, "--verify")
    assert (status, err) == (
        1,
        "imagemint bench: 4 of 4 answers differed when the request was sent again\n",
    )


def test_refusals_are_reported(bench, mint, fault, tmp_path):
    """Shed and failed calls are separate, by code."""
    file = tmp_path / "bench.json"
    begin = mint._begin

    async def begins(request, context):
        if len(mint.requests) == 1:  # after the call that opens the connection
            mint.faults.append(fault(grpc.StatusCode.RESOURCE_EXHAUSTED))
        elif len(mint.requests) == 2:
            mint.faults.append(fault(grpc.StatusCode.INTERNAL))
        await begin(request, context)

    mint._begin = begins
    status, out, _ = bench("--concurrency", 1, "--images", 5, "--json", file)
    (point,) = json.loads(file.read_text())["points"]
    assert (status, point["images"]) == (0, 3)
    assert (point["shed"], point["failed"]) == ({"RESOURCE_EXHAUSTED": 1}, {"INTERNAL": 1})
    assert out.split()[-4:-2] == ["1", "1"]


def test_server_without_responses_is_an_error(bench, mint, fault):
    """If no call succeeds, the first reason is printed with status 1."""
    mint.faults.extend([fault(grpc.StatusCode.NOT_FOUND, "there is no model tiny")] * 3)
    assert bench("--images", 2)[::2] == (
        1,
        "imagemint bench: NOT_FOUND: there is no model tiny\n",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mix", "count=0"), "--mix: 'count=0': count: Input should be greater"),
        (("--concurrency", "0"), "--concurrency: Input should be greater than or equal to 1"),
        (("--rate", "-1"), "--rate: Input should be greater than 0"),
        (("--metrics", "here"), "--metrics: 'here' is not HOST:PORT"),
        (("--duration-s", "1", "--images", "3"), "--duration-s and --images exclude each other"),
    ],
)
def test_wrong_use_is_refused(bench, mint, words, message):
    """One line with status 2 is printed, and no request is sent."""
    status, _, err = bench(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err
    assert not mint.requests
