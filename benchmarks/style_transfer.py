"""Style transfer by optimisation and by a trained network: losses and times of both.

    python benchmarks/style_transfer.py runs/style-transfer --classifier runs/avatars-judge

The contents are the first test images of the run's data. Both are measured by the losses and
weights of the run, on one thread.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from data_option import add_data_option
from PIL import Image
from torch import nn

from imagemint.training.classifier.trained import load_classifier
from imagemint.training.datasets.translations import load_pairs
from imagemint.training.loop.examples import to_tensor, translate_images
from imagemint.training.loop.samples import arrange_grid
from imagemint.training.losses.style import StyleOptions, make_style_terms
from imagemint.training.recipes.style_transfer import StyleTransferRecipe, read_style
from imagemint.training.style_transfer import measure_losses, stylize
from imagemint.training.translators import read_translator


def main() -> None:
    """Prints the mean losses and times as JSON, and draws content, network and optimisation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--classifier", type=Path, required=True)
    add_data_option(parser)
    parser.add_argument("--contents", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--sheet", type=Path, help="PNG of content, network and optimisation")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    trained = read_translator(options.run)
    recipe = StyleTransferRecipe.model_validate(trained.options)
    features = load_classifier(options.classifier, cpu)[0].features
    if not isinstance(features, nn.Sequential):
        raise SystemExit("the classifier is not a sequence of layers")
    features.requires_grad_(requires_grad=False)
    style = read_style(recipe.style, max(trained.target_shape[:2]), trained.target_shape[2])
    losses = StyleOptions(
        recipe.content_weight, recipe.style_weight, recipe.variation_weight, recipe.tiles
    )
    terms = make_style_terms(features, trained.target_shape, style, losses)
    test = load_pairs("images", "test", options.data)
    images, _ = test.make_examples(np.arange(options.contents))
    rows: dict[str, list[dict[str, float]]] = {"content": [], "network": [], "optimised": []}
    sheet = []
    translate_images(trained.module, images[:1])  # the first pass allocates
    for image in images:
        content = to_tensor(image[None], cpu)
        begin = time.perf_counter()
        results = translate_images(trained.module, image[None])
        seconds = time.perf_counter() - begin
        rows["network"].append(
            measure_losses(terms, content, to_tensor(results, cpu)) | {"seconds": seconds}
        )
        found = stylize(
            content, style, features, trained.target_shape, options=losses, steps=options.steps
        )
        rows["content"].append(found.before)
        rows["optimised"].append(found.after | {"seconds": found.seconds})
        levels = found.image.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
        sheet += [image, results[0], levels[0]]
    means = {
        kind: {name: float(np.mean([row[name] for row in found])) for name in found[0]}
        for kind, found in rows.items()
    }
    metadata = {
        "contents": options.contents,
        "steps": options.steps,
        "trained": trained.images_seen,
    }
    print(json.dumps(metadata | means, indent=2))
    if options.sheet:
        painted = style.add(1).mul(127.5).round().byte()[0].permute(1, 2, 0).numpy()
        shown = [painted, painted, painted] if painted.shape == images.shape[1:] else []
        Image.fromarray(arrange_grid(np.stack([*shown, *sheet]), 3)).save(options.sheet)


if __name__ == "__main__":
    main()
