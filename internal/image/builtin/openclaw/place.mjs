// Where OpenClaw is in this image. A container image of OpenClaw gets another file in place of
// this one.
export const home = "/opt/openclaw/node_modules/openclaw";
export const cache = "/opt/openclaw/compile-cache";
