# The static program and the certificates of public authorities, for rediss://. Nothing else, no shell.
#   docker build -t redbouncer .
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=v0.1.0 -t REPOSITORY:TAG --push .

# It is compiled on the machine that builds, for the one that runs it.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION= COMMIT= TARGETOS TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT" -o /redbouncer ./cmd/redbouncer

FROM scratch
ARG VERSION= COMMIT=
LABEL org.opencontainers.image.title="redbouncer" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /redbouncer /usr/bin/redbouncer
# Inside a container nobody reaches 127.0.0.1. The environment goes before a configuration file, so a file with
# another listen needs -e REDBOUNCER_LISTEN= beside it.
ENV REDBOUNCER_LISTEN=:6380 REDBOUNCER_HTTP_LISTEN=:9121
EXPOSE 6380 9121
# A number, so that Kubernetes can tell that it is not root. Nothing is written: docker run --read-only.
USER 65532:65532
# Whether the process serves. Whether Redis answers as well is for health --ready, which is nothing to restart for.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["/usr/bin/redbouncer", "health"]
ENTRYPOINT ["/usr/bin/redbouncer"]
CMD ["serve"]
