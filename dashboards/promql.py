"""The shapes of query that the boards are made of.

`where` is a list of PromQL matchers separated by commas, `by` the labels that are kept; every selector is limited to
the board's `$job`. Windows are `$__rate_interval` unless a panel's meaning needs a fixed one.
"""

RATE_INTERVAL = "$__rate_interval"


def series(metric: str, where: str = "") -> str:
    """Returns the selector of a metric's series within the chosen jobs."""
    return f'{metric}{{job=~"$job"{"," if where else ""}{where}}}'


def total(expression: str, by: str = "") -> str:
    """Returns the sum of an expression, kept apart by the labels `by`."""
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


def rate(metric: str, by: str = "", where: str = "", window: str = RATE_INTERVAL) -> str:
    """Returns a counter's growth per second."""
    return total(f"rate({series(metric, where)}[{window}])", by)


def increase(metric: str, by: str = "", where: str = "", window: str = "1h") -> str:
    """Returns a counter's growth over a window."""
    return total(f"increase({series(metric, where)}[{window}])", by)


def share(part: str, whole: str) -> str:
    """Returns `part / whole`, 0 where no part has been counted yet and nothing where the whole is 0."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def quantile(q: float, histogram: str, by: str = "", where: str = "", window: str = RATE_INTERVAL) -> str:
    """Returns the q-quantile (0…1) of a classic histogram, in the histogram's unit."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', labels, where, window)})"
