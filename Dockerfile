# The static program and the certificates of public authorities, for rediss://. Nothing else, no shell.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION= COMMIT=
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION -X main.commit=$COMMIT" -o /redbouncer ./cmd/redbouncer

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /redbouncer /usr/bin/redbouncer
# Inside a container nobody reaches 127.0.0.1. The environment goes before a configuration file, so a file with
# another listen needs -e REDBOUNCER_LISTEN= beside it.
ENV REDBOUNCER_LISTEN=:6380 REDBOUNCER_HTTP_LISTEN=:9121
EXPOSE 6380 9121
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
ENTRYPOINT ["/usr/bin/redbouncer"]
CMD ["serve"]
