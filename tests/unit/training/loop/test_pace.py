"""The measured speed of a run."""

import pytest
from small_runs import CPU, SCHEDULE, pictures, small, train

from imagemint.training.loop.generator_task import GeneratorTask
from imagemint.training.loop.pace import measure_pace
from imagemint.training.networks.precision import PLAIN
from imagemint.training.recipes import RECIPES


@pytest.mark.parametrize("name", ["dcgan", "wgan", "wgan-gp"])
def test_images_before_a_step_are_those_that_the_loop_counts(tmp_path, name):
    """The count for a number of steps is what the loop has counted after them."""
    recipe = small(RECIPES[name])
    state = train(recipe, tmp_path)
    assert GeneratorTask(recipe, pictures(recipe)).count_images_before(state.step) == (
        state.images_seen
    )


def test_longer_steps_of_the_warm_up_count_fully():
    """WGAN's first steps show D more images than later ones, and all of them are counted."""
    recipe = small(RECIPES["wgan"], warm_up_steps=100, warm_up_turns=5)
    pace = measure_pace(GeneratorTask(recipe, pictures(recipe)), SCHEDULE, CPU, PLAIN)
    assert pace.images == pace.steps * 5 * recipe.batch_size
