// BullMQ on Redis. `node bullmq.cjs api PORT` or `node bullmq.cjs worker`.
//
// A job is a hash and a place in a list. It lives as long as Redis keeps what it appended; a job that a dead worker held
// is found by the stalled check. A worker has one slot by default; its documentation asks for more where jobs wait for
// I/O, and gives 50 in its example. Finished jobs are kept, as by default.
const { Queue, Worker } = require("bullmq");
const { Redis } = require("ioredis");
const { ended } = require("./counting.cjs");
const { serve } = require("./serving.cjs");

const connection = new Redis(process.env.PEER_REDIS_URL, { maxRetriesPerRequest: null });

if (process.argv[2] === "api") {
  const queue = new Queue("jobs", { connection });
  serve(Number(process.argv[3]), async (body) => {
    const { type, payload } = JSON.parse(body);
    return (await queue.add(type, payload)).id;
  });
} else {
  const worker = new Worker("jobs", async () => ended(), { connection, concurrency: 50 });
  process.on("SIGTERM", () => worker.close().then(() => process.exit(0)));
}
