# The image of the orchestrator, the app behind the proxy.
#   docker build -f Dockerfile.app -t orchestrator .
ARG RUST_IMAGE=rust:1.95-bookworm

FROM ${RUST_IMAGE} AS build
WORKDIR /build

# The dependencies in a layer of their own: it is built again only when a manifest or the lock file changes, because
# the sources are empty until then.
COPY Cargo.toml Cargo.lock ./
COPY .cargo/ .cargo/
COPY proxy/Cargo.toml proxy/
COPY orchestrator/Cargo.toml orchestrator/
COPY dev-idp/Cargo.toml dev-idp/
COPY log-lines/Cargo.toml log-lines/
COPY bench/Cargo.toml bench/
COPY e2e/Cargo.toml e2e/
RUN for crate in proxy orchestrator dev-idp log-lines bench e2e; do \
        mkdir -p $crate/src \
        && : >$crate/src/lib.rs \
        && echo 'fn main() {}' >$crate/src/main.rs; \
    done \
    && cargo build --release --locked -p orchestrator

# The copied files may be older than the empty ones were, and cargo goes by age.
COPY log-lines/ log-lines/
COPY orchestrator/ orchestrator/
COPY deploy/image-root /usr/local/bin/
RUN find log-lines orchestrator -name '*.rs' -exec touch {} + \
    && cargo build --release --locked -p orchestrator \
    && image-root target/release/orchestrator /image orchestrator 10002 \
    && mkdir -p /owned/data

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="orchestrator" \
      org.opencontainers.image.description="The Flux orchestrator: many Flux clusters in one place, behind a proxy that signs people in" \
      org.opencontainers.image.source="https://github.com/sidegate/sidegate" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image /
# Where the database is kept: a volume that is mounted here gets this owner.
COPY --from=build --chown=10002:10002 /owned /
ENV PATH=/usr/local/bin
# By number, so that Kubernetes can see that it is not root.
USER 10002:10002
EXPOSE 8081
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["/usr/local/bin/orchestrator", "health"]
ENTRYPOINT ["/usr/local/bin/orchestrator"]
