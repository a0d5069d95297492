// The page: takes pictures, asks the server that it came from, shows what it says. It asks nobody else.

import { Card, callOf, drawBoxes, placeLabels, spoken } from "./face.js";
import { Live } from "./live.js";
import { blank, imageOf, thumb } from "./pictures.js";

const at = (id) => document.getElementById(id);
const MOST_SHOTS = 24;  // pictures that stay for a look back

const shots = [];  // {name, url, answer | error, source}
const cards = [];
let run, threshold = 0.5, current, pending = Promise.resolve();

async function ask(path, options) {
  let response;
  try {
    for (let tries = 0; tries < 30; tries += 1) {
      response = await fetch(path, options);
      if (response.status !== 503) break;  // others wait already
      await new Promise((resume) => setTimeout(resume, 1000));
    }
  } catch {
    throw new Error("the server does not answer: start twofold serve again");
  }
  if (response.ok) return response;
  let sentence;
  try {
    sentence = (await response.json()).error;
  } catch {
    sentence = `the server says ${response.status}`;
  }
  throw new Error(sentence);
}

async function recognise(blob) {
  const began = performance.now();
  try {
    if (blob.size > run.limits.bytes) {
      throw new Error(`the file has more than ${run.limits.bytes >> 20} MB: make it smaller`);
    }
    const headers = { "content-type": "application/octet-stream" };
    const answer = await (await ask("recognise", { method: "POST", headers, body: blob })).json();
    answer.whole = (performance.now() - began) / 1000;
    return answer;
  } catch (error) {
    return error;
  }
}

function say(text, { wrong = false } = {}) {
  at("status").textContent = text;
  at("status").classList.toggle("warn", wrong);
}

const live = new Live(at("video"), {
  recognise,
  show(answer, canvas) {
    current = { name: "live", answer, source: { image: canvas, scale: canvas.width / answer.width } };
    show();
  },
  ended(message) {
    say(message, { wrong: true });
    buttons();
  },
});

function buttons() {
  at("stop").hidden = !live.running;
  at("camera").hidden = live.running;
}

function stopLive() {
  if (!live.running) return;
  live.stop();
  buttons();
}

async function begin(what, start) {
  try {
    await start();
    current = undefined;
    at("result").hidden = false;
    at("picture").hidden = true;
    drawBoxes(at("boxes"), undefined, run, threshold);
    say(`${what}: Stop or the Escape key ends it`);
  } catch (error) {
    say(error.message, { wrong: true });
  }
  buttons();
}

/** Pictures are answered one after another, in the order in which they came. */
function add(files) {
  for (const file of files) {
    if (file.type.startsWith("video/")) {
      pending = pending.then(() => begin(file.name, () => live.file(file)));
      return;
    }
    pending = pending.then(() => addPicture(file));
  }
}

async function addPicture(file) {
  stopLive();
  say(`Looking at ${file.name} ...`);
  const answer = await recognise(file);
  const shot = { name: file.name, url: URL.createObjectURL(file) };
  if (answer instanceof Error) shot.error = answer.message;
  else shot.answer = answer;
  shot.source = shot.answer ? await imageOf(shot) : undefined;
  shots.push(shot);
  if (shots.length > MOST_SHOTS) URL.revokeObjectURL(shots.shift().url);
  select(shot);
}

function select(shot) {
  stopLive();
  current = shot;
  show();
  history();
}

function summary({ name, answer, error }) {
  if (error) return `${name}: ${error}`;
  const faces = answer.faces.map((face, place) => `${place + 1} ${spoken(callOf(face, run, threshold))}`);
  if (!faces.length) return `${name}: no face in it`;
  const count = faces.length === 1 ? "1 face" : `${faces.length} faces`;
  const more = answer.left_out ? `; ${answer.left_out} smaller faces were left out` : "";
  return `${name}: ${count}: ${faces.join("; ")}${more}`;
}

/** All that the page says of the current picture. */
function show() {
  const { answer, error, source, url } = current;
  const running = live.running;
  at("result").hidden = Boolean(error);
  if (!running) say(error || !answer.faces.length ? summary(current) : countOf(current), { wrong: Boolean(error) });
  if (error) return;
  const picture = at("picture");
  picture.hidden = running;
  if (!running) {
    picture.src = source ? url : blank(answer);
    picture.alt = summary(current) + (source ? "" : ". This browser cannot show a picture of this kind.");
  }
  drawBoxes(at("boxes"), answer, run, threshold);
  while (cards.length < answer.faces.length) cards.push(newCard());
  cards.forEach((card, place) => {
    if (place < answer.faces.length) card.fill(answer.faces[place], source, threshold, running);
    else card.root.hidden = true;
  });
  at("latency").textContent = latency(answer);
}

function countOf({ name, answer }) {
  const count = answer.faces.length === 1 ? "1 face" : `${answer.faces.length} faces`;
  return `${name}: ${count}` + (answer.left_out ? `; ${answer.left_out} smaller ones were left out` : "");
}

function latency({ seconds, whole, width, height }) {
  const ms = (value) => `${Math.round(1000 * value)} ms`;
  const steps = [["waiting", seconds.wait], ["finding faces", seconds.find], ["encoding", seconds.encode],
    ["deciding", seconds.decide]].map(([step, value]) => `${step} ${ms(value)}`);
  return `${ms(whole)} in all: ${steps.join(", ")}. Picture of ${width} × ${height} pixels.`;
}

function newCard() {
  const card = new Card(at("faces"), run, cards.length + 1);
  const mark = (active) => {
    card.root.classList.toggle("active", active);
    at("boxes").children[card.number - 1]?.classList.toggle("active", active);
  };
  for (const event of ["mouseenter", "focusin"]) card.root.addEventListener(event, () => mark(true));
  for (const event of ["mouseleave", "focusout"]) card.root.addEventListener(event, () => mark(false));
  return card;
}

function history() {
  const strip = at("history");
  strip.replaceChildren();
  strip.hidden = shots.length < 2;
  for (const shot of shots) {
    const what = { label: summary(shot), url: shot.url, broken: !shot.source };
    const button = thumb(strip, what, () => select(shot));
    button.setAttribute("aria-current", String(shot === current));
  }
}

function offerExamples() {
  at("examples").hidden = !run.examples.length;
  run.examples.forEach((name, number) => thumb(at("examples"), { label: name, url: `examples/${number}/small` },
    async () => {
      try {
        const content = await (await ask(`examples/${number}`)).blob();
        add([new File([content], name)]);
      } catch (error) {
        say(error.message, { wrong: true });
      }
    }));
}

function setThreshold(value) {
  threshold = value;
  at("threshold").value = 100 * value;
  at("threshold-text").textContent = `${Math.round(100 * value)} %`;
  if (current?.answer) show();
}

function listen() {
  new ResizeObserver(() => placeLabels(at("boxes"))).observe(at("boxes"));
  at("choose").addEventListener("click", () => at("files").click());
  at("files").addEventListener("change", (event) => {
    add([...event.target.files]);
    event.target.value = "";
  });
  at("camera").addEventListener("click", () => begin("Camera", () => live.camera()));
  at("stop").addEventListener("click", stopLive);
  at("threshold").addEventListener("input", (event) => setThreshold(event.target.value / 100));
  document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
  document.addEventListener("keydown", (event) => event.key === "Escape" && stopLive());
  for (const kind of ["dragover", "dragenter"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    add([...event.dataTransfer.files]);
  });
}

function describe() {
  document.title = `Twofold: ${run.name}`;
  at("name").textContent = run.name;
  const members = run.members > 1 ? `, ${run.members} members` : "";
  at("about").textContent = `${run.columns ? run.classes.map((name) => name.replaceAll("_", " ")).join(", ")
    : `${run.classes.length} expressions (${run.taxonomy})`}, head ${run.head}${members}, on `
    + `${run.streams.join(" + ")}` + (run.detects ? "." : ". Each picture is taken for one face as it is.");
  at("untrained").hidden = !run.untrained.length;
  at("untrained").textContent = `UNTRAINED weights (${run.untrained.join(", ")}): random features, so these answers `
    + "say nothing about the faces.";
}

try {
  run = await (await ask("run")).json();
  describe();
  setThreshold(run.threshold);
  offerExamples();
  listen();
  document.body.dataset.ready = "yes";
} catch (error) {
  say(error.message, { wrong: true });
}
