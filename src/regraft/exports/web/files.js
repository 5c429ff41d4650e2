// Files of the page: beside it on a server, or inside it where the page is a single file.

/** Return the bytes of a file by its name; `arrived` hears how many bytes more have come. */
export async function readFile(name, arrived = () => {}) {
  const inside = document.querySelector(`script[data-file="${name}"]`);
  if (inside === null) return fromServer(name, arrived);
  const bytes = fromBase64(inside.textContent);
  inside.remove(); // megabytes of text
  arrived(bytes.length);
  return bytes;
}

/** Return the text of a file as JSON. */
export async function readJson(name) {
  const inside = document.querySelector(`script[data-json="${name}"]`);
  const text = inside?.textContent ?? new TextDecoder().decode(await fromServer(name, () => {}));
  return JSON.parse(text);
}

/** Return the bytes of a file that is packed by gzip. */
export async function readPacked(name, arrived) {
  const bytes = await readFile(name, arrived);
  // Some servers say that they pack what is packed already; browsers unpack it then.
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}

async function fromServer(name, arrived) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`the server answers ${response.status} for ${name}`);
  const parts = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    arrived(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

function fromBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] = characters.charCodeAt(at);
  return bytes;
}

/** Return the SHA-256 of bytes as text; null where the browser computes none, as without https. */
export async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
