// Decode image files by the browser to the pixels that the training saw: upright, on white.

import { onWhite } from "./render.js";

const LARGEST_FILE = 100 * 2 ** 20; // bytes; a photograph of a phone has up to 20 million
const TILE = 2048; // pixels; phones have no larger canvases than some, but all have these
const PREVIEW = 480; // pixels of the longer side: twice of what is shown
const AS_STORED = {
  imageOrientation: "from-image",
  premultiplyAlpha: "none",
  colorSpaceConversion: "none",
};

/** What is wrong with one image, in words for its owner. */
export class ImageProblem extends Error {}

/** Return RGB bytes, width and height of a file, and a canvas with a small picture of it. */
export async function decode(file, maxPixels) {
  if (file.size > LARGEST_FILE) {
    const size = Math.ceil(file.size / 2 ** 20);
    throw new ImageProblem(`The file has ${size} MB; at most ${LARGEST_FILE / 2 ** 20} are read.`);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  checkSize(sizeOf(bytes), maxPixels); // before the browser takes memory for the pixels
  const bitmap = await bitmapOf(file);
  const { width, height } = bitmap;
  try {
    checkSize(bitmap, maxPixels);
    return { pixels: pixelsOf(bitmap), width, height, preview: previewOf(bitmap) };
  } finally {
    bitmap.close();
  }
}

function previewOf(bitmap) {
  const canvas = document.createElement("canvas");
  const scale = Math.min(1, PREVIEW / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // as the classifier sees what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas;
}

async function bitmapOf(file) {
  try {
    return await createImageBitmap(file, AS_STORED);
  } catch {
    throw new ImageProblem("This browser cannot read it as an image.");
  }
}

function checkSize(size, maxPixels) {
  if (size !== null && size.width * size.height > maxPixels) {
    const allowed = maxPixels.toLocaleString("en");
    throw new ImageProblem(
      `It has ${size.width} by ${size.height} pixels; at most ${allowed} in all are read.`,
    );
  }
}

// --- pixels --------------------------------------------------------------------------------------

/** Return the RGB bytes of a bitmap. */
function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  const pixels = new Uint8Array(width * height * 3);
  for (let top = 0; top < height; top += TILE) {
    for (let left = 0; left < width; left += TILE) {
      const [wide, high] = [Math.min(TILE, width - left), Math.min(TILE, height - top)];
      const tile = onWhite(tileOf(bitmap, { left, top, wide, high }));
      for (let row = 0; row < high; row++) {
        const line = tile.subarray(row * wide * 3, (row + 1) * wide * 3);
        pixels.set(line, ((top + row) * width + left) * 3);
      }
    }
  }
  return pixels;
}

/**
 * Return the RGBA bytes of a part of a bitmap.
 *
 * A canvas keeps colours multiplied by alpha, rounded. On white they become the same bytes as from
 * the exact colours: only that product is used there.
 */
function tileOf(bitmap, { left, top, wide, high }) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [wide, high];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, -left, -top);
  return context.getImageData(0, 0, wide, high).data;
}

// --- sizes in headers ----------------------------------------------------------------------------

/** Return width and height as a file's header says; null if it is of another format. */
export function sizeOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const begins = (text, at = 0) => [...text].every((c, k) => bytes[at + k] === c.charCodeAt(0));
  try {
    if (begins("\x89PNG")) return { width: view.getUint32(16), height: view.getUint32(20) };
    if (begins("\xff\xd8\xff")) return sizeOfJpeg(view);
    if (begins("GIF8")) return { width: view.getUint16(6, true), height: view.getUint16(8, true) };
    if (begins("BM")) {
      return { width: view.getInt32(18, true), height: Math.abs(view.getInt32(22, true)) };
    }
    if (begins("RIFF") && begins("WEBP", 8)) return sizeOfWebp(view, begins);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the file ends in its header
  }
  return null;
}

function sizeOfJpeg(view) {
  for (let at = 2; ; ) {
    const marker = view.getUint8(at + 1);
    if (view.getUint8(at) !== 0xff || marker === 0xda || marker === 0xd9) return null;
    if (marker === 0xff) {
      at += 1; // a byte that fills
    } else if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      return { width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
    } else {
      at += 2 + view.getUint16(at + 2);
    }
  }
}

function sizeOfWebp(view, begins) {
  const three = (at) => view.getUint16(at, true) + (view.getUint8(at + 2) << 16);
  if (begins("VP8X", 12)) return { width: three(24) + 1, height: three(27) + 1 };
  if (begins("VP8L", 12)) {
    const bits = view.getUint32(21, true);
    return { width: (bits & 0x3fff) + 1, height: ((bits >> 14) & 0x3fff) + 1 };
  }
  const side = (at) => view.getUint16(at, true) & 0x3fff;
  return begins("VP8 ", 12) ? { width: side(26), height: side(28) } : null;
}
