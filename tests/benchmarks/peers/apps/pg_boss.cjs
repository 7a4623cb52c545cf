// pg-boss on PostgreSQL. `node pg_boss.cjs api PORT` or `node pg_boss.cjs worker BATCH`.
//
// A job is a row, committed before the 202. By default a worker looks for one job each 2 s. Here it looks as often as it
// may, each 0.5 s, for a batch. The handler gets the batch as a whole, and all its jobs succeed or fail together. So a
// batch is as large as its jobs may share one fate: with 200 the pauses bound it at 400 jobs/s, with 2,000 they do not.
const PgBoss = require("pg-boss");
const { serve } = require("./serving.cjs");

const boss = new PgBoss(process.env.PEER_POSTGRES_URL);
boss.on("error", console.error);

(async () => {
  await boss.start();
  await boss.createQueue("jobs");
  if (process.argv[2] === "api") {
    serve(Number(process.argv[3]), (body) => boss.send("jobs", JSON.parse(body).payload));
  } else {
    await boss.work("jobs", { batchSize: Number(process.argv[3]), pollingIntervalSeconds: 0.5 }, async () => {});
    process.on("SIGTERM", () => boss.stop().then(() => process.exit(0)));
  }
})();
