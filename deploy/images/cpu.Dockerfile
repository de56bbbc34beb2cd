# Sluice for CPUs. From the root of the repository:
#   docker build -f deploy/images/cpu.Dockerfile -t sluice:cpu .
#   docker run --rm --read-only -p 8000:8000 -p 8001:8001 sluice:cpu                          the demo model
#   docker run --rm --read-only -p 8000:8000 -p 8001:8001 -v DIR:/model:ro sluice:cpu serve /model
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS build
# A compiler cache that is mounted at /ccache is of use if it was filled by sources in the same place.
ARG SOURCE=/src/sluice
WORKDIR ${SOURCE}
COPY deploy/install.sh deploy/packages.txt deploy/
RUN deploy/install.sh
COPY . .
ENV LANG=C.UTF-8 CCACHE_DIR=/ccache
RUN cmake --preset release -DSLUICE_TESTS=OFF -DSLUICE_CUDA=OFF \
 && cmake --build --preset release --target sluice \
 && for part in daemon bundle demo; do \
      cmake --install build/release --prefix /tree --strip --component $part; \
    done

FROM ${BASE}
COPY --from=build /tree /usr/local
# Inside of a container everybody may ask; who reaches it is up to the network in front.
ENV SLUICE_SERVER_HOST=0.0.0.0 \
    SLUICE_MODEL_PATH=/usr/local/share/sluice/demo-model
USER 10001:10001
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=10m --retries=3 CMD ["sluice", "health"]
ENTRYPOINT ["sluice"]
CMD ["serve"]
LABEL org.opencontainers.image.title="Sluice" \
      org.opencontainers.image.description="Server for large language models" \
      org.opencontainers.image.licenses="Apache-2.0"
