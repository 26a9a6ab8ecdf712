"""What the comparison with other libraries rests on: one definition of the loss, turns, and peers that may be missing or fail."""

import argparse
import csv
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch

import vaekit

FOLDER = Path(__file__).parents[2] / "benchmarks"
OURS = {"problems", "turns", "torch_networks", "torch_loop", "vaekit_fit", "harness", "peers", "peers.side_by_side"}


@pytest.fixture
def module(monkeypatch):
    """Imports a file of benchmarks/peers as its scripts do, and forgets it afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.syspath_prepend(FOLDER / "peers")
    yield importlib.import_module
    for name in OURS:
        sys.modules.pop(name, None)


# --- the loss ------------------------------------------------------------------------------------------------------------


def test_the_losses_are_those_of_scipys_distributions(module):
    problems, rng = module("problems"), np.random.default_rng(0)
    logits, x = rng.normal(size=(3, 5)), rng.random((3, 5)).round()
    expected = -scipy.stats.bernoulli(1 / (1 + np.exp(-logits))).logpmf(x).sum(1)
    np.testing.assert_allclose(problems.bernoulli({"logits": logits}, x), expected, rtol=1e-12)
    np.testing.assert_allclose(problems.bernoulli({"probabilities": 1 / (1 + np.exp(-logits))}, x), expected, rtol=1e-12)

    count, mean, theta = rng.poisson(3.0, (3, 5)).astype(float), rng.gamma(2.0, 1.0, (3, 5)), rng.gamma(2.0, 1.0, 5)
    distribution = scipy.stats.nbinom(theta, theta / (theta + mean))
    found = problems.counts({"log_mean": np.log(mean), "log_theta": np.log(theta)}, count)
    np.testing.assert_allclose(found, -distribution.logpmf(count).sum(1), rtol=1e-10)

    numbers, center, logvar, classes = rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), rng.normal(size=2), np.array([0, 2, 1])
    logits = rng.normal(size=(3, 3))
    expected = -scipy.stats.norm(center, np.exp(0.5 * logvar)).logpdf(numbers).sum(1)
    expected -= np.log(scipy.special.softmax(logits, 1))[np.arange(3), classes]
    expected -= scipy.stats.nbinom(theta[:3], theta[:3] / (theta[:3] + mean[:, 0])).logpmf(count[:, 0])
    parameters = {"mean": center, "logvar": logvar, "logits": logits}
    parameters |= {"log_mean": np.log(mean[:, 0]), "log_theta": np.log(theta[:3])}
    found = problems.mixed(parameters, np.column_stack([numbers, classes, count[:, 0]]))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_probability_of_0_costs_what_torchs_loss_says(module):
    x, p = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    expected = torch.nn.functional.binary_cross_entropy(p, x, reduction="sum")
    assert module("problems").bernoulli({"probabilities": p.numpy()}, x.numpy()) == expected == 200.0


def test_the_test_loss_is_the_bound_of_a_linear_model(module):
    """x given z is a coin for each pixel whatever z is, so that the divergence and the entropy are known."""
    problems = module("problems")
    x = np.ones((4, 7), np.float32)
    mu, logvar = np.full((4, 2), 0.5), np.full((4, 2), np.log(0.25))
    seen = []

    def decode(z, x):
        seen.append(z)
        return {"logits": np.zeros_like(x)}

    found = problems.test_loss(problems.PROBLEMS["dense-mnist"], lambda x: (mu, logvar), decode, x)
    kl = 2 * (0.5 * (0.25 + 0.25 - 1) + np.log(2))
    assert found == pytest.approx({"loss": 7 * np.log(2) + kl, "reconstruction": 7 * np.log(2), "kl": kl})
    assert len(seen) == problems.DRAWS
    assert 0.2 < np.std(np.stack(seen) - 0.5) < 0.8


@pytest.mark.parametrize("name", ["dense-mnist", "burda-mnist", "keras-mnist", "table", "single-cell"])
def test_vaekit_and_the_bare_loop_train_and_tell_the_parameters_that_their_own_losses_use(name, module):
    problems, problem = module("problems"), module("problems").PROBLEMS[name]
    widths = {"table": 4, "single-cell": 2000}
    rng = np.random.default_rng(0)
    x = rng.random((40, widths.get(name, 784))).round().astype(np.float32)
    args = SimpleNamespace(model=name, seed=0, epochs=2, precision="32", compile=False)
    for script in ("vaekit_fit", "torch_loop"):
        ends = []
        encode, decode = module(script).train(args, x, SimpleNamespace(end_of_epoch=lambda ends=ends: ends.append(1)))
        assert len(ends) == 2
        mu, logvar = encode(x)
        assert mu.shape == logvar.shape == (40, problem.latent_dim)
        found = problems.test_loss(problem, encode, decode, x)
        assert np.isfinite(found["loss"])
    vae = vaekit.create_vae(name, seed=1, **({"likelihood": "negative_binomial"} if name == "single-cell" else {}))
    z = torch.randn(40, problem.latent_dim)
    with torch.no_grad():
        parameters = vae.natural_parameters(z)
        expected = vae.likelihood.nll(parameters, module("vaekit_fit").shaped(vae, x))
        named = module("vaekit_fit").named(vae, name, parameters)
        found = problem.nll({key: value.numpy() for key, value in named.items()}, x.astype(np.float64))
        torch.testing.assert_close(torch.from_numpy(found).float(), expected, rtol=1e-4, atol=1e-4)
        bare = module("torch_networks").bare(name)
        own = bare.nll(parameters := bare.decoder(z), torch.from_numpy(x))
        found = problem.nll({key: value.numpy() for key, value in bare.named(parameters).items()}, x.astype(np.float64))
        assert found.sum() == pytest.approx(float(own), rel=1e-4)


def test_the_bare_loop_has_the_weights_of_the_preset(module):
    for name in ("dense-mnist", "burda-mnist", "keras-mnist", "table"):
        models = module("torch_networks").bare(name), vaekit.create_vae(name)
        bare, preset = (sorted(tuple(p.shape) for p in model.parameters()) for model in models)
        assert bare == preset


# --- turns ---------------------------------------------------------------------------------------------------------------

PEER = """
import json, sys
name, turns, epochs = sys.argv[-2], sys.argv[-3], int(sys.argv[sys.argv.index("--epochs") + 1])
facts = {"steps": 10, "examples": 640, "memory_mib": 5.0, "process_mib": 9.0, "versions": {name: "1"}}

def say(**news):
    print(json.dumps({**facts, **news}), flush=True)
    sys.stdin.readline()

if name == "missing":
    print(json.dumps({"event": "missing", "reason": "none not installed: pip install none"}), flush=True)
    sys.exit(0)
say(event="ready")
for epoch in range(epochs):
    print(name, file=open(turns, "a"))
    if name == "failing" and epoch == 2:
        raise ValueError("the loss is no number")
    say(event="epoch", seconds={"fast": 0.1, "slow": 0.4}.get(name, 1.0))
say(event="result", loss=100.0 + len(name) + int(sys.argv[sys.argv.index("--seed") + 1]), reconstruction=90.0, kl=10.0)
"""
NAMES = ["fast", "slow", "missing", "failing", "nowhere"]


@pytest.fixture
def field(module, tmp_path, monkeypatch):
    """`training.py --peers` with peers of our own, each named after what it does; returns a function that runs it."""
    side_by_side = module("peers.side_by_side")
    script, turns = tmp_path / "peer.py", tmp_path / "turns"
    script.write_text(PEER)

    def contender(name):
        return side_by_side.Contender(str(script), (str(turns), name), "keras" if name == "nowhere" else "vaekit", ("table",))

    monkeypatch.setattr(side_by_side, "CONTENDERS", {name: contender(name) for name in NAMES})
    monkeypatch.setattr(side_by_side, "BASELINES", ("missing", "slow"))
    monkeypatch.setattr(side_by_side, "write_data", lambda model, file: None)

    def run(*options):
        parser = argparse.ArgumentParser()
        parser.add_argument("--rounds", type=int, default=4)
        side_by_side.add_options(parser)
        options = ["--results", str(tmp_path / "results"), "--threads", "1", "--python", "keras=/no/such/python", *options]
        side_by_side.main("table", parser.parse_args(options))
        return turns.read_text().split()

    return run


def rows_of(file):
    with open(file, newline="") as stream:
        return {row["contender"]: row for row in csv.DictReader(stream)}


def test_peers_take_turns_and_one_that_falls_out_is_told(field, tmp_path, capsys):
    turns = field("--rounds", "4")
    assert turns[:3] == ["fast", "slow", "failing"], "the warm-up, in their order"
    rounds = [turns[3:6], turns[6:9], turns[9:11], turns[11:13]]
    assert [sorted(names) for names in rounds] == [["failing", "fast", "slow"]] * 2 + [["fast", "slow"]] * 2
    assert len(turns) == 13
    rows = rows_of(tmp_path / "results" / "peers_times.csv")
    assert list(rows) == NAMES
    fast = {"ms": "10", "times_baseline": "0.25", "baseline": "slow", "rounds": "4", "test_loss": "104"}
    assert fast.items() <= rows["fast"].items()
    assert [rows["slow"][name] for name in ("ms_q1", "ms", "ms_q3", "times_baseline")] == ["40", "40", "40", "1"]
    whys = {name: row["why_not"] for name, row in rows.items() if row["why_not"]}
    assert whys["missing"] == "none not installed: pip install none"
    assert whys["failing"] == "ended with 1: ValueError: the loss is no number"
    assert whys["nowhere"] == "/no/such/python cannot be run: No such file or directory"
    assert set(whys) == {"missing", "failing", "nowhere"}
    printed = capsys.readouterr().out
    assert all(why in printed for why in whys.values())
    assert "10.00 (10.00 to 10.00)" in printed


def test_what_other_processes_use_is_told(module):
    """Of three processors' work in a second, ours did a half of one."""
    side_by_side = module("peers.side_by_side")
    others = object.__new__(side_by_side.Others)
    others.pids, others.before, others.start = [os.getpid()], (10.0, 4.0), side_by_side.time.monotonic() - 1.0
    side_by_side.processor_seconds, side_by_side.os = lambda pids: (13.0, 4.5), SimpleNamespace(cpu_count=lambda: 4)
    assert others.share() == pytest.approx(2.5 / 4, rel=0.2)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux tells")
def test_a_process_is_seen_to_work(module):
    processor_seconds = module("peers.side_by_side").processor_seconds
    before = processor_seconds([os.getpid()])
    while os.times().user + os.times().system < before[1] + 0.1:
        pass
    after = processor_seconds([os.getpid()])
    assert after[1] - before[1] == pytest.approx(0.1, abs=0.05)
    assert after[0] - before[0] >= 0.05
    assert processor_seconds([2**22 + 1]) is None


def test_an_interrupted_race_tells_the_rounds_that_there_were(field, module, tmp_path, monkeypatch):
    peer, asked = module("peers.side_by_side").Peer, []
    turn = peer.turn

    def interrupted(self, within):
        asked.append(1)
        if len(asked) > 2 * 4:  # a warm-up and three rounds of two
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal was not heeded")
        return turn(self, within)

    def ended(self, end=peer.end):
        os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` does a second time
        end(self)

    monkeypatch.setattr(peer, "turn", interrupted)
    monkeypatch.setattr(peer, "end", ended)
    before = signal.getsignal(signal.SIGTERM)
    try:
        field("--rounds", "9", "--only", "fast", "slow")
    finally:
        signal.signal(signal.SIGTERM, before)
    rows = rows_of(tmp_path / "results" / "peers_times.csv")
    assert [(row["rounds"], row["ms"]) for row in rows.values()] == [("3", "10"), ("3", "40")]


def test_losses_are_means_over_seeds_and_other_rows_of_the_file_stay(field, tmp_path):
    file = tmp_path / "results" / "peers_losses.csv"
    field("--losses", "2", "--seeds", "1", "--only", "slow", "fast")
    before = rows_of(file)
    assert before["slow"]["test_loss"] == "104.000"
    field("--losses", "1", "--seeds", "3", "--only", "fast", "missing")
    rows = rows_of(file)
    assert rows["slow"] == before["slow"]
    assert [rows["fast"][name] for name in ("epochs", "seeds", "test_loss", "deviation")] == ["1", "3", "105.000", "1"]
    assert rows["missing"]["why_not"].startswith("none not installed")


def test_a_peer_that_says_nothing_is_given_up(module):
    side_by_side = module("peers.side_by_side")
    peer = side_by_side.Peer([sys.executable, "-c", "input()"], os.environ, 1)
    try:
        with pytest.raises(side_by_side.Fell, match="said nothing for 0 s"):
            peer.news(0.0)
    finally:
        peer.end()
    assert peer.process.returncode is not None


@pytest.mark.parametrize("choice", ["jax", "jax=/usr/bin/python", "keras="])
def test_an_interpreter_for_no_library_is_refused(module, choice):
    with pytest.raises(SystemExit, match="LIBRARY=PATH"):
        module("peers.side_by_side").interpreters([choice])
    found = module("peers.side_by_side").interpreters(["peers=/a", "keras=/b"])
    assert found == {"vaekit": sys.executable, "torch": sys.executable, "keras": "/b", "pythae": "/a", "scvi-tools": "/a"}


@pytest.mark.parametrize(("script", "package"), [("keras_jax", "jax"), ("pythae_trainer", "pythae"), ("scvi_tools", "scvi")])
def test_a_library_that_is_not_installed_is_told_in_one_line(script, package):
    path = str(FOLDER / "peers")
    program = f"import runpy, sys; sys.modules[{package!r}] = None; sys.path.insert(0, {path!r}); sys.argv = ['']; "
    program += f"runpy.run_path({path + '/' + script + '.py'!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told["event"] == "missing", done.stderr
    assert package in told["reason"].partition(":")[0]
