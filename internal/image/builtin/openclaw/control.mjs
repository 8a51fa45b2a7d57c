// What mvm asks of OpenClaw while it runs, on a port of loopback of its own: whether it
// is busy, to hold still before the machine does and go on after, and to take rotated
// secrets (docs/guest.md). It lives in the gateway's process, so that asking starts no
// program, and speaks OpenClaw's own protocol to it (docs/gateway/external-apps.md and
// protocol.md in OpenClaw's package).

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";

import { port } from "./settings.mjs";

export const controlPort = 18780;
const definition = "/etc/mvm/services/openclaw.json";
const secretsDir = "/run/secrets";
const callTimeout = 9_000; // the guest agent waits 10 s
const renewBelow = 90_000; // of a lease of two minutes

// Link is a WebSocket to the gateway in this process, as the backend client that it
// lets in on loopback with its token. It is opened when it is needed and kept.
class Link {
  #env;
  #socket;
  #opening;
  #waiting = new Map();

  constructor(env) {
    this.#env = env;
  }

  async call(method, params) {
    this.#opening ??= this.#open();
    await this.#opening;
    return this.#send(method, params);
  }

  #send(method, params) {
    const id = randomUUID();
    return new Promise((resolve, reject) => {
      const late = () => this.#settle(id, { error: { message: `no answer within ${callTimeout} ms` } });
      const timer = setTimeout(late, callTimeout);
      timer.unref();
      this.#waiting.set(id, { method, timer, resolve, reject });
      this.#socket.send(JSON.stringify({ type: "req", id, method, params }));
    });
  }

  #settle(id, frame) {
    const waiting = this.#waiting.get(id);
    if (!waiting) return;
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    if (frame.ok) waiting.resolve(frame.payload);
    else waiting.reject(new Error(`${waiting.method}: ${frame.error?.message ?? "refused"}`));
  }

  #open() {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`);
    this.#socket = socket;
    const opened = new Promise((resolve, reject) => {
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(data);
        if (frame.type === "res") this.#settle(frame.id, frame);
        if (frame.event === "connect.challenge") this.#send("connect", hello(this.#env)).then(resolve, reject);
      };
      socket.onerror = socket.onclose = () => {
        reject(new Error("the gateway takes no connection"));
        if (this.#socket !== socket) return;
        this.#opening = undefined;
        for (const id of [...this.#waiting.keys()]) this.#settle(id, { error: { message: "the connection was lost" } });
      };
    });
    opened.catch(() => socket.close());
    return opened;
  }
}

function hello(env) {
  return {
    minProtocol: 3,
    maxProtocol: 4,
    client: { id: "gateway-client", displayName: "mvm", version: "1", platform: "linux", mode: "backend" },
    role: "operator",
    scopes: ["operator.admin", "operator.read", "operator.write"],
    caps: [],
    auth: { token: env.OPENCLAW_GATEWAY_TOKEN },
  };
}

const reasons = (blockers) => (blockers ?? []).map((b) => b.message).join("; ");

// Suspension is what is known of the lease that mvm has on OpenClaw's holding still.
class Suspension {
  #link;
  #request;
  #id;
  #expires = 0;

  constructor(link) {
    this.#link = link;
  }

  get held() {
    return this.#id !== undefined && Date.now() < this.#expires;
  }

  // suspend asks for the lease, how it is with it, or for its renewal. OpenClaw finishes
  // what it has begun and begins nothing new meanwhile.
  async suspend() {
    if (!this.held) {
      this.#request = randomUUID();
      this.#id = undefined;
    } else if (this.#expires - Date.now() > renewBelow) {
      return this.#told(await this.#link.call("gateway.suspend.status", { suspensionId: this.#id }));
    }
    const params = { requestId: this.#request, terminalPolicy: "preserve", drain: true };
    return this.#told(await this.#link.call("gateway.suspend.prepare", params));
  }

  #told(answer) {
    if (answer.suspensionId) this.#id = answer.suspensionId;
    if (answer.expiresAtMs) this.#expires = answer.expiresAtMs;
    if (answer.status === "running") this.#id = undefined; // the lease is over: asked again, it is had anew
    if (answer.status === "ready") return { state: "ready", lease_ms: Math.max(1, this.#expires - Date.now()) };
    return { state: "waiting", reason: reasons(answer.blockers) || answer.reason || answer.status };
  }

  // resume ends the lease, also one of which the clock says that it is over: OpenClaw
  // notices that only with the next timer.
  async resume() {
    if (this.#id !== undefined) await this.#link.call("gateway.suspend.resume", { suspensionId: this.#id });
    this.#id = undefined;
    return { state: "running" };
  }
}

async function busy(link, suspension) {
  if (suspension.held) return { busy: false };
  const now = await link.call("gateway.restart.preflight", {});
  return now.safe ? { busy: false } : { busy: true, reason: reasons(now.blockers) };
}

function readSecret(secret) {
  try {
    return readFileSync(path.join(secretsDir, secret), "utf8").replace(/\n$/, "");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

// takeSecrets puts the secrets as they are now into the environment, in which OpenClaw
// looks for them, and has it resolve its references to them again.
async function takeSecrets(link, env) {
  let later = "";
  for (const [name, secret] of Object.entries(JSON.parse(readFileSync(definition, "utf8")).secret_env)) {
    const value = readSecret(secret);
    if (name === "OPENCLAW_GATEWAY_TOKEN") {
      // Whoever is connected has the present one, and so has OpenClaw's configuration.
      if (value !== undefined && value !== env[name]) later = secret;
    } else if (value !== undefined) env[name] = value;
    else delete env[name];
  }
  const done = await link.call("secrets.reload", {});
  if (done.warningCount > 0) throw new Error(`OpenClaw could not take ${done.warningCount} secrets; its log says which`);
  if (later) throw new Error(`${later} takes effect when OpenClaw is started again`);
  return {};
}

async function body(req) {
  let text = "";
  for await (const chunk of req) {
    text += chunk;
    if (text.length > 4096) throw new Error("the request is too long");
  }
  return text ? JSON.parse(text) : {};
}

// serve answers mvm until the process ends, and keeps no process from ending.
export function serve(env) {
  const link = new Link(env);
  const suspension = new Suspension(link);
  const answers = {
    "GET /busy": () => busy(link, suspension),
    "POST /suspend": ({ action }) => (action === "resume" ? suspension.resume() : suspension.suspend()),
    "POST /secrets": () => takeSecrets(link, env),
  };
  const server = http.createServer(async (req, res) => {
    let status = 200;
    let answer;
    try {
      const make = answers[`${req.method} ${req.url}`];
      answer = make ? await make(await body(req)) : { error: "there is no such thing" };
      if (!make) status = 404;
    } catch (error) {
      status = 503;
      answer = { error: error.message };
    }
    res.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(answer));
  });
  server.on("error", (error) => console.error(`mvm can't ask OpenClaw: ${error.message}`));
  server.listen(controlPort, "127.0.0.1").unref();
}
