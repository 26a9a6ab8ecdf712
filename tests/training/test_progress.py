"""Laws of what a person sees of a run: a bar on a terminal or in a notebook, a line an epoch elsewhere, or nothing."""

import io
import re
import sys
import types
import warnings
from contextlib import nullcontext

import pytest
import tqdm.auto  # noqa: F401 (so that it can be replaced)
from helpers.small_runs import X, fit, model

import vaekit
from vaekit.training import watch
from vaekit.training.progress import Bar, Lines, Progress, shown_on


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def stderr(monkeypatch):
    def put(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return put


def last_of(text):
    """What a terminal shows at the end of a bar."""
    return text.rstrip("\n").split("\r")[-1]


# On a terminal.


def test_a_terminal_gets_a_bar_with_terms_speed_and_time_left(stderr, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 0.0)
    stream = stderr(Terminal())
    fit(model(), epochs=3, progress=True)
    shown = last_of(stream.getvalue())
    assert re.search(r"epoch 3/3: 100%.* 150/150 \[\d\d:\d\d<00:00, .*samples/s", shown)
    assert re.search(r"loss -?[\d.]+ reconstruction -?[\d.]+ kl -?[\d.]+", shown)
    assert "lr" not in stream.getvalue()


def test_a_bar_shows_a_learning_rate_that_changes(stderr, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LOOKS", 0.0)
    stream = stderr(Terminal())
    fit(model(), progress=True, learning_rate={"name": "linear", "start": 0.1, "end": 0.02, "steps": 4})
    assert "lr 0.02" in last_of(stream.getvalue())


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt], ids=str)
def test_a_bar_is_closed_when_the_run_ends_whatever_ends_it(stderr, error):
    """What is printed next then begins a line of its own."""
    stream, closed = stderr(Terminal()), []

    class Look(vaekit.Callback):
        def on_step_end(self, state):
            assert not stream.getvalue().endswith("\n")
            if error is not None and state.step == 2:
                raise error

        def on_fit_end(self, state):  # while the run still holds the bar, which closes itself once nobody does
            closed.append(stream.getvalue().endswith("\n"))

    with pytest.raises(RuntimeError) if error is RuntimeError else nullcontext():
        fit(model(), epochs=1, progress=True, callbacks=[Look()])
    assert closed == [True]


def test_a_bar_goes_on_where_an_earlier_process_was():
    stream = Terminal()
    bar = shown_on(stream, epochs=4, total=200, done=100)
    bar.begin_epoch(2)
    bar.add(50)
    bar.close()
    assert "75%" in last_of(stream.getvalue())
    assert "150/200" in last_of(stream.getvalue())


# In a notebook.


@pytest.fixture
def notebook(monkeypatch):
    """What IPython says in a notebook's kernel."""
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    return ipython


def test_a_notebook_gets_tqdms_choice_of_a_bar_whatever_its_stream_says(notebook, monkeypatch):
    made = []
    monkeypatch.setattr(
        sys.modules["tqdm.auto"], "tqdm", lambda **options: made.append(options) or types.SimpleNamespace(close=lambda: None)
    )
    assert isinstance(shown_on(io.StringIO(), epochs=1, total=50), Bar)
    assert made[0]["total"] == 50


def test_a_shell_that_is_no_notebook_gets_lines(notebook):
    notebook.get_ipython = lambda: types.SimpleNamespace(config={"TerminalIPythonApp": {}})
    assert isinstance(shown_on(io.StringIO(), epochs=1, total=50), Lines)
    notebook.get_ipython = lambda: None
    assert isinstance(shown_on(io.StringIO(), epochs=1, total=50), Lines)


def test_missing_widgets_are_no_reason_to_warn(notebook, monkeypatch):
    for name in ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("ipykernel.zmqshell"))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    stream = io.StringIO()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        bar = shown_on(stream, epochs=1, total=50)
    bar.add(50)
    bar.close()
    assert warned == []
    assert "100%" in last_of(stream.getvalue())


# Where the output is no terminal.


def test_a_log_gets_one_line_an_epoch():
    stream, clock = io.StringIO(), Clock()
    lines = shown_on(stream, epochs=30, total=None, clock=clock)
    for number, seconds in ((2, 10.0), (3, 20.0)):  # of a run that is resumed in its third epoch
        lines.begin_epoch(number)
        for _ in range(10):
            clock.now += seconds / 10
            lines.add(12345)
            lines.show({"loss": 160.0}, 1e-3)
        clock.now += 2.0  # of validation
        lines.end_epoch({"loss": 151.23, "kl": 20.0, "val_loss": 153.04, "val_kl": 21.0}, 1e-3)
    lines.close()
    assert stream.getvalue() == (
        "epoch 3/30  loss 151.2  val_loss 153.0  12,345 samples/s  05:24 left\n"  # 12 s for one, 27 to go
        "epoch 4/30  loss 151.2  val_loss 153.0  6,172 samples/s  07:22 left\n"  # 34 s for two, 26 to go
    )


def test_a_log_shows_a_learning_rate_that_changes_and_the_digits_of_small_losses():
    stream = io.StringIO()
    lines = Lines(stream, epochs=2, clock=Clock())
    for number, rate in enumerate([0.1, 0.0125]):
        lines.begin_epoch(number)
        lines.show({"loss": -0.5312}, rate)
        lines.end_epoch({"loss": -0.5312}, rate)
    assert stream.getvalue() == "epoch 1/2  loss -0.531  00:00 left\nepoch 2/2  loss -0.531  lr 0.0125  00:00 in all\n"


def test_a_run_writes_a_header_and_as_many_lines_as_it_has_epochs(stderr):
    stream = stderr(io.StringIO())
    fit(model(), validation=X, epochs=3, progress=True)
    header, *lines = stream.getvalue().splitlines()
    assert header == "training on cpu, in float32"
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all(re.search(r"  loss [\d.]+  val_loss [\d.]+  [\d,]+ samples/s  \d\d:\d\d (left|in all)$", line) for line in lines)


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError("I/O operation on closed file")])
def test_a_log_whose_reader_has_gone_does_not_end_the_run(stderr, error):
    class Gone(io.StringIO):
        def write(self, text):
            raise error

    stderr(Gone())
    assert fit(model(), progress=True).epochs == 2


# Not at all.


def test_nothing_is_shown_where_nobody_wants_it_or_nobody_is(stderr):
    stream = stderr(Terminal())
    fit(model(), progress=False)
    assert stream.getvalue() == ""
    assert type(shown_on(None, epochs=1, total=50)) is Progress
