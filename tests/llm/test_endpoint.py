import pytest

from agent_runtime.llm.client import LLMError
from agent_runtime.llm.endpoint import EndpointRefused, check_endpoint, check_peer


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("http://localhost:11434/v1", "http://localhost:11434/v1"),
        ("http://127.0.0.1:4000", "http://127.0.0.1:4000"),
        ("http://[::1]:4000/v1", "http://[::1]:4000/v1"),
        ("http://10.1.2.3/v1", "http://10.1.2.3/v1"),
        ("http://litellm:4000", "http://litellm:4000"),
    ],
)
def test_models_may_live_anywhere_on_the_internet_the_network_or_this_machine(url: str, expected: str) -> None:
    """Public, private and loopback endpoints are taken, without their last slash."""
    assert expected == check_endpoint(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "must begin with http"),
        ("api.openai.com/v1", "must begin with http"),
        ("ftp://models.example/v1", "must begin with http"),
        ("file:///etc/passwd", "must begin with http"),
        ("gopher://models.example/", "must begin with http"),
        ("http://", "has no host"),
        ("http://:8080/v1", "has no host"),
        ("http://models.example:port/v1", "is not a URL"),
        ("http://models.example:99999/v1", "is not a URL"),
        ("http://[::1/v1", "is not a URL"),
        ("http://user:canary@models.example/v1", "must not hold credentials"),
        ("http://models.example@169.254.169.254/", "must not hold credentials"),
        ("http://models.example/v1?key=canary", "must not have a query"),
        ("http://models.example/v1#canary", "must not have a query"),
        ("http://models.example/v1\r\nHost: canary", "control character"),
        ("http://models.example\\@169.254.169.254/", "backslash"),
        (" http://models.example", "blank"),
        ("http://169.254.169.254/latest/meta-data", "link-local"),
        ("http://169.254.170.2/v2/credentials", "link-local"),
        ("http://169.254.169.254./", "link-local"),
        ("http://2852039166/", "link-local"),
        ("http://0xa9fea9fe/", "link-local"),
        ("http://0251.0376.0251.0376/", "link-local"),
        ("http://169.254.43518/", "link-local"),
        ("http://[fe80::1]/", "link-local"),
        ("http://[fe80::1%25eth0]/", "link-local"),
        ("http://[::ffff:169.254.169.254]/", "link-local"),
        ("http://[::ffff:a9fe:a9fe]/", "link-local"),
        ("http://[64:ff9b::a9fe:a9fe]/", "link-local"),
        ("http://[2002:a9fe:a9fe::]/", "link-local"),
        ("http://[fd00:ec2::254]/", "metadata address"),
        ("http://[fd20:ce::254]/", "metadata address"),
        ("http://100.100.100.200/", "metadata address"),
        ("http://192.0.0.192/", "metadata address"),
        ("http://168.63.129.16/", "metadata address"),
        ("http://metadata.google.internal/", "metadata service"),
        ("http://METADATA.google.internal./", "metadata service"),
        ("http://0.0.0.0:8000/", "no host's address"),
        ("http://[::]:8000/", "no host's address"),
        ("http://224.0.0.1/", "multicast or reserved"),
        ("http://255.255.255.255/", "multicast or reserved"),
        ("http://[ff02::1]/", "multicast"),
    ],
)
def test_what_is_never_a_model_is_refused(url: str, why: str) -> None:
    """Other schemes, credentials and the addresses of metadata services are refused, and no secret is repeated."""
    with pytest.raises(EndpointRefused) as caught:
        check_endpoint(url)

    assert (True, False) == (why in str(caught.value), "canary" in str(caught.value))


class Connection:
    """A connection as httpcore hands it to its trace."""

    def __init__(self, peer: tuple[object, ...] | None) -> None:
        self._peer = peer
        self.closed = False

    def get_extra_info(self, name: str) -> object:
        """What is known of the connection."""
        return {"server_addr": self._peer}[name]

    async def aclose(self) -> None:
        """Close it."""
        self.closed = True


@pytest.mark.parametrize("peer", [("169.254.169.254", 80), ("::ffff:169.254.169.254", 80, 0, 0), ("fe80::1", 80, 0, 2)])
async def test_a_name_that_resolves_to_a_refused_address_is_not_spoken_to(peer: tuple[object, ...]) -> None:
    """The connection is closed and the call fails, whatever the name said when it was configured."""
    connection = Connection(peer)

    with pytest.raises(LLMError) as caught:
        await check_peer("connection.connect_tcp.complete", {"return_value": connection})

    assert ("connection", False, True) == (caught.value.error_type, caught.value.retryable, connection.closed)


@pytest.mark.parametrize("peer", [("127.0.0.1", 80), ("93.184.215.14", 443), None])
async def test_other_peers_are_spoken_to(peer: tuple[object, ...] | None) -> None:
    """A connection to any other address stays open; a Unix socket has none."""
    connection = Connection(peer)

    await check_peer("connection.connect_tcp.complete", {"return_value": connection})

    assert not connection.closed
