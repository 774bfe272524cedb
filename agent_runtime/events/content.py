"""Whether content (messages, arguments, results) may be kept in events; off unless it is switched on."""

from __future__ import annotations

PREVIEW_CHARACTERS = 500


class ContentCapture:
    """The one switch. ``main`` and ``telemetry.attach`` set it from
    ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT``."""

    enabled: bool = False


content_capture = ContentCapture()
