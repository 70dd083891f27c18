"""report.html and pareto.html in a browser: legible on a desk and on a telephone, day and night."""

from __future__ import annotations

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.report.page import write_report
from dance_tf.report.sweep_page import write_sweep_page
from tests.report import browser as chromium

pytestmark = pytest.mark.skipif(
    chromium.PROGRAM is None, reason="chromium is not installed (Debian package chromium)"
)

#: Every text that is shown: font size in px, contrast with what is behind it, right edge.
_TEXTS = """
(() => {
  const channels = colour => {
    const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = channels(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility()) continue;
    if (element.closest(".drawing")) continue;  // a picture at its own scale
    if (element.closest("desc, title")) continue;  // read out, not shown
    const style = getComputedStyle(element);
    const [a, b] = [luminance(channels(style.color)), luminance(behind(element))];
    const range = document.createRange();
    range.selectNodeContents(node);
    found.push({
      text: node.data.trim().slice(0, 40),
      size: parseFloat(style.fontSize),
      contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
      right: element.closest(".scroll") ? 0 : range.getBoundingClientRect().right,
    });
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def url(run_dir, table):
    return pathlib.Path(write_report(str(run_dir), table=table)).as_uri()


def _legible_texts(tab, url, width, scheme):
    """Open a page, check that every text on it can be read, and return the texts."""
    tab.open(url, width, scheme)
    for details in range(tab.evaluate("document.querySelectorAll('details').length")):
        tab.evaluate(f"document.querySelectorAll('details')[{details}].open = true")
    assert tab.evaluate("window.innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    texts = tab.evaluate(_TEXTS)
    assert not [t for t in texts if t["size"] < 11]
    assert not [t for t in texts if t["contrast"] < 4.5]
    assert not [t for t in texts if t["right"] > width]
    # It asks for nothing, and complains of nothing.
    requests = [event["request"]["url"] for event in tab.told("Network.requestWillBeSent")]
    assert [each for each in requests if not each.startswith("data:")] == [url]
    names = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert tab.told(*names) == []
    return texts


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_is_legible(tab, url, width, scheme):
    assert len(_legible_texts(tab, url, width, scheme)) > 200
    # A chart takes the width that there is.
    charts = tab.evaluate(
        "[...document.querySelectorAll('.plot svg')].map(e => e.getBoundingClientRect().width)"
    )
    assert len(charts) > 10 and min(charts) > 200 and max(charts) < width
    # Contents lead to their section, with targets that a thumb can hit.
    links = "[...document.querySelectorAll('.contents a')]"
    assert min(tab.evaluate(f"{links}.map(e => e.getBoundingClientRect().height)")) >= 24
    tab.evaluate(f"{links}.find(e => e.hash === '#exports').click()")
    top = tab.evaluate("document.querySelector('#exports').getBoundingClientRect().top")
    assert top < 900


#: Boxes of the labels of each chart, as pairs of texts that overlap.
_OVERLAPS = """
[...document.querySelectorAll('.field')].flatMap(field => {
  const labels = [...field.querySelectorAll('.label')].filter(e => e.checkVisibility());
  const boxes = labels.map(e => [e.textContent, e.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 1 && q.top < p.bottom - 1
  ).map(([b, q]) => a + ' / ' + b));
})
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_a_sweep_is_legible_and_its_labels_do_not_overlap(tab, width, scheme, tmp_path):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    shutil.copy("studies/results/sweep_cifar10_small.json", sweep / "pareto.json")
    url = pathlib.Path(write_sweep_page(str(sweep))).as_uri()
    texts = _legible_texts(tab, url, width, scheme)
    assert len(texts) > 500
    assert tab.evaluate("document.querySelectorAll('.field .label').length") > 40
    assert tab.evaluate(_OVERLAPS) == []
    # What the contents lead to is there.
    anchors = "[...document.querySelectorAll('a[href^=\"#\"]')]"
    missing = tab.evaluate(
        f"{anchors}.map(e => e.hash).filter(h => !document.getElementById(h.slice(1)))"
    )
    assert missing == []


def test_pictures_are_not_empty_and_night_is_dark(tab, url):
    means = {}
    for scheme in ("light", "dark"):
        tab.open(url, 400, scheme)
        pixels = _decode(tab.screenshot())
        assert pixels.shape[1] == 400 and pixels.shape[0] > 2000
        colours = pixels[::4].astype(np.int32) @ [1 << 16, 1 << 8, 1]
        assert len(np.unique(colours)) > 50
        means[scheme] = pixels.mean()
    assert means["dark"] < 80 < 180 < means["light"]


def _decode(png):
    return tf.io.decode_png(png, channels=3).numpy()
