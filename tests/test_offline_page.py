"""One file that needs nothing else: its policy names its own scripts, and no text in it becomes markup."""

import base64
import hashlib
import json
import re

import pytest

from dspark_core.offline_page import offline_page

HOSTILE = "</script><script>alert(1)</script><!-- & <img src=x onerror=alert(2)>"


def policy_of(page: str) -> list[str]:
    content = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    return content.replace("&#x27;", "'").split("; ")


def hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.mark.parametrize("loosened", [[], ["style-src 'unsafe-inline'", "img-src data:"]])
def test_the_policy_names_what_stands_in_the_page_and_nothing_else(loosened):
    scripts, style = ["let a = 1;", "let b = 'ü';"], "p { color: red }"
    page = offline_page("T", style, "<p></p>", ("d", 1), scripts, loosened)
    assert re.findall(r"<script>(.*?)</script>", page) == scripts and f"<style>{style}</style>" in page
    policy = policy_of(page)
    assert {"default-src 'none'", "base-uri 'none'", "form-action 'none'"} < set(policy)
    assert f"script-src {hash_of(scripts[0])} {hash_of(scripts[1])}" in policy
    assert [p for p in policy if p.startswith(("style", "img"))] == (loosened or [f"style-src {hash_of(style)}"])


def test_data_and_title_come_back_as_they_were_and_begin_no_tag():
    page = offline_page(HOSTILE, "", "", ("data", {"text": HOSTILE}), ["run()"])
    assert "alert" not in "".join(re.findall(r"<script>(.*?)</script>", page)) and "<img" not in page
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert json.loads(data) == {"text": HOSTILE}
