// pg-boss on PostgreSQL. `node pg_boss.cjs api PORT` or `node pg_boss.cjs worker`.
//
// A job is a row, committed before the 202. A worker polls each 2 s for one job by default, which runs one job in 2 s.
// Here it polls as often as it may (each 0.5 s) for batches of 200, which its documentation gives for throughput.
const PgBoss = require("pg-boss");
const { ended } = require("./counting.cjs");
const { serve } = require("./serving.cjs");

const boss = new PgBoss(process.env.PEER_POSTGRES_URL);
boss.on("error", console.error);

(async () => {
  await boss.start();
  await boss.createQueue("jobs");
  if (process.argv[2] === "api") {
    serve(Number(process.argv[3]), (body) => boss.send("jobs", JSON.parse(body).payload));
  } else {
    await boss.work("jobs", { batchSize: 200, pollingIntervalSeconds: 0.5 }, async (jobs) => jobs.forEach(ended));
    process.on("SIGTERM", () => boss.stop().then(() => process.exit(0)));
  }
})();
