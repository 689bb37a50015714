"""Tests of the root command: subcommands, settings and errors of one line."""

import os
import signal
import subprocess
import sys

import pytest
from pydantic import BaseModel
from pydantic_settings import CliPositionalArg

from imagemint.client import cli
from imagemint.client.extras import _EXTRA_OF_PART, install_command
from imagemint.client.settings import UsageError, gather_settings

PROBE = '''
"""Commands to probe the root with."""
from pathlib import Path
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import CliPositionalArg

class PlannedError(Exception):
    __module__ = "imagemint.probe"

class Show(BaseModel):
    """Show the settings.

    At length.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    first_index: int = 0
    """Where to begin."""
    class_: str | None = Field(None, alias="class")
    """The class."""
    loud: bool = False
    token: SecretStr | None = None
    names: list[str] = []
    out: Path

    def run(self):
        print(self.first_index, self.class_, self.loud, self.names, self.out)

class Fail(BaseModel):
    """Fail as asked."""

    how: CliPositionalArg[str]

    def run(self):
        match self.how:
            case "planned":
                raise PlannedError("it\\nwent wrong")
            case "file":
                open("/nowhere/at/all")
            case "bug":
                raise ValueError("a bug")
            case "interrupt":
                raise KeyboardInterrupt
            case "status":
                return 7
            case "torch":
                raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")
            case "talk":
                for number in range(100_000):
                    print(number)

class Many:
    """Do one of many things."""

    @classmethod
    def list_variants(cls):
        return {"show": "Show the settings.", "fail": "Fail as told."}

    @classmethod
    def load_variant(cls, name):
        return {"show": Show, "fail": Fail}[name]
'''

ENTRIES = """
[imagemint.commands]
show = probe_commands:Show
fail = probe_commands:Fail
many = probe_commands:Many
needy = probe_training:Nothing
"""


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """A distribution with the commands show, fail, many and needy; its folder."""
    folder = tmp_path / "site"
    info = folder / "probe-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: probe\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    (folder / "probe_commands.py").write_text(PROBE)
    (folder / "probe_training.py").write_text(
        "raise ModuleNotFoundError('No module named tensorboard', name='tensorboard')"
    )
    monkeypatch.syspath_prepend(str(folder))
    for module in ("probe_commands", "probe_training"):
        monkeypatch.setitem(_EXTRA_OF_PART, module, "train")
    yield folder
    sys.modules.pop("probe_commands", None)


@pytest.fixture
def run_command(capsys):
    """A function that runs a command line and returns status, stdout and stderr."""

    def run(line):
        status = cli.main(line.split())
        return status, *capsys.readouterr()

    return run


def test_version_is_printed(run_command):
    """--version prints the distribution and its version."""
    status, out, _ = run_command("--version")
    assert (status, out.split()[0]) == (0, "imagemint")


def test_misspelt_variables_are_told(run_command, monkeypatch):
    """The command runs, and stderr names the setting that is meant."""
    for name in ("FIRST_INDX", "FIRST_INDEX", "NAME", "TOKENS", "SERVICE_HOST", "PORT_8001_TCP"):
        monkeypatch.setenv(f"IMAGEMINT_{name}", "1")
    status, out, err = run_command("show --out x")
    assert (status, out) == (0, "1 None False [] x\n")
    told = "IMAGEMINT_FIRST_INDX is no setting; did you mean IMAGEMINT_FIRST_INDEX?"
    assert err == f"imagemint show: {told}\n"


def test_help_lists_commands(run_command):
    """Each command is listed with the first line of its docstring, or with its missing extra."""
    status, out, _ = run_command("--help")
    assert status == 0
    assert "  show       Show the settings.\n" in out
    assert f"  needy      needs: {install_command('train')}" in out
    assert "generate" in out


def test_help_imports_no_slow_package():
    """The list of commands imports neither torch nor onnxruntime."""
    code = (
        "import sys\nfrom imagemint.client.cli import main\nmain(['--help'])\n"
        "print({'torch', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_command_help_shows_options(run_command):
    """The help has options, their docstrings, defaults and variables."""
    status, out, _ = run_command("show --help")
    assert status == 0
    assert "--first-index int" in out
    assert "Where to begin." in out
    assert "IMAGEMINT_FIRST_INDEX" in out
    assert "--class" in out
    assert "IMAGEMINT_CLASS" in out
    assert "--config" in out


def test_missing_command_prints_help(run_command):
    """Without a command the help is printed with status 2."""
    status, out, _ = run_command("")
    assert status == 2
    assert "usage: imagemint COMMAND" in out


def test_unknown_command_is_refused(run_command):
    """One line lists the commands that exist."""
    status, _, err = run_command("paint")
    assert status == 2
    assert err.startswith("imagemint paint: there is no command 'paint'; the commands are ")
    assert "show" in err


def test_settings_have_an_order_of_precedence(run_command, monkeypatch, tmp_path):
    """Options come before variables, then the file, then defaults."""
    file = tmp_path / "settings.toml"
    file.write_text("first_index = 1\nclass = 'file'\n")
    monkeypatch.setenv("IMAGEMINT_FIRST_INDEX", "2")
    monkeypatch.setenv("IMAGEMINT_CLASS", "variable")
    line = f"show --out x --config {file}"
    assert run_command(f"{line} --first-index 3 --class flag")[1] == "3 flag False [] x\n"
    assert run_command(line)[1] == "2 variable False [] x\n"
    monkeypatch.delenv("IMAGEMINT_FIRST_INDEX")
    monkeypatch.delenv("IMAGEMINT_CLASS")
    assert run_command(line)[1] == "1 file False [] x\n"
    assert run_command("show --out x")[1] == "0 None False [] x\n"


def test_config_variable_sets_the_file(run_command, monkeypatch, tmp_path):
    """IMAGEMINT_CONFIG is equivalent to --config."""
    file = tmp_path / "settings.toml"
    file.write_text("out = 'y'\nloud = true\nnames = ['a', 'b']\n")
    monkeypatch.setenv("IMAGEMINT_CONFIG", str(file))
    assert run_command("show") == (0, "0 None True ['a', 'b'] y\n", "")


def test_lists_and_switches_are_parsed(run_command, monkeypatch):
    """Lists are separated by commas in options and variables, and switches accept --no-."""
    assert run_command("show --out x --names a,b --names c --loud")[1] == (
        "0 None True ['a', 'b', 'c'] x\n"
    )
    monkeypatch.setenv("IMAGEMINT_NAMES", "a,b")
    monkeypatch.setenv("IMAGEMINT_LOUD", "1")
    assert run_command("show --out x --no-loud")[1] == "0 None False ['a', 'b'] x\n"


def test_values_of_a_list_follow_its_flag():
    """They may stand apart, as a shell makes them of `*.png`, until the next flag."""

    class Lists(BaseModel):
        sizes: list[int] | None = None
        names: list[str] = []
        loud: bool = False

    given = ["--names", "a", "b,c", "--loud", "--sizes", "1", "2", "--names", "true"]
    found = gather_settings(Lists, "imagemint lists", given)
    assert (found.names, found.sizes, found.loud) == (["a", "b", "c", "true"], [1, 2], True)
    with pytest.raises(UsageError, match="unrecognized arguments: b"):
        gather_settings(Lists, "imagemint lists", ["--names", "a", "--no-loud", "b"])


def test_flag_of_a_list_before_a_placed_argument_takes_one_value():
    """Further values would be taken for the argument, so the flag is repeated."""

    class Placed(BaseModel):
        run_name: CliPositionalArg[str]
        names: list[str] = []

    found = gather_settings(Placed, "imagemint placed", ["--names", "a", "--names", "b", "run"])
    assert (found.names, found.run_name) == (["a", "b"], "run")
    found = gather_settings(Placed, "imagemint placed", ["run", "--names", "a,b"])
    assert (found.names, found.run_name) == (["a", "b"], "run")


@pytest.mark.parametrize("given", ["--names true,None,ab", "--names=true,None,ab"])
def test_words_of_json_are_texts_in_a_list(run_command, given):
    """A list of texts can contain true, false, null and None, in any form of the flag."""
    done = run_command(f"show --out x {given}")
    assert done[1] == "0 None False ['true', 'None', 'ab'] x\n"
    done = run_command('show --out x --names ["null","b"] --names false')
    assert done[1] == "0 None False ['null', 'b', 'false'] x\n"


def test_variable_of_one_number_is_a_list(run_command, monkeypatch):
    """One item of a list in a variable needs no comma, also if it is a number."""
    monkeypatch.setenv("IMAGEMINT_NAMES", "5")
    assert run_command("show --out x")[1] == "0 None False ['5'] x\n"


def test_every_fault_is_a_line(run_command, monkeypatch, tmp_path):
    """Faults of all sources are reported at once with their option, variable or key."""
    file = tmp_path / "settings.toml"
    file.write_text("names = 3\nfrist_index = 1\n")
    monkeypatch.setenv("IMAGEMINT_LOUD", "perhaps")
    status, _, err = run_command(f"show --first-index many --config {file}")
    lines = err.splitlines()
    assert status == 2
    assert [line.startswith("imagemint show: ") for line in lines] == [True] * 5
    assert f"frist_index in {file}: there is no such setting; did you mean first_" in lines[0]
    assert any("--first-index: Input should be a valid integer" in line for line in lines)
    assert any("IMAGEMINT_LOUD: Input should be a valid boolean" in line for line in lines)
    assert any(f"names in {file}: Input should be a valid list" in line for line in lines)
    assert any("--out is required (or IMAGEMINT_OUT" in line for line in lines)


def test_unknown_option_is_refused(run_command):
    """One line has the name of the option, with status 2."""
    status, _, err = run_command("show --out x --frist-index 3")
    assert status == 2
    assert err == (
        "imagemint show: --frist-index: there is no such option; did you mean --first-index?"
        " (imagemint show --help lists them)\n"
    )


def test_every_unknown_option_is_reported(run_command):
    """Each has one line with a similar option. Other arguments are quoted."""
    err = run_command("show --first_index=3 --clas x --zebra --out here")[2]
    assert [line.split(" (")[0] for line in err.splitlines()] == [
        "imagemint show: --first_index: there is no such option; did you mean --first-index?",
        "imagemint show: --clas: there is no such option; did you mean --class?",
        "imagemint show: --zebra: there is no such option",
    ]
    assert (
        run_command("show --out here stray")[2] == "imagemint show: unrecognized arguments: stray\n"
    )


def test_flag_of_a_placed_argument_is_refused(run_command):
    """An argument without a flag is no suggestion. Its flag has an error of its own."""
    err = run_command("fail --how x --hw y")[2]
    assert [line.split(" (")[0] for line in err.splitlines()] == [
        "imagemint fail: --how: HOW is given by its place, without a flag",
        "imagemint fail: --hw: there is no such option",
    ]


def test_unknown_variable_is_ignored(run_command, monkeypatch):
    """Variables of other commands are no error."""
    monkeypatch.setenv("IMAGEMINT_GRPC_ADDRESS", "x")
    assert run_command("show --out x")[0] == 0


@pytest.mark.parametrize(("text", "message"), [(None, "there is no file"), ("a = ", "Invalid")])
def test_invalid_file_is_refused(run_command, tmp_path, text, message):
    """The error names a file that is missing or not TOML."""
    file = tmp_path / "settings.toml"
    if text is not None:
        file.write_text(text)
    status, _, err = run_command(f"show --out x --config {file}")
    assert status == 2
    assert str(file) in err
    assert message in err
    assert err.count("\n") == 1


def test_secret_is_never_printed(run_command, tmp_path):
    """An invalid value of a secret setting is not part of the error."""
    file = tmp_path / "settings.toml"
    file.write_text("token = 987654321\n")
    status, out, err = run_command(f"show --out x --config {file}")
    assert status == 2
    assert err.endswith(f"token in {file}: Input should be a valid string\n")
    assert "987654321" not in out + err


def test_expected_failure_is_one_line(run_command):
    """An expected failure prints one line and returns status 1."""
    assert run_command("fail planned") == (1, "", "imagemint fail: it went wrong\n")


def test_failure_of_a_file_names_it(run_command):
    """An OSError is printed as its path and reason, without its number."""
    said = "imagemint fail: /nowhere/at/all: No such file or directory\n"
    assert run_command("fail file") == (1, "", said)


def test_unexpected_exception_has_a_traceback(run_command):
    """Other exceptions are not caught."""
    with pytest.raises(ValueError, match="a bug"):
        run_command("fail bug")


def test_status_of_the_command_is_returned(run_command):
    """The return value of run() is the exit status."""
    assert run_command("fail status")[0] == 7


def test_interrupt_prints_nothing(run_command):
    """Ctrl-C returns 130 without output."""
    assert run_command("fail interrupt") == (130, "", "")


def test_closed_pipe_prints_nothing(installed):
    """A reader that closes the pipe leads to status 141 without output."""
    code = "import sys; from imagemint.client.cli import main; sys.exit(main(['fail', 'talk']))"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        restore_signals=False,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_missing_extra_is_reported(run_command):
    """A module that is missing at import or at run time leads to the extra that has it."""
    status, _, err = run_command("needy")
    assert status == 1
    assert err.startswith(f"imagemint needy: needs: {install_command('train')}")
    status, _, err = run_command("fail torch")
    assert status == 1
    assert install_command("train") in err


def test_variant_is_selected(run_command):
    """The first argument selects the variant, and the others are its settings."""
    assert run_command("many show --out x --first-index 4")[1] == "4 None False [] x\n"


def test_variants_are_listed(run_command):
    """The help lists the variants. A missing or unknown one is an error with the list."""
    status, out, _ = run_command("many --help")
    assert status == 0
    assert "  show  Show the settings.\n" in out
    assert run_command("many") == (
        2,
        "",
        "imagemint many: expects one of show, fail; none is given\n",
    )
    assert run_command("many shwo")[2].endswith("'shwo' is none of them; did you mean show?\n")
    assert run_command("shw")[2].endswith("did you mean show?\n")
    assert (
        run_command("many x")[2]
        == "imagemint many: expects one of show, fail; 'x' is none of them\n"
    )
