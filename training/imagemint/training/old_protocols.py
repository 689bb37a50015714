"""Reads figures of reports and records that have one text, ``protocol``, instead of fields."""

import re
from collections.abc import Mapping
from typing import Any

_JUDGE = re.compile(r".*SHA-256 ")
_COMMAND = re.compile(r"command: ")
_WARNING = re.compile(r"WARNING: ")
_SPREAD = re.compile(r"(standard error|mean of \d+, deviation) ")
_SEQUENCES = re.compile(r"([\d,]+) sequences")
_DATA = re.compile(r".*\S/(train|test)( at \d|, rows \d|, all \d)")
_RESULTS = re.compile(r"seeds? \d|averaged weights|baseline |bundle ")
# What belongs to one evaluation.
_SHARES = re.compile(r" \(((?:class|head) [\d.]+, [^)]*)\)")
_SIZES = re.compile(
    r"([\d,]+) generated and [\d,]+ test images, in feature space"
    r"|in feature space, against the ([\d,]+) test images"
)
# Texts that were different for each number of images, or that referred to the figure before.
_REWORDED = (
    (re.compile(r"results and [\d,]+ training images"), "results and as many training images"),
    (re.compile(r"of frame \d+ after"), "of that frame after"),
    (re.compile(r"^the same over the (?=\d scales)"), "SSIM over the "),
    (re.compile(r"^the same, of the pixels"), "dB, of the pixels"),
)


def read_old_figure(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a figure with the fields that its protocol has as text.

    Raises:
        AttributeError: the protocol is no text.
    """
    figure = dict(content)
    parts = figure.pop("protocol").split("; ")

    def take(form: "re.Pattern[str]") -> list[str]:
        found = [part for part in parts if form.match(part)]
        parts[:] = [part for part in parts if not form.match(part)]
        return found

    warnings, judges, commands = take(_WARNING), take(_JUDGE), take(_COMMAND)
    spreads, sequences, data = take(_SPREAD), take(_SEQUENCES), take(_DATA)
    begin = next((at for at, part in enumerate(parts) if _RESULTS.match(part)), len(parts))
    method = "; ".join(parts[:begin])
    shares, sizes = _SHARES.search(method), _SIZES.match(method)
    details = [shares[1]] if shares else []
    if sizes:
        many = f"{sizes[1]} of each" if sizes[1] else f"all against {sizes[2]} test images"
        details.append(many)
    method = _SIZES.sub("generated and test images, in feature space", _SHARES.sub("", method))
    for old, new in _REWORDED:
        method = old.sub(new, method)
    figure |= {
        "method": method,
        "detail": "".join(details),
        "spread": "".join(spread.rpartition(" ")[0] for spread in spreads),
        "setup": {
            "results": "; ".join(parts[begin:]),
            "data": "; ".join(data),
            "judges": judges,
            "command": "".join(_COMMAND.sub("", command) for command in commands),
            "warnings": [_WARNING.sub("", warning) for warning in warnings],
        },
    }
    if sequences:  # the sample size was that of the other figures
        figure["sample_size"] = int(sequences[0].partition(" ")[0].replace(",", ""))
    return figure
