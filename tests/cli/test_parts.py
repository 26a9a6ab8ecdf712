"""Laws of `vaekit list` and `vaekit doctor`."""

import pytest
import torch
from helpers.commands import command

import vaekit

REGISTRIES = [
    "encoders",
    "decoders",
    "likelihoods",
    "priors",
    "losses",
    "conditions",
    "posteriors",
    "distances",
    "discriminators",
    "optimizers",
    "schedules",
    "trackers",
    "presets",
]


@pytest.mark.parametrize("kind", REGISTRIES)
def test_list_shows_every_name_of_a_kind(kind, capsys):
    assert command("list", kind) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    names = getattr(vaekit, kind).names()
    assert header == f"{kind}:"
    assert [line.split()[0] for line in lines] == names
    for line, name in zip(lines, names, strict=True):
        assert getattr(vaekit, kind).describe(name).summary in line


def test_list_shows_every_kind(capsys):
    assert command("list") == 0
    headers = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert headers == [f"{kind}:" for kind in [*REGISTRIES, "data"]]


@pytest.mark.parametrize(
    ("kind", "pattern", "names"),
    [
        ("encoders", "conv*", ["conv", "conv1d", "conv3d"]),
        ("presets", "dense-*", ["dense-mnist"]),
        ("likelihoods", "?ernoulli", ["bernoulli"]),
        ("data", "mnist*", ["mnist", "mnist5k"]),
    ],
)
def test_list_takes_a_pattern(kind, pattern, names, capsys):
    assert command("list", kind, pattern) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines if line.startswith("  ")] == names


def test_a_pattern_that_matches_nothing_says_so(capsys):
    assert command("list", "encoders", "zzz*") == 2
    assert "'zzz*'" in capsys.readouterr().err


def test_list_data_shows_every_dataset(capsys):
    assert command("list", "data") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == vaekit.data.names()


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in REGISTRIES for name in getattr(vaekit, kind).names()])
def test_list_shows_one_part_with_its_options(kind, name, capsys):
    assert command("list", kind, name) == 0
    printed = capsys.readouterr().out
    description = getattr(vaekit, kind).describe(name)
    assert description.documentation in printed
    assert all(f"  {option}" in printed for option in description.options)


def test_list_counts_a_presets_parameters(capsys):
    assert command("list", "presets", "dense-mnist*") == 0
    assert f"{2_083_284 + 2_083_552:,} parameters" in capsys.readouterr().out


def test_mistakes_in_list_are_one_line(mistake):
    assert "'encoder'" in mistake("list", "encoder")
    assert "'mlp'" in mistake("list", "encoders", "mpl")
    assert "minst" in mistake("list", "data", "minst")


def test_doctor_prints_versions_and_kernels(capsys):
    assert command("doctor") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["vaekit"] == vaekit.__version__
    assert rows["torch"] == torch.__version__
    assert rows["devices"].startswith("cpu")
    assert rows["threads"].startswith(f"{torch.get_num_threads()} of ")
