from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from genai_prices.data import providers
from genai_prices.types import ModelInfo, Provider, Usage
from hypothesis import example, given
from hypothesis import strategies as st

from telemetry.prices import InvalidPriceTable, Prices, Rates, load_price_table

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOW_US = 1_793_600_000_000_000
PRICES = Prices()


@dataclass
class Call:
    """A model call to price, as the official calculator and ours take it."""

    provider: Provider
    model: ModelInfo
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    time_us: int

    def official(self) -> Decimal:
        """Returns nano-dollars, not rounded, from the package's own calculator."""
        usage = Usage(
            input_tokens=self.input_tokens, output_tokens=self.output_tokens, cache_read_tokens=self.cached_tokens
        )
        moment = EPOCH + timedelta(microseconds=self.time_us)
        return self.model.calc_price(usage, self.provider, genai_request_timestamp=moment).total_price * 10**9

    def ours(self) -> int:
        """Returns nano-dollars from our integer arithmetic."""
        tokens = (self.input_tokens, self.output_tokens, self.cached_tokens)
        return PRICES.cost_nanodollars(self.model.id, self.provider.id, *tokens, self.time_us)


def _reachable() -> Iterator[tuple[Provider, ModelInfo]]:
    """Yields the models that their own id finds, a few ids being shadowed by an earlier model's pattern."""
    for provider in providers:
        for model in provider.models:
            if provider.find_model(model.id, all_providers=providers) is model:
                yield provider, model


REACHABLE = list(_reachable())
tokens = st.one_of(st.integers(0, 2000), st.integers(0, 3_000_000))


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """Draws a call of any model, at any time from 2020 to 2030."""
    provider, model = draw(st.sampled_from(REACHABLE))
    input_tokens = draw(tokens)
    cached_tokens = draw(st.integers(0, input_tokens))
    time_us = draw(st.integers(1_600_000_000_000_000, 1_900_000_000_000_000))
    return Call(provider, model, input_tokens, draw(tokens), cached_tokens, time_us)


@given(calls())
def test_equals_the_official_calculator(call: Call) -> None:
    """Any model at any moment costs what genai-prices computes with decimals, to the nearest nano-dollar."""
    official = call.official().quantize(Decimal(1), ROUND_HALF_UP)
    assert abs(call.ours() - official) <= (1 if _has_noisy_price(call.model) else 0)


def _has_noisy_price(model: ModelInfo) -> bool:
    """Says whether a price has float noise in the data: more decimals than femto-dollars per token have."""
    return "00000" in repr(model.prices) or "99999" in repr(model.prices)


def test_every_model_at_hours_and_tiers() -> None:
    """Every model costs what genai-prices computes in the middle of each hour of a day, below and above its tiers."""
    hours = [NOW_US + hour * 3_600_000_000 for hour in range(24)]
    conditional = [(provider, model) for provider, model in REACHABLE if isinstance(model.prices, list)]
    assert len(conditional) > 100
    for provider, model in REACHABLE:
        for time_us in hours if isinstance(model.prices, list) else hours[:1]:
            for input_tokens in (1000, 1_000_000):
                call = Call(provider, model, input_tokens, 500, 100, time_us)
                assert abs(call.official() - call.ours()) <= 1, (provider.id, model.id, time_us)


def test_known_cost() -> None:
    """A call costs input, cached input and output at their own rates: gpt-4o at $2.5, $1.25 and $10 a million."""
    expected = 1_057 * 2_500 + 500 * 1_250 + 23 * 10_000
    assert expected == PRICES.cost_nanodollars("gpt-4o", "openai", 1_557, 23, 500, NOW_US)


@pytest.mark.parametrize("provider", [None, "", "openai", "OpenAI", "azure.ai.openai", "litellm"])
def test_providers_are_found(provider: str | None) -> None:
    """No provider, the conventions' spelling and the package's spelling find the model's price."""
    assert PRICES.cost_nanodollars("gpt-4o-2024-08-06", provider, 1_000_000, 0, 0, NOW_US) == 2_500_000_000


@pytest.mark.parametrize(("model", "provider"), [("no-such-model", "openai"), ("gpt-4o", "my-own-gpu"), ("", None)])
def test_unknown_costs_nothing_and_can_be_told(model: str, provider: str | None) -> None:
    """An unknown model or provider costs 0 and says that it has no price."""
    assert (
        PRICES.cost_nanodollars(model, provider, 10, 10, 0, NOW_US),
        PRICES.is_priced(model, provider),
    ) == (0, False)


def test_known_is_priced() -> None:
    """A known model says that it has a price, and one that is priced by the minute only that it has none."""
    assert (PRICES.is_priced("gpt-4o", "openai"), PRICES.is_priced("whisper-1", "openai")) == (True, False)


def test_more_cached_than_input() -> None:
    """Cached tokens are a part of the input, so those beyond it are not charged."""
    assert PRICES.cost_nanodollars("gpt-4o", "openai", 100, 0, 900, NOW_US) == 100 * 1_250


@given(st.integers(-(2**63), 2**63), st.integers(-(2**63), 2**63), st.integers(-(2**63), 2**63), st.integers())
@example(-5, 1, 0, 0)
def test_never_negative(input_tokens: int, output_tokens: int, cached_tokens: int, time_us: int) -> None:
    """Nonsense never makes a counter go down, and any time is a time."""
    cost = PRICES.cost_nanodollars("deepseek-chat", "deepseek", input_tokens, output_tokens, cached_tokens, time_us)
    assert cost >= 0


def test_memory_is_bounded() -> None:
    """Ten thousand unknown names leave no more than the cache's bound behind."""
    prices = Prices()
    for number in range(10_000):
        prices.is_priced(f"made-up-{number}", "my-own-gpu")
    assert prices._prices.cache_info().currsize == 1024


def test_table_goes_first(tmp_path: Path) -> None:
    """The user's price holds for its model with any provider and case, and the bundled one for the others."""
    path = tmp_path / "prices.json"
    path.write_text(
        '{"GPT-4o": {"input": 1, "output": 2, "cached_input": 0.5}, "house-llm": {"input": 0.1, "output": 0}}'
    )
    prices = Prices(load_price_table(path))
    cost = [
        prices.cost_nanodollars("gpt-4o", "openai", 1_000, 100, 400, NOW_US),
        prices.cost_nanodollars("House-LLM", "my-own-gpu", 1_000, 100, 400, NOW_US),
        prices.cost_nanodollars("gpt-4o-mini", "openai", 1_000_000, 0, 0, NOW_US),
    ]
    assert cost == [600 * 1_000 + 400 * 500 + 100 * 2_000, 1_000 * 100, 150_000_000]


def test_table_is_exact(tmp_path: Path) -> None:
    """Prices are read as decimals, not as floats, in femto-dollars per token."""
    path = tmp_path / "prices.json"
    path.write_text('{"m": {"input": 0.1, "output": 0.000000003}}')
    assert load_price_table(path) == {"m": Rates(100_000_000, 3, 100_000_000)}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "Expecting property name"),
        ("[]", "must be an object of models, not list"),
        ('{"m": 3}', "'m': must be an object of prices, not Decimal"),
        ('{"m": {"input": 1}}', "'m': 'output' is missing"),
        ('{"m": {"input": 1, "output": 1, "cached": 1}}', "'m': unknown price 'cached'"),
        ('{"m": {"input": -1, "output": 1}}', "'m': 'input' must be dollars per million tokens"),
        ('{"m": {"input": NaN, "output": 1}}', "not NaN"),
        ('{"m": {"input": 1e999, "output": 1}}', "not 1E+999"),
        ('{"m": {"input": true, "output": 1}}', "not True"),
        ('{"m": {"input": "1", "output": 1}}', "'m': 'input' must be dollars per million tokens"),
    ],
)
def test_bad_table_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    """A table that cannot be used says in which file, where and why."""
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(InvalidPriceTable) as caught:
        load_price_table(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert fault in str(caught.value)


def test_missing_table_is_refused(tmp_path: Path) -> None:
    """A table that is not there is refused with its path."""
    with pytest.raises(InvalidPriceTable, match="No such file"):
        load_price_table(tmp_path / "none.json")
