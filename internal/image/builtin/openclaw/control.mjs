// What mvm asks of OpenClaw while it runs, on a port of loopback of its own: whether it
// is busy, to hold still before the machine does and go on after, and to take rotated
// secrets (docs/guest.md). It lives in the gateway's process, so that asking starts no
// program, and speaks OpenClaw's own protocol to it (docs/gateway/external-apps.md and
// protocol.md in OpenClaw's package).

import { randomUUID } from "node:crypto";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import http from "node:http";
import path from "node:path";

import { Messages } from "./messages.mjs";
import { channelFiles, port, refresh } from "./settings.mjs";

export const controlPort = 18780;
const definition = "/etc/mvm/services/openclaw.json";
const secretsDir = "/run/secrets";
const callTimeout = 9_000; // the guest agent waits 10 s
const renewBelow = 90_000; // of a lease of two minutes
const prepareMinute = 28; // tries a minute: OpenClaw takes 30
const prepareAgain = 2_200; // after one that found OpenClaw busy
const quietFor = 5_000; // before new secrets; a longer turn keeps them back no longer
const quietPoll = 100;
const cronSettles = 200; // changes of its jobs that come together are read once
const chatsEvery = 60_000; // between two looks at channels that run
const chatsSoon = 2_000; // and at ones that do not
const recovery = 60_000; // in which OpenClaw takes up turns that were cut off, after its start
const startsMost = 3; // of a channel that OpenClaw keeps off, within startsWindow
const startsWindow = 15 * 60 * 1000;
const day = 24 * 60 * 60 * 1000;

// Link is a WebSocket to the gateway in this process, as the backend client that it
// lets in on loopback with its token. It is opened when it is needed and kept.
class Link {
  #env;
  #port;
  #scopes;
  #socket;
  #opening;
  #waiting = new Map();
  onopen = () => {};
  onevent = () => {};
  onlost = () => {};

  constructor(env, gatewayPort, scopes = everything) {
    this.#env = env;
    this.#port = gatewayPort;
    this.#scopes = scopes;
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
    const socket = new WebSocket(`ws://127.0.0.1:${this.#port}`);
    this.#socket = socket;
    const opened = new Promise((resolve, reject) => {
      socket.onmessage = ({ data }) => {
        const frame = JSON.parse(data);
        if (frame.type === "res") this.#settle(frame.id, frame);
        else if (frame.event === "connect.challenge") this.#send("connect", hello(this.#env, this.#scopes)).then(resolve, reject);
        else if (frame.event) this.onevent(frame.event, frame.payload);
      };
      socket.onerror = socket.onclose = () => {
        reject(new Error("the gateway takes no connection"));
        if (this.#socket !== socket) return;
        this.#opening = undefined;
        for (const id of [...this.#waiting.keys()]) this.#settle(id, { error: { message: "the connection was lost" } });
        this.onlost();
      };
    });
    opened.then(() => this.onopen(), () => socket.close());
    return opened;
  }
}

// What a client may do: all, or no more than to write to the assistant.
const everything = ["operator.admin", "operator.read", "operator.write"];
const writing = ["operator.read", "operator.write"];

function hello(env, scopes) {
  return {
    minProtocol: 3,
    maxProtocol: 4,
    client: { id: "gateway-client", displayName: "mvm", version: "1", platform: "linux", mode: "backend" },
    role: "operator",
    scopes,
    caps: [],
    auth: { token: env.OPENCLAW_GATEWAY_TOKEN },
  };
}

const reasons = (blockers) => (blockers ?? []).map((b) => b.message).join("; ");

// Ingress is the queue of what chats sent and OpenClaw has accepted: rows of its state
// database. OpenClaw does not count a row as work between accepting and beginning it.
class Ingress {
  #file;
  #count;

  constructor(env) {
    this.#file = path.join(env.OPENCLAW_STATE_DIR, "state", "openclaw.sqlite");
  }

  // waiting counts the messages that are not done. No database, or none with such rows,
  // has none.
  async waiting() {
    if (!this.#count && existsSync(this.#file)) await this.#open();
    return this.#count?.get().n ?? 0;
  }

  async #open() {
    const { DatabaseSync } = await import("node:sqlite");
    const db = new DatabaseSync(this.#file, { readOnly: true, timeout: 1000 });
    const table = db.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'channel_ingress_events'").get();
    if (table) this.#count = db.prepare("SELECT count(*) AS n FROM channel_ingress_events WHERE status IN ('pending', 'claimed')");
    else db.close();
  }
}

const born = Date.now();

// leftOver reports whether all that blocks are tasks of a process before this one. Of one that
// was killed OpenClaw keeps its tasks as running for up to six minutes. Nothing works on them.
async function leftOver(link, blockers) {
  for (const { kind, task } of blockers) {
    if (kind !== "task" || !task?.taskId) return false;
    const now = (await link.call("tasks.get", { taskId: task.taskId })).task;
    const times = [now.createdAt, now.startedAt, now.updatedAt, now.lastEventAt].filter((t) => t !== undefined);
    if (!(Math.max(...times.map((t) => new Date(t).getTime())) < born) || times.length === 0) return false;
  }
  return blockers.length > 0;
}

// Recovery are the turns that the end of the process before this one has cut off. OpenClaw
// takes them up some seconds after its start, and does not count them as work until then. A
// message that comes before has it forget such a turn, and then its conversation takes none.
class Recovery {
  #link;
  #began;
  #over = false;

  constructor(link) {
    this.#link = link;
  }

  // begin says that OpenClaw takes calls. Later ones are not after a start.
  begin() {
    this.#began ??= performance.now();
  }

  // ahead reports whether there is such a turn.
  async ahead() {
    if (this.#over) return false;
    const { sessions } = await this.#link.call("sessions.list", { limit: 500 }).catch((error) => {
      if (/unknown method/i.test(error.message)) return {}; // another version
      throw error;
    });
    const cutOff = (sessions ?? []).some((s) => s.status === "running" && s.hasActiveRun === false);
    this.#over = !cutOff || performance.now() - this.#began > recovery;
    return !this.#over;
  }
}

// work says what OpenClaw has to do, "" where there is nothing.
async function work(link, ingress, cutOff) {
  const now = await link.call("gateway.restart.preflight", {});
  if (!now.safe && !(await leftOver(link, now.blockers ?? []))) return reasons(now.blockers) || "busy";
  const waiting = await ingress.waiting();
  if (waiting > 0) return `messages that wait: ${waiting}`;
  return (await cutOff.ahead()) ? "a turn that was cut off is about to be taken up" : "";
}

// Suspension is what is known of the lease that mvm has on OpenClaw's holding still.
class Suspension {
  #link;
  #ingress;
  #cutOff;
  #request;
  #id;
  #expires = 0;
  #tries = []; // when the lease was asked for, in the last minute
  #again = 0; // not before that
  #unsure = false; // OpenClaw was asked for the lease and has not answered
  #turn = Promise.resolve();

  constructor(link, ingress, cutOff) {
    this.#link = link;
    this.#ingress = ingress;
    this.#cutOff = cutOff;
  }

  // inTurn does one thing after the other. The guest agent may have given up what it asked for
  // and have OpenClaw go on while the lease is still on its way: it has to be ended then.
  inTurn(fn) {
    const done = this.#turn.then(fn);
    this.#turn = done.catch(() => {});
    return done;
  }

  get held() {
    return this.#id !== undefined && Date.now() < this.#expires;
  }

  // suspend asks for the lease, how it is with it, or for its renewal. While OpenClaw has
  // work the lease is not asked for, and asking never has OpenClaw refuse new work while it
  // finishes the old (drain): it would answer a message that it has accepted just before
  // with "Gateway is restarting", and lose it.
  async suspend() {
    if (!this.held) {
      const busy = await work(this.#link, this.#ingress, this.#cutOff);
      if (busy) return { state: "waiting", reason: busy };
      if (!this.#unsure) this.#request = randomUUID();
      this.#id = undefined;
    } else if (this.#expires - Date.now() > renewBelow) {
      return this.#told(await this.#link.call("gateway.suspend.status", { suspensionId: this.#id }));
    }
    const now = performance.now(); // the clock may be set
    this.#tries = this.#tries.filter((t) => t > now - 60_000);
    if (now < this.#again || this.#tries.length >= prepareMinute) return { state: "waiting", reason: "it was busy just now" };
    this.#tries.push(now);
    return this.#prepare();
  }

  // prepare asks for the lease; for one that OpenClaw has given already where it has.
  async #prepare() {
    this.#unsure = true;
    const answer = await this.#link.call("gateway.suspend.prepare", { requestId: this.#request, terminalPolicy: "preserve", drain: false });
    this.#unsure = false;
    return this.#told(answer);
  }

  #told(answer) {
    if (answer.suspensionId) this.#id = answer.suspensionId;
    if (answer.expiresAtMs) this.#expires = answer.expiresAtMs;
    if (answer.status === "running") this.#id = undefined; // the lease is over: asked again, it is had anew
    if (answer.status === "busy") this.#again = performance.now() + prepareAgain;
    if (answer.status === "ready") return { state: "ready", lease_ms: Math.max(1, this.#expires - Date.now()) };
    return { state: "waiting", reason: reasons(answer.blockers) || answer.reason || answer.status };
  }

  // resume ends the lease, also one of which the clock says that it is over: OpenClaw
  // notices that only with the next timer.
  async resume() {
    if (this.#unsure && this.#id === undefined) await this.#prepare(); // which lease it is, if any
    if (this.#id !== undefined) await this.#link.call("gateway.suspend.resume", { suspensionId: this.#id });
    this.#id = undefined;
    this.#unsure = false;
    return { state: "running" };
  }
}

// wakes reports whether the machine is woken for the job. The image's heartbeat, once a day,
// is not worth it; one that the user has made more frequent is.
const wakes = (job) =>
  job.enabled !== false && Number.isSafeInteger(job.state?.nextRunAtMs) && (job.payload?.kind !== "heartbeat" || job.schedule?.everyMs < day);

// Timers tells mvm, by a file, when the next of OpenClaw's own jobs is due.
class Timers {
  #link;
  #file;
  #told;
  #soon;
  #turn = Promise.resolve();

  constructor(link, file) {
    this.#link = link;
    this.#file = file;
  }

  // changed has the jobs read soon. It keeps no process from ending.
  changed() {
    this.#soon ??= setTimeout(() => {
      this.#soon = undefined;
      this.tell().catch((error) => console.error(`mvm can't read OpenClaw's timers: ${error.message}`));
    }, cronSettles).unref();
  }

  // tell reads the jobs and tells of the next, one call after the other.
  tell() {
    const told = this.#turn.catch(() => {}).then(async () => this.#write(await this.#next()));
    this.#turn = told;
    return told;
  }

  async #next() {
    const { enabled } = await this.#link.call("cron.status", {});
    let next;
    for (let offset = 0; enabled && offset !== null; ) {
      const page = await this.#link.call("cron.list", { limit: 200, offset });
      for (const job of page.jobs.filter(wakes)) next = Math.min(next ?? Infinity, job.state.nextRunAtMs);
      offset = page.hasMore ? page.nextOffset : null;
    }
    return next === undefined ? "" : new Date(next).toISOString() + "\n";
  }

  #write(text) {
    if (text === this.#told) return;
    writeFileSync(`${this.#file}.${process.pid}`, text, { mode: 0o644 });
    renameSync(`${this.#file}.${process.pid}`, this.#file);
    this.#told = text;
  }
}

// Chats has OpenClaw's channels run. After three starts within five minutes that came to no
// orderly end OpenClaw starts none, until five minutes have passed without one: it takes the
// channels for the cause. A VM or process that was killed is no such case, so the channels are
// started all the same, but only so often: one that does end the process is left off then.
class Chats {
  #link;
  #file; // when channels were started
  #again = 0; // not looked at before that
  #trouble = "";

  constructor(link, env) {
    this.#link = link;
    this.#file = path.join(env.OPENCLAW_STATE_DIR, "mvm-chat-starts.json");
  }

  // stale has the channels looked at with the next question.
  stale() {
    this.#again = 0;
  }

  // trouble says why OpenClaw takes no messages of chats, "" where it does.
  async trouble() {
    if (performance.now() < this.#again) return this.#trouble;
    this.#again = performance.now() + chatsSoon; // also for those who ask meanwhile
    const down = await this.#down();
    const off = [];
    for (const account of down.filter((a) => a.kept)) if (!(await this.#start(account))) off.push(account.channel);
    this.#trouble = off.length === 0 ? "" : `OpenClaw keeps ${off.join(", ")} off after crashes; it starts again after 5 minutes without one`;
    if (down.length === 0) this.#again = performance.now() + chatsEvery;
    return this.#trouble;
  }

  // down are the accounts that should run and do not; kept: since OpenClaw keeps them off.
  async #down() {
    const { channelAccounts } = await this.#link.call("channels.status", {});
    return Object.entries(channelAccounts ?? {}).flatMap(([channel, accounts]) =>
      accounts
        .filter((a) => a.enabled !== false && a.configured !== false && a.running !== true)
        .map((a) => ({ channel, accountId: a.accountId, kept: /(crash|restart)-loop breaker/.test(a.lastError ?? "") })),
    );
  }

  async #start({ channel, accountId }) {
    const now = Date.now();
    const starts = this.#read().filter((s) => s.at > now - startsWindow && s.at <= now);
    if (starts.filter((s) => s.channel === channel && s.accountId === accountId).length >= startsMost) return false;
    writeFileSync(this.#file, JSON.stringify([...starts, { at: now, channel, accountId }]), { mode: 0o600 }); // first: it may end the process
    console.error(`mvm starts ${channel}, which OpenClaw keeps off after crashes`);
    try {
      return (await this.#link.call("channels.start", { channel, accountId })).started === true;
    } catch (error) {
      console.error(`mvm can't start ${channel}: ${error.message}`);
      return false;
    }
  }

  #read() {
    try {
      const starts = JSON.parse(readFileSync(this.#file, "utf8"));
      return Array.isArray(starts) ? starts : [];
    } catch {
      return []; // none yet, or half written by a machine that lost power
    }
  }
}

// Door holds requests to OpenClaw back for a while. A turn that begins while OpenClaw takes
// new secrets fails: it reads settings that are replaced meanwhile.
export class Door {
  #shut;

  // The door is before the HTTP server of this process that listens on the port.
  constructor(port) {
    const emit = http.Server.prototype.emit;
    const door = this;
    http.Server.prototype.emit = function (event, ...args) {
      if (event !== "request" || !door.#shut || this.address()?.port !== port) return emit.call(this, event, ...args);
      door.#shut.then(() => emit.call(this, event, ...args));
      return true;
    };
  }

  // passed resolves when the door is open.
  async passed() {
    await this.#shut;
  }

  // whileShut does what fn does, and lets no new request in meanwhile.
  async whileShut(fn) {
    let open;
    this.#shut = new Promise((resolve) => (open = resolve));
    try {
      return await fn();
    } finally {
      this.#shut = undefined;
      open();
    }
  }
}

// quiet waits until OpenClaw has nothing under way, at most quietFor.
async function quiet(link) {
  const end = performance.now() + quietFor;
  while (!(await link.call("gateway.restart.preflight", {})).safe && performance.now() < end) {
    await new Promise((later) => setTimeout(later, quietPoll));
  }
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
// looks for them, and has it resolve its references to them again. A channel's settings go
// into its configuration.
async function takeSecrets(link, door, chats, env) {
  let later = "";
  for (const [name, secret] of Object.entries(JSON.parse(readFileSync(definition, "utf8")).secret_env)) {
    const value = readSecret(secret);
    if (name === "OPENCLAW_GATEWAY_TOKEN") {
      // Whoever is connected has the present one, and so has OpenClaw's configuration.
      if (value !== undefined && value !== env[name]) later = secret;
    } else if (value !== undefined) env[name] = value;
    else delete env[name];
  }
  const done = await door.whileShut(async () => {
    await quiet(link); // a turn that has just begun fails, too
    refresh(env); // channels may have changed; OpenClaw takes them from the file
    return link.call("secrets.reload", {});
  });
  chats.stale();
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

// serve answers mvm until the process ends, and keeps no process from ending. Tests have
// other ports and another file.
export function serve(env, { listen = controlPort, gateway = port, nextWake = "/run/mvm/next-wake", channels } = {}) {
  const link = new Link(env, gateway);
  const ingress = new Ingress(env);
  const cutOff = new Recovery(link);
  const suspension = new Suspension(link, ingress, cutOff);
  const timers = new Timers(link, nextWake);
  const door = new Door(gateway);
  const chats = new Chats(link, env);
  const others = new Link(env, gateway, writing);
  const messages = new Messages({
    owner: link,
    others,
    channels: () => channelFiles(channels),
    ready: async () => {
      await door.passed();
      if (suspension.held) throw new Error("OpenClaw holds still");
    },
  });
  link.onopen = () => {
    cutOff.begin();
    timers.changed();
    messages.opened();
  };
  link.onevent = (event, payload) => (event === "cron" ? timers.changed() : messages.event(event, payload));
  others.onevent = (event, payload) => messages.event(event, payload);
  link.onlost = others.onlost = () => messages.lost();
  messages.listen();
  const answers = {
    "GET /busy": async () => {
      const reason = suspension.held ? "" : await work(link, ingress, cutOff);
      const trouble = suspension.held ? "" : await chats.trouble();
      return { busy: reason !== "", ...(reason && { reason }), ...(trouble && { trouble }) };
    },
    "POST /suspend": ({ action }) =>
      suspension.inTurn(async () => {
        if (action === "resume") return suspension.resume();
        if (!suspension.held) await timers.tell(); // an event may have been lost
        return suspension.suspend();
      }),
    "POST /secrets": () => takeSecrets(link, door, chats, env).finally(() => messages.listen()),
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
  server.listen(listen, "127.0.0.1").unref();
  return server;
}
