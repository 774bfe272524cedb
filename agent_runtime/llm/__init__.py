"""The model.

``client``          what a model is to the rest: a stream of texts that ends with an answer, or an ``LLMError``
``stream_service``  the same stream with the LLM events around it; the only way that the runtime calls a model
``openai_client``   any OpenAI-compatible endpoint: time limits, retries, what of its answers may come in
``chunks``          the wire format of such an endpoint, and how an answer is put together from it
``endpoint``        which addresses an endpoint may have
``scripted``        a model that plays ``scenes``: offline, deterministic, for demonstrations and tests

It stands on the events alone. ``openai_client`` is imported by who needs it: its package takes a while to load.
"""

from agent_runtime.llm.client import Answer, LLMClient, LLMError, Message, TextDelta, ToolCall, Usage
from agent_runtime.llm.scripted import ScriptedClient
from agent_runtime.llm.stream_service import LLMStreamService

__all__ = [
    "Answer",
    "LLMClient",
    "LLMError",
    "LLMStreamService",
    "Message",
    "ScriptedClient",
    "TextDelta",
    "ToolCall",
    "Usage",
]
