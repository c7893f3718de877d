# Caddy and coturn as their projects' images have them: for tests, where no registry answers.
ARG BASE
FROM ${BASE} AS packages
RUN apt-get update \
    && apt-get install --yes --no-install-recommends caddy coturn libcap2-bin \
    && setcap cap_net_bind_service=+ep /usr/bin/caddy \
    && setcap cap_net_bind_service=+ep /usr/bin/turnserver

FROM packages AS caddy
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data

FROM packages AS coturn
USER nobody:nogroup
