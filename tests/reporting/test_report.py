"""Laws of the report: it holds what the run's folder and model say, by itself, for every reader."""

import base64
import html
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch

import vaekit
from vaekit.reporting import findings

VOID = {"meta", "img", "line", "br"}


class Checked(HTMLParser):
    """Collects what a page refers to, and sees that its elements are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.images, self.headings, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [found[key] for key in ("href", "src", "srcset", "action") if key in found]
        if tag in ("img", "svg"):
            self.images.append(found.get("alt") or found.get("aria-label"))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(file):
    page = Checked()
    page.feed(file.read_text(encoding="utf-8"))
    assert not page.open
    return page


def model(**options):
    networks = {"encoder": {"hidden": (8,)}, "decoder": {"hidden": (8,)}}
    return vaekit.create_vae(input_shape=(1, 6, 6), latent_dim=3, seed=0, **networks, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two epochs from Python, its held-out examples, and its history."""
    folder, x = (
        tmp_path_factory.mktemp("runs") / "first & best",
        torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0)),
    )
    history = vaekit.fit(model(), x[:40], validation=x[40:], epochs=2, seed=0, out=folder, progress=False)
    return folder, x[40:], history


def test_a_page_needs_nothing_from_elsewhere_and_can_be_read_without_eyes(run, tmp_path):
    folder, test, _ = run
    file = vaekit.report(folder, data=test, out=tmp_path / "page.html")
    page, source = parsed(file), file.read_text(encoding="utf-8")
    assert page.links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    for link in page.links:
        if link.startswith("data:"):
            assert base64.b64decode(link.partition(",")[2], validate=True).startswith(b"\x89PNG")
    assert "<script" not in source
    assert "@import" not in source
    assert "url(" not in source
    assert '<html lang="en">' in source
    assert 'name="viewport"' in source
    assert all(page.images)
    assert page.headings[0] == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert "first & best" in "".join(page.text)
    assert "first & best" not in source


def test_its_figures_are_those_of_the_run(run):
    folder, test, history = run
    found = findings.read(folder, test)
    figures, vae = dict(found.figures), vaekit.load(folder / "best")
    assert figures["best epoch"] == f"{history.best_epoch + 1} of 2"
    assert figures["loss, held out"] == f"{history['val_loss'][history.best_epoch]:.2f} nats"
    bound = vaekit.evaluation.importance_weighted_bound(vae, test, num_samples=50)
    assert figures["log p(x), at least"].startswith(f"{bound.log_likelihood:.2f} nats")
    latents = vaekit.evaluation.latent_statistics(vae, test)
    assert figures["active latent dimensions"] == f"{int(latents.active.sum())} of 3"
    named = [warning for warning in found.warnings if "collapsed" in warning]
    assert bool(named) == bool(latents.collapsed)
    assert all(name in named[0] for name in latents.collapsed)


def test_without_data_it_has_the_losses_alone(run, tmp_path):
    folder, _, _ = run
    text = "".join(parsed(vaekit.report(folder, out=tmp_path / "page.html")).text)
    assert "loss, held out" in text
    assert "log p(x)" not in text
    assert "which the folder does not hold" in text


def test_several_runs_are_side_by_side_with_what_differs(run, tmp_path):
    folder, test, _ = run
    other = tmp_path / "other"
    vaekit.fit(model(), test, validation=test, epochs=1, seed=5, learning_rate=0.01, out=other, progress=False)
    page = parsed(vaekit.report(folder, other, data=test, out=tmp_path / "page.html"))
    text = "\n".join(page.text)
    assert "Side by side" in text
    differing = text.partition("Settings that differ")[2].partition("first & best\n")[2]
    assert all(key in differing for key in ("seed", "learning_rate", "epochs"))
    assert {"#run-0", "#run-1"} <= set(page.links)


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([5.0, 3.0, 4.0, 4.5, 5.0, 6.0], "has not fallen since epoch 2 of 6"),
        ([5.0, 4.0, 3.0, 2.0, 1.5, 1.0], "still falling"),
        ([5.0, 4.0, 3.0, 2.0, 1.0, 1.5], None),
        ([5.0], None),
    ],
)
def test_what_a_history_warns_of(losses, said):
    history = vaekit.History()
    for loss in losses:
        history.append({"loss": loss, "val_loss": loss}, seconds=1.0)
    found = list(findings._of_history(history))
    assert [said in warning for warning in found] == ([True] if said else [])


def test_models_without_a_bound_have_a_report_that_says_why(tmp_path):
    x = torch.rand(30, 1, 6, 6)
    vaekit.fit(model(posterior="point", loss="autoencoder"), x, epochs=1, out=tmp_path / "run", progress=False)
    text = "".join(parsed(vaekit.report(tmp_path / "run", data=x)).text)
    assert "log p(x), at leastnone: log p(x) is weighed up from draws" in text
    assert "reconstructions, rmse" in text


def test_mistakes_are_said(run, tmp_path):
    with pytest.raises(ValueError, match="needs the folder of a run"):
        vaekit.report()
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no run at {tmp_path}: it has no run.json")):
        vaekit.report(tmp_path)
    with pytest.raises(TypeError, match="one after the other"):
        vaekit.report([run[0]])
    for data, message in ((torch.rand(5, 7), "shape"), (run[1][:0], "at least one"), (run[1] * torch.nan, "NaN")):
        with pytest.raises(ValueError, match=message):
            vaekit.report(run[0], data=data)
    broken = tmp_path / "broken"
    shutil.copytree(run[0], broken)
    (broken / "environment.json").write_text("[1]")
    with pytest.raises(ValueError, match="an object for each start"):
        vaekit.report(broken)


def test_the_losses_are_those_of_the_best_epoch():
    history = vaekit.History()
    for loss, held_out in ((5.0, 6.0), (4.0, 4.5), (3.0, 7.0)):
        history.append({"loss": loss, "perplexity": loss, "val_loss": held_out}, seconds=1.0)
    assert dict(findings._losses(history)) == {
        "best epoch": "2 of 3",
        "loss, training": "4.00 nats",
        "perplexity, training": "4.00",
        "loss, held out": "4.50 nats",
    }


def test_a_figure_that_the_model_has_not_is_told_with_the_reason(tmp_path):
    vae = vaekit.create_vae("vq-mnist", seed=0)
    x = torch.rand(24, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    vaekit.fit(vae, x[:16], validation=x[16:], epochs=1, out=tmp_path / "codes", progress=False)
    figures = dict(findings.read(tmp_path / "codes", x[16:]).figures)
    with pytest.raises((TypeError, ValueError)) as caught:
        vaekit.evaluation.latent_statistics(vae, x[16:])
    assert figures["active latent dimensions"] == f"none: {caught.value}"


def test_it_shows_the_models_layers(run, tmp_path):
    folder, test, _ = run
    source = vaekit.report(folder, data=test, out=tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.escape(str(vaekit.load(folder / "best"))) in source
