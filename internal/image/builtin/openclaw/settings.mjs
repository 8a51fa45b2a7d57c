// Makes OpenClaw's configuration from what mvm gives the guest: variables of the
// pool's env and secrets. What the user or the assistant has set otherwise stays.

import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { randomBytes } from "node:crypto";
import path from "node:path";

export const port = 18789;

// Plugins that are of no use in a VM without screen, camera or microphone; leaving
// them out starts the gateway sooner. A user's own plugins.deny replaces the list.
const idlePlugins = ["browser", "canvas", "cua-computer", "geolocation", "linux-node", "talk-voice"];

const isObject = (v) => v !== null && typeof v === "object" && !Array.isArray(v);

// merge returns base with what over sets, table by table.
export function merge(base, over) {
  const out = { ...base };
  for (const [key, value] of Object.entries(over)) {
    if (key === "__proto__") continue;
    out[key] = isObject(value) && isObject(out[key]) ? merge(out[key], value) : value;
  }
  return out;
}

// defaults hold unless the configuration says otherwise. Without a heartbeat ("0m")
// reminders end as skipped, so there is one a day. Nothing of OpenClaw's own is scheduled:
// every tenant's would be due at the same time.
function defaults() {
  return {
    agents: { defaults: { workspace: "/data/home/workspace", heartbeat: { every: "24h" } } },
    plugins: { deny: idlePlugins, entries: { "memory-core": { config: { dreaming: { enabled: false } } } } },
    skills: { workshop: { autonomous: { mode: "propose" } } },
    update: { checkOnStart: false },
  };
}

// model chooses the model by what there is: a server of the user's own, a model by
// name, or the provider of a key.
function model(env, current) {
  if (env.OPENCLAW_MODEL_BASE_URL) {
    const id = env.OPENCLAW_MODEL || "default";
    const server = {
      baseUrl: env.OPENCLAW_MODEL_BASE_URL,
      apiKey: env.OPENCLAW_MODEL_KEY ? { source: "env", provider: "default", id: "OPENCLAW_MODEL_KEY" } : "none",
      api: env.OPENCLAW_MODEL_API || "openai-completions",
      models: [{ id, name: id, contextWindow: 128000, maxTokens: 4096 }],
    };
    return {
      models: { mode: "merge", providers: { mvm: server } },
      agents: { defaults: { model: { primary: `mvm/${id}` } } },
    };
  }
  const chosen = env.OPENCLAW_MODEL || (!current && env.ANTHROPIC_API_KEY && "anthropic/claude-opus-5");
  return chosen ? { agents: { defaults: { model: { primary: chosen } } } } : {};
}

// botToken refers to the secret, so that a rotated one is taken without a restart.
const botToken = { source: "env", provider: "default", id: "TELEGRAM_BOT_TOKEN" };

const isOurs = (token) => isObject(token) && token.source === botToken.source && token.id === botToken.id;

// channels turns on what there is a secret for. A token of the user's own stays.
function channels(env, present) {
  if (!env.TELEGRAM_BOT_TOKEN) return {};
  const telegram = { enabled: true };
  const own = present.channels?.telegram?.botToken;
  if (own === undefined || isOurs(own)) telegram.botToken = botToken;
  if (env.TELEGRAM_API_ROOT) telegram.apiRoot = env.TELEGRAM_API_ROOT;
  return { channels: { telegram } };
}

// withoutGone takes out of the present configuration what refers to a secret that is
// not there any more.
function withoutGone(env, present) {
  const telegram = present.channels?.telegram;
  if (env.TELEGRAM_BOT_TOKEN || !isOurs(telegram?.botToken)) return present;
  const { botToken: _, ...rest } = telegram;
  return { ...present, channels: { ...present.channels, telegram: { ...rest, enabled: false } } };
}

// trustedProxies are who may say for whom they ask: the tenant's gateways as they
// were when OpenClaw started. No guest can feign another's address.
function trustedProxies(env) {
  if (env.OPENCLAW_TRUSTED_PROXIES) {
    return env.OPENCLAW_TRUSTED_PROXIES.split(",").map((s) => s.trim()).filter(Boolean);
  }
  return readJSON("/etc/mvm-config/config.json").gateways ?? [];
}

// withoutOldDefaults takes out of the present configuration what earlier versions of this
// file put there as a default.
function withoutOldDefaults(present) {
  const every = present.agents?.defaults?.heartbeat?.every;
  if (every !== "0m") return present;
  const { every: _, ...heartbeat } = present.agents.defaults.heartbeat;
  return { ...present, agents: { ...present.agents, defaults: { ...present.agents.defaults, heartbeat } } };
}

// settings returns the whole configuration: defaults, the present one, mvm's own.
export function settings(env, present) {
  const current = present.agents?.defaults?.model;
  const gateway = {
    mode: "local",
    port,
    bind: "lan",
    auth: { mode: "token" },
    http: { endpoints: { chatCompletions: { enabled: true } } },
    // Served from the image: OpenClaw would otherwise copy its pages to the data disk.
    controlUi: { root: "/opt/openclaw/node_modules/openclaw/dist/control-ui" },
  };
  const proxies = trustedProxies(env);
  if (proxies.length > 0) gateway.trustedProxies = proxies;
  let all = merge(defaults(), withoutOldDefaults(withoutGone(env, present)));
  all = merge(all, { gateway });
  all = merge(all, model(env, current));
  all = merge(all, channels(env, present));
  if (env.OPENCLAW_CONFIG) all = merge(all, JSON.parse(env.OPENCLAW_CONFIG));
  return all;
}

function readJSON(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    if (error.code === "ENOENT") return {};
    throw new Error(`${file}: ${error.message}; mend or remove it`);
  }
}

function write(file, text) {
  writeFileSync(`${file}.next`, text, { mode: 0o600 });
  renameSync(`${file}.next`, file);
}

// token returns the gateway's token: the tenant's secret, else one that this guest
// makes once and keeps on its data disk.
function token(env, dir) {
  if (env.OPENCLAW_GATEWAY_TOKEN) return env.OPENCLAW_GATEWAY_TOKEN;
  const file = path.join(dir, "gateway-token");
  try {
    const kept = readFileSync(file, "utf8").trim();
    if (kept) return kept;
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
  const made = randomBytes(24).toString("base64url");
  write(file, made + "\n");
  return made;
}

// prepare writes the configuration and sets the environment for the gateway.
export function prepare(env) {
  const dir = env.OPENCLAW_STATE_DIR;
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  chmodSync(dir, 0o700);
  const file = path.join(dir, "openclaw.json");
  write(file, JSON.stringify(settings(env, readJSON(file)), null, 2) + "\n");
  env.OPENCLAW_GATEWAY_TOKEN = token(env, dir);
}
