"""The sections of docs/zoo.md on how runs are made and measured, and which are still to be made."""

from collections.abc import Sequence

from zoo_queue import Plan, Run
from zoo_records import Record

from imagemint.training.recipes import RECIPES

_REPRODUCE = """\
## Make these runs

<!-- not run: trains for hours -->
```sh
python benchmarks/zoo.py queue          # all runs of benchmarks/zoo.toml, one at a time
python benchmarks/zoo.py status         # how far each of them is
python benchmarks/zoo.py page           # writes this page from the records
```

The queue trains with `imagemint train NAME --classifier JUDGE`, measures with `imagemint evaluate`,
and records. It runs at low priority, and continues where it was stopped, from the checkpoints in
`runs/zoo`. This records a single run by hand:

<!-- not run: trains for hours -->
```sh
imagemint train dcgan --out runs/dcgan --classifier runs/judge
imagemint evaluate runs/dcgan --classifier runs/judge
python benchmarks/zoo.py record runs/dcgan --remark "what was seen"
```
"""
_COLUMNS = """\
## How they are measured

By `{command}`, with the averaged weights of the generator. Distances and
neighbourhoods are those of the features of a judge, and compare generated images with images of the
test split. [evaluation.md](evaluation.md) says more.

- **Frechet, x floor**: Frechet distance of generated and test images, as a multiple of that of
  training and test images.
- **coverage**: share of test images that have a generated image nearer than their fifth neighbour
  among the test images.
- **precision**: share of generated images that are so near to a test image. **recall**: share of
  test images that are so near to a generated image, by its neighbours.
- **accuracy**: share of images that the judge takes for the class that was asked for. Codes without
  a given meaning stand for the classes of their best one-to-one assignment.
- **reverse KL**: KL(generated | real) of the classes that the judge sees, in nats.
- **images**: real images shown to the discriminator, counted with repetition.
- **min**, **CPU min**: time of training, on cores that other work shared. Older records have no CPU
  time.
- **weights**, **ONNX**: size of the generator, and of the exported graph.
- **speed**: that of the exported graph at batch 64 in one CPU thread, as a multiple of
  `models/mnist/1` measured in turn with it.
"""


_OPEN = (
    "These runs of the queue have no record yet. Of some recipes an older or shorter run is shown."
)


def describe_measuring(kinds: dict[str, dict[str, list[Record]]]) -> list[str]:
    """Returns the section on metrics, with the images and judges of each data set."""
    commands: dict[str, None] = {}
    lines = []
    for dataset, by_recipe in kinds.items():
        samples: dict[str, list[str]] = {}
        judges: dict[str, list[str]] = {}
        records = [each for runs in by_recipe.values() for each in runs]
        for record in records:
            main = record.figures["frechet_distance"]
            commands[main.setup.command] = None
            drawn = f"{main.sample_size:,} images ({main.setup.results})"
            told = f"{drawn}; Frechet distance: {main.detail}"
            samples.setdefault(told, []).append(record.name)
            for name, figure in record.figures.items():
                if name.partition("@")[0] == main.metric:
                    for judge in figure.setup.judges:
                        judges.setdefault(judge, []).append(record.name)
        lines += [f"On {dataset}:", ""]
        lines += [f"- {_tell(each, samples, records)}" for each in samples]
        lines += [f"- {_tell(each, judges, records)}" for each in judges]
        lines.append("")
    columns = _COLUMNS.format(command="` or `".join(commands))
    return [*columns.splitlines(), "", *lines[:-1]]


def _tell(text: str, known: dict[str, list[str]], records: Sequence[Record]) -> str:
    """Returns a text, after the runs that it belongs to if it does not belong to all."""
    names = dict.fromkeys(known[text])
    return text if len(names) == len(records) else f"{', '.join(names)}: {text}"


def list_open_runs(records: Sequence[Record], plan: Plan) -> list[str]:
    """Returns the section of the runs that the plan has and the records lack."""
    left = [run for run in plan.runs if not _is_recorded(run, records)]
    if not left:
        return []
    lines = ["## Still to be run", "", _OPEN, ""]
    lines += [f"- `{run.name}`: {get_length(run):,} images{_on(run)}" for run in left]
    return [*lines, ""]


def _is_recorded(run: Run, records: Sequence[Record]) -> bool:
    """Returns whether a run of the queue has a record. Records without a curve are older.

    A run ends with the batch that reaches its length, so it has up to one batch more images.
    """
    return any(
        each.name == run.name and each.curve and (each.failure or each.images >= get_length(run))
        for each in records
    )


def get_length(run: Run) -> int:
    """Returns the images of a run of the plan."""
    images: int = run.options.get("images", RECIPES[run.recipe].model_fields["images"].default)
    return images


def _on(run: Run) -> str:
    dataset = run.options.get("dataset")
    return f" on {dataset}" if dataset else ""


def describe_training(records: Sequence[Record]) -> list[str]:
    """Returns the section on commands, with options, machine and revision of each run."""
    lines = [
        *_REPRODUCE.splitlines(),
        "",
        "Each run has the defaults of its recipe but for these options:",
        "",
        "| run | options | trained on | revision |",
        "| --- | --- | --- | --- |",
    ]
    for each in records:
        cells = [each.name, _describe_options(each), each.machine, f"`{each.revision[:7]}`"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _describe_options(record: Record) -> str:
    """Returns the options of the commands that made a run, without name and folder."""
    told = []
    for command in record.command.split("&&"):
        words = command.split()[3:]  # after `imagemint train NAME`
        at = words.index("--out")
        told.append(" ".join(words[:at] + words[at + 2 :]))
    return ", then ".join(f"`{each}`" for each in told if each)
