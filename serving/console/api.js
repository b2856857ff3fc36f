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

async function call(path, body, signal) {
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
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

export async function firstModel() {
  return (await (await call("/v1/models")).json()).data[0];
}

export async function saveRanking(ranking) {
  await call("/v1/rankings", ranking);
}

// Streams `sampling.n` answers (default: one) to the same messages; calls `onText(choice, text so far)`.
// Resolves to a list of { text, citations, token_ids }. If the conversation exceeds the model's context, drops
// its oldest turns.
export async function streamAnswers({ model, messages, retrieval, sampling = {} }, onText, signal) {
  for (let turns = messages; ; turns = turns.slice(2)) {
    const body = {
      model, messages: turns, stream: true, return_token_ids: true, ...sampling, ...(retrieval ? {} : { retrieval: false }),
    };
    try {
      return await readStream(await call("/v1/chat/completions", body, signal), sampling.n ?? 1, onText);
    } catch (error) {
      if (error.code !== "context_length_exceeded" || turns.length < 3) throw error;
    }
  }
}

async function readStream(response, count, onText) {
  const answers = Array.from({ length: count }, () => ({ text: "", citations: [], token_ids: [] }));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return answers;
    const events = (waiting + value).split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, 0, chunk.error.code);
      const [choice] = chunk.choices;
      if (!choice) continue;
      const answer = answers[choice.index];
      if (chunk.citations) answer.citations = chunk.citations;
      if (choice.token_ids) answer.token_ids = choice.token_ids;
      if (choice.delta.content) onText(choice.index, (answer.text += choice.delta.content));
    }
  }
}
