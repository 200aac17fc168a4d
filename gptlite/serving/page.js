// The plain page of `gptlite serve`: a prompt, and the text as it is written.
"use strict";

const element = (id) => document.getElementById(id);
let running = null; // an AbortController while a text is being written

function headers() {
  const sent = { "Content-Type": "application/json" };
  if (element("key").value) sent.Authorization = `Bearer ${element("key").value}`;
  return sent;
}

function say(text) {
  element("status").textContent = text;
}

function setRunning(controller) {
  running = controller;
  element("write").disabled = controller !== null;
  element("stop").disabled = controller === null;
}

async function refusal(answer) {
  if (answer.status === 401) element("key_label").hidden = false;
  const body = await answer.json().catch(() => null);
  return body?.error?.message ?? `The server answered ${answer.status}.`;
}

async function showModel() {
  const answer = await fetch("v1/models", { headers: headers() });
  if (answer.ok) element("model").textContent = (await answer.json()).data[0].id;
  else say(await refusal(answer));
}

function body() {
  const asked = {
    prompt: element("prompt").value,
    temperature: element("temperature").valueAsNumber,
    max_tokens: element("max_tokens").valueAsNumber,
    stream: true,
  };
  if (element("seed").value) asked.seed = element("seed").valueAsNumber;
  return JSON.stringify(asked);
}

// Calls `take` with the object of each event of a stream.
async function readEvents(stream, take) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event !== "data: [DONE]") take(JSON.parse(event.slice("data: ".length)));
  }
}

async function write() {
  const controller = new AbortController();
  setRunning(controller);
  const [given, written] = ["span", "span"].map((name) => document.createElement(name));
  given.className = "prompt";
  given.textContent = element("prompt").value;
  element("text").replaceChildren(given, written);
  say("writing");
  try {
    const sent = { method: "POST", headers: headers(), body: body(), signal: controller.signal };
    const answer = await fetch("v1/completions", sent);
    if (!answer.ok) return say(await refusal(answer));
    if (!element("model").textContent) showModel();
    await readEvents(answer.body, (event) => {
      if (event.error) return say(event.error.message);
      const [choice] = event.choices;
      written.append(choice.text);
      if (choice.finish_reason) say(`seed ${event.seed}`);
    });
  } catch (error) {
    say(controller.signal.aborted ? "stopped" : "The server cannot be reached.");
  } finally {
    setRunning(null);
  }
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running === null) write();
});
element("stop").addEventListener("click", () => running?.abort());
element("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element("form").requestSubmit();
});
showModel();
