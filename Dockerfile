# opkit for GPU clusters.
#
#   docker build -t opkit .
#   docker run --rm --gpus all -v "$PWD":/work -v "$PWD/data":/data opkit train --model fno --pde darcy
#
# BASE_IMAGE may be any image with Python >= 3.11 and apt, such as a vendor's PyTorch: a torch that it has is kept.
# Runs as any user (--user "$(id -u)"), and with a read-only root if /tmp and the two folders above can be written to.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
# Dependencies in a layer of their own, which a change of the code leaves as it is.
RUN python3 -m venv --system-site-packages /opt/opkit \
 && if python3 -c 'import torch' 2> /dev/null; then sed -i '/^torch==/d; /^numpy==/d; /^triton==/d' constraints.txt; fi \
 && python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print("\n".join(p["dependencies"] + p["optional-dependencies"]["tensorboard"] + p["optional-dependencies"]["dask"]))' \
    > requirements.txt \
 && /opt/opkit/bin/python -m pip install -c constraints.txt -r requirements.txt hatchling
COPY configs configs
COPY opkit opkit
RUN /opt/opkit/bin/python -m pip install --no-deps --no-build-isolation . \
 && /opt/opkit/bin/python -m pip uninstall -y hatchling

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="opkit" \
      org.opencontainers.image.description="Neural operators that stand in for slow simulations" \
      org.opencontainers.image.licenses="MIT"
# torch.compile wants a compiler, on GPUs too.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ python3-dev \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/opkit /opt/opkit
# Everything that is written goes to /data, to the working directory, or below /tmp.
ENV PATH=/opt/opkit/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OPKIT_DATA=/data
RUN mkdir -p /data /work && chmod 1777 /data /work
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["opkit"]
CMD ["--help"]
