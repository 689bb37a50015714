"""The root command: finds subcommands, settles their settings, and ends with one line."""

import os
import signal
import subprocess
import sys

import pytest

from imagemint.client import cli
from imagemint.client.extras import _EXTRA_OF_PART, install_command

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
    def variants(cls):
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
    """A distribution that brings the commands show, fail, many and needy; its folder."""
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
def outcome(capsys):
    """Runs a command line; gives status, stdout and stderr."""

    def run(line):
        status = cli.main(line.split())
        return status, *capsys.readouterr()

    return run


def test_version_is_told(outcome):
    """--version names the distribution and its version."""
    status, out, _ = outcome("--version")
    assert (status, out.split()[0]) == (0, "imagemint")


def test_help_lists_commands(outcome):
    """Each command with the first line of its docstring; one that lacks its extra says so."""
    status, out, _ = outcome("--help")
    assert status == 0
    assert "  show      Show the settings.\n" in out
    assert f"  needy     needs: {install_command('train')}" in out
    assert "generate" in out


def test_help_imports_nothing_heavy():
    """Listing the real commands loads neither torch nor onnxruntime."""
    code = (
        "import sys\nfrom imagemint.client.cli import main\nmain(['--help'])\n"
        "print({'torch', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_command_help_shows_options(outcome):
    """Flags, their docstrings, defaults and variables."""
    status, out, _ = outcome("show --help")
    assert status == 0
    assert "--first-index int" in out
    assert "Where to begin." in out
    assert "IMAGEMINT_FIRST_INDEX" in out
    assert "--class" in out
    assert "IMAGEMINT_CLASS" in out
    assert "--config" in out


def test_no_command_shows_help(outcome):
    """Nothing asked is help, and status 2."""
    status, out, _ = outcome("")
    assert status == 2
    assert "usage: imagemint COMMAND" in out


def test_unknown_command_is_told(outcome):
    """One line that says which exist."""
    status, _, err = outcome("mint")
    assert status == 2
    assert err.startswith("imagemint mint: there is no command 'mint'; the commands are ")
    assert "show" in err


def test_flag_goes_before_variable_before_file_before_default(outcome, monkeypatch, tmp_path):
    """Take away one source after the other and the next one speaks."""
    file = tmp_path / "settings.toml"
    file.write_text("first_index = 1\nclass = 'file'\n")
    monkeypatch.setenv("IMAGEMINT_FIRST_INDEX", "2")
    monkeypatch.setenv("IMAGEMINT_CLASS", "variable")
    line = f"show --out x --config {file}"
    assert outcome(f"{line} --first-index 3 --class flag")[1] == "3 flag False [] x\n"
    assert outcome(line)[1] == "2 variable False [] x\n"
    monkeypatch.delenv("IMAGEMINT_FIRST_INDEX")
    monkeypatch.delenv("IMAGEMINT_CLASS")
    assert outcome(line)[1] == "1 file False [] x\n"
    assert outcome("show --out x")[1] == "0 None False [] x\n"


def test_config_variable_names_file(outcome, monkeypatch, tmp_path):
    """IMAGEMINT_CONFIG does what --config does."""
    file = tmp_path / "settings.toml"
    file.write_text("out = 'y'\nloud = true\nnames = ['a', 'b']\n")
    monkeypatch.setenv("IMAGEMINT_CONFIG", str(file))
    assert outcome("show") == (0, "0 None True ['a', 'b'] y\n", "")


def test_lists_and_switches_are_spelled(outcome, monkeypatch):
    """Lists take commas in flag and variable; switches take --no-."""
    assert outcome("show --out x --names a,b --names c --loud")[1] == (
        "0 None True ['a', 'b', 'c'] x\n"
    )
    monkeypatch.setenv("IMAGEMINT_NAMES", "a,b")
    monkeypatch.setenv("IMAGEMINT_LOUD", "1")
    assert outcome("show --out x --no-loud")[1] == "0 None False ['a', 'b'] x\n"


def test_every_fault_is_one_line(outcome, monkeypatch, tmp_path):
    """Faults of all sources at once, each by flag, variable or key."""
    file = tmp_path / "settings.toml"
    file.write_text("names = 3\nfrist_index = 1\n")
    monkeypatch.setenv("IMAGEMINT_LOUD", "perhaps")
    status, _, err = outcome(f"show --first-index many --config {file}")
    lines = err.splitlines()
    assert status == 2
    assert [each.startswith("imagemint show: ") for each in lines] == [True] * 5
    assert f"frist_index in {file}: there is no such setting; did you mean first_" in lines[0]
    assert any("--first-index: Input should be a valid integer" in each for each in lines)
    assert any("IMAGEMINT_LOUD: Input should be a valid boolean" in each for each in lines)
    assert any(f"names in {file}: Input should be a valid list" in each for each in lines)
    assert any("--out is required (or IMAGEMINT_OUT" in each for each in lines)


def test_unknown_flag_is_told(outcome):
    """One line that names the flag, status 2."""
    status, _, err = outcome("show --out x --frist-index 3")
    assert status == 2
    assert err == (
        "imagemint show: --frist-index: there is no such option; did you mean --first-index?"
        " (imagemint show --help lists them)\n"
    )


def test_every_unknown_flag_is_named(outcome):
    """One line each, with what may have been meant; what is no flag is quoted as it came."""
    err = outcome("show --first_index=3 --clas x --zebra --out here")[2]
    assert [line.split(" (")[0] for line in err.splitlines()] == [
        "imagemint show: --first_index: there is no such option; did you mean --first-index?",
        "imagemint show: --clas: there is no such option; did you mean --class?",
        "imagemint show: --zebra: there is no such option",
    ]
    assert outcome("show --out here stray")[2] == "imagemint show: unrecognized arguments: stray\n"


def test_unknown_variable_is_ignored(outcome, monkeypatch):
    """Variables of other commands are nobody's fault."""
    monkeypatch.setenv("IMAGEMINT_GRPC_ADDRESS", "x")
    assert outcome("show --out x")[0] == 0


@pytest.mark.parametrize(("text", "message"), [(None, "there is no file"), ("a = ", "Invalid")])
def test_bad_file_is_told(outcome, tmp_path, text, message):
    """A file that is missing or no TOML is named."""
    file = tmp_path / "settings.toml"
    if text is not None:
        file.write_text(text)
    status, _, err = outcome(f"show --out x --config {file}")
    assert status == 2
    assert str(file) in err
    assert message in err
    assert err.count("\n") == 1


def test_secret_is_never_printed(outcome, tmp_path):
    """A bad value of a secret field is not repeated in the error."""
    file = tmp_path / "settings.toml"
    file.write_text("token = 987654321\n")
    status, out, err = outcome(f"show --out x --config {file}")
    assert status == 2
    assert err.endswith(f"token in {file}: Input should be a valid string\n")
    assert "987654321" not in out + err


def test_failure_is_one_line(outcome):
    """A failure that was foreseen: one line, status 1."""
    assert outcome("fail planned") == (1, "", "imagemint fail: it went wrong\n")
    status, _, err = outcome("fail file")
    assert (status, err.count("\n")) == (1, 1)
    assert "/nowhere/at/all" in err


def test_bug_shows_traceback(outcome):
    """Other exceptions are not dressed up."""
    with pytest.raises(ValueError, match="a bug"):
        outcome("fail bug")


def test_status_of_command_is_kept(outcome):
    """What run() returns is the exit status."""
    assert outcome("fail status")[0] == 7


def test_interrupt_is_quiet(outcome):
    """Ctrl-C is 130, without a word."""
    assert outcome("fail interrupt") == (130, "", "")


def test_closed_pipe_is_quiet(installed):
    """A reader that leaves early is 141, without a word."""
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


def test_missing_extra_is_named(outcome):
    """Met on loading or on running, a missing module leads to the extra that brings it."""
    status, _, err = outcome("needy")
    assert status == 1
    assert err.startswith(f"imagemint needy: needs: {install_command('train')}")
    status, _, err = outcome("fail torch")
    assert status == 1
    assert install_command("train") in err


def test_variant_is_picked(outcome):
    """The first argument picks the variant, the rest are its settings."""
    assert outcome("many show --out x --first-index 4")[1] == "4 None False [] x\n"


def test_variants_are_listed(outcome):
    """Help lists them; none or an unknown one is a line that says which exist."""
    status, out, _ = outcome("many --help")
    assert status == 0
    assert "  show  Show the settings.\n" in out
    assert outcome("many") == (2, "", "imagemint many: expects one of show, fail; none is given\n")
    assert outcome("many shwo")[2].endswith("'shwo' is none of them; did you mean show?\n")
    assert outcome("shw")[2].endswith("did you mean show?\n")
    assert (
        outcome("many x")[2] == "imagemint many: expects one of show, fail; 'x' is none of them\n"
    )
