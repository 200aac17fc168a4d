// Arrays out of the block of bytes that packing.py made.

function unbase64(text) {
  const plain = atob(text);
  const bytes = new Uint8Array(plain.length);
  for (let i = 0; i < plain.length; i += 1) bytes[i] = plain.charCodeAt(i);
  return bytes;
}

async function unzip(bytes) {
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(plain).arrayBuffer();
}

function halves() {
  const table = new Float32Array(65536);
  for (let i = 0; i < 65536; i += 1) {
    const [exponent, fraction] = [(i >> 10) & 31, i & 1023];
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
    table[i] = i & 32768 ? -size : size;
  }
  return table;
}

// A length, the description in JSON, and the arrays that it describes: see packing.py.
function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const table = halves();
  const arrays = {};
  for (const { name, kind, shape, offset } of header.arrays) {
    const n = shape.reduce((a, b) => a * b, 1);
    if (kind === "f32") arrays[name] = new Float32Array(buffer, offset, n);
    else if (kind === "u32") arrays[name] = new Uint32Array(buffer, offset, n);
    else if (kind === "u8") arrays[name] = new Uint8Array(buffer, offset, n);
    else {
      const values = new Float32Array(n);
      if (kind === "f16") {
        const words = new Uint16Array(buffer, offset, n);
        for (let i = 0; i < n; i += 1) values[i] = table[words[i]];
      } else {
        const scales = new Float32Array(buffer, offset, shape[0]);
        const numbers = new Int8Array(buffer, offset + 4 * shape[0], n);
        const width = n / shape[0];
        for (let row = 0; row < shape[0]; row += 1) {
          for (let i = row * width; i < (row + 1) * width; i += 1) values[i] = numbers[i] * scales[row];
        }
      }
      arrays[name] = values;
    }
  }
  return { header, arrays };
}
