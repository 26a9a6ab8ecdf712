"""Laws of loss curves: what is drawn is the history."""

import pytest
from helpers.pictures import assert_draws

import vaekit
from vaekit import plots


def history(epochs, terms=("loss", "reconstruction", "kl"), validation=True) -> vaekit.History:
    made = vaekit.History()
    for epoch in range(epochs):
        names = [*terms, *(f"val_{t}" for t in terms if validation)]
        made.append({name: i + 1 / (epoch + 1) for i, name in enumerate(names)}, seconds=1.0)
    return made


def test_only_terms_that_are_nats_are_said_to_be():
    figure = plots.loss_curves(history(2, terms=("loss", "kl", "effective_sample_size")))
    assert [axes.get_ylabel() for axes in figure.axes] == ["nats per example", "nats per example", "mean"]


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("validation", [True, False])
def test_loss_curves_are_the_history(epochs, validation):
    made = history(epochs, validation=validation)
    figure = plots.loss_curves(made)
    assert_draws(figure)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "reconstruction", "kl"]
    for axes in figure.axes:
        curves = {line.get_label(): line for line in axes.lines}
        term = axes.get_title()
        expected = {"training": made[term], **({"validation": made[f"val_{term}"]} if validation else {})}
        assert {label: list(line.get_ydata()) for label, line in curves.items()} == expected
        assert all(list(line.get_xdata()) == list(range(1, epochs + 1)) for line in axes.lines)


def test_the_history_plots_itself():
    assert [axes.get_title() for axes in history(2).plot().axes] == ["loss", "reconstruction", "kl"]


@pytest.mark.parametrize("empty", [vaekit.History(), {}, {"loss": []}])
def test_a_history_without_epochs_is_refused(empty):
    with pytest.raises(ValueError, match="no epoch"):
        plots.loss_curves(empty)
