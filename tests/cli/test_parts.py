"""Laws of `vaekit list` and `vaekit doctor`."""

from importlib import metadata

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
    "fusions",
    "distances",
    "discriminators",
    "optimizers",
    "schedules",
    "trackers",
    "presets",
]


def registry_of(kind):
    return vaekit.encoders.fusions if kind == "fusions" else getattr(vaekit, kind)


@pytest.mark.parametrize("kind", REGISTRIES)
def test_list_shows_every_name_of_a_kind(kind, capsys):
    assert command("list", kind) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    names = registry_of(kind).names()
    assert header == f"{kind}:"
    assert [line.split()[0] for line in lines] == names
    for line, name in zip(lines, names, strict=True):
        assert registry_of(kind).describe(name).summary in line


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


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in REGISTRIES for name in registry_of(kind).names()])
def test_list_shows_one_part_with_its_options(kind, name, capsys):
    assert command("list", kind, name) == 0
    printed = capsys.readouterr().out
    description = registry_of(kind).describe(name)
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


def test_the_version(capsys):
    assert command("--version") == 0
    assert capsys.readouterr().out == f"vaekit {vaekit.__version__}\n"


class Installed:
    """Stands for what is installed: vaekit with three extras, and some packages."""

    def __init__(self, **versions):
        self.versions = versions

    def version(self, package):
        if package not in self.versions:
            raise metadata.PackageNotFoundError(package)
        return self.versions[package]

    def metadata(self, package):
        requires = (
            "torch>=2.10",
            'umap-learn>=0.5.6; extra == "umap"',
            'pyarrow>=15; extra == "tables"',
            'pandas>=2.1; extra == "tables"',
            'pytest>=8; extra == "test"',
            'lpips>=0.1; python_version < "3" and extra == "perceptual"',
        )
        return type("Metadata", (), {"get_all": lambda self, name: EXTRAS if name == "Provides-Extra" else requires})()


EXTRAS = ["umap", "tables", "test", "perceptual"]


def test_doctor_names_what_an_extra_lacks_and_the_command_for_it(monkeypatch, capsys):
    stub = Installed(pyarrow="14.0", pandas="2.2", torch=torch.__version__)
    monkeypatch.setattr("vaekit.cli.doctor.version", stub.version)
    monkeypatch.setattr("vaekit.cli.doctor.metadata", stub.metadata)
    assert command("doctor") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert 'without tables pyarrow 14.0 is not >=15; pip install "vaekit[tables]"' in lines
    assert 'without umap no umap-learn; pip install "vaekit[umap]"' in lines
    assert "with perceptual" in lines  # for another Python it asks for nothing
    assert not any("test" in line for line in lines if line.startswith(("with ", "without ")))


def test_doctor_works_where_vaekit_is_not_installed(monkeypatch, capsys):
    def missing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr("vaekit.cli.doctor.metadata", missing)
    assert command("doctor") == 0
    assert "not installed here" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--help",), ("train", "--help"), ("list",), ("doctor",), ("list", "losses", "iwae")])
@pytest.mark.parametrize("variable", ["NO_COLOR", "FORCE_COLOR"])
def test_no_command_colours_what_it_prints(words, variable, monkeypatch, capsys):
    monkeypatch.setenv(variable, "1")
    assert command(*words) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 200])
def test_a_table_fits_the_terminal_and_keeps_every_word(width, monkeypatch, capsys):
    assert command("list", "losses") == 0
    in_a_pipe = capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    assert command("list", "losses") == 0
    on_a_terminal = capsys.readouterr().out
    assert max(map(len, on_a_terminal.splitlines())) <= width
    assert on_a_terminal.split() == in_a_pipe.split()
    assert (on_a_terminal == in_a_pipe) == (max(map(len, in_a_pipe.splitlines())) <= width)
