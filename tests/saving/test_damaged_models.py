"""Laws of loading what is damaged or hostile: the model or one error that names the file, in bounded memory."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vaekit

TINY = {"encoder": {"hidden": (3,)}, "decoder": {"hidden": (3,)}, "latent_dim": 2, "seed": 0}
MODELS = {
    "dense": lambda: vaekit.create_vae(
        input_shape=(4,),
        likelihood={"name": "gaussian", "sigma": 0.1},
        prior={"name": "gaussian_mixture", "components": 2},
        loss={"beta": {"name": "linear", "steps": 7}},
        **TINY,
    ),
    "conditional": lambda: vaekit.create_vae(
        input_shape=(3,),
        likelihood={"name": "columns", "columns": {"a": "gaussian", "b": {"name": "categorical", "classes": 3}, "c": "poisson"}},
        condition={"name": "labels", "classes": 3, "dim": 2},
        **TINY,
    ),
    "flow": lambda: vaekit.create_vae(input_shape=(4,), prior={"name": "flow", "transforms": 1, "hidden": (3,)}, **TINY),
    "codes": lambda: vaekit.create_vae(
        input_shape=(1, 8, 8),
        latent_dim=2,
        encoder={"name": "resnet", "spatial": True, "channels": (2, 2), "blocks": 1, "attention": True},
        decoder={"name": "conv", "channels": (2,)},
        posterior={"name": "vector_quantized", "codes": 4},
        prior="codes",
        loss="vector_quantized",
        seed=0,
    ),
}


def header_and_data(file: Path) -> tuple[dict, bytes]:
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def write_raw(file: Path, header: bytes, data: bytes, length: int | None = None) -> None:
    file.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)


def write_config(file: Path, config: str, template: tuple[dict, bytes]) -> None:
    """A model's file with other text for its config."""
    header, data = template
    write_raw(file, json.dumps({**header, "__metadata__": {"vaekit": config}}).encode(), data)


def loads_or_refuses(file: Path) -> str:
    """How loading ends: "loaded" or the error's text, which names the file; any error but the documented ones escapes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            vae = vaekit.load(file)
        except (ValueError, vaekit.UnknownNameError) as error:
            text = str(error)
            assert str(file) in text, text
            assert text.isprintable(), text
            assert len(text) < 4000
            return text
    assert isinstance(vae, vaekit.VAE)
    return "loaded"


def paths(value, path=()):
    """Where something stands in a config: the keys and indices that lead there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*path, key)
        yield from paths(below, (*path, key))


def changed(config: str, path, change) -> str:
    whole = json.loads(config)
    place = whole
    for key in path[:-1]:
        place = place[key]
    change(place, path[-1])
    return json.dumps(whole)


RAW = "'raw'"
NESTED = '{"name": "constant", "value": ' * 300 + "1" + "}" * 300
REPLACEMENTS = [
    *("null", "true", "-1", "0", "3", "1e400", "NaN", "1.5", '"x"', '"\\u001b[31m\\u202e"', "[]", "{}", "[[]]", '["x"]', "[{}]"),
    *(
        "1000000000000",
        "[1000000000000]",
        "18446744073709551615",
        "9" * 5000,
        '{"name": "x"}',
        '{"name": []}',
        "[" * 100_000,
        NESTED,
    ),
]


@pytest.mark.parametrize("name", MODELS)
def test_whatever_an_entry_of_the_config_becomes_there_is_a_model_or_one_error_that_names_the_file(name, tmp_path):
    file = MODELS[name]().save(tmp_path) / "model.safetensors"
    template = header_and_data(file)
    config = template[0]["__metadata__"]["vaekit"]
    (tmp_path / "config.json").unlink()
    for number, path in enumerate(paths(json.loads(config))):
        write_config(file, changed(config, path, lambda place, key: place.pop(key)), template)
        loads_or_refuses(file)
        for text in REPLACEMENTS if name == "dense" else REPLACEMENTS[number % 3 :: 3]:  # in turn
            damaged = changed(config, path, lambda place, key: place.__setitem__(key, RAW))
            write_config(file, damaged.replace(json.dumps(RAW), text), template)
            loads_or_refuses(file)


def test_a_replacement_that_fits_is_loaded(tmp_path):
    """The loop above would pass if nothing was ever loaded."""
    file = MODELS["dense"]().save(tmp_path) / "model.safetensors"
    template = header_and_data(file)
    write_config(
        file, changed(template[0]["__metadata__"]["vaekit"], ("loss", "beta"), lambda p, k: p.update({k: 2.5})), template
    )
    with pytest.warns(UserWarning, match="differs"):
        assert vaekit.load(file).loss.beta(0) == 2.5


@pytest.mark.parametrize("dtype", ["load", "int64", "complex64", "float8_e4m3fn", "torch.float32", "", None, 32, ["float32"], {}])
def test_the_dtype_is_one_of_a_list(dtype, tmp_path):
    file = MODELS["dense"]().save(tmp_path) / "model.safetensors"
    template = header_and_data(file)
    write_config(file, changed(template[0]["__metadata__"]["vaekit"], ("dtype",), lambda p, k: p.update({k: dtype})), template)
    with pytest.raises(ValueError, match=r"model\.safetensors.*float16, bfloat16, float32, float64"):
        vaekit.load(file)


@pytest.mark.parametrize("posterior", [None, 3, [], [[1]], "x", {"name": 3}, {}], ids=str)
def test_a_damaged_config_of_an_earlier_format_is_one_error_that_names_the_file(posterior, tmp_path):
    file = MODELS["dense"]().save(tmp_path) / "model.safetensors"
    template = header_and_data(file)
    config = json.loads(template[0]["__metadata__"]["vaekit"])
    config["encoder"].update(logvar_bound=8.0, posterior=posterior)
    write_config(file, json.dumps({**config, "format": 1}), template)
    assert loads_or_refuses(file) != "loaded"


@pytest.mark.parametrize("change", ["lazy", "extra"])
def test_a_part_that_has_become_another_since_it_was_saved_is_one_error_that_names_the_file(change, own_registries, tmp_path):
    def define(body):
        @vaekit.encoders.register("test-changing")
        class Changing(vaekit.encoders.MLPEncoder):
            def __init__(self, input_shape, latent_dim):
                super().__init__(input_shape, latent_dim, hidden=(3,))
                self.body = body()

    class Extra(torch.nn.Linear):
        def get_extra_state(self):
            return 3

    define(lambda: torch.nn.Linear(4, 3))
    file = vaekit.create_vae(input_shape=(4,), latent_dim=2, encoder="test-changing").save(tmp_path) / "model.safetensors"
    del vaekit.encoders.registry._parts["test-changing"]
    define({"lazy": lambda: torch.nn.LazyLinear(3), "extra": lambda: Extra(4, 3)}[change])
    assert "encoder.body" in loads_or_refuses(file)


def test_a_key_that_comes_twice_is_damage(tmp_path):
    file = MODELS["dense"]().save(tmp_path) / "model.safetensors"
    template = header_and_data(file)
    config = template[0]["__metadata__"]["vaekit"]
    write_config(file, config.replace('"sigma": 0.1', '"sigma": 0.1, "sigma": 0.2'), template)
    with pytest.raises(ValueError, match=r"model\.safetensors.*twice"):
        vaekit.load(file)


def damaged_headers(header: dict, data: bytes):
    """(what is wrong, header as bytes, its declared length or None for the true one, data)"""
    names = [name for name in header if name != "__metadata__"]
    first, second = names[:2]

    def with_entry(**entries):
        return json.dumps({**header, first: {**header[first], **entries}}).encode()

    whole = json.dumps(header).encode()
    offsets = header[first]["data_offsets"]
    yield "overlapping", with_entry(data_offsets=header[second]["data_offsets"]), None, data
    yield "beyond the end", with_entry(data_offsets=[offsets[0], offsets[1] + 10**9]), None, data
    yield "backwards", with_entry(data_offsets=offsets[::-1]), None, data
    yield "negative", with_entry(data_offsets=[-8, 0]), None, data
    yield "a larger shape", with_entry(shape=[2**62, 4]), None, data
    yield "a shape that wraps around", with_entry(shape=[2**32, 2**32, 2**32]), None, data
    yield "a negative shape", with_entry(shape=[-3, -4]), None, data
    yield "an unknown dtype", with_entry(dtype="F3"), None, data
    yield "a dtype of another size", with_entry(dtype="F64"), None, data
    yield "no offsets", json.dumps({**header, first: {"dtype": "F32", "shape": []}}).encode(), None, data
    yield "a number for an entry", json.dumps({**header, first: 3}).encode(), None, data
    yield "metadata that is a number", json.dumps({**header, "__metadata__": {"vaekit": 3}}).encode(), None, data
    yield "metadata that is a list", json.dumps({**header, "__metadata__": []}).encode(), None, data
    yield "a huge length", whole, 2**63 - 1, data
    yield "a length that wraps around", whole, 2**64 - 1, data
    yield "a length of 100 MB", whole, 100_000_000, data
    yield "a length of zero", whole, 0, data
    yield "a length that is too short", whole, len(whole) - 5, data
    yield "a header of zeros", b"\0" * len(whole), None, data
    yield "a nested header", b"[" * 200_000, None, data
    yield "a header that is a list", b"[]", None, data
    yield "no UTF-8", whole.replace(b"__metadata__", b"__metadat\xff__"), None, data
    yield "data left over", whole, None, data + b"\0" * 8
    yield "no data", whole, None, b""
    twice = whole[:-1] + b", " + json.dumps(first).encode() + b": " + json.dumps(header[second]).encode() + b"}"
    yield "a name that comes twice", twice, None, data


def test_a_damaged_header_is_one_error_that_names_the_file(tmp_path):
    file = MODELS["dense"]().save(tmp_path) / "model.safetensors"
    header, data = header_and_data(file)
    for wrong, raw, length, rest in damaged_headers(header, data):
        write_raw(file, raw, rest, length)
        assert loads_or_refuses(file) != "loaded", wrong
    write_raw(file, json.dumps(header).encode(), data)
    assert loads_or_refuses(file) == "loaded"


def test_cut_at_every_byte_of_the_header_a_file_is_refused(tmp_path):
    file = MODELS["dense"]().save(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    for end in range(length + 1):
        file.write_bytes(whole[:end])
        assert "not a complete safetensors file" in loads_or_refuses(file), end


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.floats(0.0, 1.0, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_whatever_bits_flip_in_a_header_there_is_a_model_or_one_error_that_names_the_file(flips, tmp_path):
    file = tmp_path / "model.safetensors"
    if not file.exists():
        MODELS["dense"]().save(tmp_path)
        (tmp_path / "whole").write_bytes(file.read_bytes())
    content = bytearray((tmp_path / "whole").read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    for place, bits in flips:
        content[int(place * length)] ^= bits
    file.write_bytes(content)
    loads_or_refuses(file)


def test_names_in_a_file_reach_no_terminal_as_they_are(tmp_path):
    file = MODELS["dense"]().save(tmp_path) / "model.safetensors"
    header, data = header_and_data(file)
    name = "encoder.head.bias\x1b]0;title\x07\u202e" + "x" * 5000
    header[name] = header.pop("encoder.head.bias")
    write_raw(file, json.dumps(header).encode(), data)
    assert r"encoder.head.bias\x1b]0;title\x07\u202e" in loads_or_refuses(file)
    wrong = {**header, name: {**header[name], "dtype": "\x1b[2J" + "F" * 5000}}
    write_raw(file, json.dumps(wrong).encode(), data)
    assert r"\x1b[2JFFF" in loads_or_refuses(file)
    write_raw(file, json.dumps(header).encode(), data)
    template = header_and_data(file)
    config = json.loads(template[0]["__metadata__"]["vaekit"])
    for spec in ({"name": "\x1b[2J"}, {"name": "elbo", "\x1b[2J": 1}, {"name": "elbo", "beta": "\x1b[2J"}):
        write_config(file, json.dumps({**config, "loss": spec}), template)
        assert r"\x1b[2J" in loads_or_refuses(file)
    write_config(file, json.dumps({**config, "vaekit": "\x1b[2J", "format": 99}), template)
    assert r"\x1b[2J" in loads_or_refuses(file)


def test_names_in_a_folder_reach_no_terminal_as_they_are(tmp_path):
    (tmp_path / "a\x1b[2J").touch()
    with pytest.raises(FileNotFoundError, match=r"holds: a\\x1b\[2J"):
        vaekit.load(tmp_path)


# The copy for people.


def as_folder(copy):
    copy.unlink()
    copy.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        lambda copy: copy.write_text("[" * 1_000_000),
        lambda copy: copy.write_text('{"a":' * 500 + "1" + "}" * 500),
        lambda copy: copy.write_bytes(bytes(range(256))),
        lambda copy: copy.write_bytes(b"\xff\xfe\x00"),
        lambda copy: copy.write_bytes(b" " * 1_000_000 + copy.read_bytes()),
        lambda copy: copy.write_text("9" * 10_000),
        as_folder,
    ],
    ids=["deep", "nested", "binary", "utf-16", "large", "digits", "folder"],
)
def test_a_damaged_copy_of_the_config_does_not_matter(damage, tmp_path):
    vae = MODELS["dense"]()
    damage(vae.save(tmp_path) / "config.json")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = vaekit.load(tmp_path)
    assert all("differs" in str(warning.message) for warning in caught)
    assert torch.equal(again.eval().decode(torch.ones(1, 2)), vae.eval().decode(torch.ones(1, 2)))


def test_a_copy_of_the_config_that_cannot_be_read_does_not_matter(tmp_path, monkeypatch):
    folder = MODELS["dense"]().save(tmp_path)
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied", str(path)))
    )
    with pytest.warns(UserWarning, match="differs"):
        vaekit.load(folder)


# Memory.

GIGANTIC = {
    "dense": [
        {"encoder": {"hidden": [10**9]}},
        {"encoder": {"hidden": [10**9, 10**9, 10**9]}},
        {"decoder": {"hidden": [3 * 10**6]}},
        {"encoder": {"hidden": [1] * 200_000}},
        {"encoder": {"input_shape": [2**31]}},
        {"encoder": {"input_shape": [2**40, 2**40]}},
        {"encoder": {"latent_dim": 2**40}, "decoder": {"latent_dim": 2**40}, "prior": {"latent_dim": 2**40}},
        {"decoder": {"parameters_per_element": 10**9}},
        {"prior": {"components": 10**10}},
        {"prior": {"name": "vamp", "input_shape": [4], "components": 10**9}},
        {"prior": {"name": "flow", "latent_shape": [2], "transforms": 10**9}},
        {"prior": {"name": "flow", "latent_shape": [2], "hidden": [10**5, 10**5]}},
        {"prior": {"name": "flow", "latent_shape": [10**5]}},
        {"likelihood": {"name": "discretized_logistic", "components": 10**9, "levels": 10**9}},
        {"likelihood": {"name": "categorical", "classes": 10**12}},
        {"loss": {"name": "factor", "latent_shape": [2], "hidden": [10**9]}},
        {"condition": {"name": "labels", "classes": 10**12, "dim": 4}},
        {"condition": {"name": "labels", "classes": 2, "dim": 2**62}},
    ],
    "conditional": [
        {"condition": {"classes": 10**10}},
        {"condition": {"classes": 10**10, "dim": None}},
        {"likelihood": {"columns": {"a": {"name": "categorical", "classes": 10**10}}}},
        {"likelihood": {"columns": [{"name": "categorical", "classes": 10**6}] * 3}},
    ],
    "codes": [
        {"encoder": {"posterior": {"name": "vector_quantized", "codes": 10**10}}},
        {"encoder": {"blocks": 10**9}},
        {"encoder": {"channels": [10**6, 10**6]}},
        {"decoder": {"channels": [1] * 100_000}},
    ],
}

MEASURE = """
import json, resource, sys, vaekit
vaekit.load(sys.argv[1])
pages = int(open("/proc/self/statm").read().split()[0])
soft = pages * resource.getpagesize() + (2 << 30)  # so that a failure of this test takes no machine down
resource.setrlimit(resource.RLIMIT_AS, (soft, soft))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
for file in sys.argv[1:]:
    before = peak()
    try:
        vaekit.load(file)
        ended = "loaded"
    except ValueError as error:
        ended = str(error)
    print(json.dumps([peak() - before, ended]))
"""


def amended(config: dict, changes: dict) -> dict:
    return {**config, **{kind: spec if "name" in spec else {**config[kind], **spec} for kind, spec in changes.items()}}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux reports it")
def test_a_config_that_asks_for_gigantic_things_is_refused_in_little_memory(tmp_path):
    ordinary = MODELS["dense"]().save(tmp_path / "ordinary") / "model.safetensors"
    files, asked = [ordinary], [None]
    for name, cases in GIGANTIC.items():
        template = header_and_data(MODELS[name]().save(tmp_path / name) / "model.safetensors")
        for changes in cases:
            files.append(tmp_path / f"{len(files)}.safetensors")
            asked.append(changes)
            write_config(files[-1], json.dumps(amended(json.loads(template[0]["__metadata__"]["vaekit"]), changes)), template)
    command = [sys.executable, "-c", MEASURE, *map(str, files)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert results[0][1] == "loaded"
    for changes, file, (megabytes, ended) in list(zip(asked, files, results, strict=True))[1:]:
        shown = str(changes)[:200]
        assert megabytes < 64, shown
        assert str(file) in ended, shown
