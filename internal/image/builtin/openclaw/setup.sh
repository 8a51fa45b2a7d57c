#!/bin/sh
# Gives the assistant's user, the argument, its places on the data disk. Runs as root, once a
# boot.
set -eu
user="${1:-openclaw}"
owner="$(id -u "$user"):$(id -g "$user")"
for dir in /data/home /data/home/workspace /data/openclaw; do
    mkdir -p "$dir"
    chown -h "$owner" "$dir"
    chmod 0700 "$dir"
done
