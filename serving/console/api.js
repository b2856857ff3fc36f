// API client: JSON requests, and answers streamed as server-sent events.

const KEY = "headwater-api-key";

export const setKey = (key) => sessionStorage.setItem(KEY, key.trim());

export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function call(path, body, signal, method = body ? "POST" : "GET") {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: headers(),
      body: body ? JSON.stringify(body) : undefined,
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer.", 0, "network");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new ApiError(error?.message ?? `The server answered with status ${response.status}.`, response.status, error?.code);
}

export async function get(path) {
  return (await call(path)).json();
}

export async function post(path, body, signal) {
  return (await call(path, body, signal)).json();
}

export async function remove(path) {
  return (await call(path, undefined, undefined, "DELETE")).json();
}

// Streams one answer; calls `onText(text so far)`. Resolves to { text, citations, unread, token_ids, finish_reason,
// system_fingerprint }; a citation has the `origin` of its source, and `unread` are pages of the live web that failed. If the
// conversation exceeds the model's context, drops its oldest turns, but no system prompt.
export async function streamAnswer({ model, messages, retrieval, sampling = {} }, onText, signal) {
  const system = messages.filter((message) => message.role === "system");
  let turns = messages.slice(system.length);
  for (;;) {
    const body = {
      model,
      messages: [...system, ...turns],
      stream: true,
      return_token_ids: true,
      ...sampling,
      ...(retrieval === true ? {} : { retrieval }),
    };
    try {
      return await readStream(await call("/v1/chat/completions", body, signal), onText);
    } catch (error) {
      if (error.code !== "context_length_exceeded" || turns.length < 3) throw error;
      turns = turns.slice(2);
    }
  }
}

async function readStream(response, onText) {
  const answer = { text: "", citations: [], unread: [], token_ids: [] };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return answer;
    const events = (waiting + value).split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]" || data.startsWith(":")) continue; // a comment
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, 0, chunk.error.code);
      answer.system_fingerprint = chunk.system_fingerprint;
      const [choice] = chunk.choices;
      if (!choice) continue;
      if (chunk.retrieval) answer.unread = chunk.retrieval.failures;
      if (chunk.citations) {
        const sources = choice.delta.sources ?? [];
        answer.citations = chunk.citations.map((citation, n) => ({ ...citation, origin: sources[n]?.origin }));
      }
      if (choice.token_ids) answer.token_ids = choice.token_ids;
      if (choice.finish_reason) answer.finish_reason = choice.finish_reason;
      if (choice.delta.content) onText((answer.text += choice.delta.content));
    }
  }
}
