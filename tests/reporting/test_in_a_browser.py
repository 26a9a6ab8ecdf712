"""The report as a browser lays it out: nothing hangs over the side, pictures are there, text is legible in light and dark.

Skipped where there is no Chromium, Chrome or Edge; BROWSER names another place of one.
"""

import html
import json
import os
import re
import shutil
import subprocess
from itertools import pairwise

import pytest
import torch

import vaekit

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
BROWSER = os.environ.get("BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser here")

# The page in a frame of each width, as a window would show it; what is measured is written into the document.
MEASURE = """
const seen = element => {
  const box = element.getBoundingClientRect();
  return box.width > 0 && box.height > 0;
};
const channels = colour => colour.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => {
  const linear = [r, g, b].map(c => c / 255).map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const over = (top, below) => { const a = top[3] ?? 1; return [0, 1, 2].map(i => a * top[i] + (1 - a) * below[i]); };
const behind = (element, view) => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.unshift(channels(view.getComputedStyle(e).backgroundColor));
  const canvas = view.matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
  return layers.reduce((below, layer) => over(layer, below), canvas);
};
const measured = frame => {
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
  const texts = [...page.querySelectorAll('h1, h2, h3, p, th, td, a, summary, figcaption, li')].filter(seen);
  const contrasts = texts.filter(e => e.textContent.trim()).map(e => {
    const ground = behind(e, view), text = over(channels(view.getComputedStyle(e).color), ground);
    const [low, high] = [luminance(ground), luminance(text)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  });
  return {
    width: view.innerWidth,
    sideways: root.scrollWidth - view.innerWidth,
    height: root.scrollHeight,
    broken: [...page.images].filter(image => !image.naturalWidth).length,
    images: [...page.images].map(image => image.getBoundingClientRect().width),
    letters: Math.min(...texts.map(e => parseFloat(view.getComputedStyle(e).fontSize))),
    contrast: Math.min(...contrasts),
    dark: view.matchMedia('(prefers-color-scheme: dark)').matches,
  };
};
window.onload = () => {
  const found = [...document.querySelectorAll('iframe')].map(measured);
  document.body.innerHTML = '<pre id="found"></pre>';
  document.getElementById('found').textContent = JSON.stringify(found);
};
"""
WIDTHS = (360, 768, 1280)


def browser(folder, *options):
    """What the browser prints; its profile is in a folder of its own."""
    quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={folder}"]
    done = subprocess.run([BROWSER, *quiet, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def _it_starts(tmp_path_factory):
    try:
        browser(tmp_path_factory.mktemp("profile"), "--dump-dom", "about:blank")
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the browser here does not start: {error}")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two runs side by side, one with a long name and one of a table."""
    folder = tmp_path_factory.mktemp("runs")
    x = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    pictures = vaekit.create_vae(input_shape=(1, 6, 6), latent_dim=3, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, seed=0)
    long = folder / ("a-long-name" * 8)
    history = vaekit.fit(pictures, x[:40], validation=x[40:], epochs=2, out=long, progress=False)
    vaekit.plots.loss_curves(history).savefig(long / "loss.png")
    vaekit.plots.reconstructions(pictures, x[40:48]).savefig(long / "reconstructions.png")
    table = vaekit.create_vae(
        input_shape=(5,), latent_dim=2, encoder={"hidden": (8,)}, decoder={"hidden": (8,)}, likelihood="gaussian", seed=0
    )
    rows = torch.randn(60, 5, generator=torch.Generator().manual_seed(1))
    vaekit.fit(table, rows[:40], validation=rows[40:], epochs=2, out=folder / "rows", progress=False)
    return vaekit.report(long, folder / "rows", out=folder / "report.html")


@pytest.fixture(scope="module", params=["light", "dark"])
def measures(request, page, tmp_path_factory):
    source = html.escape(page.read_text(encoding="utf-8"))
    frames = "".join(f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{source}"></iframe>' for width in WIDTHS)
    wrapper = tmp_path_factory.mktemp("wrapper") / "wrapper.html"
    wrapper.write_text(f"<!doctype html><meta charset='utf-8'><body>{frames}<script>{MEASURE}</script>", encoding="utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] if request.param == "dark" else []
    text = browser(wrapper.parent / "profile", *scheme, "--window-size=1400,1000", "--dump-dom", wrapper.as_uri())
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', text, flags=re.S).group(1)))
    assert [m["width"] for m in found] == list(WIDTHS)
    assert {m["dark"] for m in found} == {request.param == "dark"}
    return found


def test_it_fits_a_phone_a_tablet_and_a_desk(measures):
    for measure in measures:
        assert measure["sideways"] <= 0, measure
        assert measure["images"]
        assert max(measure["images"]) <= measure["width"]
    assert all(narrow["height"] >= wide["height"] for narrow, wide in pairwise(measures))


def test_every_picture_is_shown(measures):
    assert [measure["broken"] for measure in measures] == [0, 0, 0]


def test_text_is_large_and_clear_enough_to_read(measures):
    """WCAG 2.2, success criterion 1.4.3, level AA: a contrast of 4.5."""
    for measure in measures:
        assert measure["letters"] >= 12, measure
        assert measure["contrast"] >= 4.5, measure


def test_it_prints(page, tmp_path):
    browser(tmp_path / "profile", f"--print-to-pdf={tmp_path / 'page.pdf'}", page.as_uri())
    pdf = (tmp_path / "page.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 2  # the runs begin on pages of their own
