# The image of sidecar, control plane and injected init container: the binary, nft, their libraries, and nothing else.
# `docker build -t fusewire:latest .`; for another platform, `docker buildx build --platform linux/arm64 ...`.
FROM rust:1-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake nftables && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN cargo xtask image --smoke --root /image

FROM scratch
COPY --from=build /image /
USER 65532
ENTRYPOINT ["/usr/bin/fusewire"]
