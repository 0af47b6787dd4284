// A BitTorrent tracker (BEP 3, compact lists of BEP 23) for one torrent in a network of its own: aria2 brings none.

import { createServer } from "node:http";

const most = Number(process.argv[2]);
const peers = new Map<string, Buffer>();

const server = createServer((request, response) => {
  const query = new URL(request.url ?? "/", "http://tracker").searchParams;
  const address = (request.socket.remoteAddress ?? "").replace("::ffff:", "");
  const port = Number(query.get("port"));
  const peer = Buffer.from([...address.split(".").map(Number), port >> 8, port & 255]);
  const others = [...peers].filter(([other]) => other !== address).map(([, bytes]) => bytes);
  if (query.get("event") === "stopped") peers.delete(address);
  else peers.set(address, peer);
  const list = Buffer.concat(others.slice(0, most));
  response.end(
    Buffer.concat([
      Buffer.from(`d8:intervali5e12:min intervali5e5:peers${list.length}:`),
      list,
      Buffer.from("e"),
    ]),
  );
});
server.listen(6969, "0.0.0.0", () => console.log("listening"));
