// Runs OpenClaw in this process: first with V8's compile cache of the image, and for
// the gateway with the settings of this guest and a door for mvm.

import module from "node:module";

import { serve } from "./control.mjs";
import { prepare } from "./settings.mjs";

const entry = "/opt/openclaw/node_modules/openclaw/openclaw.mjs";

// The image's cache is bytecode, which depends on V8's version and flags, not on the
// CPU; V8 refuses what does not fit.
module.enableCompileCache("/opt/openclaw/compile-cache");
if (process.argv[2] === "gateway") {
  prepare(process.env);
  serve(process.env);
}
process.argv[1] = entry;
await import(entry);
