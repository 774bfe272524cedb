"""People in the loop: which tool calls need a person's approval, and what became of each that was asked for.

policy.py          rules, first match wins: does this call need approval, and why
arguments.py       canonical JSON and its hash: a decision is bound to what was asked
models.py          the table ``approvals``; a row is an approval, and the truth about it
table.py           the statements on it; a decision is one UPDATE, which wins or does not
announcements.py   a row's events, the same however often they are made
decisions.py       what a person may say
outbox.py          publishes the events of rows, also after a crash
waiters.py         who waits for a decision in this process
manager.py         HITLManager: asks, takes decisions, lets what nobody decides expire, wakes who waits
"""
