FROM python:3.11.14-slim-bookworm

# requirements.txt as a constraint: the pinned versions, without the development tools.
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir --constraint requirements.txt . && rm -rf /src

RUN useradd --system --uid 10001 --create-home agent && install --directory --owner agent --group agent /data
USER agent
WORKDIR /data
VOLUME /data

ENV PYTHONUNBUFFERED=1 \
    AGENT_RUNTIME__DB_URL=sqlite:////data/events.db
EXPOSE 8001

CMD ["agent-runtime", "serve", "--mode", "sidecar", "--host", "0.0.0.0", "--port", "8001"]
