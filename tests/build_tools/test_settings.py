"""Laws of the variables that a build reads: what each asks for, and which contradict each other."""

import pytest
from build_tools import settings


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("yes", True), ("", False), ("0", False), (" FALSE ", False), ("off", False)]
)
def test_an_empty_variable_and_those_that_say_no_are_not_set(monkeypatch, value, expected):
    monkeypatch.setenv("VAEKIT_NO_NATIVE", value)
    assert settings.is_set("VAEKIT_NO_NATIVE") is expected
    assert settings.unwanted("cpu") == ("VAEKIT_NO_NATIVE" if expected else None)


def test_a_variable_that_is_not_there_is_not_set():
    assert not settings.is_set("VAEKIT_NO_NATIVE")
    assert settings.cuda_setting() == ""


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"VAEKIT_NO_NATIVE": "1", "VAEKIT_REQUIRE_NATIVE": "1"}, ["VAEKIT_NO_NATIVE", "VAEKIT_REQUIRE_NATIVE", "unset one"]),
        ({"VAEKIT_NO_NATIVE": "1", "VAEKIT_CUDA": "1"}, ["VAEKIT_NO_NATIVE", "VAEKIT_CUDA=1", "unset one"]),
        ({"VAEKIT_CUDA": "2"}, ["VAEKIT_CUDA", "0 (", "1 (", "'2'"]),
        ({"VAEKIT_CUDA": "yes"}, ["VAEKIT_CUDA", "'yes'"]),
    ],
    ids=str,
)
def test_variables_that_contradict_each_other_are_named(monkeypatch, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    message = settings.contradiction()
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"VAEKIT_NO_NATIVE": "1", "VAEKIT_REQUIRE_NATIVE": "0"},
        {"VAEKIT_NO_NATIVE": "1", "VAEKIT_CUDA": "0"},
        {"VAEKIT_CUDA": " 1 "},
    ],
    ids=str,
)
def test_other_variables_do_not(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert settings.contradiction() is None


@pytest.mark.parametrize(
    ("variables", "cpu", "cuda"),
    [
        ({}, (None, None), (None, None)),
        ({"VAEKIT_NO_NATIVE": "1"}, ("VAEKIT_NO_NATIVE", None), ("VAEKIT_NO_NATIVE", None)),
        ({"VAEKIT_CUDA": "0"}, (None, None), ("VAEKIT_CUDA=0", None)),
        ({"VAEKIT_CUDA": "1"}, (None, None), (None, "VAEKIT_CUDA=1")),
        ({"VAEKIT_REQUIRE_NATIVE": "1"}, (None, "VAEKIT_REQUIRE_NATIVE"), (None, "VAEKIT_REQUIRE_NATIVE")),
    ],
    ids=str,
)
def test_each_library_can_be_left_out_or_required(monkeypatch, variables, cpu, cuda):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (settings.unwanted("cpu"), settings.required("cpu")) == cpu
    assert (settings.unwanted("cuda"), settings.required("cuda")) == cuda
