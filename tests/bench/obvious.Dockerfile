# What one would write first: the base, Pipecat by pip, the bot. tests/bench/images.py measures ours beside it.
ARG BASE=python:3.13-slim-trixie
FROM ${BASE}
WORKDIR /app
ENV PYTHONUNBUFFERED=1
# The last option is for Debian's own Python, which the tests' base has.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf pip install --no-cache-dir --break-system-packages \
    "pipecat-ai[daily,openai,runner,silero,webrtc,websocket]>=1.14,<2"
COPY bot.py .
CMD ["python3", "bot.py", "--transport", "webrtc"]
