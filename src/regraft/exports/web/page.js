// What a visitor sees: images come in, answers stand in a list.

import { ask, checkGolden, describe, load } from "./classify.js";
import { ImageProblem } from "./decode.js";

const BARS = 5; // classes in an answer
const MOST_FILES = 50; // at once
const MOST_NAMED = 30; // classes in the list below

const by = (id) => document.getElementById(id);
const waiting = []; // files that nobody has answered yet
let classifier = null;
let busy = false;
let latest = null; // the item before which the next one of the same drop belongs

// --- elements ------------------------------------------------------------------------------------

/** Return an element with a text, which is never read as HTML, or with elements in it. */
function make(tag, className, ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

function percent(share) {
  const text = (100 * share).toFixed(1);
  if (share > 0 && text === "0.0") return "< 0.1 %";
  return share < 1 && text === "100.0" ? "> 99.9 %" : `${text} %`;
}

function barsOf({ ranked, unknown }) {
  const rows = ranked.slice(0, BARS).map(({ label, probability }) => {
    const bar = make("div");
    bar.style.width = `${100 * probability}%`;
    const track = make("div", "track", bar);
    track.setAttribute("aria-hidden", "true"); // the number beside it says the same
    const name = make("th", "", label);
    name.scope = "row";
    return make("tr", "", name, make("td", "", track), make("td", "", percent(probability)));
  });
  const table = make("table", unknown ? "bars faint" : "bars", ...rows);
  table.setAttribute("aria-label", "Probabilities");
  return table;
}

// --- words ---------------------------------------------------------------------------------------

function headingOf({ unknown, abstained, decision, ranked }) {
  if (unknown) return "Fits no class";
  if (abstained) return "No answer: not sure enough";
  return decision ?? ranked[0].label;
}

/** Return what an answer says beside its heading and its bars, a sentence each. */
function sentencesOf(answer, levels) {
  const { unknown, abstained, decision, ranked, set, typicality } = answer;
  const nearest = ranked[0].label;
  const said = [];
  if (unknown) {
    const p = typicality === null ? "" : ` (p\u00a0${typicality.toPrecision(2)})`;
    said.push(`It is unlike the images of the training${p}. The nearest class is ${nearest}.`);
  } else if (abstained) {
    said.push(`The likeliest class is ${nearest}.`);
  } else if (decision !== null && decision !== nearest) {
    said.push(`The likeliest class is ${nearest}; ${decision} is the answer that costs least.`);
  }
  if (!unknown && set !== null && set.length > 1) {
    const share = Number((100 * levels.coverage).toFixed(2));
    const what = `Sets like this one hold the right class in ${share} of 100 images`;
    said.push(`${what}: ${set.join(", ")}.`);
  }
  return said;
}

function timesOf({ read, resized, computed }) {
  const [one, two, three] = [read, resized, computed].map((each) => `${Math.round(each)}\u00a0ms`);
  return `read in ${one}, resized in ${two}, computed in ${three}`;
}

// --- answers -------------------------------------------------------------------------------------

/** Answer for files, one after the other; they stand above earlier ones, in their order. */
async function answerFor(files) {
  const some = [...files].slice(0, MOST_FILES);
  waiting.push(...some.map((file, k) => ({ file, first: k === 0 })));
  if (files.length > some.length) {
    warn(`${files.length} files came at once; the first ${MOST_FILES} are answered.`);
  }
  if (busy || classifier === null) return;
  busy = true;
  let count = 0;
  for (; waiting.length; count++) {
    const { file, first } = waiting.shift();
    say(`Working on ${nameOf(file)} …`);
    await new Promise((done) => setTimeout(done)); // the page is drawn in between
    if (first) latest = by("answers").firstChild;
    by("answers").insertBefore(await itemFor(file), latest);
  }
  busy = false;
  if (count > 1) say(`${count} images are done.`);
}

function nameOf(file) {
  return file.name || "the image";
}

async function itemFor(file) {
  const name = nameOf(file);
  try {
    const { preview, outputs, times } = await ask(classifier, file);
    preview.className = "picture";
    preview.setAttribute("role", "img");
    preview.setAttribute("aria-label", `The image ${name}`);
    const answer = describe(classifier.meta, outputs);
    const said = sentencesOf(answer, classifier.meta.decisions);
    const heading = headingOf(answer);
    const share = answer.unknown || answer.abstained ? "" : `, ${percent(shareOf(answer))}`;
    say([`${name}: ${heading}${share}.`, ...said].join(" "));
    const words = said.map((each) => make("p", "", each));
    const below = [barsOf(answer), make("p", "times", timesOf(times))];
    return item(name, heading, preview, [...words, ...below]);
  } catch (error) {
    const reason = error instanceof ImageProblem ? error.message : `It failed: ${error.message}`;
    say(`${name} cannot be answered. ${reason}`);
    return item(name, "Cannot be read", make("div"), [make("p", "", reason)]);
  }
}

function shareOf({ decision, ranked }) {
  return ranked.find(({ label }) => label === decision)?.probability ?? ranked[0].probability;
}

function item(name, heading, picture, content) {
  const text = make("div", "", make("h2", "", heading), make("p", "file", name), ...content);
  return make("li", "", picture, text);
}

function say(text) {
  by("status").textContent = text;
}

function warn(text) {
  by("warning").textContent = text;
  by("warning").hidden = false;
}

// --- where images come from ----------------------------------------------------------------------

function listen() {
  const act = (input) => (input === "photo" ? photograph() : by(input).click());
  for (const [button, input] of [["choose", "files"], ["camera", "photo"]]) {
    by(input).addEventListener("change", ({ target }) => {
      answerFor(target.files).catch(fail);
      target.value = ""; // the same file may be chosen again
    });
    by(button).addEventListener("click", () => act(input));
  }
  by("shoot").addEventListener("click", () => shoot().catch(fail));
  by("stop").addEventListener("click", closeCamera);
  document.addEventListener("paste", ({ clipboardData }) => take(clipboardData));
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // else the browser opens the file
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => {
    if (relatedTarget === null) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    take(event.dataTransfer);
  });
}

function take(transfer) {
  if (transfer?.files.length) answerFor(transfer.files).catch(fail);
  else say("There was no image file in what was dropped or pasted.");
}

/** Open the camera: the system's own on a phone, else a picture of it in the page. */
async function photograph() {
  const onPhone = matchMedia("(pointer: coarse)").matches;
  if (onPhone || !navigator.mediaDevices?.getUserMedia) {
    by("photo").click();
    return;
  }
  try {
    by("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    by("live").hidden = false;
    by("shoot").focus();
  } catch {
    say("The camera cannot be used: there is none, or the browser does not allow it.");
  }
}

async function shoot() {
  const video = by("video");
  const canvas = make("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  if (!canvas.width) return; // the camera has sent nothing yet
  canvas.getContext("2d").drawImage(video, 0, 0);
  closeCamera();
  const picture = await new Promise((done) => canvas.toBlob(done)); // PNG: no pixel changes
  await answerFor([new File([picture], "photo")]);
}

function closeCamera() {
  for (const track of by("video").srcObject?.getTracks() ?? []) track.stop();
  by("video").srcObject = null;
  by("live").hidden = true;
  by("camera").focus();
}

// --- beginning -----------------------------------------------------------------------------------

function showFacts({ classes, networks, page, regraft }, tellsUnknown) {
  const named = classes.slice(0, MOST_NAMED).join(", ");
  const more = classes.length > MOST_NAMED ? `, and ${classes.length - MOST_NAMED} more` : "";
  const facts = [
    [`${classes.length} classes`, named + more],
    ["Compared with the training", page.compared],
    ...page.notes.map((note) => ["Note", `${note[0].toUpperCase()}${note.slice(1)}.`]),
    ...networks.map(({ name, weights, licence }) => [
      `Network ${name}`, `${weights}; licence: ${licence || "not stated"}`,
    ]),
    ["Made by", `regraft ${regraft}, with onnxruntime-web ${page.runtime}`],
    ["Licence of onnxruntime-web", page.runtime_licence],
  ];
  for (const [term, text] of facts) by("facts").append(make("dt", "", term), make("dd", "", text));
  const always = "It answers with one of these for an image of anything else, too. ";
  const what = classes.length > 8 ? `${classes.length} classes` : named;
  by("about").prepend(`Tells apart ${what}. ${tellsUnknown ? "" : always}`);
  by("footer").hidden = false;
}

function report({ read, answered, unchecked }) {
  if (answered.length) {
    warn("This browser computes otherwise than the training did: its answers may be wrong.");
  } else if (read.length) {
    const effect = "probabilities may differ a little";
    warn(`This browser decodes some images otherwise than the training did: ${effect}.`);
  } else if (unchecked) {
    const reason = "that needs https";
    warn(`Whether this browser decodes images as the training did is not checked: ${reason}.`);
  }
}

function showProgress(total) {
  let bytes = 0;
  [by("progress").hidden, by("progress").max] = [false, total];
  return (more) => {
    bytes += more;
    by("progress").value = Math.min(bytes, total);
  };
}

async function begin() {
  by("off").hidden = true;
  by("ask").hidden = false;
  say("Loading the classifier …");
  listen();
  const total = Number(document.querySelector("meta[name=bytes]").content);
  const loaded = await load(showProgress(total));
  say("Checking the classifier …");
  const differ = await checkGolden(loaded);
  report(differ);
  showFacts(loaded.meta, loaded.session.outputNames.includes("unknown"));
  classifier = loaded;
  by("progress").hidden = true;
  for (const id of ["choose", "camera"]) by(id).disabled = false;
  say("Ready.");
  await answerFor([]); // what was dropped while the page was loading
  return differ;
}

function fail(error) {
  by("progress").hidden = true;
  say("");
  warn(`The classifier cannot be used: ${error.message}`);
  throw error;
}

const ready = begin().catch(fail);

/** For scripts and tests: what the page checked, and the answer for a file. */
globalThis.regraft = {
  ready,
  async ask(file) {
    await ready;
    const found = await ask(classifier, file);
    return { ...found, answer: describe(classifier.meta, found.outputs) };
  },
};
