// Runs OpenClaw in this process: first with V8's compile cache of the image, and for
// the gateway with the settings of this guest.

import { existsSync, mkdirSync, readdirSync, symlinkSync } from "node:fs";
import module from "node:module";
import path from "node:path";
import v8 from "node:v8";

import { prepare } from "./settings.mjs";

const entry = "/opt/openclaw/node_modules/openclaw/openclaw.mjs";
const baked = "/opt/openclaw/compile-cache";

// useCompileCache offers the image's cache to Node under the name that Node looks
// for. The name has the features of the CPU, which may be others here than where the
// image was built; the cache is bytecode, which depends on none of them, and V8
// refuses what does not fit.
function useCompileCache() {
  if (!existsSync(baked)) return;
  const dir = `/tmp/compile-cache-${process.getuid()}`;
  const tag = v8.cachedDataVersionTag().toString(16).padStart(8, "0");
  const name = `${process.version}-${process.arch}-${tag}-${process.getuid()}`;
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const [have] = readdirSync(baked);
  const link = path.join(dir, name);
  if (have && !existsSync(link)) symlinkSync(path.join(baked, have), link);
  module.enableCompileCache(dir);
}

try {
  useCompileCache();
} catch (error) {
  console.error(`starting without the compile cache: ${error.message}`);
}
if (process.argv[2] === "gateway") prepare(process.env);
process.argv[1] = entry;
await import(entry);
