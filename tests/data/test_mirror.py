"""Which class a video belongs to once it is mirrored."""

import pytest

from vivit.data.mirror import mirrored_classes
from vivit.errors import UserError


@pytest.mark.parametrize(
    "pair",
    [
        ("pan_left", "pan_right"),
        ("Pulling something from left to right", "Pulling something from right to left"),
        ("Swiping Left", "Swiping Right"),
        ("TurnLeft", "TurnRight"),
        ("rotate-clockwise", "rotate-counterclockwise"),
        ("Turning Hand Clockwise", "Turning Hand Counterclockwise"),
        ("turn clockwise", "turn anticlockwise"),
        ("turn clockwise", "turn anti-clockwise"),
        ("turn_clockwise_left", "turn_counter_clockwise_right"),
        ("lean leftwards", "lean rightwards"),
        ("LEFT", "RIGHT"),
        ("left2right", "right2left"),
    ],
)
def test_a_pair_becomes_each_other_and_the_rest_stays(pair: tuple[str, str]) -> None:
    names = ["cleft chin", pair[0], "brightness", pair[1], "copyright", "123", "leftover"]
    assert mirrored_classes(names) == {0: 0, 1: 3, 2: 2, 3: 1, 4: 4, 5: 5, 6: 6}


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["pan_left", "pan_up"], {1: 1}),
        (["pan_left", "tilt_right"], {}),
        (["right answer", "wrong answer"], {1: 1}),
        (["turn left", "turn_left", "turn right"], {}),
        (["left hook", "right_hook", "right-hook"], {}),
        (["left or right", "none"], {1: 1}),
        (["turn left", "left hook", "turn right"], {0: 2, 2: 0}),
    ],
)
def test_a_side_without_one_mirror_is_left_out(names: list[str], known: dict[int, int]) -> None:
    assert mirrored_classes(names) == known


def test_given_pairs_override_the_words() -> None:
    names = ["right answer", "wrong answer", "hook", "cross", "to the left", "to the right"]
    assert mirrored_classes(names) == {1: 1, 2: 2, 3: 3, 4: 5, 5: 4}
    swaps = {"right answer": "right answer", "hook": "cross"}
    assert mirrored_classes(names, swaps) == {0: 0, 1: 1, 2: 3, 3: 2, 4: 5, 5: 4}
    assert mirrored_classes(names, {**swaps, "cross": "hook"}) == mirrored_classes(names, swaps)
    # The mirror of "to the right" would be a class that the user keeps.
    assert 5 not in mirrored_classes(names, {**swaps, "to the left": "to the left"})


@pytest.mark.parametrize(
    ("swaps", "message"),
    [
        ({"a": "d"}, "'d': no such class"),
        ({"d": "a"}, "'d': no such class"),
        ({"a": "b", "b": "c"}, "'b': given both 'a' and 'c'"),
        ({"a": "a", "b": "a"}, "'a': given both 'a' and 'b'"),
    ],
)
def test_swaps_that_cannot_be(swaps: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        mirrored_classes(["a", "b", "c"], swaps)
