# `lightbsr` in a container, on the CPU or on an NVIDIA GPU:
#
#   docker build -t lightbsr .
#   docker build -t lightbsr-cuda --build-arg JAX=jax[cuda13] .
#   docker run --rm -v "$PWD:/pictures" lightbsr upscale photo.jpg -o large.png
#   docker run --rm --gpus all -v "$PWD:/pictures" lightbsr-cuda upscale photo.jpg -o x.png
#
# CUDA's libraries come with JAX; the host needs NVIDIA's driver and container toolkit.
# What is compiled is kept in /cache: give it a volume (-v lightbsr:/cache).

FROM python:3.12-slim

ARG JAX=jax
ENV PIP_NO_CACHE_DIR=1 XDG_CACHE_HOME=/cache

COPY . /source
RUN pip install "$JAX" "/source[explain]" && rm -r /source && mkdir -m 777 /cache

WORKDIR /pictures
ENTRYPOINT ["lightbsr"]
CMD ["--help"]
