"""What a model call costs, in whole nano-dollars, at the provider's list price.

Prices come from the data bundled with the `genai-prices` package, never from the network, and from the user's own
table, which goes first. Whole numbers, because their sum does not depend on the order in which calls arrive.
"""

import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, StartDateConstraint, TieredPrices

_DAY_US = 86_400_000_000
_MICROSECOND = timedelta(microseconds=1)
_PER_TOKEN = 10**9  # femto-dollars a token, from dollars a million tokens
_PER_CALL = 10**12  # femto-dollars a call, from dollars a thousand calls
_FEMTO_IN_NANO = 10**6
_CACHED_MODELS = 1024


class InvalidPriceTable(ValueError):
    """A price table cannot be used; the message names the file, the place in it and what is wrong."""


class Rates(NamedTuple):
    """Femto-dollars (10⁻¹⁵ $) per input token, output token, cached input token, and per call."""

    input: int
    output: int
    cached: int
    call: int = 0


class _Price(NamedTuple):
    """Rates and when they hold: since a moment (µs since the epoch), in a part of the day (µs since midnight, UTC).

    `tiers` are `(n, rates)`, n descending: a call with more than n input tokens pays these rates, not `base`, for all
    its tokens.
    """

    base: Rates
    tiers: tuple[tuple[int, Rates], ...] = ()
    since: int = -(2**63)
    day_from: int = 0
    day_until: int = _DAY_US

    def holds(self, time_us: int) -> bool:
        if time_us < self.since:
            return False
        of_day = time_us % _DAY_US
        if self.day_from <= self.day_until:
            return self.day_from <= of_day < self.day_until
        return not self.day_until <= of_day < self.day_from


class Prices:
    """The price of each model: from the user's table, else from the bundled data.

    Build it at start: the data takes half a second to load.

    Args:
        table: Rates by model name (see `load_price_table`), whatever the provider and the name's case.
    """

    def __init__(self, table: Mapping[str, Rates] | None = None) -> None:
        from genai_prices.data import providers  # half a second, which a program that never prices need not spend

        self._providers = providers
        self._table = {model.lower(): rates for model, rates in (table or {}).items()}
        self._prices = lru_cache(_CACHED_MODELS)(self._look_up)

    def is_priced(self, model: str, provider: str | None) -> bool:
        """Says whether the model has a known price per token or per call; free is a price."""
        return bool(self._prices(model, provider))

    def cost_nanodollars(
        self, model: str, provider: str | None, input_tokens: int, output_tokens: int, cached_tokens: int, time_us: int
    ) -> int:
        """Returns the list price of a call in 10⁻⁹ dollars, to the nearest, never below 0; 0 if there is no price.

        Args:
            model: The model's name as the request gave it, dated or not.
            provider: The provider as the GenAI conventions or `genai-prices` name it. Without one the model's name
                decides; with an unknown one there is no price, because the model may run on the user's own machine.
            input_tokens: All tokens of the prompt, cached ones included.
            output_tokens: Generated tokens.
            cached_tokens: Those of the input tokens that the provider had in its cache.
            time_us: When the call was made, in µs since the epoch: prices change, some with the hour.
        """
        prices = self._prices(model, provider)
        if not prices:
            return 0
        price = prices[0]
        if len(prices) > 1:
            price = next((price for price in prices if price.holds(time_us)), prices[-1])
        rates = price.base
        for above, tier in price.tiers:
            if input_tokens > above:
                rates = tier
                break
        cached = cached_tokens if cached_tokens < input_tokens else input_tokens
        to_input, to_output, to_cached, to_call = rates
        femto = (input_tokens - cached) * to_input + output_tokens * to_output + cached * to_cached + to_call
        return (femto + _FEMTO_IN_NANO // 2) // _FEMTO_IN_NANO if femto > 0 else 0

    def _look_up(self, model: str, provider: str | None) -> tuple[_Price, ...]:
        """Returns the model's prices, the one that takes precedence first; empty if it is not known."""
        rates = self._table.get(model.lower())
        if rates is not None:
            return (_Price(rates),)
        # A snapshot of its own for each search: a snapshot remembers all names it was ever asked for.
        snapshot = DataSnapshot(self._providers, from_auto_update=False)
        try:
            _, found = snapshot.find_provider_model(model, None, provider or None, None)
        except LookupError:
            return ()
        return _prices_of(found)


def load_price_table(path: str | Path) -> dict[str, Rates]:
    """Reads a user's prices in dollars per million tokens: `{"gpt-4o": {"input": 2, "output": 9, "cached_input": 1}}`.

    `cached_input` may be left out: cached tokens then cost what other input tokens do.

    Raises:
        InvalidPriceTable: If the file cannot be read, is not JSON, or an entry is not as above.
    """
    try:
        table = json.loads(Path(path).read_text("utf-8"), parse_float=Decimal, parse_int=Decimal, parse_constant=str)
    except (OSError, ValueError) as error:
        raise InvalidPriceTable(f"{path}: {error}") from None
    if not isinstance(table, dict):
        raise InvalidPriceTable(f"{path}: must be an object of models, not {type(table).__name__}")
    return {model: _table_rates(f"{path}: {model!r}", entry) for model, entry in table.items()}


def _table_rates(place: str, entry: object) -> Rates:
    if not isinstance(entry, dict):
        raise InvalidPriceTable(f"{place}: must be an object of prices, not {type(entry).__name__}")
    unknown = entry.keys() - {"input", "output", "cached_input"}
    if unknown:
        raise InvalidPriceTable(f"{place}: unknown price {sorted(unknown)[0]!r}; known are input, output, cached_input")
    for name in ("input", "output"):
        if name not in entry:
            raise InvalidPriceTable(f"{place}: {name!r} is missing")
    for name, price in entry.items():
        if not isinstance(price, Decimal) or not 0 <= price <= 10**6:
            raise InvalidPriceTable(
                f"{place}: {name!r} must be dollars per million tokens, 0 to 1,000,000, not {price}"
            )
    rates = {name: round(price * _PER_TOKEN) for name, price in entry.items()}
    return Rates(rates["input"], rates["output"], rates.get("cached_input", rates["input"]))


def _prices_of(model: ModelInfo) -> tuple[_Price, ...]:
    listed = [ConditionalPrice(prices=model.prices)] if isinstance(model.prices, ModelPrice) else model.prices
    if not any(_counted(one.prices) for one in listed):
        return ()  # priced by the minute or the page
    default = _price(listed[0].prices)  # for when no condition holds
    return (*map(_conditional, reversed(listed)), default) if len(listed) > 1 else (default,)


def _conditional(listed: ConditionalPrice) -> _Price:
    price, constraint = _price(listed.prices), listed.constraint
    if constraint is None:
        return price
    if isinstance(constraint, StartDateConstraint):
        return price._replace(since=(constraint.start_date - date(1970, 1, 1)).days * _DAY_US)
    return price._replace(day_from=_of_day(constraint.start_time), day_until=_of_day(constraint.end_time))


def _of_day(clock: time) -> int:
    offset = clock.utcoffset() or timedelta()
    return (datetime.combine(date.min, clock.replace(tzinfo=None)) - datetime.min - offset) // _MICROSECOND % _DAY_US


def _price(prices: ModelPrice) -> _Price:
    listed = _counted(prices)
    starts = {tier.start for price in listed.values() if isinstance(price, TieredPrices) for tier in price.tiers}
    tiers = ((above, _rates(listed, above)) for above in sorted(starts, reverse=True))
    return _Price(_rates(listed, -1), tuple(tiers))


def _counted(prices: ModelPrice) -> dict[str, Decimal | TieredPrices]:
    listed = {key: getattr(prices, key) for key in ("input_mtok", "output_mtok", "cache_read_mtok", "requests_kcount")}
    return {key: price for key, price in listed.items() if price is not None}


def _rates(listed: dict[str, Decimal | TieredPrices], above: int) -> Rates:
    prices = {key: _in_tier(price, above) for key, price in listed.items()}
    free = Decimal(0)
    fresh = prices.get("input_mtok", free)
    return Rates(
        input=round(fresh * _PER_TOKEN),
        output=round(prices.get("output_mtok", free) * _PER_TOKEN),
        cached=round(prices.get("cache_read_mtok", fresh) * _PER_TOKEN),
        call=round(prices.get("requests_kcount", free) * _PER_CALL),
    )


def _in_tier(price: Decimal | TieredPrices, above: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if tier.start <= above]
    return reached[-1] if reached else price.base
