// A product of matrices in WebAssembly, by four rows and eight columns in SIMD registers, in float32.
//
// {product, at, numbers}, in a memory that only grows. product(a, b, out, rows, bytes) is
// out [rows, 8] = a [rows, K] b [K, 8], each a place in that memory; rows is a multiple of four,
// bytes is 4 K. Throws where there is no WebAssembly, or none with SIMD, or where a page may not.
function flaxvaeProduct() {
  "use strict";
  const leb = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...leb(n >> 7)]); // LEB128
  const section = (id, body) => [id, ...leb(body.length), ...body];
  const text = (name) => [name.length, ...[...name].map((c) => c.charCodeAt(0))];

  // Instructions, by the names of the specification.
  const get = (local) => [0x20, local], set = (local) => [0x21, local], tee = (local) => [0x22, local];
  const loop = [0x03, 0x40], again = [0x0d, 0], end = [0x0b]; // br_if 0
  const add = [0x6a], sub = [0x6b], mul = [0x6c], less = [0x49]; // i32, unsigned
  const number = (n) => [0x41, ...leb(n)]; // i32.const
  const load = (offset) => [0xfd, 0x00, 4, offset], store = (offset) => [0xfd, 0x0b, 4, offset];
  const splat = [0xfd, 0x09, 2, 0], zeros = [...number(0), 0xfd, 0x11]; // v128.load32_splat, i32x4.splat
  const plus = [0xfd, 0xe4, 0x01], times = [0xfd, 0xe6, 0x01]; // f32x4

  const [A, B, OUT, ROWS, BYTES, X, STOP, P, U, LEFT, RIGHT, SUMS] = [...Array(12).keys()]; // locals
  const rows = [0, 1, 2, 3], sums = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => SUMS + i);
  const row = (i) => [ // two of the sums; row i is i * BYTES further
    get(X), i ? [get(BYTES), number(i), mul, add] : [], splat, set(U),
    [LEFT, RIGHT].map((b, half) => {
      const sum = sums[2 * i + half];
      return [get(sum), get(U), get(b), times, plus, set(sum)];
    }),
  ];
  const code = [
    2, 3, 0x7f, 11, 0x7b, // X, STOP, P are i32; U, LEFT, RIGHT and the sums v128
    loop, // for four rows
    get(A), tee(X), get(BYTES), add, set(STOP), get(B), set(P), sums.map((sum) => [zeros, set(sum)]),
    loop, // for each of K
    get(P), load(0), set(LEFT), get(P), load(16), set(RIGHT), rows.map(row),
    get(P), number(32), add, set(P), get(X), number(4), add, tee(X), get(STOP), less, again, end,
    sums.map((sum, i) => [get(OUT), get(sum), store(16 * i)]),
    get(OUT), number(128), add, set(OUT), get(A), get(BYTES), number(4), mul, add, set(A),
    get(ROWS), number(4), sub, tee(ROWS), again, end, end,
  ].flat(Infinity);
  const { memory, product } = new WebAssembly.Instance(new WebAssembly.Module(Uint8Array.from([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [1, 0x60, 5, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0]), // of five i32, to nothing
    ...section(3, [1, 0]), ...section(5, [1, 0, 1]), // one function, one page of memory
    ...section(7, [2, ...text("memory"), 2, 0, ...text("product"), 0, 0]),
    ...section(10, [1, ...leb(code.length), ...code]),
  ]))).exports;

  let used = 0, seen = new Float32Array(memory.buffer);
  return {
    product,
    at: (size) => { // the place of so many numbers
      const place = used;
      used += Math.ceil(size / 4) * 16;
      const more = Math.ceil((used - memory.buffer.byteLength) / 65536);
      if (more > 0) memory.grow(more);
      return place;
    },
    numbers: () => { // all of the memory, also after it has grown
      if (!seen.length) seen = new Float32Array(memory.buffer);
      return seen;
    },
  };
}
