import asyncio
import json
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from ipaddress import ip_network
from typing import Any

import pytest

from agent_runtime.llm import endpoint
from agent_runtime.llm.client import Answer, LLMError, TextDelta, ToolCall, Usage
from agent_runtime.llm.endpoint import EndpointRefused
from agent_runtime.llm.openai_client import OpenAIClient
from tests.openai_fixture import OpenAIServer
from tests.openai_server import Row

KEY = "sk-canary-0123456789abcdef"
MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "echo", "parameters": {"type": "object", "properties": {}}}}]
NEVER = "Fri, 31 Dec 2100 23:59:59 GMT"
LONG_AGO = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture(scope="module")
def server() -> Iterator[OpenAIServer]:
    """The endpoint, one for all tests."""
    with OpenAIServer() as running:
        yield running


@pytest.fixture
async def client(server: OpenAIServer) -> AsyncIterator[OpenAIClient]:
    """A client whose patience is short."""
    made = OpenAIClient(server.base_url, KEY, backoff_seconds=0.001, read_seconds=0.3)
    yield made
    await made.aclose()


async def items(client: OpenAIClient, tools: list[dict[str, Any]] | None = None) -> list[TextDelta | Answer]:
    """Everything that one call streams."""
    return [item async for item in client.stream(model="small", messages=MESSAGES, tools=tools or [])]


async def failure(client: OpenAIClient) -> tuple[list[str], LLMError]:
    """The texts of one call that fails, and its error."""
    texts = []
    with pytest.raises(LLMError) as caught:
        async for item in client.stream(model="small", messages=MESSAGES, tools=[]):
            texts.append(item.text)
    return texts, caught.value


async def test_an_answer_streams_and_ends_with_the_whole(server: OpenAIServer, client: OpenAIClient) -> None:
    """The deltas come as they were sent; the answer has their sum, the usage and the reason of its end."""
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
    server.play({"text": ["Hel", "lo", " there"], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 16}}})

    actual = await items(client)

    deltas = [TextDelta(""), TextDelta("Hel"), TextDelta("lo"), TextDelta(" there")]
    assert [*deltas, Answer("Hello there", (), Usage(20, 3, 23, 16), "stop")] == actual


async def test_the_request_is_what_was_asked_for(server: OpenAIServer, client: OpenAIClient) -> None:
    """Model, messages and tools go out as given, the key as a bearer token, and usage is asked for."""
    server.play({"text": "ok"})

    await items(client, TOOLS)

    (request,) = server.seen()["requests"]
    expected = {
        "model": "small",
        "messages": MESSAGES,
        "tools": TOOLS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert (expected, f"Bearer {KEY}") == (request["body"], request["headers"]["authorization"])


async def test_without_tools_none_are_sent(server: OpenAIServer, client: OpenAIClient) -> None:
    """Endpoints refuse an empty list of tools, so there is none."""
    server.play({"text": "ok"})

    await items(client)

    assert "tools" not in server.bodies()[0]


async def test_several_tool_calls_are_put_together_by_index(server: OpenAIServer, client: OpenAIClient) -> None:
    """Ten calls whose pieces are interleaved come out whole and in order."""
    calls = [{"id": f"c{n}", "name": f"tool_{n}", "arguments": {"n": n, "text": "x" * n}} for n in range(10)]
    server.play({"text": "Working.", "tool_calls": [{**call, "pieces": 1 + n} for n, call in enumerate(calls)]})

    answer = (await items(client))[-1]

    expected = tuple(ToolCall(str(call["id"]), str(call["name"]), json.dumps(call["arguments"])) for call in calls)
    assert Answer("Working.", expected, Usage(10, 5, 15, 0), "tool_calls") == answer


@pytest.mark.parametrize(
    "trouble",
    [
        [{"status": 429, "headers": {"Retry-After": "0.01"}}],
        [{"status": 429, "headers": {"Retry-After": LONG_AGO}}],
        [{"status": 429, "headers": {"Retry-After": "soon"}}],
        [{"status": 500}, {"status": 503}],
        [{"fault": "cut"}, {"status": 429}],
    ],
)
async def test_trouble_that_passes_is_waited_for(
    server: OpenAIServer, client: OpenAIClient, trouble: list[Row]
) -> None:
    """429, 5xx and a connection that is lost before the first chunk are tried again."""
    server.play(*({**row, "times": 1} for row in trouble), {"text": "at last"})

    answer = (await items(client))[-1]

    assert ("at last", len(trouble) + 1) == (answer.text, len(server.bodies()))


@pytest.mark.parametrize(
    ("row", "error_type", "retryable", "requests"),
    [
        ({"status": 400, "headers": {"x-should-retry": "true"}}, "bad_request", False, 1),
        ({"status": 404}, "bad_request", False, 1),
        ({"status": 409}, "bad_request", False, 1),
        ({"status": 422, "error": "<html>"}, "bad_request", False, 1),
        ({"status": 401}, "auth", False, 1),
        ({"status": 403}, "auth", False, 1),
        ({"status": 429}, "rate_limit", True, 3),
        ({"status": 429, "headers": {"Retry-After": "3600"}}, "rate_limit", True, 1),
        ({"status": 503, "headers": {"Retry-After": NEVER}}, "server_error", True, 1),
        ({"status": 500, "error": "<html>"}, "server_error", True, 3),
        ({"status": 200, "error": "<html>"}, "bad_answer", False, 1),
        ({"fault": "cut"}, "connection", True, 3),
        ({"fault": "hang"}, "timeout", False, 1),
        ({"fault": "silence"}, "timeout", False, 1),
        ({"fault": "end"}, "bad_answer", False, 1),
        ({"fault": "garbage"}, "bad_answer", False, 1),
        ({"raw": ["<html>502 Bad Gateway</html>"]}, "bad_answer", False, 1),
        ({"raw": ['data: "text"\n\n']}, "bad_answer", False, 1),
        ({"raw": ['data: {"choices": 5}\n\n']}, "bad_answer", False, 1),
        ({"raw": ["data: " + "[" * 100_000 + "\n\n"]}, "bad_answer", False, 1),
        ({"raw": ['data: {"error": {"message": "overloaded"}}\n\n']}, "server_error", False, 1),
    ],
)
async def test_each_trouble_has_its_error(
    server: OpenAIServer, client: OpenAIClient, row: Row, error_type: str, retryable: bool, requests: int
) -> None:
    """What goes wrong before the first text is named, and tried again only where that may help."""
    server.play(row)

    texts, error = await failure(client)

    actual = ("".join(texts), error.error_type, error.retryable, len(server.bodies()))
    assert ("", error_type, retryable, requests) == actual


@pytest.mark.parametrize(
    ("fault", "error_type"),
    [("cut", "connection"), ("hang", "timeout"), ("end", "bad_answer"), ("garbage", "bad_answer")],
)
async def test_nothing_is_tried_again_after_the_first_chunk(
    server: OpenAIServer, client: OpenAIClient, fault: str, error_type: str
) -> None:
    """A stream that breaks in the middle has been shown in part: it ends with an error, and there is one request."""
    server.play({"text": ["a", "b", "c"], "fault": fault, "after": 3})

    texts, error = await failure(client)

    assert ("ab", error_type, 1) == ("".join(texts), error.error_type, len(server.bodies()))


@pytest.mark.parametrize(
    "row", [{"text": ["x"] * 200, "delay": 0.05}, {"text": "x", "first_delay": 5}, {"fault": "hang"}]
)
async def test_the_whole_call_is_bounded(server: OpenAIServer, row: Row) -> None:
    """An endpoint that is slow but never silent is left when the time of the whole call is up."""
    server.play(row)
    client = OpenAIClient(server.base_url, KEY, timeout_seconds=0.3)

    _, error = await failure(client)
    await client.aclose()

    assert ("timeout", "the model took longer than 0.3 s", True) == (error.error_type, str(error), error.retryable)


async def test_a_slow_consumer_is_not_cancelled_by_the_limit(server: OpenAIServer) -> None:
    """The limit never strikes in the consumer's code: what has arrived by then is still handed out."""
    server.play({"text": ["a", "b"]})
    client = OpenAIClient(server.base_url, KEY, timeout_seconds=0.2)
    texts = []

    async with aclosing(client.stream(model="small", messages=MESSAGES, tools=[])) as stream:
        async for item in stream:
            texts.append(item.text)
            if item.text == "a":
                await asyncio.sleep(0.4)
                texts.append("slept")
    await client.aclose()

    assert ["", "a", "slept"] == texts[:3]


async def test_a_wait_longer_than_the_call_is_not_begun(server: OpenAIServer) -> None:
    """If the endpoint asks to come back after the time is up, its own error is told, not a timeout."""
    server.play({"status": 429, "headers": {"Retry-After": "5"}})
    client = OpenAIClient(server.base_url, KEY, timeout_seconds=2, max_retry_after_seconds=60)

    _, error = await failure(client)
    await client.aclose()

    assert ("rate_limit", 5.0, 1) == (error.error_type, error.retry_after, len(server.bodies()))


async def test_a_model_that_is_down_is_a_connection_error() -> None:
    """Nobody listens: after its tries the call fails, and says so."""
    stopped = OpenAIServer()
    client = OpenAIClient(stopped.base_url, KEY, backoff_seconds=0.001)

    _, error = await failure(client)
    await client.aclose()

    assert ("connection", "the model endpoint can't be connected to") == (error.error_type, str(error))


async def test_a_consumer_that_leaves_ends_the_request(server: OpenAIServer, client: OpenAIClient) -> None:
    """Closing the stream closes its connection, so that the endpoint can stop; no task stays behind."""
    server.play({"text": ["x"] * 1000, "delay": 0.02})

    async with aclosing(client.stream(model="small", messages=MESSAGES, tools=[])) as stream:
        async for item in stream:
            if item.text:
                break

    async with asyncio.timeout(10):
        while server.seen()["open"]:
            await asyncio.sleep(0.01)
    assert (1, {asyncio.current_task()}) == (server.seen()["left"], asyncio.all_tasks())


async def test_a_cancelled_call_ends_the_request(server: OpenAIServer, client: OpenAIClient) -> None:
    """A task that is cancelled while it waits for the model closes the connection too."""
    server.play({"fault": "silence"})
    task = asyncio.create_task(items(client))
    async with asyncio.timeout(10):
        while not server.seen()["open"]:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while server.seen()["open"]:
            await asyncio.sleep(0.01)

    assert 1 == server.seen()["left"]


async def test_redirects_are_not_followed(server: OpenAIServer, client: OpenAIClient) -> None:
    """A redirect could lead the request, and the key, to a place that was never configured."""
    server.play({"status": 307, "headers": {"Location": f"{server.base_url}/chat/completions"}})

    _, error = await failure(client)

    assert ("bad_answer", 1) == (error.error_type, len(server.bodies()))


async def test_a_refused_peer_gets_no_request(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address behind a name is looked at when it is known, before a byte is sent."""
    monkeypatch.setattr(endpoint, "REFUSED", ((ip_network("127.0.0.0/8"), "a link-local address"),))
    server.play({"text": "never"})
    client = OpenAIClient(server.base_url.replace("127.0.0.1", "localhost"), KEY)

    _, error = await failure(client)
    await client.aclose()

    assert ("connection", False, []) == (error.error_type, error.retryable, server.bodies())


def test_a_refused_endpoint_is_refused_when_it_is_configured() -> None:
    """No client is made for a metadata address."""
    with pytest.raises(EndpointRefused):
        OpenAIClient("http://169.254.169.254/v1", KEY)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_the_key_and_the_conversation_are_told_to_nobody(
    server: OpenAIServer, client: OpenAIClient, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """An endpoint that repeats them in its error finds them in no message, traceback or log."""
    echo = f"wrong key {KEY} for 'private words'"
    server.play({"status": status, "error": {"message": echo, "code": KEY, "type": echo, "param": echo}})

    with caplog.at_level(logging.DEBUG):
        _, error = await failure(client)

    told = caplog.text + repr(error) + "".join(traceback.format_exception(error))
    assert (False, False, f"the model endpoint answered {status}") == (
        KEY in told,
        "private words" in told,
        str(error),
    )


async def test_a_code_of_the_endpoint_is_told(server: OpenAIServer, client: OpenAIClient) -> None:
    """What may help and can't be a secret, OpenAI's codes of errors, is part of the message."""
    server.play({"status": 400, "error": {"message": "too long", "code": "context_length_exceeded"}})

    _, error = await failure(client)

    assert "the model endpoint answered 400 (context_length_exceeded)" == str(error)


async def test_an_endpoint_without_a_key_can_be_used(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key a placeholder is sent, and never the key that another program's variable holds."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.play({"text": "ok"})
    client = OpenAIClient(server.base_url)

    await items(client)
    await client.aclose()

    assert "Bearer none" == server.seen()["requests"][0]["headers"]["authorization"]
