"""The overview board: is it well, and if not, where to look. Its rows are data, read from top to bottom.

Money and tokens are never limited to `$agent`: a call that no agent claims must stay visible.
"""

from grafana_foundation_sdk.models import dashboard

from dashboards.panels import Query, Row, Thresholds, Variable, board, graph, matrix, single
from dashboards.pipeline import PIPELINE
from dashboards.promql import increase, quantile, rate, series, share, total

OBJECTIVE = 0.99
"""The share of turns that are to end without an error; the burn rate is measured against it."""

TURN = "gen_ai_invoke_workflow_duration_seconds"
AGENT = "gen_ai_invoke_agent_duration_seconds"
TOOL = "gen_ai_execute_tool_duration_seconds"
MODEL = "gen_ai_client_inference_duration_seconds"
FIRST_CHUNK = "gen_ai_client_inference_time_to_first_chunk_seconds"
TOKENS = "gen_ai_client_inference_usage_{}_tokens_total"
COST = "agent_runtime_llm_cost_usd_total"
OLDEST = series("agent_runtime_hitl_oldest_pending_timestamp_seconds")
POSITION = series("agent_runtime_store_last_position")

FAILED = 'error_type!=""'
BY_AGENT = 'gen_ai_agent_name=~"$agent"'
BY_TOOL = 'gen_ai_tool_name=~"$tool"'

HIGH_IS_GOOD: Thresholds = ((None, "red"), (0.95, "yellow"), (OBJECTIVE, "green"))
WAITING: Thresholds = ((None, "green"), (300, "yellow"), (1800, "red"))
SLOW_TURN: Thresholds = ((None, "green"), (60, "yellow"), (300, "red"))
# Burning 14.4 times too fast empties a month's budget in two days: the fast page of the SRE workbook.
BURN: Thresholds = ((None, "transparent"), (1, "yellow"), (14.4, "red"))


def failure_share(histogram: str, window: str) -> str:
    """Returns the share of failed observations of a histogram over a fixed window."""
    failed = increase(f"{histogram}_count", where=FAILED, window=window)
    return share(failed, increase(f"{histogram}_count", window=window))


def named(expression: str, label: str, empty: str) -> str:
    """Returns an expression with a name in place of the empty value of a label."""
    return f'label_replace({expression}, "{label}", "{empty}", "{label}", "")'


VARIABLES = (
    Variable("job", "Job", "label_values(agent_runtime_store_last_position, job)"),
    Variable("agent", "Agent", f'label_values({AGENT}_count{{job=~"$job"}}, gen_ai_agent_name)'),
    Variable("tool", "Tool", f'label_values({TOOL}_count{{job=~"$job"}}, gen_ai_tool_name)'),
)

NOW = Row(
    100,
    "Now",
    (
        single(
            101,
            "Turn success, 1 h",
            f"Share of the turns of the last hour that ended without an error; the objective is {OBJECTIVE:.0%}. "
            "Below it: see Turns by outcome for the error, then follow an exemplar into its trace.",
            "percentunit",
            Query(f"1 - {failure_share(TURN, '1h')}"),
            thresholds=HIGH_IS_GOOD,
            decimals=2,
        ),
        single(
            102,
            "Turns per minute",
            "User messages answered a minute. At zero while users are active: the runtime is down or its events "
            "do not arrive, see Pipeline.",
            "opm",
            Query(f"60 * {rate(f'{TURN}_count')}"),
        ),
        single(
            103,
            "Turn p95, 1 h",
            "19 of 20 turns of the last hour took less, waits for people included. Too high: Where the time goes says "
            "whether to look at models, tools or people.",
            "s",
            Query(quantile(0.95, TURN, window="1h")),
            thresholds=SLOW_TURN,
        ),
        single(
            104,
            "Agents active",
            "Agent invocations in progress. Growing while turns per minute do not: something hangs; look for long "
            "bars in the newest traces.",
            "short",
            Query(total(series("agent_runtime_agents_active", BY_AGENT))),
        ),
        single(
            105,
            "Oldest pending approval",
            "How long the person who waits longest has been waiting. Over half an hour: find an approver, or the "
            "call times out and is refused.",
            "s",
            # No approval pending is 0; no data at all stays no data.
            Query(f"time() - min({OLDEST} > 0) or 0 * max({POSITION})"),
            thresholds=WAITING,
        ),
        single(
            106,
            "Approvals pending",
            "Tool calls that wait for a person. Many young ones are a busy hour; one old one is a problem, see its age "
            "on the left.",
            "short",
            Query(total(series("agent_runtime_hitl_pending", BY_TOOL))),
        ),
        single(
            107,
            "Cost, last hour",
            "List price of the model calls of the last hour. A jump: see Cost per hour by agent.",
            "currencyUSD",
            Query(increase(COST, window="1h")),
            decimals=2,
        ),
        single(
            108,
            "Cost, last 24 h",
            "List price of the model calls of the last day; models without a known price are missing from it.",
            "currencyUSD",
            Query(increase(COST, window="24h")),
            decimals=2,
        ),
    ),
)

TURNS = Row(
    200,
    "Turns",
    (
        graph(
            201,
            "Turns by outcome",
            "Finished turns a second, by error type. A new colour is a new kind of failure: open its exemplar's trace "
            "from Turn duration.",
            "ops",
            Query(named(rate(f"{TURN}_count", "error_type"), "error_type", "success"), "{{error_type}}"),
            stacked=True,
        ),
        graph(
            202,
            "Turn duration",
            "From a user's message to the last event that follows from it. The dots are single turns: click one to "
            "open its trace.",
            "s",
            Query(quantile(0.5, TURN), "p50"),
            Query(quantile(0.95, TURN), "p95", exemplar=True),
        ),
        graph(
            203,
            "Where the time goes",
            "The turns' wall time divided without overlap. Human: people are slow to approve. Runtime: neither model, "
            "tool nor person was at work; look for queues.",
            "percentunit",
            Query(
                f"{rate('agent_runtime_turn_seconds_total', 'phase')} / on () group_left () "
                f"({rate('agent_runtime_turn_seconds_total')} > 0)",
                "{{phase}}",
            ),
            stacked=True,
            maximum=1,
        ),
        graph(
            204,
            "Error budget burn rate",
            f"How many times faster than allowed by the objective ({OBJECTIVE:.0%}) errors happen. Above 1 the budget "
            "will not last; above 14.4 over an hour it is gone in two days: act now.",
            "none",
            *(
                Query(f"({failure_share(TURN, window)}) / {1 - OBJECTIVE:.2g}", f"over {window}")
                for window in ("1h", "6h", "24h")
            ),
            thresholds=BURN,
            width=12,
        ),
        graph(
            205,
            "Sessions and open turns",
            "Sessions that exist and turns that are not settled yet. Open turns that only grow: their end never "
            "arrives; they are closed at the deadline and marked incomplete.",
            "short",
            Query(total(series("agent_runtime_sessions_active")), "sessions"),
            Query(total(series("agent_runtime_turns_open")), "open turns"),
            width=6,
        ),
        graph(
            206,
            "Traffic",
            "Sessions created, and messages added by role. The load that everything else on this board answers.",
            "cps",
            Query(rate("agent_runtime_sessions_total"), "sessions"),
            Query(rate("agent_runtime_messages_total", "role"), "messages: {{role}}"),
            width=6,
        ),
    ),
)

AGENTS = Row(
    300,
    "Agents",
    (
        graph(
            301,
            "Agent duration, p95",
            "What 19 of 20 invocations of each agent stay under. One agent apart from the rest: open a dot's trace and "
            "see what it waits for.",
            "s",
            Query(quantile(0.95, AGENT, "gen_ai_agent_name", BY_AGENT), "{{gen_ai_agent_name}}", exemplar=True),
        ),
        graph(
            302,
            "Agent errors",
            "Errors that agents reported, by agent and type. Compare with Turns by outcome: an error that a retry "
            "healed is here only.",
            "ops",
            Query(
                rate("agent_runtime_agent_errors_total", "gen_ai_agent_name, error_type", BY_AGENT),
                "{{gen_ai_agent_name}}: {{error_type}}",
            ),
            stacked=True,
        ),
        matrix(
            303,
            "Agent switches, from row to column",
            "Hand-overs within the time range. The same number in both directions is ping-pong: two agents send each "
            "other work that neither does; sharpen their prompts.",
            "none",
            Query(
                f"round({increase('agent_runtime_agent_switches_total', 'from_agent, to_agent', window='$__range')})"
            ),
            row="from_agent",
            column="to_agent",
        ),
    ),
)

TOOLS = Row(
    400,
    "Tools",
    (
        graph(
            401,
            "Tool errors",
            "Share of each tool's calls that failed. High for one tool: its backend; high for all: the network or the "
            "arguments that the models write.",
            "percentunit",
            Query(
                share(
                    rate(f"{TOOL}_count", "gen_ai_tool_name", f"{FAILED},{BY_TOOL}"),
                    rate(f"{TOOL}_count", "gen_ai_tool_name", BY_TOOL),
                ),
                "{{gen_ai_tool_name}}",
            ),
            maximum=1,
        ),
        graph(
            402,
            "Tool duration, p95",
            "What 19 of 20 calls of each tool stay under, without the wait for an approval. The dots are single calls: "
            "click one to open its trace.",
            "s",
            Query(quantile(0.95, TOOL, "gen_ai_tool_name", BY_TOOL), "{{gen_ai_tool_name}}", exemplar=True),
        ),
        graph(
            403,
            "Tool requests",
            "Calls that the models asked for, by tool. One that shoots up without more turns is a loop: look at the "
            "newest traces of its agent.",
            "reqps",
            Query(
                rate("agent_runtime_tool_requests_total", "gen_ai_tool_name", f"{BY_TOOL},{BY_AGENT}"),
                "{{gen_ai_tool_name}}",
            ),
            stacked=True,
        ),
    ),
)

APPROVALS = Row(
    500,
    "Approvals",
    (
        graph(
            501,
            "Approvals pending by tool",
            "Calls that wait for a person, and how many are asked for a minute. Rising steadily: more is asked than "
            "people can answer; relax the policy or add approvers.",
            "short",
            Query(total(series("agent_runtime_hitl_pending", BY_TOOL), "gen_ai_tool_name"), "{{gen_ai_tool_name}}"),
            Query(f"60 * {rate('agent_runtime_hitl_requests_total', where=BY_TOOL)}", "asked per minute"),
        ),
        graph(
            502,
            "Wait for a decision",
            "Time from the request to the decision, timeouts included. p90 near the timeout: decisions come too late "
            "for one in ten.",
            "s",
            Query(quantile(0.5, "agent_runtime_hitl_wait_seconds", where=BY_TOOL), "p50"),
            Query(quantile(0.9, "agent_runtime_hitl_wait_seconds", where=BY_TOOL), "p90", exemplar=True),
        ),
        graph(
            503,
            "Decisions",
            "How approvals end. Nearly all approved: the policy asks too often; many rejected: the agents propose the "
            "wrong calls; timeouts: nobody looks.",
            "ops",
            Query(rate("agent_runtime_hitl_decisions_total", "decision", BY_TOOL), "{{decision}}"),
            stacked=True,
        ),
    ),
)

MODELS = Row(
    600,
    "Models",
    (
        graph(
            601,
            "Model call duration, p95",
            "What 19 of 20 calls of each model stay under, and the time to the first chunk of a streamed answer. "
            "Both up: the provider is slow; only the first: answers got longer.",
            "s",
            Query(quantile(0.95, MODEL, "gen_ai_request_model"), "{{gen_ai_request_model}}", exemplar=True),
            Query(quantile(0.95, FIRST_CHUNK, "gen_ai_request_model"), "{{gen_ai_request_model}} first chunk"),
        ),
        graph(
            602,
            "Model call errors",
            "Share of each model's calls that failed. Rate limits and outages show here first: see the provider's "
            "status, or route to another model.",
            "percentunit",
            Query(
                share(
                    rate(f"{MODEL}_count", "gen_ai_request_model", FAILED),
                    rate(f"{MODEL}_count", "gen_ai_request_model"),
                ),
                "{{gen_ai_request_model}}",
            ),
            maximum=1,
        ),
        graph(
            603,
            "Tokens",
            "Tokens a second. Input contains what came from the provider's cache. Input that grows faster than turns: "
            "histories are getting long.",
            "cps",
            Query(rate(TOKENS.format("input")), "input"),
            Query(rate(TOKENS.format("output")), "output"),
            Query(rate(TOKENS.format("cache_read_input")), "of input, from cache"),
        ),
        graph(
            604,
            "Cost per hour by agent",
            "What the present rate costs an hour, at list prices. Calls that name no agent are shown as unattributed.",
            "currencyUSD",
            Query(
                named(f"3600 * {rate(COST, 'gen_ai_agent_name')}", "gen_ai_agent_name", "unattributed"),
                "{{gen_ai_agent_name}}",
            ),
            stacked=True,
            width=12,
        ),
        graph(
            605,
            "Input served from cache",
            "Share of input tokens that the provider's cache served, by model. A drop costs money: something at the "
            "beginning of the prompts has changed.",
            "percentunit",
            Query(
                share(
                    rate(TOKENS.format("cache_read_input"), "gen_ai_request_model"),
                    rate(TOKENS.format("input"), "gen_ai_request_model"),
                ),
                "{{gen_ai_request_model}}",
            ),
            maximum=1,
            width=12,
        ),
    ),
)


def overview() -> dashboard.Dashboard:
    """Returns the overview board."""
    return board(
        "agent-runtime-overview",
        "Agent runtime: overview",
        "Turns, agents, tools, approvals, models and the pipeline that measures them.",
        VARIABLES,
        (NOW, TURNS, AGENTS, TOOLS, APPROVALS, MODELS, PIPELINE),
    )
