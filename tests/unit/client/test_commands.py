"""`imagemint models` and `imagemint generate`, as typed."""

import io
import json
import signal
import subprocess
import sys

import grpc
import numpy as np
import pytest
from PIL import Image

from imagemint.client import Cycle, InvalidRequest, cli, outputs
from imagemint.client.commands import condition_of
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import image_pb2


def opened(path):
    """The picture in a file, without keeping the file open."""
    return Image.open(io.BytesIO(path.read_bytes()))


@pytest.fixture
def imagemint(address, capsys):
    """Runs a command line against `mint`; gives status, stdout and stderr."""

    def run(*words):
        status = cli.main([words[0], "--server", address, *map(str, words[1:])])
        return status, *capsys.readouterr()

    return run


def test_models_prints_table(imagemint):
    """A line for each version, the default one marked, with what the manifest says."""
    status, out, _ = imagemint("models")
    head, tiny, loading, zebra = (line.split() for line in out.splitlines())
    assert status == 0
    assert head[:3] == ["MODEL", "VERSION", "STATE"]
    assert tiny[:7] == ["tiny", "3*", "ready", "3", "4x6x1", "threshold", "0.1..2"]
    assert tiny[7:] == ["int8", "CPUExecutionProvider"]
    assert loading[:3] == ["tiny", "4", "loading"]
    assert zebra[:3] == ["zebra", "4", "failed"]
    assert zebra[-2:] == ["checksum", "mismatch"]


def test_models_prints_json(imagemint):
    """--json holds everything."""
    tiny, _ = json.loads(imagemint("models", "--json")[1])
    assert tiny["versions"][0]["manifest"]["class_labels"] == ["zero", "one", "two"]
    assert tiny["versions"][0]["state"] == "ready"


def test_api_key_goes_with_every_call(imagemint, mint, monkeypatch):
    """As a bearer, from the environment; nothing prints it, not even a fault beside it."""
    key = "imk_" + "x" * 43
    monkeypatch.setenv("IMAGEMINT_API_KEY", key)
    assert imagemint("models")[0] == 0
    assert {each["authorization"] for each in mint.metadata} == {f"Bearer {key}"}
    status, out, err = imagemint("models", "--timeout-s", "-1")
    assert status == 2
    assert key not in out + err


def test_directory_holds_pictures_as_sent(imagemint, tmp_path):
    """A file for each image, named by index and class, with the server's bytes unchanged."""
    out = tmp_path / "a" / "out"
    status, text, _ = imagemint(
        *("generate", "--model", "tiny", "--class", "1,2", "--count", 6),
        *("--seed", 42, "--first-index", 3, "--out", out),
    )
    assert status == 0
    assert sorted(each.name for each in out.iterdir()) == [
        f"{index:06d}_class{(2, 1)[index % 2 == 0]}.png" for index in range(3, 9)
    ]
    picture = opened(out / "000004_class1.png")
    assert picture.text["serial"] == "tiny@3/42/4?class=1"
    assert text.startswith("tiny@3 seed 42: 6 images in ")
    assert f"first serial tiny@3/42/3?class=2, to {out}\n" in text


@pytest.mark.parametrize("out", ["x.npz", "x.png", "x"])
def test_priority_is_sent(imagemint, mint, tmp_path, out):
    """Whatever is written."""
    line = ("generate", "--model", "tiny", "--priority", "high", "--out", tmp_path / out)
    assert imagemint(*line)[0] == 0
    asked = [request for request in mint.requests if hasattr(request, "images")]
    assert {request.priority for request in asked} == {pb.PRIORITY_HIGH}


def test_directory_run_again_replaces(imagemint, tmp_path):
    """A second run leaves one picture for each index, also where the class has changed."""
    line = ("generate", "--model", "tiny", "--count", 3, "--seed", 1, "--out", tmp_path)
    (tmp_path / "notes.png").write_text("not ours")
    imagemint(*line, "--class", 0)
    imagemint(*line, "--class", 2)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "000000_class2.png",
        "000001_class2.png",
        "000002_class2.png",
        "notes.png",
    ]


def test_unconditional_names_have_no_class(imagemint, tmp_path):
    """Without a class the index alone is the name."""
    imagemint("generate", "--model", "plain", "--out", tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["000000.png"]


def test_npz_holds_arrays(imagemint, make_mint, tmp_path):
    """image, class_id and index, with the agreed types, across several chunks."""
    out = tmp_path / "x.npz"
    status, _, _ = imagemint(
        *("generate", "--model", "tiny", "--class", "balanced", "--count", 10),
        *("--seed", 7, "--out", out),
    )
    assert status == 0
    with np.load(out) as arrays:
        assert sorted(arrays) == ["class_id", "image", "index"]
        assert (arrays["image"].dtype, arrays["image"].shape) == (np.uint8, (10, 4, 6, 1))
        assert (arrays["class_id"].dtype, arrays["index"].dtype) == (np.int64, np.uint64)
        assert arrays["class_id"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
        assert arrays["index"].tolist() == list(range(10))
        assert arrays["image"][5, 0, 0, 0] == (7 * 31 + 5 * 7 + 2 * 3) % 256


def test_npz_of_unconditional_model_has_class_minus_one(imagemint, tmp_path):
    """No class is -1."""
    imagemint("generate", "--model", "plain", "--count", 2, "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["class_id"].tolist() == [outputs.UNCONDITIONAL] * 2


def test_small_sheet_is_the_servers(imagemint, mint, tmp_path):
    """Up to the limit of a request, the server makes the sheet and its bytes are kept."""
    out = tmp_path / "sheet.png"
    status, _, _ = imagemint(
        "generate", "--model", "tiny", "--count", 16, "--columns", 4, "--out", out
    )
    assert status == 0
    assert mint.requests[-1].layout == image_pb2.IMAGE_LAYOUT_SHEET
    assert mint.requests[-1].columns == 4
    assert opened(out).text["serial"] == "sheet"


def test_large_sheet_is_composed(imagemint, tmp_path):
    """Beyond the limit the sheet is put together here, and says what it holds."""
    out = tmp_path / "sheet.png"
    imagemint("generate", "--model", "plain", "--count", 17, "--seed", 1, "--out", out)
    sheet = opened(out)
    assert sheet.size == (5 * 6, 4 * 4)
    assert sheet.text["imagemint:serial-range"] == "plain@3/1/0 to plain@3/1/16"
    assert "trainedAlgorithmicMedia" in sheet.text["XML:com.adobe.xmp"]
    pixels = np.asarray(sheet)
    assert pixels[2 * 4, 3 * 6] == (31 + 13 * 7) % 256
    assert not pixels[3 * 4 :, 2 * 6 :].any()


def test_serial_is_minted_again(imagemint, tmp_path):
    """--serial alone brings back the very file."""
    imagemint("generate", "--model", "tiny", "--count", 3, "--seed", 5, "--out", tmp_path / "all")
    serial = "tiny@3/5/2?class=2"
    status, text, _ = imagemint("generate", "--serial", serial, "--out", tmp_path / "one")
    assert status == 0
    assert serial in text
    name = "000002_class2.png"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--model is required (or IMAGEMINT_MODEL), or else --serial"),
        (
            ("--serial", "tiny@3/5/2", "--class", "1", "--seed", "3"),
            "--serial says it all and excludes --class, --seed",
        ),
        (("--model", "tiny", "--count", "0"), "--count: Input should be greater than or equal"),
        (("--model", "tiny", "--server", "nowhere"), "--server: 'nowhere' is not HOST:PORT"),
    ],
)
def test_wrong_use_is_told(imagemint, mint, tmp_path, words, message):
    """One line, status 2, and nothing is asked of the server."""
    status, _, err = imagemint("generate", "--out", tmp_path / "x", *words)
    assert status == 2
    assert err.startswith("imagemint generate: ")
    assert message in err
    assert not mint.requests


def test_server_error_is_told(imagemint, mint, fault, tmp_path):
    """An error of the server is one line, status 1."""
    mint.faults.append(fault(grpc.StatusCode.NOT_FOUND, "there is no model tiny; there are cats"))
    assert imagemint("generate", "--model", "tiny", "--out", tmp_path / "x.npz") == (
        1,
        "",
        "imagemint generate: there is no model tiny; there are cats\n",
    )


@pytest.mark.parametrize("name", ["x.npz", "x.png", "folder"])
def test_failed_run_leaves_no_half_file(imagemint, mint, fault, tmp_path, name):
    """A stream that breaks leaves an old file as it was, and no partial one."""
    out = tmp_path / name
    if out.suffix:
        out.write_text("old")
    mint.breaks.append((1, fault(grpc.StatusCode.INTERNAL)))
    line = ("generate", "--model", "tiny", "--count", 20, "--out", out)
    assert imagemint(*line)[0] == 1
    if out.suffix:
        assert out.read_text() == "old"
        assert list(tmp_path.iterdir()) == [out]
    else:
        assert [opened(each).size for each in out.iterdir()] == [(6, 4)] * 4


def test_quiet_prints_nothing(imagemint, tmp_path):
    """--quiet is silent where all goes well; without it the bar is for terminals only."""
    line = ("generate", "--model", "tiny", "--out", tmp_path)
    assert imagemint(*line, "--quiet") == (0, "", "")
    assert imagemint(*line)[2] == ""
    assert "images" in imagemint(*line, "--progress")[2]


def test_options_reach_wire(imagemint, mint, tmp_path):
    """Version, truncation and chunk size stand in the request."""
    imagemint(
        *("generate", "--model", "tiny", "--version", 2, "--truncation", 0.5),
        *("--chunk-size", 3, "--count", 4, "--out", tmp_path / "x.npz"),
    )
    (request,) = mint.requests
    assert (request.images.version, request.images.truncation) == ("2", 0.5)
    assert request.chunk_size == 3


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        (None, None),
        ("7", 7),
        ("one", "one"),
        ("balanced", Cycle()),
        ("1, 2,3", Cycle([1, 2, 3])),
        ("two,0,one", Cycle([2, 0, 1])),
    ],
)
def test_class_is_understood(text, condition):
    """Indices, labels, lists of either, and balanced."""
    assert condition_of(text, lambda: ("zero", "one", "two")) == condition


def test_unknown_label_in_list_is_told():
    """A label that is not there is named, with those that are."""
    with pytest.raises(InvalidRequest, match="no class 'ten'; there are zero, one"):
        condition_of("zero,ten", lambda: ("zero", "one"))


def test_interrupt_ends_quietly(address, mint, tmp_path):
    """Ctrl-C while the server works: status 130, no traceback, no half file, the call dropped."""
    mint.silent = True
    code = "import sys; from imagemint.client.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ("generate", "--server", address, "--model", "tiny", "--out", tmp_path / "x.npz")
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert mint.asked.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 130
    assert mint.cancelled.wait(30)
    assert not list(tmp_path.iterdir())
