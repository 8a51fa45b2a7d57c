// Fills V8's compile cache while the image is built: starts the gateway, lets it
// answer one chat turn with a model that is played here, asks of it what mvm asks while
// it runs, and writes the cache and a list of the modules that this took.

import { rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import inspector from "node:inspector";
import module from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { controlPort, serve } from "./control.mjs";
import { home } from "./place.mjs";
import { port, prepare } from "./settings.mjs";

const [cacheDir, stateDir] = process.argv.slice(2);
const deadline = Date.now() + 120_000;

module.enableCompileCache(cacheDir);

const chunk = (delta, finish_reason = null) =>
  `data: ${JSON.stringify({ id: "b", object: "chat.completion.chunk", created: 1, model: "b", choices: [{ index: 0, delta, finish_reason }] })}\n\n`;

const model = http.createServer((req, res) => {
  req.resume().on("end", () => {
    res.writeHead(200, { "content-type": "text/event-stream" });
    res.end(chunk({ role: "assistant", content: "ready" }) + chunk({}, "stop") + "data: [DONE]\n\n");
  });
});
await new Promise((listening) => model.listen(0, "127.0.0.1", listening));

Object.assign(process.env, {
  HOME: stateDir,
  OPENCLAW_STATE_DIR: stateDir,
  OPENCLAW_GATEWAY_TOKEN: "bake",
  OPENCLAW_MODEL_BASE_URL: `http://127.0.0.1:${model.address().port}/v1`,
  OPENCLAW_CONFIG: JSON.stringify({ agents: { defaults: { workspace: `${stateDir}/workspace` } } }),
});
prepare(process.env);
serve(process.env, { nextWake: `${stateDir}/next-wake` });
process.argv = [process.argv[0], `${home}/openclaw.mjs`, "gateway"];
import(process.argv[1]).catch((error) => {
  console.error(error);
  process.exit(1);
}); // it ends with the gateway

async function until(what, try_) {
  while (Date.now() < deadline) {
    try {
      if (await try_()) return;
    } catch {
      // not yet
    }
    await new Promise((later) => setTimeout(later, 100));
  }
  throw new Error(`${what} took too long`);
}

const base = `http://127.0.0.1:${port}`;
await until("starting", async () => (await fetch(`${base}/startupz`)).ok);
await until("the chat turn", async () => {
  const answer = await fetch(`${base}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: "Bearer bake", "content-type": "application/json" },
    body: JSON.stringify({ model: "openclaw", messages: [{ role: "user", content: "ready?" }] }),
  });
  return answer.ok && (await answer.text()).includes("ready");
});
const control = `http://127.0.0.1:${controlPort}`;
const ask = (what, action) => fetch(`${control}/${what}`, action && { method: "POST", body: JSON.stringify({ action }) });
await until("holding still", async () => (await (await ask("suspend", "suspend")).json()).state === "ready");
await until("going on", async () => (await ask("suspend", "resume")).ok);
await until("taking secrets", async () => (await ask("secrets", "secrets")).ok);
await until("being idle", async () => (await (await ask("busy")).json()).busy === false);
module.flushCompileCache();

// The files of all modules that were loaded, for prefetch.sh.
const files = new Set();
const session = new inspector.Session();
session.connect();
session.on("Debugger.scriptParsed", ({ params: { url } }) => {
  if (url.startsWith("file:")) files.add(fileURLToPath(url));
  else if (path.isAbsolute(url)) files.add(url);
});
session.post("Debugger.enable"); // tells of every script there is before it returns
writeFileSync(path.join(cacheDir, "modules"), [...files].join("\n") + "\n");

rmSync(stateDir, { recursive: true, force: true });
process.exit(0);
