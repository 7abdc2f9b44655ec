"""A picture of a report shows its text, and fetches nothing."""

import html
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gpucheck import snapshot_file
from machines import HEALTHY
from tools import pictures


def test_a_picture_holds_the_report_and_fetches_nothing(tmp_path: Path):
    snapshot = tmp_path / "healthy.json"
    snapshot_file.save(snapshot_file.as_json(HEALTHY), snapshot)

    pictures.main([str(snapshot)])

    svg = (tmp_path / "healthy.svg").read_text(encoding="utf-8")
    ET.fromstring(svg)
    text = html.unescape(re.sub("<[^>]*>", "", svg)).replace("\xa0", " ")
    assert "NVIDIA H200" in text
    assert "Healthy:" in text
    assert "@font-face" not in svg
    assert not re.search(r"url\((?!#)", svg)
    assert set(re.findall(r"https?://[^\"'\s]*", svg)) <= {"http://www.w3.org/2000/svg"}


def test_a_picture_that_would_fetch_something_is_refused():
    with pytest.raises(ValueError, match="would fetch"):
        pictures.picture("see http://example.org/x", "title")
