"""What a burn did is said in words, in the JSON, and on a page that needs nobody else."""

import json
import re
from html.parser import HTMLParser

import pytest
from burn_facts import after, burn, burned, fault, point
from msgspec.structs import replace

from gpucheck.render import Format, burn_page, render
from gpucheck.render import burn as words
from gpucheck.report import examine
from gpucheck.snapshot import Burn, BurnPoint, Unknown, WrongWord
from machines import machine


def printed(made: Burn, form: Format) -> str:
    return render(examine(machine(burn=made), select=("BRN",)), form)


class Tags(HTMLParser):
    """Counts what is on a page, and whether each element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "line", "rect", "circle", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in ("line", "rect", "circle"):
            self.open.append(f"/{tag}")


@pytest.mark.parametrize("count", [1, 8, 16])
def test_the_page_has_a_line_for_each_gpu_in_each_plot_and_fetches_nothing(count: int):
    points = tuple(point(minute) for minute in range(480))
    page = printed(burn(*(burned(index, points=points) for index in range(count))), Format.HTML)

    tags = Tags(page)
    assert tags.seen.count("polyline") == count * len(burn_page.PLOTS)
    assert "script" not in tags.seen
    assert tags.open in ([], ["html", "body"])
    assert not re.search(r"(?:src|href)=|url\(|@import|https?://", page)
    assert "prefers-color-scheme:dark" in page
    assert len(page.encode()) < 1_000_000


def test_plots_stay_within_their_frames():
    hot = burned(0, points=(point(1), point(50, temperature_celsius=91.0, wrong=3)))

    page = printed(burn(hot), Format.HTML)

    for line in re.findall(r'points="([^"]*)"', page):
        for pair in line.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 900
            assert 0 <= y <= 180


def test_what_was_never_seen_has_no_plot():
    blind = burned(0, points=(BurnPoint(seconds=60.0), BurnPoint(seconds=120.0)))

    page = printed(burn(blind), Format.HTML)

    assert "Temperature, °C" not in page
    assert "Wrong results until then" in page


def test_a_text_of_a_fault_cannot_break_the_page():
    word = WrongWord(place="<script>alert(1)</script>", expected="0", found="1")

    page = printed(burn(faults=(fault(words=(word,)),)), Format.HTML)

    assert "<script" not in page


def test_the_words_say_what_was_covered_and_claim_no_more():
    text = " ".join(printed(burn(), Format.TEXT).split())

    assert "4 GPUs for 300 minutes, no wrong result in what was checked" in text
    assert "bf16 of 8192 × 8192 × 65536" in text
    assert "900 of 900 found" in text
    assert "a fault that this work does not provoke was not looked for" in text
    assert "no silent" not in text.lower()


def test_the_json_has_the_coverage_and_the_faults():
    report = json.loads(printed(burn(faults=(fault(),)), Format.JSON))

    assert report["verdict"] == "broken"
    assert report["burn"]["faults"][0]["bits"] == [20]
    assert report["burn"]["gpus"][0]["load_share"] == pytest.approx(0.9944, abs=1e-3)
    assert report["burn"]["coverage"]
    assert {work["kind"] for work in report["burn"]["gpus"][0]["work"]} >= {"bf16", "memory"}


@pytest.mark.parametrize("form", list(Format))
def test_every_format_prints_a_burn_that_broke_off(form: Format):
    made = replace(
        burn(replace(burned(0), stopped="no answer in 60 s (tensor)")),
        stopped=Unknown("it did not end"),
        faults=(fault(0),),
    )

    assert printed(made, form).endswith("\n")


def test_a_burn_that_did_not_begin_says_so():
    made = Burn(gpus=Unknown("it did not come to its start"), stopped="stopped by SIGTERM")

    assert words.line(machine(burn=made)) == "not burned in: it did not come to its start"
    assert examine(machine(burn=made), select=("BRN",)).verdict == "incomplete"


def test_a_healthy_machine_s_burn_is_one_section():
    text = " ".join(render(examine(after(), select=("BRN",)), Format.TEXT).split())

    assert text.count("Burn-in") == 1
    assert "under load 99.4% of the time, up to 62 °C, 690 W on average" in text
