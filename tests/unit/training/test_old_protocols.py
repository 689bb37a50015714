"""Tests of imagemint.training.old_protocols: figures whose setup is one text."""

import json
from dataclasses import asdict

import pytest

from imagemint.training.evaluation_report import EvaluationFigure, Setup

JUDGE = "judge classifier, SHA-256 0123, test accuracy 0.9957, layer features.relu"
COMMAND = "imagemint evaluate RUN --classifier DIR"


@pytest.mark.parametrize(
    ("old", "figure"),
    [
        (
            {
                "metric": "attributes_kept@mean_fill",
                "protocol": "share, mean over class and attributes (class 0.13, hat 0.5);"
                " reference: the judge; baseline mean_fill: the mean; holes of avatars64/test, rows"
                f" 0 to 9; {JUDGE}; command: {COMMAND}; standard error 0.11",
                "deviation": 0.11,
            },
            EvaluationFigure(
                "attributes_kept@mean_fill",
                0.5,
                "share, mean over class and attributes; reference: the judge",
                10,
                deviation=0.11,
                spread="standard error",
                detail="class 0.13, hat 0.5",
                setup=Setup(
                    "baseline mean_fill: the mean",
                    "holes of avatars64/test, rows 0 to 9",
                    (JUDGE,),
                    COMMAND,
                ),
            ),
        ),
        (
            {
                "metric": "psnr_step_7",
                "protocol": "dB, of frame 7 after the source, predicted from predictions; 1,500"
                " sequences; averaged weights; frames of avatars64/test, rows 0 to 9",
            },
            EvaluationFigure(
                "psnr_step_7",
                0.5,
                "dB, of that frame after the source, predicted from predictions",
                1_500,
                setup=Setup("averaged weights", "frames of avatars64/test, rows 0 to 9"),
            ),
        ),
        (
            {
                "metric": "frechet_distance",
                "protocol": "in feature space, against the 340 test images; reference: the floor;"
                " seeds 0 to 2, indices 0 to 9, classes in turn; mnist/test at 28x28x1;"
                f" {JUDGE}; command: {COMMAND}; WARNING: few images; mean of 3, deviation 0.24",
            },
            EvaluationFigure(
                "frechet_distance",
                0.5,
                "generated and test images, in feature space; reference: the floor",
                10,
                spread="mean of 3, deviation",
                detail="all against 340 test images",
                setup=Setup(
                    "seeds 0 to 2, indices 0 to 9, classes in turn",
                    "mnist/test at 28x28x1",
                    (JUDGE,),
                    COMMAND,
                    ("few images",),
                ),
            ),
        ),
        (
            {"metric": "classifier_accuracy", "protocol": "share, on all 10 images of mnist/test"},
            EvaluationFigure(
                "classifier_accuracy", 0.5, "share, on all 10 images of mnist/test", 10
            ),
        ),
    ],
)
def test_old_figure_has_the_new_fields(old, figure):
    """The parts of the text become fields, without what belongs to one evaluation."""
    found = EvaluationFigure.from_json({"value": 0.5, "sample_size": 10} | old)
    assert found == figure
    assert EvaluationFigure.from_json(json.loads(json.dumps(asdict(found)))) == found
