"""What print(vae) and a notebook show: its shapes are those that the model gives, and the model is as it was."""

import copy
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import vaekit
from vaekit import DiagonalGaussian
from vaekit.summary import Summary, _without_weights

PRESETS = ["burda-mnist", "keras-mnist", "top-down-mnist", "table", "vq-mnist"]


class OwnEncoder(vaekit.Encoder):
    """Counts how often it is called, and cannot do without numbers."""

    def __init__(self, needs_numbers=False):
        super().__init__((6,), 2)
        self.linear, self.batch_norm, self.needs_numbers = nn.Linear(6, 4), nn.BatchNorm1d(4), needs_numbers
        self.calls = []

    def forward(self, x):
        self.calls.append(x.device.type)
        numbers = self.batch_norm(self.linear(x))
        if self.needs_numbers and numbers.sum().item() > 1e9:
            numbers = -numbers
        return DiagonalGaussian(numbers[:, :2], numbers[:, 2:])


def own(**options):
    decoder = vaekit.decoders.create("mlp", latent_dim=2, output_shape=(6,), hidden=(3,))
    return vaekit.VAE(OwnEncoder(**options), decoder, likelihood=vaekit.likelihoods.create("bernoulli"))


class Cells(HTMLParser):
    """The texts of a table's cells, row by row; every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.open = [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_give_the_shapes_that_they_have_been_seen_to_give(preset):
    vae = vaekit.create_vae(preset, seed=0).eval()
    rows, part = {}, ""
    for row in Summary.of(vae).rows:
        part, path = (part, row.name.strip()) if row.name.startswith("  ") else (row.name, "")
        rows[part, path] = row
    seen = {}
    for part in ("encoder", "decoder"):
        network = getattr(vae, part)
        for path, layer in network.named_modules():
            layer.register_forward_hook(lambda module, inputs, output, place=(part, path): seen.update({place: output}))
    x = torch.rand(3, *vae.input_shape)
    vae.decode(vae.encode(x).mean)
    layers = [(place, row) for place, row in rows.items() if row.name.startswith("  ")]
    assert len(layers) >= 5
    for place, row in layers:
        assert row.gives == f"[B, {', '.join(map(str, seen[place].shape[1:]))}]"
        layer = getattr(vae, place[0]).get_submodule(place[1])
        assert row.weights == sum(p.numel() for p in layer.parameters())
    assert rows["decoder", ""].gives == f"[B, {', '.join(map(str, seen['decoder', ''].shape[1:]))}]"
    parts = [row.weights for (part, path), row in rows.items() if not path and part != "posterior"]  # which is in the encoder
    total = sum(p.numel() for p in vae.parameters())
    assert sum(parts) == total
    assert f"{total:,} weights" in str(vae)


def test_looking_at_a_model_leaves_it_and_the_noise_as_they_were():
    vae = own()
    hooked = []
    vae.encoder.linear.register_forward_hook(lambda *what: hooked.append(what))
    before, noise = copy.deepcopy(vae.state_dict()), torch.get_rng_state()
    text = repr(vae)
    assert "[B, 4]" in text
    assert vae.encoder.calls == hooked == []
    assert vae.training
    assert vae.encoder.training
    assert torch.equal(torch.get_rng_state(), noise)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_copy_that_is_looked_at_holds_no_numbers():
    vae = vaekit.create_vae("vq-mnist", seed=0)
    vae.encoder.held = torch.zeros(7)
    bare = _without_weights(vae)
    assert {t.device.type for t in (*bare.parameters(), *bare.buffers(), bare.encoder.held)} == {"meta"}
    assert vae.encoder.held.device.type == "cpu"


def test_a_network_that_needs_numbers_is_shown_as_far_as_it_goes():
    text = str(own(needs_numbers=True))
    lines = {line.split()[0]: line for line in text.splitlines()[1:]}
    assert lines["linear"].split() == ["linear", "Linear", "[B,", "4]", "28"]
    assert "[B, 4]" not in lines["encoder"]
    assert "[B, 1, 6]" in lines["decoder"]


def test_parts_are_written_as_in_a_spec_without_defaults():
    vae = vaekit.create_vae(
        input_shape=(6,),
        latent_dim=2,
        encoder={"name": "mlp", "hidden": (3,), "activation": "relu"},
        loss={"name": "elbo", "beta": {"name": "linear", "steps": 3}},
        condition={"name": "labels", "classes": 3},
    )
    rows = {row.name: row.what for row in Summary.of(vae).rows}
    assert rows["encoder"] == "mlp(hidden=(3,))"
    assert rows["loss"] == "elbo(beta={'name': 'linear', 'steps': 3})"
    assert rows["condition"] == "labels(classes=3)"
    assert rows["likelihood"] == "bernoulli"
    assert Summary.of(own()).rows[0].what == "OwnEncoder"


def test_frozen_weights_are_counted_apart():
    vae = own()
    vae.decoder.requires_grad_(False)
    assert f"({sum(p.numel() for p in vae.decoder.parameters())} frozen)" in str(vae)


def test_a_notebook_shows_the_same_rows():
    vae = vaekit.create_vae("table", seed=0)
    head, *rows = Cells(vae._repr_html_()).rows
    assert head == ["part", "made as", "gives", "weights"]
    expected = [[row.name.strip(), row.what, row.gives, f"{row.weights:,}" * bool(row.weights)] for row in Summary.of(vae).rows]
    assert rows == expected


def test_a_notebook_shows_a_history_and_a_part():
    history = vaekit.History()
    assert "no epochs" in history._repr_html_()
    history.append({"loss": 3.0, "val_loss": 4.0}, seconds=1.5)
    history.append({"loss": 2.0, "val_loss": 3.0}, seconds=1.5)
    history.append({"loss": 1.0, "val_loss": 3.5}, seconds=1.5)
    html = history._repr_html_()
    assert "3 epochs, 4.5 s" in html
    assert Cells(html).rows == [
        ["term", "first epoch", "best, epoch 2", "last"],
        ["loss", "3.00", "2.00", "1.00"],
        ["val_loss", "4.00", "3.00", "3.50"],
    ]
    description = vaekit.losses.registry.describe("iwae")
    assert Cells(description._repr_html_()).rows[1:] == [["num_samples", "5"], ["gradient", "'reparameterized'"]]
    page = vaekit.likelihoods.registry.describe("categorical")._repr_html_()
    assert ["classes", "required"] in Cells(page).rows


def test_a_registry_names_its_parts():
    text = repr(vaekit.losses.registry)
    assert text.startswith("Registry of ")
    assert " losses: " in text
    assert "iwae" in text
