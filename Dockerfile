# One image for both services: docker build -t syncline .
FROM rust:1.95-slim-trixie AS build
# The C compiler is for SQLite, zstd and the cryptography.
RUN if ! command -v cc >/dev/null; then apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; fi
WORKDIR /src
ENV CARGO_TERM_COLOR=never
# The time of the commit, for what the image is made of: --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
ARG SOURCE_DATE_EPOCH=0
COPY . .
# Dependencies and what was compiled of them stay in the builder between builds.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    deploy/release.sh '' /out

FROM debian:trixie-slim
LABEL org.opencontainers.image.title="Syncline" \
      org.opencontainers.image.description="Keeps records in step between systems of record through sealed shared queues" \
      org.opencontainers.image.licenses="Apache-2.0"
# Authorities for brokers and databases with public certificates.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/syncline /usr/local/bin/syncline
# What the binary is made of, where scanners of images look for it.
COPY --from=build /out/syncline.cdx.json /usr/share/sbom/syncline.cdx.json
# Volumes mounted here belong to the user from the start.
RUN groupadd --gid 10001 syncline && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin syncline \
    && install -d -o 10001 -g 10001 -m 755 /etc/syncline /var/lib/syncline \
       /run/syncline/broker /run/syncline/servicedesk /run/syncline/crm /run/syncline/producer /run/syncline/consumer /run/syncline/operator
USER 10001:10001
WORKDIR /var/lib/syncline
ENV SYNCLINE_CONFIG=/etc/syncline/syncline.toml SYNCLINE_LOG_FORMAT=json
EXPOSE 9187 9188
STOPSIGNAL SIGTERM
# Not ready is not broken: a paused service waits for another one, and is told by its reasons.
HEALTHCHECK --interval=5s --timeout=6s --start-period=30s --retries=3 CMD ["syncline", "health"]
ENTRYPOINT ["syncline"]
CMD ["--help"]
