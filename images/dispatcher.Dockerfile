# The image of the dispatcher: `python -m dispatcher` and the voice page. docs/images.md tells what is inside.
#
#   docker build -f images/dispatcher.Dockerfile -t dispatcher .

# Debian 12 or later with Python 3.11 or later and pip, such as python:3.13-slim-trixie@sha256:…
ARG BASE=python:3.13-slim-trixie

# --- The base as one layer, without what is never run; the same layer as the bot image's.
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

# --- The voice page, by Node from PyPI: the same base for all, and the same hashes as everywhere.
FROM ${BASE} AS page
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    PATH=/build/node/bin:$PATH PYTHONPATH=/build/node NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
COPY requirements-node.txt /build/
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python3 -m pip install --quiet --no-cache-dir --target /build/node --require-hashes -r /build/requirements-node.txt
WORKDIR /web
COPY dispatcher/web/package.json dispatcher/web/package-lock.json ./
RUN --mount=type=secret,id=npmrc,target=/root/.npmrc --mount=type=cache,target=/root/.npm \
    npm ci --no-audit --no-fund --loglevel=error
COPY dispatcher/web ./
RUN npm run build --silent

# --- Python packages.
FROM tools AS packages
ARG SOURCE_DATE_EPOCH=0
# dispatcher, or dispatcher-aws for placements at ECS, dispatcher-gcp for those at Google Cloud.
ARG PACKAGES=dispatcher
COPY images/requirements-dispatcher*.txt images/packages.sh images/sdk.py images/finish.py /build/
RUN --mount=type=secret,id=uv.toml,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    sh /build/packages.sh ${PACKAGES} \
    && python3 /build/sdk.py /opt/venv \
    && mkdir -p /out/opt && mv /opt/venv /out/opt/ \
    && python3 /build/finish.py --strip --epoch ${SOURCE_DATE_EPOCH} /out

# --- The service, and of the bots only the modules that it imports.
FROM ${BASE} AS service
ARG SOURCE_DATE_EPOCH=0
COPY images/finish.py /build/
COPY bot/__init__.py bot/confinement.py bot/leader.py bot/output.py bot/protocol.py bot/versions.py /out/opt/switchboard/bot/
COPY dispatcher /out/opt/switchboard/dispatcher
# Its entry points: importlib.metadata finds them beside the packages.
COPY switchboard.dist-info /out/opt/switchboard/switchboard.dist-info
RUN rm -rf /out/opt/switchboard/dispatcher/web
COPY --from=page /web/dist /out/opt/switchboard/dispatcher/web/dist
RUN PYTHONHASHSEED=0 python3 /build/finish.py --epoch ${SOURCE_DATE_EPOCH} /out

# --- The bill of materials: docker build --target sbom --output DIRECTORY …
FROM tools AS listed
COPY images/requirements-sbom.txt images/sbom.py dispatcher/web/package-lock.json /build/
RUN --mount=type=secret,id=uv.toml,target=/etc/uv/uv.toml --mount=type=cache,target=/root/.cache/uv \
    uv venv --quiet --python "$(command -v python3)" /build/sbom \
    && uv pip install --quiet --python /build/sbom/bin/python --require-hashes -r /build/requirements-sbom.txt
COPY --from=base /out/var/lib/dpkg/status /build/status
COPY --from=packages /out/opt/venv /opt/venv
ARG VERSION=unknown
RUN PATH=/build/sbom/bin:$PATH python /build/sbom.py /opt/venv/bin/python /build/status switchboard-dispatcher ${VERSION} \
    /build/package-lock.json > /build/bom.json

FROM scratch AS sbom
COPY --from=listed /build/bom.json /dispatcher.cdx.json

# --- The image.
FROM scratch
COPY --from=base /out/ /
COPY --from=packages /out/ /
COPY --from=service /out/ /
ARG REVISION=unknown
ARG VERSION=unknown
# Reachable from outside its container, it starts only with keys.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    SWITCHBOARD_DATA_DIR=/data SWITCHBOARD_HOST=0.0.0.0 SWITCHBOARD_PORT=7860
LABEL org.opencontainers.image.title="Switchboard dispatcher" \
    org.opencontainers.image.revision=${REVISION} \
    org.opencontainers.image.version=${VERSION}
# 0:0 where the data directory is a disk that belongs to root at first: dispatcher/unprivileged.py.
ARG RUN_AS=10001:10001
USER ${RUN_AS}
WORKDIR /data
EXPOSE 7860
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=2 \
    CMD ["/opt/venv/bin/python", "-P", "-c", "import http.client as h, os, sys; c = h.HTTPConnection('127.0.0.1', int(os.environ['SWITCHBOARD_PORT']), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["/opt/venv/bin/python", "-P", "-m", "dispatcher"]
