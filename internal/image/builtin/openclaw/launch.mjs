// Runs OpenClaw in this process: first with V8's compile cache of the image, and for
// the gateway with the settings of this guest and a door for mvm.

import module from "node:module";

import { serve } from "./control.mjs";
import { cache, home } from "./place.mjs";
import { prepare } from "./settings.mjs";

const entry = `${home}/openclaw.mjs`;

// The cache is bytecode, which depends on V8's version and flags, not on the CPU; V8
// refuses what does not fit.
module.enableCompileCache(cache);
if (process.argv[2] === "gateway") {
  prepare(process.env);
  serve(process.env);
}
process.argv[1] = entry;
await import(entry);
