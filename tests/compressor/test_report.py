"""The report without a browser: what it says, what it refuses, what it never does."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser

import pytest

from compressor.report import view, words, write_report
from profiles.errors import MissingError, RequestError
from tests.compressor.report_fixture import EVIL, STUDENT, details, metric, record, results, rows, write_run


class Page(HTMLParser):
    """Tags, visible text and ids of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace(words.NBSP, " ").split())

    @property
    def sections(self) -> list[str]:
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]


def page_of(paths, tmp_path) -> tuple[Page, str]:
    write_report(paths, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    return Page(html), html


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    return page_of([write_run(folder)], folder)


def test_page_has_every_section_in_the_order_of_a_busy_reader(full):
    assert full[0].sections == [
        "summary", "tradeoff", "latency", "size", "parity", "layers", "queries", "choices", "training", "budgets",
        "reproduce", "credits",
    ]  # fmt: skip


def test_sections_without_details_are_left_out(tmp_path):
    page, html = page_of([write_run(tmp_path, with_details=False)], tmp_path)
    assert page.sections == ["summary", "tradeoff", "latency", "size", "parity", "budgets", "reproduce", "credits"]
    assert "teacher's is not known" in page.text and "data:image" not in html


def test_the_charts_of_a_task_stand_on_the_page_with_their_numbers(full):
    page, html = full
    assert "lambda_F 0.1 2.60 M 0.249 0.209 to 0.299 +0.004 [-0.012, +0.021] over the line" in page.text
    assert "3 to 4 140 30 % 30 % 40 %" in page.text
    drawn = json.loads(html.split('id="figures">')[1].split("</script>")[0])
    front, bars = (figure[""] for key, figure in drawn.items() if key.startswith("chart"))
    assert [trace["y"][0] for trace in bars["data"]] == [0.7, 0.2, 0.1]
    assert front["data"][0]["x"] == [1_100_000, 1_900_000, 3_300_000]


def test_a_query_s_macs_stand_by_part_and_the_difference_to_float_with_its_paired_interval(full):
    text = full[0].text
    assert "2.34 M multiply-accumulates on average" in text and "search 126 k 5 %" in text
    assert "−0.016 −0.030 to +0.006" in text
    assert "is less accurate than the float student: acc@1 −0.016 (paired interval −0.030 to +0.006)" in text


def test_page_loads_nothing_from_anywhere(full):
    page, _ = full
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base"), tag
        if tag != "a":
            for name in ("src", "srcset", "href", "poster", "action"):
                address = attributes.get(name) or "data:"
                assert address.startswith("data:"), (tag, address[:80])
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")


def test_names_are_text_and_never_markup(full):
    page, html = full
    assert EVIL not in html and EVIL in page.text
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len(scripts) == 3  # figures, plotly, ours
    assert not any("onerror" in attributes for _, attributes in page.tags)
    links = [
        attributes["href"] for tag, attributes in page.tags if tag == "a" and not attributes["href"].startswith("#")
    ]
    assert links and all(link.startswith("https://") for link in links)


def test_page_stays_below_three_megabytes(full):
    assert len(full[1]) < 3_000_000


def test_rows_that_did_not_work_stand_there_with_their_reason(full):
    text = full[0].text
    for record_ in results()[0]["records"]:
        if record_["graph"] == "*" and record_.get("reason"):
            assert f"{record_['status']}" in text and record_["reason"] in text
    assert "3 rejected 1 failed 1 unsupported" in text


def test_headline_compares_with_the_teacher(full):
    text = full[0].text
    assert "1/153 of the teacher's 2.34 M against 358 M" in text  # 358e6 / 2337792 = 153.1
    assert "1/40 of the teacher's 92.4 k against 3.70 M" in text  # 3.7e6 / 92400 = 40.04
    assert "61 % of the teacher's 0.393" in text  # .241 / .393 = .613


def test_numbers_that_are_null_are_called_not_measured(tmp_path):
    run = results()[0]["run"]
    empty = record(status="built", reason="nothing here can run it").model_dump(mode="json")
    (tmp_path / "results.json").write_text(json.dumps({"schema": 1, "run": run, "records": [empty]}))
    page, html = page_of([tmp_path / "results.json"], tmp_path)
    assert page.text.count("not measured") >= 8
    assert page.sections == ["summary", "reproduce"]
    assert 'id="plotly"' not in html, "a page without plots carries no plotting library"
    assert "None" not in page.text.split()


def test_results_without_records_make_a_page(tmp_path):
    run = results()[0]["run"]
    (tmp_path / "results.json").write_text(json.dumps({"schema": 1, "run": run, "records": []}))
    assert "The results hold no records." in page_of([tmp_path / "results.json"], tmp_path)[0].text


def test_artifact_of_another_machine_is_not_passed_off_as_the_device(full):
    text = full[0].text
    assert "on the host, not the device" in text
    assert "No latency for x86-laptop: its artifacts ran on the host (made-up-host), not on the device." in text


def test_emulated_and_estimated_are_called_so(tmp_path):
    run = results()[0]["run"]
    emulated = record(
        device="cortex", ran_on={"kind": "emulator", "name": "qemu-arm"}, artifact_bytes=10,
        cost={"kind": "npu_cycles", "value": 12_000, "source": "estimated"},
    ).model_dump(mode="json")  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps({"schema": 1, "run": run, "records": [emulated]}))
    text = page_of([tmp_path / "results.json"], tmp_path)[0].text
    assert "emulated by qemu-arm" in text and "NPU cycles (estimated)" in text
    assert "The cost on cortex is a compiler's estimate, not a measurement." in text
    assert "No latency for cortex" in text


def test_a_microcontrollers_page_shows_instructions_and_its_memory_and_no_latency(tmp_path):
    run = results()[0]["run"]
    memory = {"flash": 31_000, "ram": 9_000, "arena": 8_200, "stack": 412}
    emulated = [
        record(
            device="cortex-m4", runtime="c", precision_requested="int8", macs=115_744, artifact_bytes=40_000 + count,
            ran_on={"kind": "emulator", "name": "QEMU mps2-an386"}, memory_bytes=memory, student=f"s{count}",
            cost={"kind": "instructions", "value": count, "source": "counted"},
            task_metric=metric(0.6, teacher_value=None),
        ).model_dump(mode="json")
        for count in (450_000, 620_000)
    ]  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps({"schema": 1, "run": run, "records": emulated}))
    text = page_of([tmp_path / "results.json"], tmp_path)[0].text.replace("\xa0", " ")
    assert "450 k instructions" in text and "fewest instructions of the verified" in text
    assert "31.0 kB flash · 9.00 kB RAM · 412 B stack" in text
    # the 490 kB of C text are nothing that a device stores, and there is no teacher to compare with
    assert "Flash of the best artifact 31.0 kB" in text and "490 kB" not in text
    assert "teacher's is not known" not in text and "of teacher" not in text
    assert "What was counted there is exact, but is no time." in text
    assert "of the model alone" in text and "Latency, ms" not in text


def test_only_what_was_estimated_is_called_an_estimate():
    counted = record(runtime="c", cost={"kind": "instructions", "value": 9, "source": "counted"})
    estimated = record(runtime="ethos-u", cost={"kind": "npu_cycles", "value": 9, "source": "estimated"})
    said = view.findings(rows(counted, estimated))
    assert "The cost of ethos-u fp32 on host is a compiler's estimate, not a measurement." in said


# ---- several files


def test_several_results_become_one_page(tmp_path):
    paths = [write_run(tmp_path / "a"), write_run(tmp_path / "b", student="second & student")]
    page, _ = page_of(paths, tmp_path)
    assert f"{STUDENT} and second & student on host and x86-laptop" in page.text


def test_newer_measurement_of_an_artifact_replaces_the_older_and_the_page_says_so(tmp_path):
    older = write_run(tmp_path / "a", date="2031-02-03T04:05:06+00:00")
    newer = write_run(tmp_path / "b", date="2031-02-04T04:05:06+00:00")
    changed = json.loads(newer.read_text())
    changed["records"] = changed["records"][:1]
    changed["records"][0]["artifact_bytes"] = 123_456_000
    newer.write_text(json.dumps(changed))
    page, _ = page_of([newer, older], tmp_path)  # the date decides, not the order
    assert "123 MB" in page.text
    assert "1 older records of the same artifacts were replaced" in page.text
    assert page.text.count("on the host, not the device") == page_of([older], tmp_path)[0].text.count(
        "on the host, not the device"
    )


# ---- what it refuses


def test_wrong_input_is_one_line_that_names_the_file(tmp_path):
    path = write_run(tmp_path)
    for change, words_ in (
        (lambda d: d.update(layer={}), "details.json: layer"),
        (lambda d: d.update(schema=2), "details.json: schema"),
        (lambda d: d["latency_samples_ms"].update(x=["fast"]), "details.json: latency_samples_ms.x"),
        (lambda d: d["latency_samples_ms"].update(x=[float("nan")]), "details.json: latency_samples_ms.x"),
        (lambda d: d["examples"][STUDENT][0].update(query_png="bm90IGEgcGljdHVyZQ=="), "not a PNG or JPEG"),
        (lambda d: d["examples"][STUDENT][0].update(query_png="***"), "not a PNG or JPEG"),
        (lambda d: d["examples"][STUDENT][0].update(query_wav="bm90IGEgc291bmQ="), "not a WAV file"),
    ):
        value = details(results()[1])
        change(value)
        (tmp_path / "details.json").write_text(json.dumps(value))
        with pytest.raises(RequestError) as caught:
            write_report([path], tmp_path / "report.html")
        assert words_ in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="no such file"):
        write_report([tmp_path / "nothing.json"], tmp_path / "report.html")
    with pytest.raises(RequestError, match=r"no results\.json"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_refused_page_leaves_the_old_one(tmp_path):
    path = write_run(tmp_path, with_details=False)
    write_report([path], tmp_path / "report.html")
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / "details.json").write_text('{"schema": 1, "credits": 7}')
    with pytest.raises(RequestError):
        write_report([path], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == before


@pytest.mark.parametrize("module", ["jinja2", "plotly", "PIL"])
def test_missing_extra_is_named(tmp_path, monkeypatch, module):
    path = write_run(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without(module), *sys.meta_path])
    with pytest.raises(MissingError, match=r"edge-compressor\[report\]"):
        write_report([path], tmp_path / "report.html")


class _Without:
    def __init__(self, module):
        self.module = module

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
