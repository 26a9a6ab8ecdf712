"""What reads files and converts objects: how it is found, and which options it takes."""

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vaekit
from vaekit.data import Examples, as_batches, as_examples, load, load_test, readers
from vaekit.evaluation import evaluate

ROWS = np.arange(20, dtype=np.float32).reshape(10, 2)


@pytest.fixture
def own_sources(monkeypatch):
    """The registries, with what a test registers gone after it."""
    monkeypatch.setattr(readers, "readers", list(readers.readers))
    monkeypatch.setattr(readers, "converters", list(readers.converters))
    return readers


@pytest.fixture
def numbers(own_sources):
    """A reader of lines of numbers, with an option."""

    @own_sources.reader(".lines files", suffixes=(".lines",), extra="lines")
    def read_lines(path, *, separator=","):
        rows = [[float(value) for value in line.split(separator)] for line in path.read_text().splitlines()]
        return as_examples(np.array(rows)), None

    return read_lines


def small(**parts):
    return vaekit.create_vae(
        input_shape=(2,), latent_dim=1, encoder={"hidden": ()}, decoder={"hidden": ()}, likelihood="gaussian", seed=0, **parts
    )


def test_a_file_is_read_by_the_end_of_its_name_with_the_options_of_its_reader(tmp_path, numbers):
    file = tmp_path / "X.LINES"
    file.write_text("1;2\n3;4\n5;6")
    assert load_test(file, separator=";").x.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert as_examples(str(file), separator=";").x.tolist() == [[1, 2], [3, 4], [5, 6]]
    with pytest.raises(TypeError, match=r"\.lines files do not take the option 'seperator'; they take separator\. Did you mean"):
        load(file, seperator=";")


def test_of_two_ends_that_fit_the_longer_one_counts(own_sources):
    marks = {}
    for suffixes in ((".b",), (".a.b", ".c"), (".z.b",)):
        marks[suffixes] = own_sources.reader("files", suffixes=suffixes)(lambda path: None)
    for name, suffixes in {"x.b": (".b",), "x.a.b": (".a.b", ".c"), "x.c": (".a.b", ".c"), "a.b": (".b",)}.items():
        assert own_sources.find_reader(Path(name)).suffixes == suffixes


@pytest.mark.parametrize("source", ["mnist5k", "array", "examples", "npy", "list"])
def test_an_option_that_a_source_does_not_take_is_refused_by_name(tmp_path, source):
    np.save(tmp_path / "x-0.npy", ROWS)
    data = {"array": ROWS, "examples": as_examples(ROWS), "npy": tmp_path / "x-0.npy", "list": [tmp_path / "x-0.npy"]}
    with pytest.raises(TypeError, match="colour_of_the_sky"):
        load(data.get(source, source), colour_of_the_sky="blue")


def test_a_missing_package_is_named_with_the_command_that_installs_it(own_sources, tmp_path):
    @own_sources.reader(".odd files", suffixes=(".odd",), extra="odd")
    def read_odd(path):
        import a_package_that_is_not_there  # noqa: F401

    (tmp_path / "x.odd").touch()
    command = r'\.odd files need the package a_package_that_is_not_there, .*: pip install "vaekit\[odd\]"'
    with pytest.raises(ModuleNotFoundError, match=command):
        load(tmp_path / "x.odd")


def test_what_a_converter_takes_is_data_everywhere(own_sources):
    class Odd:
        def __iter__(self):
            raise AssertionError("it was taken to be a loader")

    @own_sources.converter("odd things", lambda data: isinstance(data, Odd))
    def convert(data, *, scale=1):
        return as_examples(ROWS * scale)

    assert torch.equal(as_examples(Odd(), scale=2).x, torch.from_numpy(ROWS) * 2)
    assert as_batches(Odd(), 4).size == 10
    assert as_examples((Odd(), np.arange(10))).y.tolist() == list(range(10))
    assert len(load(Odd(), validation=0.2)[1]) == 2
    with pytest.raises(TypeError, match="odd things do not take the option 'size'; they take scale"):
        as_examples(Odd(), size=2)


def test_fit_takes_a_path_and_validates_on_its_test_set(tmp_path):
    np.savez(tmp_path / "x.npz", x_train=ROWS, x_test=ROWS[:3] + 100)
    runs = []
    for train, test in ((tmp_path / "x.npz",) * 2, (torch.from_numpy(ROWS), torch.from_numpy(ROWS[:3] + 100))):
        vae = small()
        history = vaekit.fit(vae, train, validation=test, epochs=1, batch_size=4, progress=False, device="cpu")
        runs.append((history["val_loss"], evaluate(vae, test)))
    assert runs[0] == runs[1]


# The names of labels


def test_names_of_labels_go_with_the_examples():
    names = ("cat", "dog")
    examples = Examples(torch.from_numpy(ROWS), torch.arange(10) % 2, label_names=names)
    assert all(part.label_names == names for part in (examples, *load(examples, validation=0.2)))
    assert as_examples(ROWS).label_names is None


@pytest.mark.parametrize(
    ("y", "names", "message"),
    [
        (torch.arange(10), ("a", "b"), "there are 2 label_names, but the labels are from 0 to 9"),
        (torch.arange(10) - 2, ("a",) * 20, "from -2 to 7"),
        (None, ("a",), "y is None"),
        (torch.ones(10, 2), ("a",), "vectors"),
        (torch.zeros(10, dtype=torch.int64), "ab", "sequence of strings"),
        (torch.zeros(10, dtype=torch.int64), (1,), "sequence of strings"),
    ],
)
def test_names_that_do_not_fit_the_labels_are_refused(y, names, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Examples(torch.from_numpy(ROWS), y, label_names=names)


def test_every_reader_is_there_as_soon_as_the_library_is():
    """Whatever else has been imported: in a process of its own."""
    program = "import vaekit.data.readers as r; print(*[one.what for one in (*r.readers, *r.converters)], sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for module in pkgutil.iter_modules(vaekit.data.__path__):
        source = Path(vaekit.data.__path__[0], f"{module.name}.py").read_text()
        for what in re.findall(r'^@(?:reader|converter)\(\s*f?"([^"{(]+)', source, flags=re.M):
            assert what.strip() in done.stdout, f"{module.name} is not imported by vaekit.data"
