// The API of a Node peer: POST /jobs with a JSON body enqueues one job and answers 202, with Node's own HTTP server.
const http = require("node:http");

exports.serve = (port, enqueue) => {
  const server = http.createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8");
    request.on("data", (part) => (body += part));
    request.on("end", async () => {
      const [status, answer] = await enqueue(body).then(
        (id) => [202, { id }],
        (error) => [500, { detail: String(error) }],
      );
      const text = JSON.stringify(answer);
      response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
      response.end(text);
    });
  });
  server.listen(port, "127.0.0.1");
};
