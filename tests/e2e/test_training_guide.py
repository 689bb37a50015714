"""Tests that the blocks of docs/training-with-imagemint.md run in order with a shipped model."""

import asyncio
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```",
    (ROOT / "docs/training-with-imagemint.md").read_text(),
    re.DOTALL | re.MULTILINE,
)
BEFORE = """
import warnings
import torch
warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata 0.11 with torch 2.13
steps = []
epochs = 2
real = [(torch.zeros(1, 28, 28, dtype=torch.uint8), label % 3) for label in range(30)]

def train_step(images, labels):
    assert images.dtype == torch.uint8 and images.shape[1:] == (1, 28, 28)
    assert labels.dtype == torch.int64 and len(labels) == len(images)
    steps.append(len(images))
"""
# What each block must have done, in the order of the page.
CHECKS = {
    "torch.utils.data": "assert sum(steps) == 2_000 and labels[:3].tolist() != [0, 0, 0]",
    "SyntheticImages": """
assert len(twice) == 60 and len(balanced) == 500
assert steps[-1] == 500 - 64 * 7
""",
    "advance=True": """
assert sum(steps[-16:]) == 1_000
batches = [loader.dataset.synthetic.at_epoch(epoch)[0][0] for epoch in range(2)]
assert not torch.equal(*batches)
""",
    "StatefulDataLoader": """
assert steps[-10:] == [128] * 10
assert torch.equal(images[0], source_image(1280))
""",
    "EngineSource": """
assert torch.equal(images[-1], source_image(999))
engine.close()
""",
    "datasets": """
first = next(iter(digits))
assert first["image"].size == (28, 28) and first["label"] == 0
""",
    "tensorflow": """
images, labels = next(iter(digits))
assert images.shape == (128, 28, 28, 1) and labels.numpy()[:3].tolist() == [0, 1, 2]
""",
}
HELPERS = """
def source_image(index):
    return torch.from_numpy(source.read(index, 1).image[0].transpose(2, 0, 1).copy())
"""


def shorten(block):
    """Returns a block with a smaller range, so that it ends soon."""
    return (
        block.replace("1_000_000", "2_000").replace("100_000", "2_000").replace("10_000", "600")
    ).replace("per_class=500", "per_class=50")


def test_every_block_has_a_check():
    """A new block on the page needs a check here."""
    assert len(BLOCKS) == len(CHECKS)
    assert all(name in block for name, block in zip(CHECKS, BLOCKS, strict=True))


@pytest.mark.timeout(300)  # it imports every library of the page
@pytest.mark.asyncio(loop_scope="session")
async def test_blocks_run_in_order(mnist_server, tmp_path):
    """They share one process. Blocks of libraries that are not installed are skipped."""
    program = [BEFORE]
    for (name, check), block in zip(CHECKS.items(), BLOCKS, strict=True):
        library = re.findall(r"^import (\w+)", block, re.MULTILINE)
        if all(importlib.util.find_spec(each) for each in library):
            program += [shorten(block), HELPERS, check, f"print({name!r})"]
    script = tmp_path / "guide.py"
    script.write_text("\n".join(program).replace("127.0.0.1:8001", mnist_server))
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, script), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, errors = await done.communicate()
    assert done.returncode == 0, errors.decode()
    assert printed.decode().splitlines()[:3] == list(CHECKS)[:3]
