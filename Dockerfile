# syntax=docker/dockerfile:1

# The base images are arguments, so that a build can use other registries. GO_IMAGE needs Go, a shell and curl. RUNTIME_IMAGE can
# be empty (scratch); for a key API with a public certificate it needs CA certificates, as a distroless "static" image has.
# ENVOY_IMAGE is Envoy in compose and with the module. For the module GO_IMAGE needs gcc, and a C library whose symbols
# ENVOY_IMAGE has: one built in Debian 12 needs glibc 2.34, and Envoy's images have 2.35 and, distroless, 2.36.
ARG GO_IMAGE=golang:1.26.8-bookworm
ARG RUNTIME_IMAGE=scratch
ARG ENVOY_IMAGE=envoyproxy/envoy:v1.40.0

# The same flags as `make build`: static, without paths, times and build IDs, so that builds are reproducible.
FROM ${GO_IMAGE} AS build
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOMODCACHE=/cache/mod GOCACHE=/cache/build
WORKDIR /src
COPY go.mod go.sum ./
# The module proxy; Go's default if unset.
ARG GOPROXY
RUN --mount=type=cache,target=/cache go mod download
COPY cmd cmd
COPY pkg pkg
COPY envoy/echo envoy/echo
RUN --mount=type=cache,target=/cache \
    go build -buildvcs=false -trimpath -ldflags="-s -w -buildid=" -o /out/bin/ \
    ./cmd/authzd ./cmd/keyd ./cmd/keyctl ./envoy/echo
# A new volume gets its owner from the directory in the image: sockets, the database, tokens.
RUN mkdir -p /out/run/phantom /out/var/lib/phantom /out/etc/phantom/sidecar /out/etc/phantom/operator \
    && chown 65532:65532 /out/run/phantom /out/var/lib/phantom /out/etc/phantom/sidecar /out/etc/phantom/operator

# The Envoy module, with the flags of `make module`, and the variant of envoy.yaml for it in compose.
FROM build AS module-build
COPY envoy envoy
RUN --mount=type=cache,target=/cache \
    CGO_ENABLED=1 go build -buildvcs=false -trimpath -buildmode=c-shared \
    -ldflags="-s -w -buildid=" -o /module/libphantom_authz.so ./cmd/module \
    && go run ./envoy/render envoy/envoy.yaml envoy/config/module.yaml >/module/envoy.yaml

# The library alone: docker build --target module --output . .
FROM scratch AS module
COPY --from=module-build --chmod=0555 /module/libphantom_authz.so /

# Envoy's image with the module, for any configuration.
FROM ${ENVOY_IMAGE} AS envoy-module
COPY --from=module --chmod=0555 /libphantom_authz.so /opt/phantom/
ENV ENVOY_DYNAMIC_MODULES_SEARCH_PATH=/opt/phantom

# The images seed, envoy, envoy-module-compose and compose are for compose, not for production. They contain its files, because user 65532 cannot read
# mounted files of a clone made with umask 077. --chmod makes the files readable.

# seed makes tokens and demo keys: keyctl, a shell and curl.
FROM build AS seed
RUN cp /out/bin/keyctl /usr/local/bin/ \
    && mkdir -p /etc/phantom/sidecar /etc/phantom/operator /demo \
    && chown 65532:65532 /etc/phantom/sidecar /etc/phantom/operator /demo
COPY --chmod=0444 envoy/compose/tokens.sh envoy/compose/seed.sh /etc/phantom/
USER 65532:65532
CMD ["keyctl", "-h"]

# Envoy with envoy.yaml. The sockets of authzd and keyd are on separate volumes; the links have the paths of envoy.yaml.
FROM ${ENVOY_IMAGE} AS envoy
COPY --chmod=0444 envoy/envoy.yaml /etc/envoy/envoy.yaml
RUN mkdir -p /run/phantom \
    && ln -s ../authzd/authz.sock ../keyd/owners.sock /run/phantom/
USER 65532:65532
ENTRYPOINT ["envoy"]
CMD ["-c", "/etc/envoy/envoy.yaml"]

# The same with the module: keyd's socket for owners is on a volume.
FROM envoy-module AS envoy-module-compose
COPY --from=module-build --chmod=0444 /module/envoy.yaml /etc/envoy/envoy.yaml
RUN mkdir -p /run/phantom && ln -s ../keyd/owners.sock /run/phantom/
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

# All programs, started by name, with the configuration of compose.
FROM programs AS compose
COPY --chmod=0444 envoy/config/authzd.yaml envoy/config/keyd.yaml /etc/phantom/

# All programs, started by name, for Kubernetes.
FROM programs AS all
CMD ["authzd", "-config", "/etc/phantom/authzd.yaml"]
