#!/bin/sh
# The openclaw command with the state of this guest's assistant.
set -eu
export HOME=/data/home OPENCLAW_STATE_DIR=/data/openclaw OPENCLAW_NO_AUTO_UPDATE=1
export OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED=1
exec /usr/local/bin/node /opt/openclaw/launch.mjs "$@"
