#!/bin/sh
# Starts OpenClaw's gateway with the settings of this guest; see launch.mjs.
set -eu
export OPENCLAW_NO_RESPAWN=1 OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED=1
export OPENCLAW_DISABLE_BONJOUR=1 OPENCLAW_NO_AUTO_UPDATE=1 OPENCLAW_EXEC_SHELL_SNAPSHOT=0
exec /usr/local/bin/node /opt/openclaw/launch.mjs gateway
