// A relay that a test can kill: `node relay-process.ts <dir> <origin> <assignment as JSON>`; says its URL.
import { startRelay } from "../src/index.ts";

const [dir = "", origin = "", assignment = ""] = process.argv.slice(2);
const relay = await startRelay({
  dir,
  port: 0,
  origin: { url: origin },
  connections: 1,
});
relay.assign(JSON.parse(assignment));
console.log(relay.url);
