# The image of a bot: `python -m bot` with one bot directory. docs/images.md tells what is inside and why.
#
#   docker build -f images/bot.Dockerfile --build-arg BOT_DIR=examples/mine -t mine .
#
# With a recent BuildKit the bot may lie anywhere: --build-context bot-files=/path/to/mine

# Debian 12 or later with Python 3.11 or later and pip, such as python:3.13-slim-trixie@sha256:…
ARG BASE=python:3.13-slim-trixie

# --- The bot's own files. A build context of this name takes the place of the stage.
FROM scratch AS bot-files
ARG BOT_DIR=bot/agents
COPY ${BOT_DIR}/ /

# --- The base as one layer, without what is never run; the same layer as the dispatcher image's.
FROM ${BASE} AS base
ARG SOURCE_DATE_EPOCH=0
COPY images/base.py images/finish.py /build/
# Debian's user database gets our user here: a later layer that changes a file holds it twice.
RUN echo 'switchboard:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'switchboard:x:10001:' >> /etc/group \
    && python3 /build/base.py /out \
    && mkdir -p /out/app /out/mnt/models /out/data \
    && chown 10001:10001 /out/data && rm -rf /out/build \
    && PYTHONHASHSEED=0 python3 /build/finish.py --epoch ${SOURCE_DATE_EPOCH} /out

# --- What packages are installed and finished with; nothing of it is in the image.
FROM ${BASE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore DEBIAN_FRONTEND=noninteractive
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils
COPY images/requirements-build.txt /build/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m pip install --quiet --no-cache-dir --target /build/tools --require-hashes -r /build/requirements-build.txt
ENV PATH=/build/tools/bin:$PATH UV_PYTHON=/opt/venv/bin/python UV_LINK_MODE=copy UV_NO_PROGRESS=1 \
    UV_SYSTEM_CERTS=1 PYTHONHASHSEED=0

# --- The repository snakers4/silero-vad, for VAD=torch: its release from the package index, not GitHub. A build context of
# this name takes the place of the stage.
FROM tools AS silero-vad-release
ARG VAD=onnx
COPY images/requirements-silero.txt /build/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    mkdir -p /out && if [ "${VAD}" = torch ]; then \
        python3 -m pip download --quiet --no-cache-dir --no-deps --no-binary :all: --require-hashes \
            --dest /build/silero -r /build/requirements-silero.txt \
        && tar --extract --file /build/silero/*.tar.gz --directory /out --strip-components 1; \
    fi

FROM scratch AS silero-vad
COPY --from=silero-vad-release /out/ /

# --- Only the file of the bot's packages, so that they are installed anew only when it changes. A build context of
# this name takes the place of the stage: its directory `out` has a file from above the bot directory.
FROM ${BASE} AS bot-requirements
ARG REQUIREMENTS=requirements.txt
RUN --mount=type=bind,from=bot-files,target=/files \
    mkdir /out && if [ -e "/files/${REQUIREMENTS}" ]; then \
        case "${REQUIREMENTS}" in *.toml) name=pyproject.toml;; *) name=requirements.txt;; esac; \
        cp "/files/${REQUIREMENTS}" "/out/$name"; \
    elif [ "${REQUIREMENTS}" = requirements.txt ]; then touch /out/requirements.txt; \
    else echo "REQUIREMENTS: '${REQUIREMENTS}' is not in the bot directory; allowed: a path in it" >&2; exit 1; fi

# --- Python packages: Pipecat's of the transports, then the bot's own beside them.
FROM tools AS packages
ARG TRANSPORTS="daily webrtc websocket"
ARG VAD=onnx
ARG TORCH_INDEX=
ARG MEDIA=audio
ARG SOURCE_DATE_EPOCH=0
COPY images/overrides.txt images/requirements-bot-*.txt images/packages.sh images/slim.py images/finish.py \
    bot/versions.py /build/
COPY --from=bot-requirements /out/ /build/bot/
RUN --mount=type=secret,id=uv.toml,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    VAD=${VAD} TORCH_INDEX=${TORCH_INDEX} sh /build/packages.sh bot ${TRANSPORTS} \
    && mkdir -p /out/opt && mv /opt/venv /out/opt/ \
    && python3 /build/slim.py ${MEDIA} /out \
    && python3 /build/finish.py --strip --epoch ${SOURCE_DATE_EPOCH} /out

# --- Our runtime, and the bot.
FROM ${BASE} AS runtime
ARG SOURCE_DATE_EPOCH=0
COPY images/finish.py /build/
COPY bot /out/opt/switchboard/bot
RUN rm -rf /out/opt/switchboard/bot/agents \
    && PYTHONHASHSEED=0 python3 /build/finish.py --epoch ${SOURCE_DATE_EPOCH} /out

FROM ${BASE} AS app
ARG SOURCE_DATE_EPOCH=0
COPY images/app.py images/finish.py /build/
COPY --from=bot-files / /out/app/
RUN python3 /build/app.py /out/app \
    && PYTHONHASHSEED=0 python3 /build/finish.py --epoch ${SOURCE_DATE_EPOCH} /out

# --- All but the bot.
FROM scratch AS assembled
COPY --from=base /out/ /
COPY --from=packages /out/ /
COPY --from=runtime /out/ /
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp LANG=C.UTF-8 PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    # httpx looks up the authority that it needs there; else it reads all of certifi's for every client.
    SSL_CERT_DIR=/etc/ssl/certs \
    # ONNX runtime, from 1.29 on, sends what it runs to its makers if it is not told otherwise.
    ORT_DISABLE_TELEMETRY=1 \
    SWITCHBOARD_HEALTH_FILE=/dev/shm/switchboard-health
WORKDIR /app

# --- Models. There is no image without a voice activity detector that loads with no network.
FROM assembled AS models
ARG VAD=onnx
ARG MODELS=/opt/models
ARG SOURCE_DATE_EPOCH=0
COPY images/check.py images/models.sh images/finish.py /build/
COPY --from=silero-vad / /build/silero-vad/
RUN sh /build/models.sh ${VAD} ${MODELS} \
    && PYTHONHASHSEED=0 python -P /build/finish.py --epoch ${SOURCE_DATE_EPOCH} /out

# --- The bill of materials: docker build --target sbom --output DIRECTORY …
FROM tools AS listed
COPY images/requirements-sbom.txt images/sbom.py /build/
RUN --mount=type=secret,id=uv.toml,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    uv venv --quiet --python "$(command -v python3)" /build/sbom \
    && uv pip install --quiet --python /build/sbom/bin/python --require-hashes -r /build/requirements-sbom.txt
COPY --from=base /out/var/lib/dpkg/status /build/status
COPY --from=packages /out/opt/venv /opt/venv
ARG VERSION=unknown
RUN PATH=/build/sbom/bin:$PATH python /build/sbom.py /opt/venv/bin/python /build/status switchboard-bot ${VERSION} \
    > /build/bom.json

FROM scratch AS sbom
COPY --from=listed /build/bom.json /bot.cdx.json

# --- The image.
FROM assembled
COPY --from=models /out/ /
COPY --from=app /out/ /
ARG BOT_FILE=bot.py
ARG MODELS=/opt/models
ARG REVISION=unknown
ARG VERSION=unknown
ENV SWITCHBOARD_BOT_FILE=/app/${BOT_FILE} TORCH_HOME=${MODELS}/torch HF_HOME=${MODELS}/huggingface \
    NLTK_DATA=${MODELS}/nltk_data
LABEL org.opencontainers.image.title="Switchboard bot" \
    # Its bot reads variables from a file, and so nobody who inspects its container sees them.
    switchboard.reads-variables-file=true \
    org.opencontainers.image.revision=${REVISION} \
    org.opencontainers.image.version=${VERSION}
USER 10001:10001
# Only where it is started as Pipecat Cloud starts an image (docs/images.md); a machine opens no port.
EXPOSE 8080
# The control thread of `python -m bot` touches the file every 5 s while it can. `find` and not Python: a health
# command runs beside a conversation.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=2 \
    CMD ["/bin/sh", "-c", "test -n \"$(find \"$SWITCHBOARD_HEALTH_FILE\" -newermt '20 seconds ago')\""]
# It handles SIGTERM itself as PID 1. -P: `bot` is our package, whatever lies in /app.
ENTRYPOINT ["/opt/venv/bin/python", "-P", "-m", "bot"]
