"""Laws of `vaekit.registry`, on registries of the tests' own; plugins are announced by real entry-point metadata."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import sys
import threading
import warnings
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vaekit
from vaekit import Registry, UnknownNameError
from vaekit.registry import Part, recorded_spec

GROUP = "vaekit_tests.shapes"


class Shape(Part):
    """Anything with a side."""

    side: float = 0.0


@pytest.fixture
def shapes():
    """A registry with "square" and "rectangle" in it."""
    registry = Registry("shape", GROUP, Shape)

    @registry.register("square")
    class Square(Shape):
        """A square.

        It has a side.
        """

        def __init__(self, side=1.0):
            self.side = side

    @registry.register("rectangle")
    class Rectangle(Shape):
        """A rectangle."""

        def __init__(self, width, height, *, colour="red"):
            self.width, self.height, self.colour = width, height, colour

    return registry


# Register and create


def test_register_gives_back_the_class_itself_and_create_makes_instances_of_it(shapes):
    class Circle(Shape):
        def __init__(self, radius=1.0):
            self.radius = radius

    assert shapes.register("circle")(Circle) is Circle
    made = shapes.create("circle", radius=3.0)
    assert type(made) is Circle
    assert made.radius == 3.0


@given(st.sets(st.text("abcxyz-_0", min_size=1, max_size=6), max_size=8), st.sampled_from("abcx"))
def test_names_are_sorted_and_a_pattern_keeps_those_that_match(names, letter):
    registry = Registry("number", GROUP)
    for name in names:
        registry.register(name)(lambda: 0)
    assert registry.names() == sorted(names)
    assert registry.names(f"{letter}*") == sorted(n for n in names if n.startswith(letter))
    assert registry.names(f"*{letter}") == sorted(n for n in names if n.endswith(letter))


def test_a_taken_name_is_refused_with_its_owner_and_stays_with_it(shapes):
    owner = type(shapes.create("square"))
    with pytest.raises(ValueError, match=r"'square'.*taken.*Square"):
        shapes.register("square")(type("Other", (Shape,), {}))
    assert type(shapes.create("square")) is owner


@pytest.mark.parametrize("name", ["", None, 3, Shape])
def test_a_name_is_a_non_empty_string(shapes, name):
    with pytest.raises(ValueError, match="shape.*non-empty string"):
        shapes.register(name)


@pytest.mark.parametrize("part", [dict, lambda: Shape(), Shape()], ids=["foreign class", "function", "instance"])
def test_a_part_has_to_extend_the_base_and_is_not_entered_otherwise(shapes, part):
    with pytest.raises(TypeError, match=r"'bad'.*extends .*\.Shape"):
        shapes.register("bad")(part)
    assert "bad" not in shapes.names()


def test_without_a_base_functions_are_parts():
    registry = Registry("preset", GROUP)
    registry.register("five")(lambda plus=0: 5 + plus)
    assert registry.create("five", plus=1) == 6


# Unknown names


def test_an_unknown_name_is_a_key_error_that_reads_as_a_sentence(shapes):
    with pytest.raises(KeyError) as caught:
        shapes.create("sqare")
    assert caught.type is UnknownNameError
    assert str(caught.value) == "unknown shape 'sqare'. Did you mean 'square'? There are: rectangle, square."


def test_a_far_name_gets_no_suggestion_and_an_empty_registry_says_so(shapes):
    with pytest.raises(UnknownNameError) as caught:
        shapes.describe("zzz")
    assert str(caught.value) == "unknown shape 'zzz'. There are: rectangle, square."
    with pytest.raises(UnknownNameError, match=r"There are: none\.$"):
        Registry("shape", GROUP).create("square")


def test_a_name_in_capitals_is_near(shapes):
    with pytest.raises(UnknownNameError, match="Did you mean 'square'"):
        shapes.create("SQUARE")


# Options


def test_an_unknown_option_is_refused_by_name_with_a_suggestion_and_the_list(shapes):
    with pytest.raises(TypeError) as caught:
        shapes.create("rectangle", width=1, height=2, color="blue")
    assert str(caught.value) == (
        "shape 'rectangle' takes no option 'color'. Did you mean 'colour'? It takes: width, height, colour."
    )


def test_a_class_without_a_constructor_takes_no_options(shapes):
    shapes.register("point")(type("Point", (Shape,), {}))
    assert type(shapes.create("point")).__name__ == "Point"
    assert not shapes.takes("point", "side")
    with pytest.raises(TypeError, match=r"'point'.*'side'.*no options"):
        shapes.create("point", side=1.0)


def test_a_registered_module_without_a_constructor_takes_no_options():
    with pytest.raises(TypeError, match="'bernoulli'.*'bogus'"):
        vaekit.likelihoods.create("bernoulli", bogus=1)


def test_every_missing_required_option_is_named(shapes):
    with pytest.raises(TypeError, match="'rectangle' needs.*'width' and 'height'"):
        shapes.create("rectangle")
    with pytest.raises(TypeError, match="'rectangle' needs[^']*'height'"):
        shapes.create("rectangle", width=1)


def test_keyword_options_may_have_any_name(shapes):
    @shapes.register("free")
    class Free(Shape):
        def __init__(self, side, **rest):
            self.rest = rest

    assert shapes.create("free", side=1, anything=2).rest == {"anything": 2}
    assert shapes.takes("free", "anything")
    assert list(shapes.describe("free").options) == ["side"]
    with pytest.raises(TypeError, match="needs the option 'side'"):
        shapes.create("free", anything=2)


def test_an_error_from_the_constructor_comes_through_as_it_is(shapes):
    error = RuntimeError("from inside")

    @shapes.register("failing")
    class Failing(Shape):
        def __init__(self):
            raise error

    with pytest.raises(RuntimeError) as caught:
        shapes.create("failing")
    assert caught.value is error


def test_takes_says_which_options_there_are(shapes):
    assert shapes.takes("rectangle", "colour")
    assert not shapes.takes("rectangle", "color")


def test_a_description_holds_the_options_with_their_defaults_and_prints_as_the_page_of_the_part(shapes):
    square, rectangle = shapes.describe("square"), shapes.describe("rectangle")
    assert (square.kind, square.name, square.summary) == ("shape", "square", "A square.")
    assert square.documentation == "A square.\n\nIt has a side."
    assert dict(rectangle.options) == {"width": inspect.Parameter.empty, "height": inspect.Parameter.empty, "colour": "red"}
    assert repr(rectangle) == "shape 'rectangle'\noptions:\n  width\n  height\n  colour = 'red'\n\nA rectangle."


@pytest.mark.parametrize("kind", ["encoders", "decoders", "likelihoods", "priors", "losses", "presets"])
def test_every_registered_part_describes_itself(kind):
    rooms = getattr(vaekit, kind)
    assert rooms.names()
    for name in rooms.names():
        assert rooms.describe(name).summary.endswith("."), name


# What an instance was constructed with


def remade(registry, part):
    """`part`, made again from what it has recorded."""
    spec = recorded_spec(part)
    return registry.create(spec.pop("name"), **spec)


def test_the_spec_is_the_same_however_a_part_was_constructed(shapes):
    cls = type(shapes.create("rectangle", width=1, height=2))
    expected = {"name": "rectangle", "width": 1, "height": 2}
    assert recorded_spec(shapes.create("rectangle", height=2, width=1)) == expected
    assert recorded_spec(cls(1, 2)) == recorded_spec(cls(1, height=2)) == expected
    assert recorded_spec(cls(1, 2, colour="blue")) == {**expected, "colour": "blue"}


def test_the_spec_holds_what_was_given_and_no_defaults(shapes):
    assert recorded_spec(shapes.create("square")) == {"name": "square"}
    assert recorded_spec(shapes.create("square", side=1.0)) == {"name": "square", "side": 1.0}


def test_what_is_not_registered_has_no_spec(shapes):
    square = type(shapes.create("square"))
    assert recorded_spec(Shape()) is None
    assert recorded_spec(3) is None
    assert recorded_spec(square) is None


def test_a_subclass_does_not_inherit_the_name_until_it_has_its_own(shapes):
    class Plain(type(shapes.create("square"))):
        pass

    class Wider(type(shapes.create("square"))):
        def __init__(self, factor):
            super().__init__(side=2.0 * factor)

    assert recorded_spec(Plain(3.0)) is None
    assert recorded_spec(Wider(3.0)) is None
    shapes.register("wider")(Wider)
    assert recorded_spec(Wider(3.0)) == {"name": "wider", "factor": 3.0}
    assert Wider(3.0).side == 6.0
    assert recorded_spec(shapes.create("square", side=4.0)) == {"name": "square", "side": 4.0}


def test_changing_the_spec_that_was_given_out_does_not_change_the_record(shapes):
    square = shapes.create("square", side=2.0)
    recorded_spec(square)["side"] = 3.0
    assert recorded_spec(square) == {"name": "square", "side": 2.0}


def test_changing_an_argument_afterwards_does_not_change_the_record(shapes):
    sides = [1.0, 2.0]
    polygon = shapes.create("square", side=sides)
    sides.append(3.0)
    assert recorded_spec(polygon) == {"name": "square", "side": [1.0, 2.0]}


def test_the_record_is_made_before_the_constructor_takes_its_arguments_apart(shapes):
    @shapes.register("greedy")
    class Greedy(Shape):
        def __init__(self, options, sides=()):
            self.first = options.pop("first")
            options["second"]["third"] = 3
            sides.clear()
            del options, sides

    part = Greedy({"first": 1, "second": {}}, [1.0, 2.0])
    assert recorded_spec(part) == {"name": "greedy", "options": {"first": 1, "second": {}}, "sides": [1.0, 2.0]}
    assert remade(shapes, part).first == 1


def test_a_part_that_failed_to_construct_says_so_in_its_own_words(shapes):
    with pytest.raises(TypeError, match=r"Square\.__init__\(\) got an unexpected keyword argument 'sides'"):
        type(shapes.create("square"))(sides=3)


def test_a_class_without_a_constructor_refuses_arguments(shapes):
    with pytest.raises(TypeError, match="arguments|object"):
        type("Point", (Shape,), {})(1, 2)


def test_a_class_with_a_new_of_its_own_is_recorded_all_the_same(shapes):
    @shapes.register("counted")
    class Counted(Shape):
        made = 0

        def __new__(cls, *args, **kwargs):
            Counted.made += 1
            return super().__new__(cls)

        def __init__(self, side=1.0):
            self.side = side

    assert recorded_spec(Counted(5.0)) == {"name": "counted", "side": 5.0}
    assert Counted.made == 1


def test_a_part_made_before_its_class_was_registered_has_a_spec_too():
    class Late(Shape):
        def __init__(self, side):
            pass

    part = Late(2.0)
    assert recorded_spec(part) is None
    Registry("shape", GROUP).register("late")(Late)
    assert recorded_spec(part) == {"name": "late", "side": 2.0}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
@pytest.mark.parametrize(
    "part",
    [lambda: vaekit.losses.create("elbo", beta=4.0), lambda: vaekit.encoders.create("mlp", input_shape=(3,), latent_dim=2)],
)
def test_copies_of_modules_keep_the_record(copied, part):
    expected = recorded_spec(part())
    assert expected is not None
    assert recorded_spec(copied(part())) == expected


# One way from a spec to a part


def test_a_name_a_mapping_and_an_object_become_a_part(shapes):
    square = shapes.create("square", side=2.0)
    assert shapes.build(square) is square
    assert recorded_spec(shapes.build("square")) == {"name": "square"}
    spec = {"name": "square", "side": 3.0}
    assert recorded_spec(shapes.build(spec)) == spec
    assert spec == {"name": "square", "side": 3.0}


def test_what_a_part_is_offered_it_gets_where_it_takes_it_and_the_spec_is_silent(shapes):
    offers = {"side": 5.0, "width": 1, "height": 2}
    assert recorded_spec(shapes.build("square", offers)) == {"name": "square", "side": 5.0}
    assert recorded_spec(shapes.build({"name": "square", "side": 3.0}, offers)) == {"name": "square", "side": 3.0}
    assert recorded_spec(shapes.build("rectangle", offers)) == {"name": "rectangle", "width": 1, "height": 2}


@pytest.mark.parametrize("spec", [None, 3, {}, {"side": 1.0}, {"name": 3}, ["square"], Shape, torch.nn.Linear(1, 1)])
def test_what_describes_no_part_is_refused_with_what_would(shapes, spec):
    with pytest.raises(TypeError, match=r"shape .*\.Shape") as caught:
        shapes.build(spec)
    assert repr(spec) in str(caught.value)


def test_options_of_a_spec_are_checked_like_those_of_create(shapes):
    with pytest.raises(TypeError, match="'sides'"):
        shapes.build({"name": "square", "sides": 1.0})
    with pytest.raises(UnknownNameError, match="'sqare'"):
        shapes.build("sqare")


def test_a_copy_keeps_the_record(shapes):
    assert recorded_spec(copy.deepcopy(shapes.create("square", side=2.0))) == {"name": "square", "side": 2.0}


def test_keyword_options_are_recorded_flat_and_make_the_part_again(shapes):
    @shapes.register("free")
    class Free(Shape):
        def __init__(self, side, **rest):
            self.side, self.rest = side, rest

    part = Free(1, rest=2, other=3)
    assert recorded_spec(part) == {"name": "free", "side": 1, "rest": 2, "other": 3}
    assert vars(remade(shapes, part)) == vars(part)


def test_options_that_cannot_be_given_by_name_are_refused_when_the_class_is_registered(shapes):
    class Exact(Shape):
        def __init__(self, side, /): ...

    class Polygon(Shape):
        def __init__(self, *sides): ...

    class Named(Shape):
        def __init__(self, name="none"): ...

    for cls in (Exact, Polygon, Named):
        with pytest.raises(TypeError, match="spec.*by name"):
            shapes.register("shape")(cls)
    assert "shape" not in shapes.names()


def test_a_frozen_dataclass_can_be_a_part(shapes):
    @shapes.register("frozen")
    @dataclass(frozen=True)
    class Frozen(Shape):
        side: float = 1.0

    assert recorded_spec(Frozen(2.0)) == {"name": "frozen", "side": 2.0}


def test_a_class_with_slots_can_be_a_part_even_where_nothing_can_be_recorded():
    @Registry("shape", GROUP).register("slotted")
    class Slotted(Part):
        __slots__ = ("side",)

        def __init__(self, side):
            self.side = side

    assert Slotted(2.0).side == 2.0


# Plugins


@pytest.fixture
def announce(tmp_path, monkeypatch):
    """announce(module, source, {entry name: object}): an installed distribution with that module and those entry points."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(module, source, entries):
        (tmp_path / f"{module}.py").write_text(f"from {__name__} import Shape\n{source}")
        information = tmp_path / f"{module}-0.1.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.1\n")
        lines = [f"[{GROUP}]", *(f"{name} = {module}:{target}" for name, target in entries.items())]
        (information / "entry_points.txt").write_text("\n".join(lines) + "\n")

    yield install
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[module]


CIRCLE = "class Circle(Shape):\n    'A circle.'\n    def __init__(self, radius=1.0):\n        self.radius = radius\n"


def test_a_plugin_is_imported_by_the_first_look_up_that_misses(announce, shapes):
    announce("shape_circle", CIRCLE, {"circle": "Circle"})
    shapes.create("square")
    shapes.describe("rectangle")
    assert "shape_circle" not in sys.modules
    part = shapes.create("circle", radius=2.0)
    assert "shape_circle" in sys.modules
    assert recorded_spec(part) == {"name": "circle", "radius": 2.0}


@pytest.mark.parametrize("look", [lambda r: r.describe("circle").name, lambda r: r.names("c*")[0]], ids=["describe", "names"])
def test_a_plugin_is_described_and_listed(announce, shapes, look):
    announce("shape_circle", CIRCLE, {"circle": "Circle"})
    assert look(shapes) == "circle"


def test_a_plugin_may_register_itself_when_it_is_imported(announce, shapes, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "shapes_under_test", shapes, raising=False)
    source = f"from {__name__} import shapes_under_test\n@shapes_under_test.register('circle')\n{CIRCLE}"
    announce("shape_circle", source, {"circle": "Circle"})
    assert recorded_spec(shapes.create("circle")) == {"name": "circle"}


def test_the_plugins_of_another_group_are_left_alone(announce):
    announce("shape_circle", CIRCLE, {"circle": "Circle"})
    assert Registry("shape", GROUP + ".others").names() == []
    assert "shape_circle" not in sys.modules


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("raise RuntimeError('no licence')", "Circle", "RuntimeError: no licence"),
        ("import a_package_that_is_not_there", "Circle", "ModuleNotFoundError"),
        ("", "Circle", "AttributeError"),
        ("Circle = 3", "Circle", "TypeError: shape 'broken' has to be a class that extends"),
    ],
    ids=["raises", "needs another package", "lacks the class", "gives no class"],
)
def test_a_broken_plugin_is_warned_about_once_named_in_errors_and_takes_nothing_down(announce, shapes, source, target, reason):
    announce("shape_broken", source, {"broken": target})
    announce("shape_circle", CIRCLE, {"circle": "Circle"})
    with pytest.warns(RuntimeWarning, match=rf"'broken'.*shape_broken:Circle.*{reason}") as w:
        assert shapes.names() == ["circle", "rectangle", "square"]
    assert len(w) == 1
    assert shapes.create("circle").radius == 1.0
    with pytest.raises(UnknownNameError, match=f"'broken'.*{reason}"):
        shapes.create("broken")


def test_a_plugin_that_announces_a_taken_name_is_reported_and_does_not_replace_its_owner(announce, shapes):
    owner = type(shapes.create("square"))
    announce("shape_rival", CIRCLE, {"square": "Circle"})
    with pytest.warns(RuntimeWarning, match="shape_rival"):
        assert shapes.names() == ["rectangle", "square"]
    assert type(shapes.create("square")) is owner


def test_a_look_up_imports_the_plugin_of_that_name_alone(announce, shapes):
    announce("shape_circle", CIRCLE, {"circle": "Circle"})
    announce("shape_oval", CIRCLE, {"oval": "Circle"})
    shapes.create("circle")
    assert "shape_oval" not in sys.modules
    assert "oval" in shapes.names()


def test_a_plugin_that_exits_is_reported_like_one_that_raises(announce, shapes):
    announce("shape_exit", "raise SystemExit('no licence')", {"exit": "Circle"})
    with pytest.warns(RuntimeWarning, match="SystemExit: no licence"):
        assert shapes.names() == ["rectangle", "square"]


@pytest.mark.parametrize(
    "line", ["circle", "= shape_circle:Circle", "circle = :::", "circle = shape circle : Circle", "[", "\x00"]
)
def test_malformed_entry_points_take_nothing_down(announce, shapes, tmp_path, line):
    announce("shape_oval", CIRCLE, {"oval": "Circle"})
    announce("shape_circle", CIRCLE, {})
    (tmp_path / "shape_circle-0.1.dist-info" / "entry_points.txt").write_text(f"[{GROUP}]\n{line}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert {"oval", "rectangle", "square"} <= set(shapes.names())


def test_a_second_thread_waits_for_a_plugin_that_is_being_imported(announce, shapes, monkeypatch):
    importing, go_on, found = threading.Event(), threading.Event(), []
    monkeypatch.setattr(sys.modules[__name__], "pause", lambda: (importing.set(), go_on.wait(30)), raising=False)
    announce("shape_slow", f"from {__name__} import pause\npause()\n{CIRCLE}", {"slow": "Circle"})
    threads = [threading.Thread(target=lambda: found.append(shapes.create("slow").radius)) for _ in range(2)]
    threads[0].start()
    assert importing.wait(30)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert found == [1.0, 1.0]


def test_a_plugin_may_look_something_up_while_it_is_imported(announce, shapes, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "shapes_under_test", shapes, raising=False)
    announce(
        "shape_asks", f"from {__name__} import shapes_under_test\nNAMES = shapes_under_test.names()\n{CIRCLE}", {"asks": "Circle"}
    )
    announce("shape_circle", CIRCLE, {"circle": "Circle"})
    assert shapes.names() == ["asks", "circle", "rectangle", "square"]
    assert sys.modules["shape_asks"].NAMES == ["circle", "rectangle", "square"]


def test_two_threads_that_wait_for_each_others_imports_come_through(announce, shapes, monkeypatch):
    """One imports a plugin whose body looks names up, the other looks names up and imports that plugin."""
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(sys.modules[__name__], "shapes_under_test", shapes, raising=False)
    monkeypatch.setattr(sys.modules[__name__], "meet", both.wait, raising=False)
    announce(
        "shape_asks",
        f"from {__name__} import meet, shapes_under_test\nmeet()\nshapes_under_test.names()\n{CIRCLE}",
        {"asks": "Circle"},
    )
    threads = [
        threading.Thread(target=lambda: importlib.import_module("shape_asks"), daemon=True),
        threading.Thread(target=lambda: (both.wait(), shapes.names()), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert "asks" in shapes.names()


def test_a_plugin_whose_import_was_interrupted_can_be_asked_for_again(announce, shapes, monkeypatch):
    interrupts = [KeyboardInterrupt()]

    def interrupt():
        if interrupts:
            raise interrupts.pop()

    monkeypatch.setattr(sys.modules[__name__], "interrupt", interrupt, raising=False)
    announce("shape_slow", f"from {__name__} import interrupt\ninterrupt()\n{CIRCLE}", {"slow": "Circle"})
    with pytest.raises(KeyboardInterrupt):
        shapes.create("slow")
    assert shapes.create("slow").radius == 1.0


@pytest.mark.parametrize("name", [["square"], 3, None])
def test_a_name_that_is_no_string_is_refused_with_the_names_there_are(shapes, name):
    for ask in (shapes.create, shapes.describe):
        with pytest.raises(TypeError, match="rectangle, square"):
            ask(name)
