"""The sections of docs/zoo.md on how runs are made and measured, and which are still to be made."""

import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from zoo_queue import JUDGES, Run
from zoo_records import Record

from imagemint.training.loop.schedules import Schedule
from imagemint.training.recipes import RECIPES, TRANSLATION_RECIPES

_REPRODUCE = """\
## Make these runs

<!-- not run: trains for hours -->
```sh
python benchmarks/zoo.py queue          # all runs of benchmarks/zoo.toml, one at a time
python benchmarks/zoo.py status         # how far each of them is
python benchmarks/zoo.py page           # writes this page, and that of translators
```

The queue trains with `imagemint train NAME --classifier JUDGE`, measures with `imagemint evaluate`,
and records the result in `benchmarks/results`. It runs at low priority. If you stop it and start it
again, it continues from the checkpoints in `runs/zoo`. These commands make and record a single run
by hand:

<!-- not run: trains for hours -->
```sh
imagemint train dcgan --out runs/dcgan --classifier benchmarks/judges/digits
imagemint evaluate runs/dcgan --classifier benchmarks/judges/digits \\
  --classifier benchmarks/judges/digits-residual
python benchmarks/zoo.py record runs/dcgan --remark "what was seen"
```

`python benchmarks/zoo.py remark dcgan "what was seen"` adds or replaces the remark later.
"""
_COLUMNS = """\
## How they are measured

`{command}` measures each run, with the averaged weights of the generator.
Distances and neighbourhoods are those of the features of a judge, and compare generated images with
images of the test split. [evaluation.md](evaluation.md) says more, and
[benchmarks/judges](../benchmarks/judges/README.md) has the judges.

- **labels**: labels of training images that the networks see.
- **judge**: the classifiers that measured the run, by the letters below, if those of a table
  differ. Compare only distances of runs with the same letter.
- **Frechet, x floor**: Frechet distance of generated and test images, as a multiple of that of
  training and test images. **by digits-residual**: the same by a second judge, a residual network.
- **1-NN accuracy**: accuracy of a classifier that takes each image for real or generated as its
  nearest neighbour is. 0.5 means that it cannot tell them apart.
- **density**: mean number of test images whose neighbourhood contains a generated image, divided by
  five. Unusual images lower it, even if precision stays high.
- **coverage**: share of test images that have a generated image nearer than their fifth neighbour
  among the test images.
- **precision**: share of generated images that lie nearer to a test image than the fifth neighbour
  of that test image. **recall**: the same with test and generated images exchanged.
- **accuracy**: share of images that the judge assigns to the requested class. Codes, which have no
  given meaning, stand for classes by the best one-to-one assignment.
- **D classifies**: share of real test images that D itself classifies right, if it has a head for
  classes or codes.
- **reverse KL**: KL(generated | real) of the classes that the judge sees, in nats.
- **images**: real images shown to the discriminator, counted with repetition.
- **CPU min**: CPU time of training, all threads together. Older records have none.
- **trained in**: precision of the training: float32 (fp32), or bfloat16 in convolutions and dense
  layers (bf16).
- **ONNX**: size of the exported graph.
- **speed**: that of the exported graph at batch 64 in one CPU thread, as a multiple of
  `models/mnist/1` measured in turn with it.
"""


_OPEN = """\
These runs of the queue are still to be made. If the page shows a run of the same name, the
parentheses say why it is to be made again. Judges that are not kept cannot measure new runs, so
distances by them cannot be compared with new ones.
"""


def describe_measuring(kinds: dict[str, dict[str, list[Record]]]) -> list[str]:
    """Returns the section on metrics, with the images and judges of each data set."""
    commands: dict[str, None] = {}
    lines = []
    for dataset, by_recipe in kinds.items():
        samples: dict[str, list[str]] = {}
        records = [run for runs in by_recipe.values() for run in runs]
        for record in records:
            main = record.figures["frechet_distance"]
            commands[main.setup.command] = None
            sample = f"{main.sample_size:,} images ({main.setup.results})"
            description = f"{sample}; Frechet distance: {main.detail}"
            samples.setdefault(description, []).append(record.name)
        lines += [f"On {dataset}:", ""]
        lines += [f"- {_prefix_runs(each, samples, records)}" for each in samples]
        letters = name_judges(records)
        lines += [
            f"- judge {letter}: " + "; ".join(judge.removeprefix("judge ") for judge in judges)
            for judges, letter in letters.items()
        ]
        lines.append("")
    columns = _COLUMNS.format(command="` or `".join(commands))
    return [*columns.splitlines(), "", *lines[:-1]]


def name_judges(records: Sequence[Record]) -> dict[tuple[str, ...], str]:
    """Returns a letter for each group of judges, the one of most records first."""
    counts = Counter(record.judges for record in records)
    ranked = sorted(counts, key=lambda judges: (-counts[judges], judges))
    return dict(zip(ranked, string.ascii_uppercase, strict=False))


def _prefix_runs(text: str, known: dict[str, list[str]], records: Sequence[Record]) -> str:
    """Returns a text, after the runs that it belongs to if it does not belong to all."""
    names = dict.fromkeys(known[text])
    return text if len(names) == len(records) else f"{', '.join(names)}: {text}"


class AnyRecord(Protocol):
    """What the records of generators and of translators have in common."""

    @property
    def name(self) -> str:
        """The stem of its files."""

    @property
    def images(self) -> int:
        """Images shown to the networks."""

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges that measured it."""

    @property
    def failure(self) -> str:
        """Why the run ended before its length; empty for a run that came to its end."""


def list_open_runs(records: Sequence[AnyRecord], runs: Iterable[Run]) -> list[str]:
    """Returns the section of the runs that are planned and that the records lack."""
    known = {record.name: record for record in records}
    lines = []
    for run in runs:
        record = known.get(run.name)
        deficits = _find_deficits(record, run) if record else []
        if deficits or not record:
            remark = f" ({', '.join(deficits)})" if deficits else ""
            lines.append(
                f"- `{run.name}`: {get_length(run):,} images{_format_dataset(run)}{remark}"
            )
    return ["## Still to be run", "", *_OPEN.splitlines(), "", *lines, ""] if lines else []


def _find_deficits(record: AnyRecord, run: Run) -> list[str]:
    """Returns what the record of a run of the queue lacks, in words; [] if it is complete.

    A run ends with the batch that reaches its length, so it has up to one batch more images.
    """
    deficits = []
    if record.images < get_length(run) and not record.failure:
        deficits.append(f"the run shown has {record.images:,}")
    # A curve has a point for each snapshot, and a short run has none. Translators have no curve.
    interval = run.options.get("snapshot_interval", Schedule.snapshot_interval)
    if isinstance(record, Record) and not record.curve and get_length(run) >= interval:
        deficits.append("no curve")
    names = " ".join(record.judges)
    if any(f"SHA-256 {digest}" not in names for digest in _read_digests(run.judges)):
        deficits.append("measured by judges that are not kept")
    return deficits


def _read_digests(judges: Sequence[str]) -> list[str]:
    """Returns the digests of the judges that are kept, as far as records have them."""
    kept = (JUDGES / name / "classifier.json" for name in judges)
    return [json.loads(path.read_text())["sha256"][:16] for path in kept if path.exists()]


def get_length(run: Run) -> int:
    """Returns the images of a run of the plan."""
    recipe = (TRANSLATION_RECIPES if run.is_translator else RECIPES)[run.recipe]
    images: int = run.options.get("images", recipe.model_fields["images"].default)
    return images


def _format_dataset(run: Run) -> str:
    dataset = run.options.get("dataset")
    return f" on {dataset}" if dataset else ""


def describe_training(records: Sequence[Record]) -> list[str]:
    """Returns the section on commands, with options, machine and revision of each run."""
    lines = [
        *_REPRODUCE.splitlines(),
        "",
        "Each run has these options, and otherwise the defaults of its recipe at that revision:",
        "",
        "| run | options | trained on | revision |",
        "| --- | --- | --- | --- |",
    ]
    for record in records:
        cells = [record.name, _describe_options(record), record.machine, f"`{record.revision[:7]}`"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _describe_options(record: Record) -> str:
    """Returns the options of the commands that made a run, without name and folder."""
    commands = []
    for command in record.command.split("&&"):
        words = command.split()[3:]  # after `imagemint train NAME`
        at = words.index("--out")
        commands.append(" ".join(words[:at] + words[at + 2 :]))
    return ", then ".join(f"`{each}`" for each in commands if each)
