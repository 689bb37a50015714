"""Tests of `imagemint models` and `imagemint generate` from the command line."""

import io
import json
import re
import shlex
import signal
import subprocess
import sys

import grpc
import numpy as np
import pytest
from PIL import Image

from imagemint.client import cli, outputs
from imagemint.v1 import generation_service_pb2 as pb
from imagemint.v1 import image_pb2


def open_picture(path):
    """Returns the picture in a file without keeping the file open."""
    return Image.open(io.BytesIO(path.read_bytes()))


@pytest.fixture
def imagemint(address, capsys):
    """A function that runs a command against `mint` and returns status, stdout and stderr."""

    def run(*words):
        status = cli.main([words[0], "--server", address, *map(str, words[1:])])
        return status, *capsys.readouterr()

    return run


def test_models_prints_a_table(imagemint):
    """Each version is a line with data of its manifest, and the default one is marked."""
    status, out, _ = imagemint("models")
    head, tiny, loading, zebra = (line.split() for line in out.splitlines())
    assert status == 0
    assert head[:3] == ["MODEL", "VERSION", "STATE"]
    assert tiny[:8] == ["tiny", "3*", "ready", "3", "-", "4x6x1", "threshold", "0.1..2"]
    assert tiny[8:] == ["int8", "CPUExecutionProvider"]
    assert loading[:3] == ["tiny", "4", "loading"]
    assert zebra[:3] == ["zebra", "4", "failed"]
    assert zebra[-2:] == ["checksum", "mismatch"]


def test_models_prints_json(imagemint):
    """--json prints everything."""
    tiny, _ = json.loads(imagemint("models", "--json")[1])
    assert tiny["versions"][0]["manifest"]["class_labels"] == ["zero", "one", "two"]
    assert tiny["versions"][0]["state"] == "ready"


def test_api_key_is_sent_with_every_call(imagemint, mint, monkeypatch):
    """The key from the environment is a bearer token and is never printed."""
    key = "imk_" + "x" * 43
    monkeypatch.setenv("IMAGEMINT_API_KEY", key)
    assert imagemint("models")[0] == 0
    assert {each["authorization"] for each in mint.metadata} == {f"Bearer {key}"}
    status, out, err = imagemint("models", "--timeout-s", "-1")
    assert status == 2
    assert key not in out + err


def test_api_key_of_a_file_is_sent_without_its_line_end(imagemint, mint, monkeypatch):
    """Secrets often end with a newline. An empty variable is no key, and no other text is sent."""
    monkeypatch.setenv("IMAGEMINT_API_KEY", "imk_x\n")
    assert imagemint("models")[0] == 0
    assert {each["authorization"] for each in mint.metadata} == {"Bearer imk_x"}
    mint.metadata.clear()
    monkeypatch.setenv("IMAGEMINT_API_KEY", "")
    assert imagemint("models")[0] == 0
    assert "authorization" not in mint.metadata[-1]
    monkeypatch.setenv("IMAGEMINT_API_KEY", "imk_\u00e9")
    status, out, err = imagemint("models")
    assert (status, out) == (2, "")
    assert err == "imagemint models: IMAGEMINT_API_KEY: must be printable ASCII\n"


def test_half_a_pair_for_tls_is_refused(imagemint, mint):
    """A key without its certificate would abort the process."""
    status, out, err = imagemint("models", "--tls-private-key", "a.key")
    assert (status, out) == (2, "")
    assert err == ("imagemint models: set tls_private_key and tls_certificate_chain together\n")
    assert not mint.requests


def test_directory_has_pictures_as_sent(imagemint, tmp_path):
    """Each image is a file, named by index and class, with the bytes of the server."""
    out = tmp_path / "a" / "out"
    status, text, _ = imagemint(
        *("generate", "--model", "tiny", "--class", "1,2", "--count", 6),
        *("--seed", 42, "--first-index", 3, "--out", out),
    )
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == [
        f"{index:06d}_class{(2, 1)[index % 2 == 0]}.png" for index in range(3, 9)
    ]
    picture = open_picture(out / "000004_class1.png")
    assert picture.text["serial"] == "tiny@3/42/4?class=1"
    assert text.startswith("tiny@3 seed 42: 6 images in ")
    assert f"first serial tiny@3/42/3?class=2, to {out}\n" in text


@pytest.mark.parametrize("out", ["x.npz", "x.png", "x"])
def test_priority_is_sent(imagemint, mint, tmp_path, out):
    """The priority is sent for every kind of output."""
    line = ("generate", "--model", "tiny", "--priority", "high", "--out", tmp_path / out)
    assert imagemint(*line)[0] == 0
    asked = [request for request in mint.requests if hasattr(request, "images")]
    assert {request.priority for request in asked} == {pb.PRIORITY_HIGH}


def test_append_replaces_an_index(imagemint, tmp_path):
    """--append leaves one picture per index, even if the class has changed."""
    line = ("generate", "--model", "tiny", "--count", 3, "--seed", 1, "--out", tmp_path)
    (tmp_path / "notes.png").write_text("not ours")
    imagemint(*line, "--class", 0)
    assert "--append replaces those of the same index" in imagemint(*line)[2]
    assert imagemint(*line, "--class", 2, "--append")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "000000_class2.png",
        "000001_class2.png",
        "000002_class2.png",
        "notes.png",
    ]


def test_unconditional_names_have_no_class(imagemint, tmp_path):
    """Without a class the index is the name."""
    imagemint("generate", "--model", "plain", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["000000.png"]


def test_npz_has_the_arrays(imagemint, make_mint, tmp_path):
    """The file has image, class_id and index with the documented types across several chunks."""
    out = tmp_path / "x.npz"
    status, _, _ = imagemint(
        *("generate", "--model", "tiny", "--class", "balanced", "--count", 10),
        *("--seed", 7, "--out", out),
    )
    assert status == 0
    with np.load(out) as arrays:
        names = "bundle_sha256 class_id class_labels image index model seed serial truncation"
        assert sorted(arrays) == [*names.split(), "variant", "version"]
        assert (arrays["image"].dtype, arrays["image"].shape) == (np.uint8, (10, 4, 6, 1))
        assert (arrays["class_id"].dtype, arrays["index"].dtype) == (np.int64, np.uint64)
        assert arrays["class_id"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
        assert arrays["index"].tolist() == list(range(10))
        assert arrays["image"][5, 0, 0, 0] == (7 * 31 + 5 * 7 + 2 * 3) % 256
        assert arrays["serial"].tolist() == [f"tiny@3/7/{i}?class={i % 3}" for i in range(10)]
        assert arrays["class_labels"].tolist() == ["zero", "one", "two"]
        assert [str(arrays[name]) for name in ("model", "version", "variant")] == [
            *("tiny", "3", "int8")
        ]
        assert (arrays["seed"].dtype, int(arrays["seed"])) == (np.uint64, 7)
        assert np.isnan(arrays["truncation"])


def test_npz_of_unconditional_model_has_class_minus_one(imagemint, tmp_path):
    """The class id of a model without classes is -1."""
    imagemint("generate", "--model", "plain", "--count", 2, "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["class_id"].tolist() == [outputs.UNCONDITIONAL] * 2


def test_small_sheet_is_made_by_the_server(imagemint, mint, tmp_path):
    """Up to the limit of a request, the file has the bytes of the server's sheet."""
    out = tmp_path / "sheet.png"
    status, _, _ = imagemint(
        "generate", "--model", "tiny", "--count", 16, "--columns", 4, "--out", out
    )
    assert status == 0
    assert mint.requests[-1].layout == image_pb2.IMAGE_LAYOUT_SHEET
    assert mint.requests[-1].columns == 4
    assert open_picture(out).text["serial"] == "sheet"


def test_large_sheet_is_made_by_the_client(imagemint, tmp_path):
    """Beyond the limit the client composes the sheet with its metadata."""
    out = tmp_path / "sheet.png"
    imagemint("generate", "--model", "plain", "--count", 17, "--seed", 1, "--out", out)
    sheet = open_picture(out)
    assert sheet.size == (5 * 6, 4 * 4)
    assert sheet.text["imagemint:serial-range"] == "plain@3/1/0 to plain@3/1/16"
    assert "trainedAlgorithmicMedia" in sheet.text["XML:com.adobe.xmp"]
    pixels = np.asarray(sheet)
    assert pixels[2 * 4, 3 * 6] == (31 + 13 * 7) % 256
    assert not pixels[3 * 4 :, 2 * 6 :].any()


def test_serial_gives_the_same_file(imagemint, tmp_path):
    """--serial alone gives the same file again."""
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
            "--serial determines the image and excludes --class, --seed",
        ),
        (("--model", "tiny", "--count", "0"), "--count: Input should be greater than or equal"),
        (("--model", "tiny", "--server", "nowhere"), "--server: 'nowhere' is not HOST:PORT"),
    ],
)
def test_wrong_use_is_refused(imagemint, mint, tmp_path, words, message):
    """One line with status 2 is printed, and no request is sent."""
    status, _, err = imagemint("generate", "--out", tmp_path / "x", *words)
    assert status == 2
    assert err.startswith("imagemint generate: ")
    assert message in err
    assert not mint.requests


def test_server_error_is_one_line(imagemint, mint, fault, tmp_path):
    """An error of the server is one line with status 1."""
    mint.faults.append(fault(grpc.StatusCode.NOT_FOUND, "there is no model tiny; there are cats"))
    assert imagemint("generate", "--model", "tiny", "--out", tmp_path / "x.npz") == (
        1,
        "",
        "imagemint generate: there is no model tiny; there are cats\n",
    )


@pytest.mark.parametrize("name", ["x.npz", "x.png", "folder"])
def test_failed_run_leaves_no_partial_file(imagemint, mint, fault, tmp_path, name):
    """A failed stream keeps an existing file and leaves no partial one."""
    out = tmp_path / name
    if out.suffix:
        out.write_text("old")
    mint.breaks.append((1, fault(grpc.StatusCode.INTERNAL)))
    line = ("generate", "--model", "tiny", "--count", 20, "--out", out, "--overwrite")
    assert imagemint(*line)[0] == 1
    if out.suffix:
        assert out.read_text() == "old"
        assert list(tmp_path.iterdir()) == [out]
    else:
        assert [open_picture(path).size for path in out.iterdir()] == [(6, 4)] * 4


def test_quiet_prints_nothing(imagemint, tmp_path):
    """--quiet prints nothing on success. Otherwise the progress bar appears on terminals only."""
    line = ("generate", "--model", "tiny", "--out", tmp_path)
    assert imagemint(*line, "--quiet") == (0, "", "")
    assert imagemint(*line, "--append")[2] == ""
    assert "images" in imagemint(*line, "--append", "--progress")[2]


def test_options_are_sent(imagemint, mint, tmp_path):
    """Version, truncation and chunk size are in the request."""
    imagemint(
        *("generate", "--model", "tiny", "--version", 2, "--truncation", 0.5),
        *("--chunk-size", 3, "--count", 4, "--out", tmp_path / "x.npz"),
    )
    (request,) = [each for each in mint.requests if hasattr(each, "images")]
    assert (request.images.version, request.images.truncation) == ("2", 0.5)
    assert request.chunk_size == 3


@pytest.fixture
def run_and_interrupt(address, mint):
    """A function that runs a command, sends SIGINT during a call, and returns status and stderr."""

    def run(*words, written=lambda: True):
        code = "import sys; from imagemint.command import main; sys.exit(main())"
        with subprocess.Popen(
            [*(sys.executable, "-c", code, "generate", "--server", address), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert (mint.asked if mint.silent else mint.held).wait(60)
            while not written():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert out == ""
        return process.returncode, err

    return run


def test_interrupt_reports_that_nothing_is_written(run_and_interrupt, mint, tmp_path):
    """Ctrl-C gives status 130 without traceback or partial file, and the call is cancelled."""
    mint.silent = True
    out = tmp_path / "x.npz"
    status, err = run_and_interrupt(
        "--model", "plain", "--count", "20", "--seed", "4", "--out", out
    )
    assert status == 130
    words = f"--server {mint.address} --model plain --count 20 --seed 4 --out {out}"
    assert err.splitlines() == [
        f"imagemint generate: interrupted after 0 of 20 images; nothing was written to {out}",
        f"to generate the same images: imagemint generate {words}",
    ]
    assert mint.cancelled.wait(30)
    assert not list(tmp_path.iterdir())


def test_interrupted_folder_can_be_completed(run_and_interrupt, mint, tmp_path):
    """The message has what is written, and its command generates exactly the rest."""
    mint.hold_after = 8
    out = tmp_path / "folder"
    line = ("--model", "tiny", "--class", "balanced", "--count", "20", "--chunk-size", "4")
    status, err = run_and_interrupt(
        *(*line, "--out", out), written=lambda: len(list(out.glob("0*.png"))) == 8
    )
    first, second = err.splitlines()
    assert status == 130
    # The last chunk is counted shortly after its last file is written.
    assert re.search(rf"interrupted after [48] of 20 images; they are in {out}$", first)
    mint.hold_after = None
    words = shlex.split(second.removeprefix("to generate the rest: "))
    assert words[words.index("--variant") + 1] == mint.variant
    assert cli.main(words[1:]) == 0
    assert [path.name for path in sorted(out.iterdir())] == [
        f"{index:06d}_class{index % 3}.png" for index in range(20)
    ]
    seeds = {open_picture(path).text["serial"].split("/")[1] for path in out.iterdir()}
    assert seeds == {str(2**64 - 3)}


def test_failure_reports_what_is_written(imagemint, mint, fault, tmp_path):
    """A failed stream prints the number of pictures and the command for the rest."""
    mint.breaks.append((2, fault(grpc.StatusCode.INTERNAL, "broken")))
    line = ("generate", "--model", "tiny", "--count", 20, "--seed", 1, "--out", tmp_path / "x")
    status, _, err = imagemint(*line)
    assert status == 1
    assert "stopped after 8 of 20 images; they are in" in err
    assert "--first-index 8 --count 12" in err
    assert err.endswith("imagemint generate: broken\n")


def test_many_sources_are_translated(imagemint, mint, tmp_path):
    """Their paths together are longer than the name of a file may be."""
    files = [tmp_path / f"{number:06}.png" for number in range(300)]
    line = ("--model", "tiny", "--out", tmp_path / "x", "--source", *files)
    assert imagemint("translate", *line)[2] == f"imagemint translate: {files[0]} does not exist\n"


def test_failed_serials_can_be_completed(imagemint, mint, fault, tmp_path):
    """The command that a failure prints works, although the first one had --overwrite."""
    mint.breaks.append((1, fault(grpc.StatusCode.INTERNAL, "broken")))
    serials = ",".join(f"plain@3/1/{index}" for index in range(8))
    line = ("--serial", serials, "--chunk-size", 4, "--overwrite", "--out", tmp_path / "x")
    status, _, err = imagemint("generate", *line)
    assert status == 1
    assert "stopped after 4 of 8 images" in err
    (command,) = (each for each in err.splitlines() if each.startswith("to generate the rest: "))
    assert cli.main(shlex.split(command.removeprefix("to generate the rest: "))[1:]) == 0
    assert len(list((tmp_path / "x").iterdir())) == 8


def test_interrupt_during_imports_has_no_traceback():
    """Ctrl-C at the start also gives status 130."""
    code = (
        "import os, signal, sys\n"
        "class Press:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'imagemint.client.cli':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Press())\n"
        "from imagemint.command import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("name", ["a.zip", "a.parquet", "a.v2", "-", ".png", "x/.NPZ", ""])
def test_unsupported_output_is_refused(imagemint, mint, tmp_path, monkeypatch, name):
    """A name without a known meaning is refused before a request or a file."""
    monkeypatch.chdir(tmp_path)
    status, _, err = imagemint("generate", "--model", "tiny", "--out", name)
    assert status == 2
    assert "--out: " in err
    assert not mint.requests
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.PNG", "PNG"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP"), ("v.2/", None)],
)
@pytest.mark.parametrize("count", [4, 40])
def test_suffix_selects_the_format(imagemint, tmp_path, name, kind, count):
    """Sheets of the server and of the client have the format of the suffix in any case."""
    line = ("generate", "--model", "plain", "--count", count, "--out", f"{tmp_path}/{name}")
    assert imagemint(*line)[0] == 0
    if kind is None:
        assert len(list((tmp_path / name).iterdir())) == count
    else:
        assert open_picture(tmp_path / name).format == kind


@pytest.mark.parametrize("name", ["x.npz", "x.png", "x"])
def test_existing_output_is_refused(imagemint, mint, tmp_path, name):
    """Nothing is replaced or mixed without an option. --overwrite removes old pictures."""
    line = ("generate", "--model", "plain", "--out", tmp_path / name)
    assert imagemint(*line, "--count", 3, "--seed", 1)[0] == 0
    mint.requests.clear()
    status, _, err = imagemint(*line, "--count", 2, "--seed", 2)
    assert status == 1
    assert "--overwrite" in err
    assert not mint.requests
    assert imagemint(*line, "--count", 2, "--seed", 2, "--overwrite")[0] == 0
    if name == "x":
        serials = [
            open_picture(path).text["serial"] for path in sorted((tmp_path / name).iterdir())
        ]
        assert serials == ["plain@3/2/0", "plain@3/2/1"]


@pytest.mark.parametrize("words", [("3", "4"), ("3,4",)])
def test_class_options_accumulate(imagemint, mint, tmp_path, words):
    """Repeated options are equivalent to a list."""
    mint.labels = tuple("abcdefgh")
    flags = [each for word in words for each in ("--class", word)]
    line = ("generate", "--model", "tiny", *flags, "--count", 4, "--out", tmp_path / "x")
    assert imagemint(*line)[0] == 0
    assert list(mint.requests[-1].images.class_cycle.class_ids) == [3, 4]


def test_empty_class_is_refused(imagemint, tmp_path):
    """An empty variable of a script does not lead to random classes."""
    status, _, err = imagemint("generate", "--model", "tiny", "--class", "", "--out", tmp_path)
    assert status == 1
    assert "there is no class ''; the classes are zero, one, two" in err


def test_many_serials_need_few_calls(imagemint, mint, tmp_path):
    """Adjacent serials share a call, and the npz has the order of the arguments."""
    numbers = [5, 2, 3, 4, 9]
    serials = [f"tiny@3/7/{number}?class={number % 3}" for number in numbers]
    out = tmp_path / "x.npz"
    line = ("generate", "--serial", serials[0], "--serial", ",".join(serials[1:]), "--out", out)
    assert imagemint(*line)[0] == 0
    with np.load(out) as arrays:
        assert arrays["index"].tolist() == numbers
        assert arrays["serial"].tolist() == serials
    counts = [request.images.count for request in mint.requests if hasattr(request, "images")]
    assert sorted(counts) == [1, 4]


def test_serials_of_several_seeds_have_distinct_names(imagemint, tmp_path):
    """Pictures of one index of several seeds have different names."""
    line = ("generate", "--serial", "plain@3/1/0,plain@3/2/0", "--out", tmp_path / "x")
    assert imagemint(*line)[0] == 0
    assert [path.name for path in sorted((tmp_path / "x").iterdir())] == [
        "plain@3_1_000000.png",
        "plain@3_2_000000.png",
    ]


@pytest.mark.parametrize(
    "maker", [("../../y", "3"), ("plain", "3/../../y"), ("/y", "3"), ("", ""), ("plain", "3\n")]
)
def test_server_does_not_choose_the_folder(imagemint, mint, tmp_path, maker):
    """Files are named after model and version, so an answer with other names is an error."""
    mint.maker = maker
    line = ("generate", "--serial", "plain@3/1/0,plain@3/2/0", "--out", tmp_path / "x/x")
    status, _, said = imagemint(*line)
    assert (status, "these are no valid names" in said) == (1, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("command", "status"), [("serve", 0), ("generate", -signal.SIGHUP)])
def test_hangup_during_imports_does_not_end_a_server(command, status):
    """SIGHUP means to reload for a server, from its start on. It ends the other commands."""
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'imagemint.client.cli':\n"
        "            signal.raise_signal(signal.SIGHUP)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from imagemint.command import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, "--help"], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, b"")
