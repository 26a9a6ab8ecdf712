"""The public surface is the committed list: nothing in it goes or is called otherwise without a line of the diff."""

import pytest
from helpers.public_surface import LIST, UPDATE, _lines, difference, surface

pytest.importorskip("tomllib", reason="docs/build.py reads TOML, from Python 3.11 on")
pytest.importorskip("yaml")
pytest.importorskip("lightning", reason="vaekit.integrations has names for it")
pytest.importorskip("sklearn", reason="vaekit.integrations has names for it")


def test_the_public_surface_is_the_committed_list():
    said = difference(LIST.read_text(encoding="utf-8").splitlines(), surface())
    assert not said, (
        f"the public surface has changed:\n{said}\nIf that is meant, write the list anew by `{UPDATE}` and the change into "
        "CHANGELOG.md; docs/develop/policy.md says what has to stay for two minor versions."
    )


def test_the_list_has_names_methods_fields_parts_and_commands():
    listed = LIST.read_text(encoding="utf-8").splitlines()
    heads = {line.partition("(")[0] for line in listed}
    assert {"vaekit.create_vae", "vaekit.VAE.sample", "vaekit.LossTerms.kl", "vaekit.ops.make_key is vaekit.make_key"} <= heads
    assert {
        "part losses elbo",
        "part presets dense-mnist",
        "command vaekit train",
        "command vaekit train --epochs VALUE",
    } <= heads
    assert not [line for line in listed if " at 0x" in line]
    assert len(listed) == len(set(listed))


def planted(x, *, samples=1, dtype=float, pieces=(1, None)):
    """A public function."""


class Planted:
    """A public class, whose module is not vaekit's: its members are not listed."""

    def __init__(self, width, depth=2): ...

    def method(self): ...


def test_a_line_has_how_it_is_called_without_annotations():
    assert list(_lines("vaekit.planted", planted, {})) == ["vaekit.planted(x, *, samples=1, dtype=float, pieces=(1, None))"]
    assert list(_lines("vaekit.Planted", Planted, {})) == ["vaekit.Planted(width, depth=2)"]


def test_members_are_those_of_vaekit(monkeypatch):
    monkeypatch.setattr(Planted, "__module__", "vaekit.planted")
    assert list(_lines("vaekit.Planted", Planted, {})) == ["vaekit.Planted(width, depth=2)", "vaekit.Planted.method(self)"]
    assert list(_lines("vaekit.Other", Planted, {id(Planted): "vaekit.Planted"})) == ["vaekit.Other is vaekit.Planted"]


def test_a_difference_says_what_is_gone_new_and_called_otherwise():
    before, now = ["a(x)", "b", "c(x, y=1)"], ["a(x)", "c(x, y=2)", "d()"]
    assert difference(before, now).splitlines() == ["gone:    b", "changed: c(x, y=1)", "     to: c(x, y=2)", "new:     d()"]
    assert difference(before, before) == ""
