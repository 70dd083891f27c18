# Image of the tools. CPU:  docker build -t dance_tf .
# GPU (the CUDA libraries come as Python packages, the driver from the host):
#   docker build -t dance_tf:gpu --build-arg TENSORFLOW='tensorflow[and-cuda]' .
# Ray as well:  --build-arg EXTRAS='[ray]'
ARG BASE=python:3.11-slim
FROM ${BASE}

ARG TENSORFLOW=tensorflow
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

WORKDIR /src
COPY requirements.txt ./
RUN pip install -r requirements.txt "${TENSORFLOW}>=2.20,<2.22"
COPY pyproject.toml README.md LICENSE ./
COPY dance_tf dance_tf
COPY tools tools
COPY saved_models saved_models
RUN pip install ".${EXTRAS}" && useradd --home-dir /dance --create-home --uid 1000 dance

USER dance
WORKDIR /dance
ENTRYPOINT ["dance-tf"]
CMD ["--help"]
