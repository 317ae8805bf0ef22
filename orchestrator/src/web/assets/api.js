// The API, and what it means when it says no.

const PATIENCE = 20_000;

export class Refusal extends Error {
  constructor(status, code, message) {
    super(message);
    this.name = "Refusal";
    this.status = status;
    this.code = code;
  }
}

export const read = (path, signal) => ask("GET", path, undefined, signal);
// `patience` is in milliseconds, for what takes longer than other requests.
export const send = (method, path, body, signal, patience) => ask(method, path, body, signal, patience);

// A path below /api/v1, from parts that are text.
export const path = (...parts) => parts.map(encodeURIComponent).join("/");

// A query without what is empty.
export function query(values) {
  const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const text = new URLSearchParams(given).toString();
  return text && `?${text}`;
}

async function ask(method, path, body, signal, patience = PATIENCE) {
  const deadline = AbortSignal.timeout(patience);
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}`, {
      method,
      headers: { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal(0, "unreachable", deadline.aborted
      ? "The orchestrator did not answer in time. Try again in a moment."
      : "The orchestrator cannot be reached. Is the network up?");
  }
  if (answer.status === 401) window.dispatchEvent(new Event("signed-out"));
  const content = await answer.json().catch(() => null);
  if (answer.ok) return content;
  throw new Refusal(answer.status, content?.error ?? "unknown", content?.message ?? `The answer was ${answer.status}.`);
}
