# Redis from Debian's package, for machines that reach no image registry. Takes the arguments of redis.
FROM debian:bookworm-slim
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/*
# As in the image of that name: other containers may come in without a password.
ENTRYPOINT ["redis-server", "--protected-mode", "no"]
