import assert from "node:assert/strict";
import { test } from "node:test";

import { ServerConnection } from "@jupyterlab/services";

import { Server, ServerError } from "../../labextension/lab/server";

const OURS = { version: "0.1.0", schema: 1 };

interface Asked {
  method: string;
  path: string;
  query: URLSearchParams;
  headers: Headers;
  body: string;
}

/** A server that gives one answer, and what it was asked. */
function serverThat(answer: () => Promise<Response> | Response): { server: Server; asked: Asked[] } {
  const asked: Asked[] = [];
  const fetch = async (request: RequestInfo | URL): Promise<Response> => {
    assert.ok(request instanceof Request);
    const { pathname, searchParams } = new URL(request.url);
    const { method, headers } = request;
    asked.push({ method, headers, path: pathname, query: searchParams, body: await request.text() });
    return answer();
  };
  const settings = { baseUrl: "http://host/user/me/", wsUrl: "ws://host/user/me/", token: "secret", fetch };
  return { server: new Server(ServerConnection.makeSettings(settings)), asked };
}

function json(values: object, init: ResponseInit = {}): Response {
  return new Response(JSON.stringify(values), { ...init, headers: { Date: "Sun, 22 Nov 2026 00:00:00 GMT" } });
}

async function failure(answer: () => Promise<Response> | Response): Promise<ServerError> {
  try {
    await serverThat(answer).server.runs();
  } catch (error) {
    assert.ok(error instanceof ServerError);
    return error;
  }
  return assert.fail("it was taken for an answer");
}

test("a run is asked for below the base address, with the token and the cursor", async () => {
  const { server, asked } = serverThat(() => json({ ...OURS, events: [], next: "9.0.0" }));
  const { next, served_s } = await server.events("0123456789abcdef", "a run/b", "7.0.0");
  assert.equal(next, "9.0.0");
  assert.equal(served_s, Date.UTC(2026, 10, 22) / 1000);
  await server.events("0123456789abcdef", "a");
  assert.equal(asked[0].path, "/user/me/dlfb-lab/runs/0123456789abcdef/a%20run%2Fb");
  assert.equal(asked[0].query.get("after"), "7.0.0");
  assert.equal(asked[0].headers.get("Authorization"), "token secret");
  assert.ok(!asked[1].query.has("after"));
});

test("an action is posted, a store deleted, and devices are asked for since a number", async () => {
  const { server, asked } = serverThat(() => json(OURS));
  await server.control("0123456789abcdef", "a", "stop");
  await server.forgetStore("0123456789abcdef");
  await server.devices(5);
  await server.devices();
  assert.deepEqual(
    asked.map(({ method, path }) => `${method} ${path.slice("/user/me/dlfb-lab/".length)}`),
    ["POST runs/0123456789abcdef/a/requests", "DELETE stores/0123456789abcdef", "GET devices", "GET devices"],
  );
  assert.deepEqual(JSON.parse(asked[0].body), { action: "stop" });
  assert.deepEqual([asked[2].query.get("after"), asked[3].query.get("after")], ["5", null]);
});

test("what the extension refuses comes with its own words", async () => {
  const error = await failure(() => json({ message: "There is no run a.", code: "no_run" }, { status: 404 }));
  assert.deepEqual([error.status, error.code, error.message], [404, "no_run", "There is no run a."]);
});

for (const [what, answer] of [
  ["a page of the Jupyter server", () => new Response("<html>404</html>", { status: 404 })],
  ["another extension's refusal", () => json({ message: "Not Found", reason: null }, { status: 404 })],
  ["a login page", () => new Response("<html>Password</html>")],
  ["an answer that names no version", () => json({ runs: [] })],
  ["a number", () => new Response("5")],
] as const) {
  test(`${what} means that the extension is not there`, async () => {
    assert.equal((await failure(answer)).code, "absent");
  });
}

for (const [what, answer] of [
  ["a broken connection", () => Promise.reject(new TypeError("Failed to fetch"))],
  ["a proxy before a server that is down", () => new Response("<html>Bad gateway</html>", { status: 502 })],
] as const) {
  test(`${what} means that the server cannot be reached`, async () => {
    assert.equal((await failure(answer)).code, "unreachable");
  });
}

test("a refusal of the Jupyter server itself is neither", async () => {
  const error = await failure(() => json({ message: "Forbidden" }, { status: 403 }));
  assert.equal(error.code, "refused");
  assert.match(error.message, /Forbidden/);
});
