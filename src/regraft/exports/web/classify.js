// The classifier: decoded by the browser, rendered by render.js, computed by onnxruntime.

import * as ort from "./onnxruntime.mjs";
import { decode, ImageProblem } from "./decode.js";
import { readFile, readJson, readPacked, sha256 } from "./files.js";
import { renderViews } from "./render.js";

const [ABSTAINED, UNKNOWN] = [-1, -2]; // in `decision`, which else is the number of a class
const TOLERANCE = 5e-4; // of a probability, between runtimes that add in another order

/** Load what the page needs; `arrived` hears of bytes. */
export async function load(arrived) {
  const meta = await readJson("meta.json");
  const [runtime, model, golden] = await Promise.all([
    readPacked("onnxruntime.wasm.gz", arrived),
    readPacked("model.onnx.gz", arrived),
    prepareGolden(meta), // meanwhile
  ]);
  const hash = await sha256(model);
  if (hash !== null && hash !== meta.model.sha256) {
    throw new Error("model.onnx.gz is not the file that belongs to meta.json: reload the page");
  }
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // more need headers that plain servers do not send
  ort.env.wasm.wasmBinary = runtime;
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return { meta, session, golden };
}

/** Return the outputs for a file, a small picture of it, and milliseconds; throws ImageProblem. */
export async function ask({ meta, session }, file) {
  const { squares, preview, times } = await prepare(meta, file);
  const start = performance.now();
  const outputs = await compute(session, meta.inputs, squares);
  return { squares, preview, outputs, times: { ...times, computed: performance.now() - start } };
}

/** Return a file as the input of each network. */
async function prepare(meta, file) {
  const start = performance.now();
  const { pixels, width, height, preview } = await decode(file, meta.max_pixels);
  const between = performance.now();
  const squares = meta.inputs.map((input) => renderViews(pixels, width, height, input));
  const times = { read: between - start, resized: performance.now() - between };
  return { squares, preview, times };
}

async function compute(session, inputs, squares) {
  const tensors = inputs.map(({ name, image_size: side, draws }, k) => {
    const views = draws.length ? [1 + draws.length] : [];
    return [name, new ort.Tensor("uint8", squares[k], [1, ...views, 3, side, side])];
  });
  const found = await session.run(Object.fromEntries(tensors));
  return Object.fromEntries(Object.entries(found).map(([name, { data }]) => [name, data]));
}

/** Return an answer, as predict.py gives it; `outputs` are those for one image. */
export function describe({ classes }, outputs) {
  const { probabilities, logits, features } = outputs;
  if (![...logits, ...features].every(Number.isFinite)) {
    throw new ImageProblem("The network computes no numbers for it: its features are not finite.");
  }
  const order = [...classes.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const ranked = order.map((k) => ({ label: classes[k], probability: probabilities[k] }));
  const decision = outputs.decision === undefined ? order[0] : Number(outputs.decision[0]);
  return {
    ranked,
    unknown: decision === UNKNOWN || Boolean(outputs.unknown?.[0]),
    abstained: decision === ABSTAINED,
    decision: classes[decision] ?? null, // null for no class
    typicality: outputs.typicality?.[0] ?? null,
    set: outputs.set ? order.filter((k) => outputs.set[k]).map((k) => classes[k]) : null,
  };
}

/** Return the golden images as the input of each network. */
function prepareGolden(meta) {
  const squaresOf = async ({ file }) => {
    const { squares } = await prepare(meta, new Blob([await readFile(file)]));
    return squares;
  };
  return Promise.all(meta.golden.map(squaresOf));
}

/**
 * Compare the golden images with what they were at the export; return the names of what differs.
 *
 * Each is decoded in another way, so the squares of all are compared. Numbers are computed in one
 * way, so the answer to one of them is enough.
 */
export async function checkGolden({ meta, session, golden: prepared }) {
  const differ = { read: [], answered: [], unchecked: false };
  for (const [number, golden] of meta.golden.entries()) {
    const squares = prepared[number];
    const hashes = await Promise.all(squares.map(sha256));
    const same = hashes.every((hash, k) => hash === golden.pixels[k]);
    if (hashes.includes(null)) differ.unchecked = true;
    else if (!same) differ.read.push(golden.file);
    if (number > 0 || !same) continue;
    const { probabilities } = await compute(session, meta.inputs, squares);
    const far = (value, k) => !(Math.abs(value - probabilities[k]) <= TOLERANCE);
    if (golden.probabilities.some(far)) differ.answered.push(golden.file);
  }
  return differ;
}
