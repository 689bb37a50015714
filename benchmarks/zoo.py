"""Runs, records and shows real runs of every recipe of a generator or translator.

    python benchmarks/zoo.py queue            # trains, measures and records what zoo.toml lists
    python benchmarks/zoo.py status           # how far each run is
    python benchmarks/zoo.py record RUN       # records a run that was trained and evaluated by hand
    python benchmarks/zoo.py remark NAME TEXT # says in a record what was seen in the run
    python benchmarks/zoo.py story RUN        # draws grids, single images and losses of a run
    python benchmarks/zoo.py page             # writes docs/zoo.md, docs/zoo-translation.md, their
                                              # pictures, and the lists of `imagemint train --list`

A record holds options, time, figures and the first images. That of a generator also holds curves,
what the exported bundle weighs, and how fast it runs, as a ratio to the shipped digits measured in
turn with it, since machines drift.
"""

import argparse
import json
import sys
from pathlib import Path

import translation_zoo_page
import translation_zoo_records
from zoo_page import (
    COLLAPSE,
    LIST,
    PAGE,
    PICTURES,
    STORY,
    get_curves_path,
    group,
    list_curves,
    order,
    write_list,
    write_page,
)
from zoo_pictures import draw_collapse, draw_curves, draw_grids, draw_story
from zoo_queue import INTERRUPTED, Plan, Queue, Run, StopQueueError, read_plan
from zoo_records import MACHINE, RECORDS, ROOT, name_run, read_records, record, set_remark

from imagemint.training.recipes import TRANSLATION_TABLE

LISTING = ROOT / "benchmarks/results/listing.json"
COLLAPSES = "vanilla-mnist"
WRONG_USAGE = 2
_EPOCH = 60_000
_EPOCHS = (0, 100, 199)  # those that the lecture shows


def write_all() -> None:
    """Writes both pages with their pictures, and the lists of `imagemint train --list`."""
    plan = read_plan()
    _write_generators(plan)
    _write_translators(plan)


def _write_generators(plan: Plan) -> None:
    records = read_records()
    for dataset, by_recipe in group(records).items():
        draw_grids([runs[0] for runs in order(by_recipe)], PICTURES / f"{dataset}.png")
    for dataset, curves in list_curves(records).items():
        draw_curves(curves, get_curves_path(dataset))
    for run in records:
        if run.name == COLLAPSES and LISTING.exists():
            draw_collapse(run, LISTING, _EPOCH, COLLAPSE)
    PAGE.write_text(write_page(records, plan))
    LIST.write_text(write_list(records))


def _write_translators(plan: Plan) -> None:
    page = translation_zoo_page
    records = translation_zoo_records.read_records()
    for run in records:
        page.draw_picture(run, page.PICTURES / f"{run.name}.png")
    page.PAGE.write_text(page.write_page(records, plan))
    page.LIST.write_text(json.dumps(page.list_runs(records), indent=2) + "\n")


def run_queue(folder: Path, only: list[str], threads: int, machine: str) -> int:
    """Runs the plan; returns the exit status."""

    def note(folder: Path, run: Run, failure: str) -> None:
        if run.is_translator:
            translation_zoo_records.record(
                folder, name=run.name, machine=machine, remark="", failure=failure
            )
        else:
            record(folder, machine=machine, command=None, remark="", failure=failure)
        write_all()

    plan = read_plan()
    try:
        plan.choose(only)
    except ValueError as error:
        print(f"zoo.py queue: {error}", file=sys.stderr)
        return WRONG_USAGE
    try:
        Queue(plan, folder, note, threads=threads).run(only)
    except StopQueueError:
        print("stopped; `python benchmarks/zoo.py queue` continues")
        return INTERRUPTED
    return 0


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    queueing = commands.add_parser("queue", help="train, measure and record what zoo.toml lists")
    queueing.add_argument(
        "names", nargs="*", help="only these recipes or runs, such as progressive-avatars64"
    )
    queueing.add_argument("--threads", type=int, default=1, help="of each job")
    status = commands.add_parser("status", help="show how far each run is")
    noting = commands.add_parser("record", help="note down a run that was trained and evaluated")
    noting.add_argument("run", type=Path)
    noting.add_argument(
        "--command", dest="train_command", help="that trained it, if not by its options alone"
    )
    noting.add_argument(
        "--name", help="of the record of a translator, if not that of recipe, data set and seed"
    )
    noting.add_argument("--remark", default="", help="remark about the run")
    noting.add_argument("--failure", default="", help="why it ended before its length")
    remarking = commands.add_parser("remark", help="say in a record what was seen in the run")
    remarking.add_argument("name", help="of the record")
    remarking.add_argument("text", help="Markdown, with links from docs/")
    story = commands.add_parser("story", help="draw grids, single images and losses of a run")
    story.add_argument("run", type=Path)
    story.add_argument("--epochs", type=int, nargs="+", default=_EPOCHS)
    commands.add_parser("page", help="write the pages, their pictures and the lists")
    for each in (queueing, status):
        each.add_argument("--folder", type=Path, default=ROOT / "runs/zoo", help="of the runs")
    for each in (queueing, noting):
        each.add_argument("--machine", default=MACHINE, help="that trains")
    arguments = parser.parse_args()
    match arguments.command:
        case "queue":
            return run_queue(
                *(arguments.folder, arguments.names, arguments.threads, arguments.machine)
            )
        case "status":
            queue = Queue(read_plan(), arguments.folder, lambda *_: None)
            for run, state in queue.list_status():
                print(f"{run.name:24} {state}")
        case "record":
            print(_record(arguments).relative_to(ROOT))
        case "remark":
            of_translator = translation_zoo_records.RECORDS
            is_there = (of_translator / f"{arguments.name}.json").exists()
            set_remark(arguments.name, arguments.text, of_translator if is_there else RECORDS)
            write_all()
        case "story":
            draw_story(arguments.run, arguments.epochs, _EPOCH, STORY)
            print(STORY.relative_to(ROOT))
        case "page":
            write_all()
    return 0


def _record(arguments: argparse.Namespace) -> Path:
    """Records a run that was trained and evaluated by hand; returns the file."""
    about = {name: getattr(arguments, name) for name in ("machine", "remark", "failure")}
    options = json.loads((arguments.run / "options.json").read_text())
    recipe = options["recipe"]
    if recipe not in TRANSLATION_TABLE:
        return record(arguments.run, command=arguments.train_command, **about)
    dataset = options["settings"].get("dataset") or TRANSLATION_TABLE[recipe].dataset
    name = arguments.name or name_run(recipe, Path(dataset).name, options["options"]["seed"])
    return translation_zoo_records.record(arguments.run, name=name, **about)


if __name__ == "__main__":
    sys.exit(main())
