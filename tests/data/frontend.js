// The dialect of the API-DB's frontend: everything at once, bare LF, no QUIT, and the socket is destroyed at the first
// byte that comes back. Arguments: port, how many mails, how many at the same time. Exit status 1 when a mail could not
// be written.
"use strict";
const net = require("net");
const [port, total, atOnce] = process.argv.slice(2).map(Number);
let next = 0;
let failed = 0;

function send() {
  if (next >= total) return;
  const number = ++next;
  const socket = net.connect(port, "127.0.0.1", () => {
    socket.write(
      `HELO front.test\nMAIL FROM: frontend@wod.test\nRCPT TO: wodadmin@backend.test\nDATA\n` +
        `Subject: CREATE ${number} 57 user@example.org\nWKSHP-Demo101\n.\n`,
    );
  });
  socket.on("data", () => socket.destroy());
  socket.on("error", () => failed++);
  socket.on("close", send);
}

for (let i = 0; i < atOnce; i++) send();
process.on("exit", () => (process.exitCode = failed ? 1 : 0));
