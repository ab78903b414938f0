"""Clients as people use them, unmodified, against the program as it starts: openai (Python, JavaScript) and llm."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest

from .conftest import HERE
from .tab import missing

LANE = "dspark:cap=3"
TALK = [{"role": "user", "content": "Say hello."}]
NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def answer(product):
    """Plain decoding's answer of six tokens."""
    product.until_ready()
    with openai(product) as client:
        return client.chat.completions.create(model="plain", messages=TALK, max_tokens=6, temperature=0)


def openai(page):
    try:
        from openai import OpenAI
    except ImportError:
        missing("openai is not installed")
    return OpenAI(base_url=f"{page.url}/v1", api_key="none", max_retries=0, timeout=120)


def test_openai_for_python(product, answer):
    from openai import BadRequestError, NotFoundError

    text = answer.choices[0].message.content
    with openai(product) as client:
        assert next(iter(client.models.list())).id == NAME and text.strip()
        asked = {"model": f"{NAME}@{LANE}", "messages": TALK, "max_tokens": 6, "temperature": 0}
        whole = client.chat.completions.with_raw_response.create(**asked)
        assert whole.headers["x-dspark-lane"] == LANE
        assert (whole := whole.parse()).choices[0].message.content == text
        assert whole.usage.completion_tokens == answer.usage.completion_tokens == 6
        assert whole.usage.completion_tokens_details.accepted_prediction_tokens > 0
        with client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}) as stream:
            chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
        assert chunks[-2].choices[0].finish_reason == "length"
        assert chunks[-1].usage.prompt_tokens_details.cached_tokens == whole.usage.prompt_tokens - 1
        with client.chat.completions.stream(**asked, stop=[text[5:8]]) as events:
            assert events.get_final_completion().choices[0].message.content == text[: text.index(text[5:8])]
        completion = client.completions.create(model=LANE, prompt="One, two, three,", max_tokens=3, temperature=0)
        assert completion.choices[0].text.strip()
        with pytest.raises(NotFoundError, match="gpt-4o"):
            client.chat.completions.create(model="gpt-4o", messages=TALK)
        with pytest.raises(BadRequestError, match="tools") as refusal:
            client.chat.completions.create(**asked, tools=[{"type": "function", "function": {"name": "f"}}])
        assert refusal.value.param == "tools"


def test_openai_for_javascript(product, answer, node_modules):
    node = shutil.which("node") or missing("node is not installed")
    command = [node, HERE / "js" / "client.mjs", f"{product.url}/v1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    said, text = json.loads(done.stdout), answer.choices[0].message.content
    assert said["models"][0] == NAME and said["whole"] == said["text"] == text
    assert said["usage"]["speculation"]["lane"] == LANE and said["refusal"] == [400, "n"]
    product.until_idle()


def test_llm_streamed_and_not(product, answer, tmp_path):
    """With its own plugin for OpenAI's API, in a conversation of two turns."""
    if importlib.util.find_spec("llm") is None:
        missing("llm is not installed")
    models = f"- model_id: dspark\n  model_name: {json.dumps(f'{NAME}@{LANE}')}\n  api_base: {product.url}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(models)

    def asked(*words):
        command = [sys.executable, "-m", "llm", *words, "-o", "max_tokens", "6", "-o", "temperature", "0"]
        environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    text = answer.choices[0].message.content.strip()
    assert asked("-m", "dspark", "Say hello.", "--no-stream") == text
    assert asked("-m", "dspark", "Say hello.") == text
    assert asked("-c", "And again?")
    product.until_idle()
