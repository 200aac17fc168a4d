// Byte-level BPE: any text to ids, as the tokenizers library has it.

// A class of characters, of [first, last] code points, for a regular expression. A browser's own classes are those of
// its edition of Unicode, which need not be the library's.
const within = (ranges) => ranges.map(([a, b]) => `\\u{${a.toString(16)}}-\\u{${b.toString(16)}}`).join("");

function cutter(cut, letters, numbers) {
  const [L, N, S] = [within(letters), within(numbers), "\\p{White_Space}"];
  const rest = `[^${S}${L}${N}]+`;
  const spaces = `[${S}]+(?![^${S}])|[${S}]+`;
  if (cut === "GPT-2" || cut === "SmolLM") {
    return new RegExp(`'s|'t|'re|'ve|'m|'ll|'d| ?[${L}]+| ?[${N}]+| ?${rest}|${spaces}`, "gu");
  }
  const endings = "'[sS\\u017f]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL]{2}|'[dD]";
  const digits = cut === "Llama 3" ? "{1,3}" : "";
  return new RegExp(
    `${endings}|[^\\r\\n${L}${N}]?[${L}]+|[${N}]${digits}| ?${rest}[\\r\\n]*|[${S}]*[\\r\\n]+|${spaces}`, "gu",
  );
}

class Tokenizer {
  // `parts`: cut, nfc, whole_first, added [[text, id, after NFC?]], letters, numbers. `bytes` of all tokens in turn, of
  // which token i has [ends[i - 1], ends[i]). `merges`: (left, right, merged) for each.
  constructor(parts, bytes, ends, merges) {
    Object.assign(this, { parts, bytes, ends, size: ends.length });
    this.pattern = cutter(parts.cut, parts.letters, parts.numbers);
    this.digit = new RegExp(`[${within(parts.numbers)}]`, "gu");
    this.byteIds = parts.byte_ids;
    this.ranks = new Map();
    this.merged = new Uint32Array(merges.length / 3);
    for (let i = 0; i < this.merged.length; i += 1) {
      this.ranks.set(merges[3 * i] * this.size + merges[3 * i + 1], i);
      this.merged[i] = merges[3 * i + 2];
    }
    this.whole = new Map();
    if (parts.whole_first) {
      const isAdded = new Set(parts.added_ids);
      for (let i = 0; i < this.size; i += 1) if (!isAdded.has(i)) this.whole.set(this.key(this.bytesOf(i)), i);
    }
    this.known = new Map();
  }

  bytesOf(i) {
    return this.bytes.subarray(i ? this.ends[i - 1] : 0, this.ends[i]);
  }

  key(bytes) {
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return text;
  }

  // { text, ids, spans }: the text as it was read, and the [start, end) of it that each token covers.
  encode(given) {
    const ids = [];
    const spans = [];
    let text = "";
    for (const [piece, id] of this.split(given, false)) {
      const read = this.parts.nfc && id === null ? piece.normalize("NFC") : piece;
      for (const [part, inner] of id === null ? this.split(read, true) : [[read, id]]) {
        if (inner === null) this.encodePart(part, text.length, ids, spans);
        else {
          ids.push(inner);
          spans.push([text.length, text.length + part.length]);
        }
        text += part;
      }
    }
    return { text, ids, spans };
  }

  // The text in parts: [part, null], or [added token, its id].
  split(text, normalized) {
    const added = this.parts.added.filter(([, , after]) => after === normalized);
    if (!added.length) return [[text, null]];
    const longest = [...added].sort((a, b) => b[0].length - a[0].length);
    const parts = [];
    let start = 0;
    for (let at = 0; at < text.length; at += 1) {
      const found = longest.find(([name]) => text.startsWith(name, at));
      if (found) {
        if (at > start) parts.push([text.slice(start, at), null]);
        parts.push([found[0], found[1]]);
        start = at + found[0].length;
        at = start - 1;
      }
    }
    if (start < text.length) parts.push([text.slice(start), null]);
    return parts;
  }

  encodePart(text, offset, ids, spans) {
    const parts = [];
    if (this.parts.cut === "SmolLM") {
      let start = 0;
      for (const match of text.matchAll(this.digit)) {
        if (match.index > start) parts.push([text.slice(start, match.index), start]);
        parts.push([match[0], match.index]);
        start = match.index + match[0].length;
      }
      if (start < text.length) parts.push([text.slice(start), start]);
    } else parts.push([text, 0]);
    for (const [part, start] of parts) {
      for (const match of part.matchAll(this.pattern)) {
        const found = this.encodePiece(match[0]);
        const at = offset + start + match.index;
        for (let i = 0; i < found.ids.length; i += 1) {
          ids.push(found.ids[i]);
          spans.push([at + found.spans[i][0], at + found.spans[i][1]]);
        }
      }
    }
  }

  encodePiece(piece) {
    const known = this.known.get(piece);
    if (known) return known;
    const bytes = new TextEncoder().encode(piece);
    const starts = [];
    const ends = [];
    let at = 0;
    for (const character of piece) {
      const length = new TextEncoder().encode(character).length;
      for (let i = 0; i < length; i += 1) {
        starts.push(at);
        ends.push(at + character.length);
      }
      at += character.length;
    }
    const whole = this.whole.get(this.key(bytes));
    const ids = whole === undefined ? this.merge([...bytes].map((byte) => this.byteIds[byte])) : [whole];
    const spans = [];
    let first = 0;
    for (const id of ids) {
      const last = first + this.bytesOf(id).length;
      spans.push([starts[first], ends[last - 1]]);
      first = last;
    }
    const found = { ids, spans };
    if (this.known.size < 20000) this.known.set(piece, found);
    return found;
  }

  // Merge the pair of lowest rank, wherever it stands, until there is none.
  merge(ids) {
    while (ids.length > 1) {
      let lowest = Infinity;
      for (let i = 1; i < ids.length; i += 1) {
        const rank = this.ranks.get(ids[i - 1] * this.size + ids[i]);
        if (rank < lowest) lowest = rank;
      }
      if (lowest === Infinity) break;
      const next = [];
      for (let i = 0; i < ids.length; i += 1) {
        if (i + 1 < ids.length && this.ranks.get(ids[i] * this.size + ids[i + 1]) === lowest) {
          next.push(this.merged[lowest]);
          i += 1;
        } else next.push(ids[i]);
      }
      ids = next;
    }
    return ids;
  }
}
