"""Runs the list of benchmarks/zoo.toml, one run at a time, and carries on where it was stopped.

A job is a judge, or a run of a generator or translator with one seed. A judge that
`benchmarks/judges` has is not trained, so that runs on different machines are measured in the same
features. The folder of a job tells how far it is: checkpoints, from which `imagemint train
--resume` continues; the report of `imagemint evaluate`; and `queue.json`, which names the job that
was recorded, or why it ended before its length. So the queue may be stopped at any time, and
continues on whichever machine has the folder. A run that is planned in bf16 starts in fp32 on a
machine where that is faster, and goes on in the precision of its checkpoint. A job that is killed
stops the queue and is not done. To try a failed run again, delete its `queue.json`.
"""

import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from zoo_records import ROOT, find_entry, name_run

from imagemint.training.loop.checkpoints import list_checkpoints
from imagemint.training.networks.precision import choose_precision, compare_precisions
from imagemint.training.recipes import TRANSLATION_RECIPES, TRANSLATION_TABLE
from imagemint.training.run_command import choose_device
from imagemint.training.whole_files import write_whole

PLAN = ROOT / "benchmarks/zoo.toml"
JUDGES = ROOT / "benchmarks/judges"
INTERRUPTED = 130
"""Status of a queue that was stopped, as that of `imagemint train`."""


class StopQueueError(Exception):
    """A signal stopped the queue; the current run has saved its checkpoint."""


@dataclass(frozen=True)
class Judge:
    """A classifier to be trained.

    Attributes:
        name: name of its folder.
        recipe: name of the recipe.
        options: for it, as on the command line.
    """

    name: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run to be trained, evaluated and recorded.

    Attributes:
        recipe: name of the recipe.
        seed: seed of the run.
        judges: names of the judges; the first measures the curve of a generator, and its features
            are those of a perceptual loss.
        options: as on the command line.
        given_name: its name, if that is not made of recipe, data set and seed.
    """

    recipe: str
    seed: int
    judges: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    given_name: str = ""

    @property
    def name(self) -> str:
        """The name of its folder, as that of its record."""
        return self.given_name or name_run(self.recipe, self.dataset, self.seed)

    @property
    def dataset(self) -> str:
        """The name of the data set that it trains on."""
        return Path(self.options.get("dataset", find_entry(self.recipe).dataset)).name

    @property
    def is_translator(self) -> bool:
        """Whether it trains a translator, and not a generator."""
        return self.recipe in TRANSLATION_TABLE


@dataclass(frozen=True)
class Plan:
    """What the queue does, in this order: the judges, then the runs."""

    judges: tuple[Judge, ...]
    runs: tuple[Run, ...]

    @property
    def generators(self) -> list[Run]:
        """The runs that train a generator."""
        return [run for run in self.runs if not run.is_translator]

    @property
    def translators(self) -> list[Run]:
        """The runs that train a translator."""
        return [run for run in self.runs if run.is_translator]

    def choose(self, names: Sequence[str]) -> list[Run]:
        """Returns the runs of these names, or all runs if there are none.

        Args:
            names: names of runs, and of recipes. The name of a recipe stands for all of its runs.

        Raises:
            ValueError: no run has one of these names.
        """
        known = {name for run in self.runs for name in (run.recipe, run.name)}
        if unknown := sorted(set(names) - known):
            raise ValueError(f"no run or recipe of the plan is called {', '.join(unknown)}")
        return [run for run in self.runs if not names or {run.recipe, run.name} & set(names)]


def read_plan(path: Path = PLAN) -> Plan:
    """Returns the list in a TOML file; a run with several seeds becomes one for each seed."""
    content = tomllib.loads(path.read_text())
    runs = []
    for entry in content["run"]:
        recipe, judges, options = entry["recipe"], tuple(entry["judges"]), entry.get("options", {})
        seeds, name = entry.get("seeds", [0]), entry.get("name", "")
        runs += [Run(recipe, seed, judges, options, name) for seed in seeds]
    return Plan(tuple(Judge(**entry) for entry in content["judge"]), tuple(runs))


class Queue:
    """Does the jobs of a plan in a folder.

    Args:
        plan: what to do.
        folder: where runs and newly trained judges lie; not in version control.
        record: writes the record of a finished run: called with its folder, its job, and why it
            ended early (empty if it did not).
        niceness: added to that of this process.
        threads: threads of each job.
        judges: judges that are trained already.
        imagemint: the command. Default: that beside this Python.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        record: Callable[[Path, Run, str], object],
        *,
        niceness: int = 15,
        threads: int = 1,
        judges: Path = JUDGES,
        imagemint: Sequence[str] = (str(Path(sys.executable).with_name("imagemint")),),
    ) -> None:
        self._plan, self._folder, self._record, self._kept = plan, folder, record, judges
        self._prefix = ["nice", "-n", str(niceness), *imagemint]
        self._environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self, only: Sequence[str] = ()) -> None:
        """Does every job that is not done.

        Args:
            only: names as for `Plan.choose`. Other runs are left out.

        Raises:
            StopQueueError: SIGINT or SIGTERM came.
            RuntimeError: a job was killed, or one failed that is no training run.
            ValueError: no run of the plan has one of these names.
        """
        runs = self._plan.choose(only)
        previous = {
            each: signal.signal(each, self._stop) for each in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            needed = {name for run in runs for name in run.judges}
            for judge in self._plan.judges:
                if judge.name in needed:
                    self._train_judge(judge)
            for run in runs:
                self._do(run)
        finally:
            for each, handler in previous.items():
                signal.signal(each, handler)

    def list_status(self) -> list[tuple[Run, str]]:
        """Returns each run of the plan with how far it is, in words."""
        return [(run, self._describe(run)) for run in self._plan.runs]

    def _describe(self, run: Run) -> str:
        folder = self._folder / run.name
        done = _read(folder / "queue.json")
        if done.get("job") == _make_identity(run):
            return f"ended early: {done['failure']}" if done["failure"] else "recorded"
        found = list_checkpoints(folder)
        return f"at {int(found[-1].name):,} images" if found else "not started"

    def _find_judge(self, name: str) -> Path:
        """Returns the folder of a judge: one that is kept, or else one of this queue."""
        kept = self._kept / name
        return kept if kept.is_dir() else self._folder / "judges" / name

    def _train_judge(self, judge: Judge) -> None:
        out = self._find_judge(judge.name)
        if not (out / "classifier.json").exists():
            self._call(["train", judge.recipe, "--out", out, *_make_flags(judge.options)], out)

    def _do(self, run: Run) -> None:
        folder = self._folder / run.name
        if _read(folder / "queue.json").get("job") == _make_identity(run):
            return
        print(f"{run.name}: {self._describe(run)}", flush=True)
        judges = [self._find_judge(name) for name in run.judges]
        started = list_checkpoints(folder)
        own = run.options | _choose_precision(run, resumed=bool(started))
        options: list[str | Path] = ["--seed", str(run.seed), *_make_flags(own)]
        if not run.is_translator:
            options += ["--classifier", judges[0]]
        elif _needs_judge(run):
            options += ["--judge", judges[0]]
        train: list[str | Path] = ["train", run.recipe, "--out", folder, "--quiet", *options]
        failure = self._call([*train, "--resume"] if started else train, folder, may_fail=True)
        if list_checkpoints(folder):
            judged = [part for judge in judges for part in ("--classifier", judge)]
            self._call(["evaluate", folder, *judged], folder)
            self._record(folder, run, failure)
        elif not failure:
            raise RuntimeError(f"{run.name} left no checkpoint")
        done = {"job": _make_identity(run), "failure": failure}
        write_whole(folder / "queue.json", (json.dumps(done, indent=2) + "\n").encode())
        print(f"{run.name}: {failure or 'recorded'}", flush=True)

    def _call(
        self, arguments: Sequence[str | Path], folder: Path, *, may_fail: bool = False
    ) -> str:
        """Runs a command of imagemint; returns the last line of what went wrong, or "".

        Its output is appended to ``queue.log`` in the folder.

        Raises:
            StopQueueError: a signal stopped the queue.
            RuntimeError: the command failed, and it may not, or a signal killed it.
        """
        if self._stopping:
            raise StopQueueError
        folder.mkdir(parents=True, exist_ok=True)
        command = [*self._prefix, *map(str, arguments)]
        with (folder / "queue.log").open("ab") as log:
            # In a session of its own, so that Ctrl-C reaches it once, through `_stop`.
            self._child = subprocess.Popen(  # noqa: S603 - our own command
                command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
            if self._stopping:  # the signal came before there was a child to send it to
                self._child.send_signal(signal.SIGTERM)
            status = self._child.wait()
        if self._stopping or status == INTERRUPTED:
            raise StopQueueError
        if status == 0:
            return ""
        if status < 0:
            raise RuntimeError(f"{' '.join(command)}: killed by signal {-status}")
        lines = (folder / "queue.log").read_text(errors="replace").split("\n")
        line = next((each for each in reversed(lines) if each.strip()), f"status {status}")
        line = line.rpartition("\r")[2]
        if not may_fail:
            raise RuntimeError(f"{' '.join(command)}: {line}")
        return line

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if not self._stopping and self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)
        self._stopping = True


def _make_flags(options: dict[str, Any]) -> list[str]:
    """Returns options as on the command line: a boolean is `--name` or `--no-name`."""
    flags = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def _choose_precision(run: Run, *, resumed: bool) -> dict[str, str]:
    """Returns the option for the precision of a run, if it is not the planned one."""
    if run.options.get("precision") != "bf16":
        return {}
    if resumed:
        return {"precision": "auto"}  # that of the checkpoint
    device = choose_device("auto")
    slower = choose_precision(device) == "fp32" and compare_precisions(device) > 1.0
    return {"precision": "fp32"} if slower else {}


def _needs_judge(run: Run) -> bool:
    """Returns whether the losses of a translator look at images through a classifier."""
    recipe = TRANSLATION_RECIPES[run.recipe]
    own = {name: value for name, value in run.options.items() if name in recipe.model_fields}
    return recipe(**own).needs_judge


def _make_identity(run: Run) -> dict[str, Any]:
    """Returns what decides a run's result, as JSON."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(run)))
    del content["given_name"]
    return content


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content
