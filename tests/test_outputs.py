"""What an output means: the same decision and the same words wherever it is asked for."""

import numpy as np
import pytest

from graft.outputs import cells, decision, words

CLASSES = ["ant", "bee", "cat"]
PROBABILITIES = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4], [0.7, 0.5, 0.49]])


def test_a_class_is_the_likeliest_and_ties_go_to_the_first():
    assert decision(PROBABILITIES, "classification").tolist() == [1, 0, 0]


def test_a_label_holds_from_a_half_on():
    assert decision(PROBABILITIES, "multilabel").tolist() == [[0, 1, 0], [0, 0, 0], [1, 1, 0]]


def test_a_number_stays_as_it_is():
    values = np.array([0.1, -3.0])
    assert decision(values, "regression") is values


@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_one_output_is_decided_as_among_others(task):
    for output, expected in zip(PROBABILITIES, decision(PROBABILITIES, task), strict=True):
        np.testing.assert_array_equal(decision(output, task), expected)


@pytest.mark.parametrize(
    ("target", "task", "expected"),
    [
        (np.int64(2), "classification", "cat"),
        (np.array([1, 0, 1]), "multilabel", "ant|cat"),
        (np.array([0, 0, 0]), "multilabel", ""),
        (np.float32(21.5), "regression", "21.5"),
        (1234567.0, "regression", "1.23457e+06"),
    ],
)
def test_words_are_those_of_the_user(target, task, expected):
    assert words(target, task, CLASSES) == expected


@pytest.mark.parametrize(
    ("output", "task", "expected"),
    [
        (PROBABILITIES[0], "classification", ["bee", "0.200000", "0.500000", "0.300000"]),
        (PROBABILITIES[2], "multilabel", ["ant|bee", "0.700000", "0.500000", "0.490000"]),
        (np.float64(0.25), "regression", ["0.25"]),
    ],
)
def test_cells_are_the_words_and_every_probability(output, task, expected):
    assert cells(output, task, CLASSES) == expected
