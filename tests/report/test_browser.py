"""The report in a real browser without a network: every picture is drawn, and nothing is complained about."""

import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Writes, once all is loaded, whether each picture is drawn.
PROBE = """
<script>
addEventListener("load", () => {
  const drawn = [...document.images].map(image => image.complete && image.naturalWidth > 0);
  const result = document.createElement("pre");
  result.id = "drawn";
  result.textContent = JSON.stringify({drawn, wide: document.documentElement.scrollWidth > innerWidth});
  document.body.append(result);
});
</script>
"""
BROKEN = '<img alt="" src="data:image/png;base64,AAAA"><img alt="" src="https://example.org/a.png">'

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")


def open_in_browser(html, folder, width=1200):
    """What the probe found, and the lines that the page wrote to the console."""
    page = folder / "page.html"
    page.write_text(html.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    flags += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", "--dump-dom"]
    flags += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
    command = [CHROMIUM, *flags, page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="drawn">(.*?)</pre>', result.stdout)
    assert found, f"the page did not load:\n{result.stderr}"
    return json.loads(found[1]), [line for line in result.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.parametrize("width", [1200, 500])  # no window of Chromium is narrower
def test_every_picture_is_drawn_without_network_or_complaint(report, tmp_path, width):
    page = report / "report.html"
    found, console = open_in_browser(page.read_text(encoding="utf-8"), tmp_path, width)
    assert found["drawn"] == [True] * 8
    assert not found["wide"], "the page scrolls sideways, and only its tables should"
    assert console == []
    assert page.stat().st_size < 5_000_000


def test_this_check_finds_broken_pictures_and_complaints(report, tmp_path):
    planted = f'{BROKEN}<script>console.error("planted")</script></body>'
    html = (report / "report.html").read_text(encoding="utf-8")
    found, console = open_in_browser(html.replace("</body>", planted), tmp_path)
    assert found["drawn"] == [True] * 8 + [False] * 2
    assert any("planted" in line for line in console)
