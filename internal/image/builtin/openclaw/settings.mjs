// Makes OpenClaw's configuration from what mvm gives the guest: variables of the
// pool's env and secrets. What the user or the assistant has set otherwise stays.

import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { randomBytes } from "node:crypto";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";

import { home } from "./place.mjs";

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

// channelsDir has a file for each of the gateway's channels that lead here (docs/chat.md).
const channelsDir = "/run/secrets/channels";

// hookRoot marks a webhook address as mvm's: OpenClaw wants one, and the gateway's proxy
// takes it. No request is ever sent there.
const hookRoot = "https://mvm.invalid";

// channelFiles are what the guest has of the channels that lead here.
export function channelFiles(dir = channelsDir) {
  let names;
  try {
    names = readdirSync(dir).filter((name) => name.endsWith(".json")).sort();
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
  return names.map((name) => readJSON(path.join(dir, name)));
}

// isOurs reports that mvm made the settings of Telegram, of this or an earlier version.
const isOurs = (telegram) =>
  telegram?.webhookUrl?.startsWith(hookRoot) || telegram?.botToken?.id === "TELEGRAM_BOT_TOKEN";

// withoutOldChannel takes out of the present configuration what mvm made of a channel, which
// may be gone. OpenClaw must not poll: a bot that sleeps receives nothing, and one that gets
// a message while it is being suspended hangs.
function withoutOldChannel(present) {
  if (!isOurs(present.channels?.telegram)) return present;
  const { botToken, apiRoot, webhookUrl, webhookSecret, webhookHost, webhookPort, webhookPath, dmPolicy, allowFrom, groupPolicy, groups, ...rest } =
    present.channels.telegram;
  return { ...present, channels: { ...present.channels, telegram: { ...rest, enabled: false } } };
}

// channels has OpenClaw take the messages that the gateway delivers, and answer through the
// gateway's proxy. The token is good for that proxy only.
function channels(dir) {
  const bots = channelFiles(dir).filter((c) => c.kind === "telegram" && c.api_root && c.token);
  if (bots.length > 1) console.error(`mvm: of ${bots.length} Telegram channels OpenClaw gets the first, ${bots[0].name}`);
  if (bots.length === 0) return {};
  const { token, api_root, secret, port: webhookPort, path: webhookPath, allow } = bots[0];
  const all = allow.includes("*");
  const senders = allow.filter((id) => !id.startsWith("-"));
  const groups = allow.filter((id) => id.startsWith("-") || all);
  const telegram = {
    enabled: true,
    botToken: token,
    apiRoot: api_root,
    webhookUrl: hookRoot + webhookPath,
    webhookSecret: secret,
    webhookHost: "0.0.0.0",
    webhookPort,
    webhookPath,
    dmPolicy: all ? "open" : "allowlist",
    allowFrom: senders,
    groupPolicy: all ? "open" : "allowlist",
  };
  if (groups.length > 0) telegram.groups = Object.fromEntries(groups.map((id) => [id, {}]));
  const owner = all ? [] : senders.slice(0, 1); // may make reminders and change settings
  return { channels: { telegram }, ...(owner.length > 0 && { commands: { ownerAllowFrom: [`telegram:${owner[0]}`] } }) };
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
export function settings(env, present, dir = channelsDir) {
  const current = present.agents?.defaults?.model;
  const gateway = {
    mode: "local",
    port,
    bind: "lan",
    auth: { mode: "token" },
    http: { endpoints: { chatCompletions: { enabled: true } } },
    // Served from the image: OpenClaw would otherwise copy its pages to the data disk.
    controlUi: { root: `${home}/dist/control-ui` },
  };
  const proxies = trustedProxies(env);
  if (proxies.length > 0) gateway.trustedProxies = proxies;
  let all = merge(defaults(), withoutOldDefaults(withoutOldChannel(present)));
  all = merge(all, { gateway });
  all = merge(all, model(env, current));
  all = merge(all, channels(dir));
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

// refresh writes the configuration, unless it is what it was: OpenClaw watches the file.
export function refresh(env) {
  const file = path.join(env.OPENCLAW_STATE_DIR, "openclaw.json");
  const present = readJSON(file);
  const next = settings(env, present);
  if (!isDeepStrictEqual(next, present)) write(file, JSON.stringify(next, null, 2) + "\n");
}

// prepare writes the configuration and sets the environment for the gateway.
export function prepare(env) {
  const dir = env.OPENCLAW_STATE_DIR;
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  chmodSync(dir, 0o700);
  refresh(env);
  env.OPENCLAW_GATEWAY_TOKEN = token(env, dir);
}
