"""The bounds of the argument checks: what is just allowed, and what is just refused, with the error's name for it."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from fastweights_np import checks

NAN, INF = float("nan"), float("inf")
ZEROS = numpy.zeros((2, 3))

# check, its arguments after the name, what it lets pass, what it refuses by TypeError, and by ValueError
TABLE: list[tuple[Any, tuple, list, list, list]] = [
    (checks.fraction, (), [0, 1, 0.5, numpy.float32(1)], [True, None, "1", 1j, ZEROS], [-1e-9, 1 + 1e-9, NAN, INF]),
    (checks.positive, (), [1e-300, 1e300, numpy.int8(3)], [False, None, "1", ZEROS], [0, -1e-9, INF, NAN]),
    (checks.not_negative, (), [0, 1e300, numpy.int8(3)], [False, None, "1", ZEROS], [-1e-9, INF, NAN]),
    (checks.finite, (), [-1e300, 0, numpy.float64(2)], [True, None, "1", ZEROS], [INF, -INF, NAN]),
    (checks.finite, ("float32",), [-3e38, 3e38], [], [-4e38, 4e38, NAN]),
    (checks.number, (), [0, -1.5, numpy.int8(1), numpy.float32(1), NAN], [True, None, "1", ZEROS, 1j], []),
    (checks.count, (2,), [2, 3, numpy.int64(2)], [2.0, True, None, "2", numpy.bool_(True)], [1, -2]),
    (checks.choice, (("a", "b"),), ["a", "b"], [], ["c", "ab", None, 1, ["a"]]),
    (checks.choice, ({"a": 1},), ["a"], [], ["b"]),
    (checks.shape, ((2, 3),), [ZEROS], [], [ZEROS[0], ZEROS[None], ZEROS.T, ZEROS[:0]]),
    (checks.shape, (("B", 3),), [ZEROS, ZEROS[:1]], [], [ZEROS[:0], ZEROS[:, :2], ZEROS[0]]),
    (checks.shape, ((3,),), [ZEROS[0]], [], [ZEROS]),
    (checks.indices, (3,), [numpy.array([0, 2]), numpy.zeros(0, "uint8")], [ZEROS, numpy.array([True])],
     [numpy.array([3]), numpy.array([-1]), numpy.array([[0, 1], [5, 2]])]),
    (checks.keys, (("a", "b"), ("c",)), [{"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}], [],
     [{"a": 1}, {"a": 1, "b": 2, "d": 3}, {}]),
]  # fmt: skip


@pytest.mark.parametrize(("check", "arguments", "allowed", "wrong_type", "wrong_value"), TABLE)
def test_a_check_refuses_what_is_out_of_bounds_and_nothing_else(check, arguments, allowed, wrong_type, wrong_value):
    for value in allowed:
        check("name", value, *arguments)
    for error, values in ((TypeError, wrong_type), (ValueError, wrong_value)):
        for value in values:
            with pytest.raises(error, match=r"^name: expected "):
                check("name", value, *arguments)


@pytest.mark.parametrize(
    ("check", "arguments", "message"),
    [
        (
            checks.shape,
            (ZEROS, ("B", 2), "do"),
            r"expected shape \(B, 2\) with every size at least 1, got \(2, 3\); do",
        ),
        (checks.shape, (ZEROS, (2,)), r"expected shape \(2,\), got \(2, 3\)"),
        (checks.shape, (ZEROS, ()), r"expected shape \(\), got \(2, 3\)"),
        (checks.indices, (numpy.array([[0, 1], [5, 7]]), 3), r"expected values from 0 to 2, got 5 at index \(1, 0\)"),
        (checks.keys, ({"a": 1, "c": 1}, ("a", "b"), (), "do"), "expected a, b; missing b; unknown c; do"),
        (checks.keys, ({"b": 1}, ("a", "b", "c")), r"expected a, b, c; missing a, c; make it with init\(\)"),
        (checks.keys, ({"a": 1, "c": 1, "d": 1}, ("a",)), r"expected a; unknown c, d; make it with init\(\)"),
        (checks.instance, (1, dict, "do"), "expected a dict, got int; do"),
        (checks.choice, ("d", ("b", "a")), "expected one of a, b; got 'd'"),
    ],
)
def test_an_error_says_what_was_expected_what_came_and_what_to_do(check, arguments, message):
    with pytest.raises((TypeError, ValueError), match=f"^name: {message}$"):
        check("name", *arguments)


def test_arrays_of_one_call_share_one_of_two_dtypes():
    single, half = ZEROS.astype("float32"), ZEROS.astype("float16")
    checks.floating(a=ZEROS, b=ZEROS)
    checks.floating(a=single, b=single)
    with pytest.raises(TypeError, match=r"^b: expected float64, the dtype of a, got float32; .*convert"):
        checks.floating(a=ZEROS, b=single, c=half)
    with pytest.raises(TypeError, match=r"^c: expected float32 or float64, got float16; convert it with .astype"):
        checks.floating(a=ZEROS, b=ZEROS, c=half)
    assert checks.given(a=None, b=ZEROS, c=None).keys() == {"b"}
