# syntax=docker/dockerfile:1

# Where the Go toolchain comes from, and what the programs stand on. All are arguments, so that a build can
# take them from anywhere: GO_IMAGE needs Go, a shell and curl; RUNTIME_IMAGE needs nothing (scratch), or for a
# key API behind a public certificate the usual CA certificates, as a distroless "static" has them. ENVOY_IMAGE is
# compose's Envoy.
ARG GO_IMAGE=golang:1.26.8-bookworm
ARG RUNTIME_IMAGE=scratch
ARG ENVOY_IMAGE=envoyproxy/envoy:v1.40.0

# The same flags as `make build`: static, without paths, times and build ids, so that two builds are one.
FROM ${GO_IMAGE} AS build
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOMODCACHE=/cache/mod GOCACHE=/cache/build
WORKDIR /src
COPY go.mod go.sum ./
# A module proxy of one's own; unset, Go's default.
ARG GOPROXY
RUN --mount=type=cache,target=/cache go mod download
COPY cmd cmd
COPY pkg pkg
COPY envoy/echo envoy/echo
RUN --mount=type=cache,target=/cache \
    go build -buildvcs=false -trimpath -ldflags="-s -w -buildid=" -o /out/bin/ \
    ./cmd/authzd ./cmd/keyd ./cmd/keyctl ./envoy/echo
# A fresh volume takes its owner from the folder in the image: sockets, the database, tokens.
RUN mkdir -p /out/run/phantom /out/var/lib/phantom /out/etc/phantom/sidecar /out/etc/phantom/operator \
    && chown 65532:65532 /out/run/phantom /out/var/lib/phantom /out/etc/phantom/sidecar /out/etc/phantom/operator

# The next three are compose's, and not for production. They hold its files, which compose could not mount: user 65532
# cannot read files of a clone that was made with umask 077. --chmod makes the files readable.

# What makes tokens and demo keys: keyctl beside a shell and curl.
FROM build AS seed
RUN cp /out/bin/keyctl /usr/local/bin/ \
    && mkdir -p /etc/phantom/sidecar /etc/phantom/operator /demo \
    && chown 65532:65532 /etc/phantom/sidecar /etc/phantom/operator /demo
COPY --chmod=0444 envoy/compose/tokens.sh envoy/compose/seed.sh /etc/phantom/
USER 65532:65532
CMD ["keyctl", "-h"]

# Envoy with envoy.yaml as it is. authzd's and keyd's sockets are on a volume each; the links are where envoy.yaml expects
# both.
FROM ${ENVOY_IMAGE} AS envoy
COPY --chmod=0444 envoy/envoy.yaml /etc/envoy/envoy.yaml
RUN mkdir -p /run/phantom \
    && ln -s ../authzd/authz.sock ../keyd/owners.sock /run/phantom/
USER 65532:65532
ENTRYPOINT ["envoy"]
CMD ["-c", "/etc/envoy/envoy.yaml"]

FROM ${RUNTIME_IMAGE} AS programs
ENV PATH=/bin
COPY --from=build /out/ /
USER 65532:65532

FROM programs AS authzd
ENTRYPOINT ["/bin/authzd"]
CMD ["-config", "/etc/phantom/authzd.yaml"]
HEALTHCHECK --interval=5s --timeout=3s --start-period=15s \
    CMD ["/bin/authzd", "-config", "/etc/phantom/authzd.yaml", "-healthcheck"]

FROM programs AS keyd
ENTRYPOINT ["/bin/keyd"]
CMD ["-config", "/etc/phantom/keyd.yaml"]
HEALTHCHECK --interval=5s --timeout=3s --start-period=15s \
    CMD ["/bin/keyd", "-config", "/etc/phantom/keyd.yaml", "-healthcheck"]

# All programs, each started by its name, with compose's configuration.
FROM programs AS compose
COPY --chmod=0444 envoy/config/authzd.yaml envoy/config/keyd.yaml /etc/phantom/

# One image with all programs, each started by its name: what Kubernetes runs.
FROM programs AS all
CMD ["authzd", "-config", "/etc/phantom/authzd.yaml"]
