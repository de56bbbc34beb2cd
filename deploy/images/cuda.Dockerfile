# Sluice for NVIDIA GPUs (the driver is the host's, through the NVIDIA container toolkit):
#   docker build -f deploy/images/cuda.Dockerfile -t sluice:cuda .
#   docker run --rm --read-only --gpus all -p 8000:8000 -p 8001:8001 -v DIR:/model:ro sluice:cuda serve /model
# The three images of NVIDIA must be of one version. The compiler is Debian's, as everywhere else.
ARG BASE=docker.io/library/debian:bookworm-slim
ARG CUDA=13.0.2
ARG CUDA_DEVEL=docker.io/nvidia/cuda:${CUDA}-devel-ubuntu24.04
ARG CUDA_RUNTIME=docker.io/nvidia/cuda:${CUDA}-runtime-ubuntu24.04
ARG CUDA_BASE=docker.io/nvidia/cuda:${CUDA}-base-ubuntu24.04

FROM ${CUDA_DEVEL} AS toolkit
FROM ${CUDA_RUNTIME} AS libraries
# Whatever folder this toolkit keeps it in.
RUN mkdir /cublas && cp -L /usr/local/cuda/lib64/libcublasLt.so.[0-9][0-9] /cublas/

FROM ${BASE} AS build
# A compiler cache that is mounted at /ccache is of use if it was filled by sources in the same place.
ARG SOURCE=/src/sluice
WORKDIR ${SOURCE}
COPY deploy/install.sh deploy/packages.txt deploy/
RUN deploy/install.sh
COPY --from=toolkit /usr/local/cuda /usr/local/cuda
COPY . .
ENV LANG=C.UTF-8 CCACHE_DIR=/ccache PATH=/usr/local/cuda/bin:${PATH}
RUN cmake --preset cuda -DSLUICE_TESTS=OFF \
 && cmake --build --preset cuda --target sluice \
 && for part in daemon cuda bundle demo; do \
      cmake --install build/cuda --prefix /tree --strip --component $part; \
    done

# Of NVIDIA's libraries it needs this one alone; the runtime is linked in.
FROM ${CUDA_BASE}
COPY --from=libraries /cublas /usr/local/cuda/lib64
COPY --from=build /tree /usr/local
ENV SLUICE_SERVER_HOST=0.0.0.0 \
    SLUICE_DEVICE_LIBRARIES=/usr/local/cuda/lib64 \
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
