"""Translates all pictures of a folder, and names those that the server refuses.

`imagemint translate` stops at the first picture that is refused. This program translates the
others, a few at a time, and ends with status 1 if some are missing.

    python examples/translation/translate_folder.py small/ large/ --model srgan
"""

import argparse
import asyncio
from pathlib import Path

from imagemint.client import AsyncClient, InvalidRequest

AT_ONCE = 8
"""Number of calls under way, so that the server can fill batches."""


async def translate(
    client: AsyncClient, model: str, source: Path, target: Path, free: asyncio.Semaphore
) -> str | None:
    """Writes the translation of a picture; returns why there is none."""
    async with free:
        try:
            (picture,) = await client.translate_encoded(model, [source], fit="crop")
        except InvalidRequest as error:
            return f"{source.name}: {error}"
    await asyncio.to_thread(picture.save, target)
    return None


async def run(server: str, model: str, pairs: list[tuple[Path, Path]]) -> list[str]:
    """Translates each source to its target; returns why some are missing."""
    free = asyncio.Semaphore(AT_ONCE)
    async with AsyncClient(server) as client:
        calls = [translate(client, model, source, target, free) for source, target in pairs]
        return [why for why in await asyncio.gather(*calls) if why is not None]


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="srgan")
    parser.add_argument("--server", default="127.0.0.1:8001")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    sources = sorted(path for path in arguments.folder.iterdir() if path.is_file())
    pairs = [(source, out / f"{source.name}.png") for source in sources]
    refused = asyncio.run(run(arguments.server, arguments.model, pairs))
    print(f"{len(pairs) - len(refused)} of {len(pairs)} pictures are in {out}")
    print(*refused, sep="\n", end="\n" if refused else "")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
