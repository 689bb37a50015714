"""SHA256SUMS: the digests of all files of a bundle, in the format of `sha256sum`."""

import re

SUMS_FILE = "SHA256SUMS"
SIGNATURE_FILE = "SHA256SUMS.sig"
"""Name of the optional file with the signature of SHA256SUMS, which does not list it."""
MODEL_FILE = "model.onnx"
SUMS_MAX_BYTES = 64 * 1024
"""Maximum size of SHA256SUMS."""

# Only plain file names, so that no line refers to another directory.
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9._-]*)")


def parse_sums(content: bytes) -> dict[str, str]:
    """Returns the SHA-256 of each file by its name, lower-case hexadecimal.

    Raises:
        ValueError: the content is not of the format, lists a file twice, or does not list
            model.onnx; the message says which.
    """
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{SUMS_FILE} is not text") from error
    found = [_LINE.fullmatch(line) for line in lines]
    listed: dict[str, str] = {}
    for number, match in enumerate(found, 1):
        if match is None:
            raise ValueError(f"{SUMS_FILE} has a line that is not `digest  name`: line {number}")
        if match[2] in listed:
            raise ValueError(f"{SUMS_FILE} lists {match[2]} twice")
        listed[match[2]] = match[1]
    if MODEL_FILE not in listed:
        raise ValueError(f"{SUMS_FILE} does not list {MODEL_FILE}")
    return listed
