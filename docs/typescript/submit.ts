// Submits a job, waits for it, and verifies the webhook that tells of it. What it knows of the API is generated:
//   npx openapi-typescript $ACCEPTED_URL/openapi.json -o schema.d.ts --default-non-nullable=false && npx tsc && node submit.js
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import createClient from "openapi-fetch";
import { Webhook } from "standardwebhooks";
import type { components, paths } from "./schema.d.ts";

type Job = components["schemas"]["JobView"];
const FINISHED: Job["status"][] = ["succeeded", "failed", "cancelled", "expired"];

const client = createClient<paths>({
  baseUrl: process.env.ACCEPTED_URL!,
  headers: { Authorization: `Bearer ${process.env.ACCEPTED_API_KEY}` },
});

async function submit(callbackUrl: string): Promise<Job> {
  const { data, error } = await client.POST("/jobs", {
    params: { header: { "idempotency-key": randomUUID() } },
    body: { type: "invoice.print", payload: { number: 7 }, callback_url: callbackUrl },
  });
  if (error) throw new Error(`${error.status} ${error.title}: ${error.detail}`);
  return data;
}

async function finished(job: Job): Promise<Job> {
  while (!FINISHED.includes(job.status)) {
    const { data, error } = await client.GET("/jobs/{job_id}", {
      params: { path: { job_id: job.id }, query: { wait: 30 } },
    });
    if (error) throw new Error(`${error.status} ${error.title}: ${error.detail}`);
    job = data;
  }
  return job;
}

const { data: secret } = await client.GET("/webhook-secret");
const receiver = createServer().listen(0, "127.0.0.1");
await once(receiver, "listening");
const delivered = once(receiver, "request") as Promise<[IncomingMessage, ServerResponse]>;

const job = await submit(`http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`);
console.log(JSON.stringify((await finished(job)).result));

const [request, response] = await delivered;
const body = await text(request);
const event = new Webhook(secret!.secret).verify(body, request.headers as Record<string, string>) as { data: Job };
response.writeHead(204).end();
console.log(event.data.id === job.id, event.data.status);
receiver.close();
