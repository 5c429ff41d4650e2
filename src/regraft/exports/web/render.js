// Render decoded images as the network's input, in the very bits of the training.
//
// The same steps as preprocess.py: weights of 16 bits, the width first, bytes between width and
// height. `input` is that part of meta.json: image_size, resize_size, interpolation, and draws with
// an entry for each view.

// A long side of more than four short sides is cut to its middle before resizing, as in training.
const MAX_ASPECT = 4;
const REACH = { bilinear: 1, bicubic: 2 }; // of the filter on each side, in pixels
const TWO_32 = 2 ** 32;

/** Return the plain image and its views, (1 + V) * 3 * S * S bytes. */
export function renderViews(data, width, height, input) {
  const picture = pictureOf(data, width, height);
  const plain = renderPicture(picture, input);
  const draws = input.draws ?? [];
  const all = new Uint8Array((1 + draws.length) * plain.length);
  all.set(plain);
  draws.forEach((draw, at) => {
    all.set(draw === null ? plain : renderView(picture, draw, input), (at + 1) * plain.length);
  });
  return all;
}

/** Resize the short side of RGB or RGBA bytes; return the centre square, 3 * S * S bytes. */
export function render(data, width, height, input) {
  return renderPicture(pictureOf(data, width, height), input);
}

function pictureOf(data, width, height) {
  const whole = Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0;
  const channels = data.length / (width * height);
  if (!whole || (channels !== 3 && channels !== 4)) {
    throw new RangeError(
      `${data.length} bytes for ${width} by ${height} pixels: there must be 3 or 4 for each pixel`,
    );
  }
  const pixels = channels === 4 ? onWhite(data) : data;
  return { pixels, width, part: { top: 0, left: 0, height, width } };
}

/** Composite RGBA bytes on white, rounded as Pillow does; return RGB bytes. */
export function onWhite(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    const alpha = rgba[from + 3];
    for (let channel = 0; channel < 3; channel++) {
      const sum = 128 * (rgba[from + channel] * alpha + 255 * (255 - alpha) + 128);
      rgb[to + channel] = ((sum >> 8) + sum) >> 15;
    }
  }
  return rgb;
}

function renderPicture({ pixels, width, part }, input) {
  const { image_size: side, resize_size: resize, interpolation } = input;
  check(side, resize, interpolation);
  const longest = MAX_ASPECT * Math.min(part.height, part.width);
  const top = Math.max(0, Math.floor((part.height - longest) / 2));
  const left = Math.max(0, Math.floor((part.width - longest) / 2));
  const cut = { top, left, height: part.height - 2 * top, width: part.width - 2 * left };
  const short = Math.min(cut.height, cut.width);
  const high = Math.floor((resize * cut.height) / short);
  const wide = Math.floor((resize * cut.width) / short);
  const down = tapsOf(cut.height, high, interpolation, roundHalfEven((high - side) / 2), side);
  const across = tapsOf(cut.width, wide, interpolation, roundHalfEven((wide - side) / 2), side);
  return mix(pixels, width, cut, down, across);
}

function renderView({ pixels, width, part }, draw, { image_size: side, interpolation }) {
  const random = randomPart(part.height, part.width, draw);
  const down = tapsOf(random.height, side, interpolation, 0, side);
  const across = tapsOf(random.width, side, interpolation, 0, side);
  const planes = mix(pixels, width, random, down, across);
  if (random.mirrored) {
    for (let row = 0; row < planes.length; row += side) planes.subarray(row, row + side).reverse();
  }
  return planes;
}

function check(side, resize, interpolation) {
  if (!(Number.isInteger(side) && Number.isInteger(resize) && side >= 1 && side <= resize)) {
    throw new RangeError(`image_size ${side} must be from 1 to resize_size, which is ${resize}`);
  }
  if (!Object.hasOwn(REACH, interpolation)) {
    throw new RangeError(`interpolation ${interpolation} must be one of bilinear, bicubic`);
  }
}

/** Round to the nearest whole number, and from the middle to the even one. */
function roundHalfEven(value) {
  const low = Math.floor(value);
  const above = value - low;
  return above < 0.5 || (above === 0.5 && low % 2 === 0) ? low : low + 1;
}

// --- resizing ------------------------------------------------------------------------------------

/**
 * Return the weights that torch computes to resize a side, of `count` outputs from `first`.
 *
 * Output n mixes `counts[n]` pixels from `starts[n]` with weights from n * `most`, which add up to
 * about two to the power of `precision`.
 */
function tapsOf(before, after, interpolation, first, count) {
  const scale = before / after;
  const stretch = Math.max(scale, 1);
  const reach = REACH[interpolation] * stretch;
  const most = Math.ceil(reach) * 2 + 1;
  const starts = new Int32Array(after);
  const counts = new Int32Array(after);
  const curve = new Float64Array(after * most);
  const filter = interpolation === "bilinear" ? triangle : cubic;
  let largest = 0; // of all outputs, also of those beside the square
  for (let n = 0; n < after; n++) {
    const centre = scale * (n + 0.5);
    const start = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach + 0.5), before);
    starts[n] = start;
    counts[n] = Math.min(Math.max(end - start, 0), most);
    let total = 0;
    for (let k = 0; k < counts[n]; k++) {
      const weight = filter(Math.abs((k + start - centre + 0.5) * (1 / stretch)));
      curve[n * most + k] = weight;
      total += weight;
    }
    for (let k = 0; total !== 0 && k < counts[n]; k++) {
      curve[n * most + k] /= total;
      largest = Math.max(largest, curve[n * most + k]);
    }
  }
  const precision = precisionOf(largest);
  const one = 2 ** precision;
  const rounded = (value) => Math.trunc(value * one + (value < 0 ? -0.5 : 0.5));
  const weights = Int32Array.from(curve, rounded);
  return {
    precision,
    most,
    starts: starts.slice(first, first + count),
    counts: counts.slice(first, first + count),
    weights: weights.slice(first * most, (first + count) * most),
  };
}

/** Return the most bits after the point with which the largest weight fits into 16 bits. */
function precisionOf(largest) {
  let bits = 0;
  while (bits < 22 && Math.trunc(0.5 + largest * 2 ** (bits + 1)) < 2 ** 15) bits++;
  return bits;
}

function triangle(x) {
  return x < 1 ? 1 - x : 0;
}

/** Return Keys' cubic with a = -0.5, in the order of torch's operations. */
function cubic(x) {
  if (x < 1) return ((-0.5 + 2) * x - (-0.5 + 3)) * x * x + 1;
  if (x < 2) return ((-0.5 * x - 5 * -0.5) * x + 8 * -0.5) * x - 4 * -0.5;
  return 0;
}

function toByte(sum, precision) {
  const value = sum >> precision;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** Resize a part of RGB bytes, first across and then down, to three planes. */
function mix(pixels, width, part, down, across) {
  const first = down.starts[0];
  const last = down.starts.length - 1;
  const rows = { first, count: down.starts[last] + down.counts[last] - first };
  const mixed = mixColumns(pixels, width, part, rows, across);
  return mixRows(mixed, rows.first, down, across.starts.length);
}

/** Mix pixels of rows to (R, S, 3) bytes. */
function mixColumns(pixels, width, part, rows, { starts, counts, weights, most, precision }) {
  const side = starts.length;
  const mixed = new Uint8Array(rows.count * side * 3);
  const half = precision > 0 ? 1 << (precision - 1) : 0;
  let to = 0;
  for (let row = 0; row < rows.count; row++) {
    const begin = ((part.top + rows.first + row) * width + part.left) * 3;
    for (let n = 0; n < side; n++) {
      let from = begin + starts[n] * 3;
      let red = half;
      let green = half;
      let blue = half;
      for (let at = n * most, end = at + counts[n]; at < end; at++, from += 3) {
        const weight = weights[at];
        red = (red + weight * pixels[from]) | 0;
        green = (green + weight * pixels[from + 1]) | 0;
        blue = (blue + weight * pixels[from + 2]) | 0;
      }
      mixed[to++] = toByte(red, precision);
      mixed[to++] = toByte(green, precision);
      mixed[to++] = toByte(blue, precision);
    }
  }
  return mixed;
}

/** Mix rows (R, S, 3) to planes (3, N, S). */
function mixRows(mixed, firstRow, { starts, counts, weights, most, precision }, side) {
  const count = starts.length;
  const planes = new Uint8Array(3 * count * side);
  const sums = new Int32Array(side * 3);
  for (let n = 0; n < count; n++) {
    sums.fill(precision > 0 ? 1 << (precision - 1) : 0);
    for (let k = 0; k < counts[n]; k++) {
      const weight = weights[n * most + k];
      const from = (starts[n] + k - firstRow) * side * 3;
      for (let at = 0; at < sums.length; at++) sums[at] += weight * mixed[from + at];
    }
    for (let at = 0; at < sums.length; at++) {
      planes[((at % 3) * count + n) * side + Math.trunc(at / 3)] = toByte(sums[at], precision);
    }
  }
  return planes;
}

// --- views ---------------------------------------------------------------------------------------

/** Return the part of an image that a view shows, and whether it is mirrored. */
function randomPart(height, width, { shares, aspects, words }) {
  for (let attempt = 0; attempt < shares.length; attempt++) {
    const target = height * width * shares[attempt];
    const w = roundHalfEven(Math.sqrt(target * aspects[attempt]));
    const h = roundHalfEven(Math.sqrt(target / aspects[attempt]));
    if (w > 0 && w <= width && h > 0 && h <= height) {
      const drawn = readWords(words, 4 * (attempt + 1)); // each attempt has used two of 64 bits
      const top = drawn.below(height - h + 1);
      const left = drawn.below(width - w + 1);
      return { top, left, height: h, width: w, mirrored: drawn.isBelowHalf() };
    }
  }
  const w = Math.min(width, roundHalfEven((height * 4) / 3));
  const h = Math.min(height, roundHalfEven((width * 4) / 3));
  const [top, left] = [Math.floor((height - h) / 2), Math.floor((width - w) / 2)];
  const mirrored = readWords(words, 4 * shares.length).isBelowHalf();
  return { top, left, height: h, width: w, mirrored };
}

/** Read recorded words of 32 bits as numpy does: two for each of 64 bits, the low one first. */
function readWords(words, position) {
  function next() {
    if (position >= words.length) {
      throw new RangeError(`the ${words.length} recorded words of a view are used up`);
    }
    return words[position++];
  }
  return {
    /** Draw a whole number from 0 to `bound` - 1 (Lemire, 2019). */
    below(bound) {
      if (bound === 1) return 0;
      for (;;) {
        const product = next() * bound; // below 2^53, as no side has 2^21 pixels
        if (product % TWO_32 >= TWO_32 % bound) return Math.floor(product / TWO_32);
      }
    },
    /** Draw a number from 0 to 1, from whole words of 64 bits, and compare it with 0.5. */
    isBelowHalf() {
      position += position % 2;
      next();
      return next() < 2 ** 31;
    },
  };
}
