#!/usr/bin/env node
// A worker for Accepted in Node, without dependencies (Node 18 or later). See README.md beside it.
//
//   ACCEPTED_URL=http://127.0.0.1:8000 ACCEPTED_API_KEY=acc_… node worker.mjs
//
// Copy it, and put your own types where `node.echo` stands at the end.

const URL_ = (process.env.ACCEPTED_URL ?? "http://127.0.0.1:8000").replace(/\/$/, "");
const KEY = process.env.ACCEPTED_API_KEY ?? "";
const WAIT = 20; // seconds of one long poll
const PAUSE = 1000; // milliseconds before something that did not work is tried again

/** Raise it to say of which class a failure is; any other exception is `transient`. */
export class JobError extends Error {
  constructor(kind, message, { retryAfter } = {}) {
    super(message);
    this.kind = kind; // transient, rate_limited, invalid, auth, not_found, timeout, crashed
    this.retryAfter = retryAfter; // seconds
  }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function call(method, path, body, signal) {
  const headers = { "content-type": "application/json" };
  if (KEY) headers.authorization = `Bearer ${KEY}`;
  const answer = await fetch(URL_ + path, { method, headers, body: JSON.stringify(body), signal });
  const text = await answer.text();
  const at = Date.parse(answer.headers.get("date")) || Date.now();
  return { status: answer.status, body: text ? JSON.parse(text) : null, at };
}

/** What has to arrive is sent until it does: a lease says itself when it is too late. */
async function until(method, path, body) {
  for (;;) {
    try {
      const answer = await call(method, path, body);
      if (answer.status < 500) return answer;
    } catch (error) {
      log("unreachable", { error: error.message });
    }
    await pause(PAUSE);
  }
}

const log = (event, more) => console.log(JSON.stringify({ event, ...more }));

/** Run one job, leased for `ms`: a heartbeat at a third of that, then its outcome. */
async function run(item, ms, handler) {
  const path = `/leases/${item.lease}`;
  log("started", { id: item.job.id, attempt: item.job.attempt });
  const ending = new AbortController(); // aborted when the job is cancelled, or the lease is lost
  const heard = (answer) => {
    if (answer.status === 409 || answer.body?.cancelled) ending.abort();
  };
  const heart = setInterval(() => call("POST", `${path}/heartbeat`, {}).then(heard, () => {}), Math.max(ms / 3, 200));
  const context = {
    job: item.job,
    signal: ending.signal,
    progress: (percent, message = "") =>
      call("POST", `${path}/progress`, { percent, message }).then(heard, () => {}),
  };
  let answer;
  try {
    const result = await handler(item.job.payload, context);
    answer = await until("POST", `${path}/complete`, { result: result ?? null });
    if (answer.status === 413) throw new JobError("invalid", "the result is too large");
  } catch (error) {
    const kind = error instanceof JobError ? error.kind : "transient";
    const failure = { class: kind, message: String(error.message ?? error) };
    if (error.retryAfter !== undefined) failure.retry_after = error.retryAfter;
    answer = await until("POST", `${path}/fail`, failure);
  } finally {
    clearInterval(heart);
  }
  log("attempt", { id: item.job.id, attempt: item.job.attempt, answered: answer.status, status: answer.body?.status });
}

/**
 * Register `types` ({name: {handler, ...what PUT /job-types takes}}) and run their jobs, `slots` at once of each
 * queue, until SIGTERM or SIGINT: then take no more, finish what is held, and return.
 */
export async function work(types, { slots = 4 } = {}) {
  const stopping = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"]) process.once(name, () => stopping.abort());
  for (const [name, { handler, ...type }] of Object.entries(types)) {
    const answer = await until("PUT", `/job-types/${name}`, type);
    if (answer.status >= 400) throw new Error(`${name}: ${answer.body.detail}`);
  }
  const names = Object.keys(types);
  const queues = [...new Set(Object.values(types).map((type) => type.queue ?? "default"))];
  log("ready", { types: names, queues });
  await Promise.all(queues.map((queue) => take(queue, names, types, slots, stopping.signal)));
}

async function take(queue, names, types, slots, stopping) {
  const running = new Set();
  while (!stopping.aborted) {
    if (running.size >= slots) {
      await Promise.race(running);
      continue;
    }
    try {
      const body = { max: slots - running.size, wait: WAIT, types: names };
      const answer = await call("POST", `/queues/${queue}/lease`, body, stopping);
      if (answer.status !== 200) throw new Error(answer.body?.detail ?? `status ${answer.status}`);
      for (const item of answer.body.items) {
        const ms = new Date(item.expires_at) - answer.at; // by the service's clock: ours may be wrong
        const one = run(item, ms, types[item.job.type].handler).finally(() => running.delete(one));
        running.add(one);
      }
    } catch (error) {
      if (stopping.aborted) break; // the service sees that we have gone, and gives our place to others
      log("lease_failed", { error: error.message });
      await pause(PAUSE);
    }
  }
  await Promise.all(running);
}

if (import.meta.url === `file://${process.argv[1]}`) {
  await work({
    "node.echo": {
      description: "Waits for `seconds`, then gives `say` back, or fails with `fail`.",
      queue: "node",
      timeout: 60,
      retry: { max_attempts: 3, schedule: [0.5] },
      payload_schema: {
        type: "object",
        properties: {
          say: {},
          seconds: { type: "number", minimum: 0 },
          fail: { type: "string" },
        },
        additionalProperties: false,
      },
      async handler(payload, { signal, progress }) {
        const until_ = Date.now() + 1000 * (payload.seconds ?? 0);
        await progress(0, "waiting");
        while (Date.now() < until_ && !signal.aborted) await pause(50);
        if (signal.aborted) throw new JobError("cancelled", "told to stop");
        if (payload.fail) throw new JobError(payload.fail, "as asked");
        return { said: payload.say ?? null, by: process.pid };
      },
    },
  });
}
