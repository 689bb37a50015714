"""The README of a data set, with the YAML header of the Hugging Face hub."""

import json
from collections.abc import Iterator

from imagemint.client.requests import Filter
from imagemint.dataset.formats import SPLIT, load_format
from imagemint.dataset.pictures import CAPTION, REJECTED
from imagemint.dataset.plan import PLAN_FILE, Plan
from imagemint.pictures import TRAINED_ALGORITHMIC_MEDIA

CARD_FILE = "README.md"

# https://huggingface.co/docs/hub/datasets-cards lists the categories.
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)
_LARGEST = "n>1B"
# SPDX expressions that the hub spells in its own way.
_PLAIN_LICENSE = "other"
_HUB_LICENSES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "BSD-3-Clause": "bsd-3-clause",
    "CC0-1.0": "cc0-1.0",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-SA-3.0": "cc-by-sa-3.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
}
_MOST_LABELS = 50


def format_card(plan: Plan, num_bytes: int) -> bytes:
    """Returns the card.

    Args:
        plan: the plan.
        num_bytes: size of all shards in bytes.
    """
    header = "\n".join(_list_header(plan, num_bytes))
    body = "\n".join(_list_body(plan, num_bytes))
    return f"---\n{header}\n---\n\n{body}\n".encode()


def _list_header(plan: Plan, num_bytes: int) -> Iterator[str]:
    """Yields lines of YAML. Texts are quoted as in JSON, which YAML contains."""
    known = _HUB_LICENSES.get(plan.license)
    yield f"license: {known or _PLAIN_LICENSE}"
    if known is None:
        yield f"license_name: {_quote(plan.license or 'not stated')}"
    yield f"pretty_name: {_quote(f'Synthetic images of {plan.title or plan.model}')}"
    yield "task_categories:"
    yield f"- {_choose_task(plan)}"
    yield "tags:\n- synthetic\n- imagemint"
    yield f"size_categories:\n- {_choose_size(plan.count)}"
    if plan.format == "npz":  # `datasets` cannot read it, and fails at files that a card names
        return
    yield "dataset_info:"
    yield from _list_features(plan)
    yield f"  splits:\n  - name: {SPLIT}\n    num_bytes: {num_bytes}"
    yield f"    num_examples: {plan.count}"
    yield f"  download_size: {num_bytes}\n  dataset_size: {num_bytes}"
    yield "configs:\n- config_name: default\n  data_files:"
    yield f"  - split: {SPLIT}\n    path: {_quote(load_format(plan.format).match_files())}"


def _list_features(plan: Plan) -> Iterator[str]:
    """Yields the features, of the format whose columns the hub reads from the card."""
    if plan.format != "parquet":
        return
    yield "  features:\n  - name: image\n    dtype: image"
    if plan.class_labels:
        yield "  - name: label\n    dtype:\n      class_label:\n        names:"
        for class_id, label in enumerate(plan.class_labels):
            yield f"          '{class_id}': {_quote(label)}"
    if plan.captions:
        yield "  - name: text\n    dtype: string"
    yield "  - name: serial\n    dtype: string\n  - name: index\n    dtype: uint64"
    for name in plan.columns or ():
        if name != CAPTION:
            yield f"  - name: {name}\n    dtype: {'int64' if name == REJECTED else 'float32'}"


def _list_body(plan: Plan, num_bytes: int) -> Iterator[str]:
    variant = f", variant {plan.variant}"
    yield f"# Synthetic images of {plan.title or plan.model}\n"
    yield (
        f"{plan.count:,} synthetic images, which a generative adversarial network made. Their "
        f"digital source type is `{TRAINED_ALGORITHMIC_MEDIA}`.\n"
    )
    yield "| | |\n|---|---|"
    yield f"| model | {plan.model}@{plan.version}{variant} |"
    yield f"| bundle | SHA-256 `{plan.bundle_sha256}` |"
    yield f"| seed | {plan.seed} |"
    yield f"| indices | {plan.first_index} to {plan.first_index + plan.count - 1} |"
    yield f"| classes | {_describe_classes(plan)} |"
    if plan.captions:
        yield "| captions | example captions of the model, drawn at random by seed and index |"
    yield f"| truncation | {'none' if plan.truncation is None else plan.truncation} |"
    if plan.image_filter is not None:
        yield f"| filter | {_describe_filter(plan.image_filter)} |"
    color = "gray" if plan.channels == 1 else "RGB"
    yield f"| image | {plan.height} x {plan.width}, {color} |"
    shards = "1 shard" if plan.num_shards == 1 else f"{plan.num_shards:,} shards"
    yield f"| format | {plan.format}, {shards}, {num_bytes:,} bytes |"
    yield f"| execution provider | {plan.execution_provider} |"
    yield f"| licence | {plan.license or 'not stated'} |\n"
    if plan.class_labels:
        yield "## Classes\n"
        shown = plan.class_labels[:_MOST_LABELS]
        yield from (f"- {class_id}: {label}" for class_id, label in enumerate(shown))
        if len(plan.class_labels) > _MOST_LABELS:
            yield f"- and {len(plan.class_labels) - _MOST_LABELS:,} more, in `{PLAN_FILE}`"
        yield ""
    yield "## Origin\n"
    yield (
        "Each image has a serial number, from which imagemint makes the same pixels again. "
        f"`{PLAN_FILE}` has the whole plan, and `SHA256SUMS` the digest of each file. Check them "
        "with:\n"
    )
    yield "    sha256sum --check SHA256SUMS\n    imagemint dataset --verify ."


def _describe_classes(plan: Plan) -> str:
    if plan.classes is None:
        return "none"
    if plan.classes == "random":
        return "drawn at random by seed and index"
    if plan.classes == tuple(range(len(plan.class_labels))):
        return "all in turn, by index"
    shown = ", ".join(plan.class_labels[class_id] for class_id in plan.classes[:_MOST_LABELS])
    return f"in turn, by index: {shown}"


def _describe_filter(image_filter: Filter) -> str:
    parts = []
    if image_filter.min_class_confidence is not None:
        parts.append(f"class confidence of at least {image_filter.min_class_confidence}")
    if image_filter.rejection_sampling:
        parts.append("discriminator rejection sampling")
    if image_filter.min_training_distance is not None:
        distance = image_filter.min_training_distance
        parts.append(f"distance to training images of at least {distance}")
    return ", ".join(parts) or "none; only scores"


def _choose_task(plan: Plan) -> str:
    if plan.captions:
        return "text-to-image"
    return "image-classification" if plan.class_labels else "unconditional-image-generation"


def _choose_size(count: int) -> str:
    return next((name for limit, name in _SIZES if count < limit), _LARGEST)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
