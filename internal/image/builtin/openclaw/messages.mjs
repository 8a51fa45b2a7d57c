// Takes the messages that a gateway of mvm has of chats which OpenClaw does not reach
// itself, and answers each with OpenClaw's reply (docs/discord.md). A message that comes
// again, also after a crash, is the same one by its id: it has one turn and one reply.

import { createHash, timingSafeEqual } from "node:crypto";
import http from "node:http";

const maxBody = 512 * 1024;
const maxQuote = 500;
const maxReplies = 500; // that are remembered; of others OpenClaw's history tells
const patience = 5_000; // with a turn, before the gateway is told to ask again
const look = 10_000; // between two looks at what became of a turn that tells nothing
const recovers = 30_000; // OpenClaw takes up turns that a crash cut off within this after its start
const recheck = 1_000;
const clocks = 60_000; // by which Discord's and this one may differ
const historyRows = 100;
const historyChars = 300_000;

// Later says that there is no reply yet, and the gateway has to ask again.
class Later extends Error {}

const textOf = (content) =>
  typeof content === "string" ? content : (content ?? []).map((part) => (part.type === "text" ? part.text : "")).join("");

// continues reports whether a row of the history is OpenClaw's own request to go on with a
// turn that a crash has cut off.
const continues = (row) => textOf(row.content).startsWith("[System] Your previous turn was interrupted");

const ends = (row) => row.role === "assistant" && !["toolUse", "aborted", "error"].includes(row.stopReason);

// answerIn is the last text with which a turn in the rows has ended.
const answerIn = (rows) => rows.filter(ends).map((row) => textOf(row.content).trim()).filter(Boolean).at(-1);

// past looks for a message of the time in the history: whether it is there, and what was
// answered. Of a message that OpenClaw had as it was killed, the history may have no more
// than the request to go on, which then follows on the end of another turn.
export function past(rows, id, time) {
  const starts = rows.flatMap((row, at) => (row.role === "user" && (!continues(row) || at === 0 || ends(rows[at - 1])) ? [at] : []));
  const turn = (start) => rows.slice(start + 1, starts.find((at) => at > start));
  const own = starts.find((at) => rows[at].idempotencyKey === `${id}:user`);
  if (own !== undefined) return { known: true, reply: answerIn(turn(own)) };
  const taken = starts.findLast((at) => continues(rows[at]) && rows[at].timestamp >= time);
  return { known: false, continued: taken === undefined ? undefined : answerIn(turn(taken)) };
}

// unclear is what OpenClaw says of a message that it had before it was killed.
const unclear = /session changed before durable/i;
const interrupted = { error: "its turn was interrupted. Please send your message again." };

// conversation names the session of a message: a person's, or that of a channel of a server.
const conversation = (m) => (m.guild_id ? `agent:main:discord:channel:${m.channel_id}` : `agent:main:discord:direct:${m.author.id}`);

// textFor is what the assistant reads of a message of Discord.
export function textFor(m) {
  const name = (user) => user.global_name || user.username;
  let text = m.content ?? "";
  for (const user of m.mentions ?? []) {
    const plain = user.bot ? "" : `@${name(user)}`;
    text = text.replaceAll(`<@${user.id}>`, plain).replaceAll(`<@!${user.id}>`, plain);
  }
  text = text.trim();
  if (text.startsWith("/") || text.toLowerCase() === "stop") return text;
  if (m.guild_id) text = `${name(m.author)}: ${text}`;
  const quoted = m.referenced_message;
  if (quoted?.content) text = `[In reply to ${name(quoted.author)}: ${quoted.content.slice(0, maxQuote)}]\n${text}`;
  for (const file of m.attachments ?? []) text += `\n[Attached: ${file.filename} (${file.content_type ?? "file"}) ${file.url}]`;
  return text.trim();
}

const digest = (text) => createHash("sha256").update(text).digest();

// Messages serves the gateways.
export class Messages {
  #owner; // links to OpenClaw: one may change its settings
  #others;
  #ready; // resolves when a turn may begin
  #channels;
  #servers = new Map(); // by port
  #turns = new Map(); // id -> promise of the answer
  #replies = new Map(); // id -> answer
  #waiting = new Map(); // id -> what its events go to
  #opened = performance.now();

  // channels returns the channels that lead here, as the guest has them.
  constructor({ owner, others, ready, channels }) {
    [this.#owner, this.#others, this.#ready, this.#channels] = [owner, others, ready, channels];
  }

  // opened says that OpenClaw takes calls, perhaps after a start.
  opened() {
    this.#opened = performance.now();
  }

  // event takes an event of OpenClaw.
  event(name, payload) {
    if (name === "chat") this.#waiting.get(payload?.runId)?.(payload);
  }

  // lost says that events may have been lost.
  lost() {
    for (const tell of [...this.#waiting.values()]) tell({ state: "lost" });
  }

  // listen serves the ports of the channels that there are now, and no others.
  listen() {
    const ports = new Set(this.#discord().map((c) => c.port));
    for (const [port, server] of this.#servers) {
      if (ports.has(port)) continue;
      server.close();
      this.#servers.delete(port);
    }
    for (const port of ports) {
      if (this.#servers.has(port)) continue;
      const server = http.createServer((req, res) => this.#serve(req, res));
      Object.assign(server, { requestTimeout: 15_000, headersTimeout: 10_000, maxConnections: 64 });
      server.on("error", (error) => {
        console.error(`mvm can't take messages at port ${port}: ${error.message}`);
        this.#servers.delete(port);
      });
      server.listen(port, "0.0.0.0").unref();
      this.#servers.set(port, server);
    }
    return this.#servers;
  }

  #discord() {
    return this.#channels().filter((c) => c.kind === "discord" && c.secret && c.port);
  }

  async #serve(req, res) {
    let [status, answer] = [200, undefined];
    try {
      [status, answer] = await this.#answer(req);
    } catch (error) {
      [status, answer] = error instanceof Later ? [202, {}] : [503, { error: error.message }];
    }
    res.writeHead(status, { "content-type": "application/json", connection: "close" }).end(JSON.stringify(answer));
  }

  async #answer(req) {
    const given = digest(req.headers.authorization ?? "");
    const channel = this.#discord().find((c) => c.port === req.socket.localPort && timingSafeEqual(given, digest(`Bearer ${c.secret}`)));
    if (!channel) return [401, { error: "the secret is not the channel's" }];
    if (req.method !== "POST" || req.url !== channel.path) return [404, { error: "there is no such thing" }];
    let text = "";
    req.setEncoding("utf8");
    for await (const chunk of req) {
      text += chunk;
      if (text.length > maxBody) return [413, { error: "the message is too long" }];
    }
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return [400, { error: "the message is no JSON" }];
    }
    const id = message?.id;
    if (!/^\d{1,20}$/.test(id) || !message.channel_id || !message.author?.id) return [400, { error: "the message has no id, channel or author" }];
    return [200, await this.#reply(`${channel.name}-${id}`, message, channel.allow[0] === message.author.id)];
  }

  // reply returns OpenClaw's answer to a message, or throws Later.
  #reply(id, message, owner) {
    const known = this.#replies.get(id);
    if (known) return known;
    let turn = this.#turns.get(id);
    if (!turn) {
      turn = this.#turn(id, message, owner ? this.#owner : this.#others).then((answer) => this.#remember(id, answer));
      this.#turns.set(id, turn);
      turn.catch(() => {}).finally(() => this.#turns.delete(id));
    }
    let timer;
    const tired = new Promise((_, reject) => (timer = setTimeout(() => reject(new Later()), patience)));
    return Promise.race([turn, tired]).finally(() => clearTimeout(timer));
  }

  #remember(id, answer) {
    this.#replies.set(id, answer);
    for (const old of this.#replies.keys()) {
      if (this.#replies.size <= maxReplies) break;
      this.#replies.delete(old);
    }
    return answer;
  }

  async #turn(id, message, link) {
    await this.#ready();
    const sessionKey = conversation(message);
    const before = await this.#past(sessionKey, id);
    if (before.reply !== undefined) return { reply: before.reply };
    if (before.known) {
      const answer = await this.#recovered(sessionKey, id, Infinity);
      if (answer) return answer;
    }
    const text = textFor(message);
    if (!text) return {};
    const events = [];
    let wake = () => {};
    this.#waiting.set(id, (event) => {
      events.push(event);
      wake();
    });
    try {
      const sent = await link.call("chat.send", { sessionKey, message: text, idempotencyKey: id });
      if (sent.aborted !== undefined) return { reply: sent.aborted ? "Stopped." : "There is nothing to stop." };
      for (let quiet = sent.status !== "started" && sent.status !== "in_flight"; ; quiet = true) {
        if (quiet) {
          const answer = await this.#outcome(sessionKey, id);
          if (answer) return answer;
        }
        const end = await this.#end(events, (f) => (wake = f));
        if (end) return end;
      }
    } catch (error) {
      if (!unclear.test(error.message)) throw error;
      return (await this.#recovered(sessionKey, id, Date.parse(message.timestamp) - clocks)) ?? interrupted;
    } finally {
      this.#waiting.delete(id);
    }
  }

  // recovered waits for what OpenClaw makes of a message that it had before a crash, and
  // returns undefined where that is nothing.
  async #recovered(sessionKey, id, time) {
    for (;;) {
      const { safe } = await this.#owner.call("gateway.restart.preflight", {});
      const { reply, continued } = await this.#past(sessionKey, id, time);
      if (reply !== undefined) return { reply };
      if (safe && continued !== undefined) return { reply: continued };
      if (safe && performance.now() - this.#opened > recovers) return undefined;
      await new Promise((later) => setTimeout(later, recheck));
    }
  }

  // end waits for the end of a turn for a while, and returns its answer, if there is one.
  async #end(events, onEvent) {
    for (const until = performance.now() + look; performance.now() < until; ) {
      for (let event = events.shift(); event; event = events.shift()) {
        if (event.state === "final") return { reply: textOf(event.message?.content).trim() };
        if (event.state === "aborted") return { reply: textOf(event.message?.content).trim() };
        if (event.state === "lost") throw new Error("the connection to OpenClaw was lost");
        if (event.state !== "error") continue;
        if (/retry|session changed/i.test(event.errorMessage ?? "")) throw new Error(event.errorMessage);
        return { error: event.errorMessage ?? "OpenClaw failed" };
      }
      let timer;
      await new Promise((done) => {
        onEvent(done);
        timer = setTimeout(done, Math.max(1, until - performance.now()));
        if (events.length > 0) done();
      });
      clearTimeout(timer);
    }
    return undefined;
  }

  // outcome says how a turn came out of which no event tells, undefined while OpenClaw works.
  async #outcome(sessionKey, id) {
    const { safe } = await this.#owner.call("gateway.restart.preflight", {});
    const { reply } = await this.#past(sessionKey, id); // after that, or it might just have ended
    if (reply !== undefined) return { reply };
    return safe ? interrupted : undefined;
  }

  async #past(sessionKey, id, time = Infinity) {
    const { messages } = await this.#owner.call("chat.history", { sessionKey, limit: historyRows, maxChars: historyChars });
    return past(messages ?? [], id, time);
  }
}
