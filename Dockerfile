# The gateway and the orchestrator. The sandbox's image has a Dockerfile of its own.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS base
# Volumes take their first content, owners and modes from here; the gateway runs as 10001.
RUN install -d -m 0711 /run/htagweb/sandboxes \
 && install -d -m 0710 -g 10001 /run/htagweb/ctl \
 && install -d -m 0700 /run/htagweb/admin
ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/opt/htagweb PATH=/opt/venv/bin:$PATH
WORKDIR /opt/htagweb

FROM ${BASE_IMAGE} AS pip
RUN python3 -m venv /pip && python3 -m venv --without-pip /opt/venv
# Empty settings are ignored by pip, so it looks into the wheelhouse and into the usual index.
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ENV PIP_FIND_LINKS=/wheelhouse PIP_DISABLE_PIP_VERSION_CHECK=1

FROM pip AS gateway-libraries
COPY gateway/requirements.txt /lock.txt
RUN --mount=type=bind,source=wheelhouse,target=/wheelhouse --mount=type=secret,id=ca \
    PIP_CERT="$(find /run/secrets/ca -size +0 2>/dev/null)" \
    /pip/bin/pip --python /opt/venv/bin/python install -q --no-deps --require-hashes -r /lock.txt

FROM pip AS orchestrator-libraries
COPY orchestrator/requirements.txt /lock.txt
RUN --mount=type=bind,source=wheelhouse,target=/wheelhouse --mount=type=secret,id=ca \
    PIP_CERT="$(find /run/secrets/ca -size +0 2>/dev/null)" \
    /pip/bin/pip --python /opt/venv/bin/python install -q --no-deps --require-hashes -r /lock.txt

FROM base AS gateway
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/htagweb
COPY --from=gateway-libraries /opt/venv /opt/venv
COPY orchestrator/htagweb_orchestrator htagweb_orchestrator
COPY gateway/htagweb_gateway htagweb_gateway
RUN python -m compileall -q /opt/htagweb
USER 10001:10001
EXPOSE 8000 9464
CMD ["python", "-m", "htagweb_gateway"]

FROM base AS orchestrator
RUN install -d -m 0700 /var/lib/htagweb
COPY --from=orchestrator-libraries /opt/venv /opt/venv
COPY orchestrator/htagweb_orchestrator htagweb_orchestrator
COPY htagweb htagweb
RUN python -m compileall -q /opt/htagweb \
 && printf '#!/opt/venv/bin/python\nfrom htagweb.cli import main\n\nmain()\n' >/opt/venv/bin/htagweb \
 && chmod 755 /opt/venv/bin/htagweb
CMD ["python", "-m", "htagweb_orchestrator"]
