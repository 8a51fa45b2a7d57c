#!/bin/sh
# Gives the assistant's user its places on the data disk. Runs as root, once a boot.
set -eu
install -d -o openclaw -g openclaw -m 0700 /data/home /data/home/workspace /data/openclaw
