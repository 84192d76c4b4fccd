import base64
import hashlib
import html.parser
import json

import pytest

from experiments.report import write_report


class Elements(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.starts: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.starts.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.starts and self.starts[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data


@pytest.fixture(scope="module")
def page(tmp_path_factory, demo, store) -> Elements:
    folder = store(tmp_path_factory.mktemp("sweep"), demo)
    write_report([folder])
    return Elements((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_asks_for_nothing_from_outside(page):
    assert {tag for tag, _ in page.starts} & {"img", "iframe", "object", "embed", "base", "form"} <= {"form"}
    for tag, attributes in page.starts:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    policy = next(a["content"] for tag, a in page.starts if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")


def test_the_policy_allows_exactly_the_two_scripts(page):
    data, *scripts = page.scripts
    assert len(scripts) == 2
    policy = next(a["content"] for _, a in page.starts if "content" in a and "script-src" in (a["content"] or ""))
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in (policy or "")
    assert json.loads(data)["methods"]


def test_hostile_text_stays_data(page, demo):
    data = json.loads(page.scripts[0])
    assert data["failed"][0]["error"] == next(made["error"] for made in demo if made["status"] == "failed")
    hostile = next(setting for setting in data["settings"] if setting["method"] == "hostile")
    assert "</script>" in hostile["settings"]["name"]


def test_the_data_are_complete(page, demo):
    data = json.loads(page.scripts[0])
    done = [made for made in demo if made["status"] == "done"]
    assert sorted(trial["trial"] for trial in data["trials"]) == sorted(made["trial"] for made in done)
    for trial in data["trials"]:
        assert sum(trial["kinds"]) == trial["bytes"]
    setting = data["settings"][0]
    lines = [[data["strings"][i] for i in line[:4]] + line[4:] for line in setting["ledger"]]
    expected = [list(line.values()) for line in done[0]["ledger"]]
    assert [line[:4] for line in lines] == [[word or "" for word in line[:4]] for line in expected]
