# `lightbsr` in a container, on the CPU:
#
#   docker build -t lightbsr .
#   docker run --rm -p 127.0.0.1:7860:7860 lightbsr
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/pictures" lightbsr upscale photo.jpg -o large.png
#
# The second command opens the page at http://localhost:7860.
# What is compiled is kept in /cache: give it a volume (-v lightbsr:/cache).
# No image has been built from this file yet.

FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 XDG_CACHE_HOME=/cache

COPY . /source
RUN pip install "jax" "/source[explain,heic,raw]" \
    && rm -r /source && mkdir -m 777 /cache

WORKDIR /pictures
EXPOSE 7860
ENTRYPOINT ["lightbsr"]
CMD ["serve", "--host=0.0.0.0"]
