// Runs the graphs of a model (export/graph.py) with the run's own weights.
//
// One function that uses none outside it but flaxvaeProduct, so that the text of both can be the
// program of a Web Worker as well. A graph becomes a plan once: buffers of fixed size, and for each
// operation a closure that fills its own. A run allocates nothing but the outputs. Sums are in
// double precision; those of large convolutions in single, by WebAssembly where there is any.
function flaxvaeEngine() {
  "use strict";

  const KINDS = {
    float32: Float32Array, bfloat16: Float32Array, float16: Float32Array, float64: Float64Array,
    int64: Int32Array, int32: Int32Array, int16: Int16Array, int8: Int8Array,
    uint64: Uint32Array, uint32: Uint32Array, uint16: Uint16Array, uint8: Uint8Array,
    bool: Uint8Array,
  };
  const product = (sizes) => sizes.reduce((a, b) => a * b, 1);
  const make = (dtype, size) => {
    const kind = KINDS[dtype];
    if (!kind) throw new Error(`no arrays of ${dtype}`);
    return new kind(size);
  };

  // ---- weights

  // Base 85: five characters are four bytes, the most significant first; fewer are one byte less.
  const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    + "!#$%&()*+-;.=>?@^_`{|}~";
  const ofText = (text) => {
    const value = new Uint8Array(128);
    for (let i = 0; i < 85; i++) value[DIGITS.charCodeAt(i)] = i;
    const whole = Math.ceil(text.length / 5), found = new DataView(new ArrayBuffer(4 * whole));
    for (let i = 0, at = 0; i < whole; i++) {
      let number = 0;
      for (let k = 0; k < 5; k++, at++) {
        number = 85 * number + (at < text.length ? value[text.charCodeAt(at)] : 84);
      }
      found.setUint32(4 * i, number);
    }
    return new Uint8Array(found.buffer, 0, 4 * whole - (5 * whole - text.length));
  };

  let halves = null;
  const ofHalf = (bits) => { // float16 as a number
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  };

  // An array as it is stored (explorer/packing.py): {dtype, shape, as, at}, or of whole numbers
  // "steps", the array of their rows' steps. Those of two bytes are two planes, the lower one first.
  const stored = (bytes, arrays, { dtype, shape, as, at, steps }) => {
    const size = product(shape), data = make(dtype, size);
    const bits = (i) => bytes[at + i] | (bytes[at + size + i] << 8);
    if (as === "float16") {
      halves ??= Float32Array.from({ length: 65536 }, (_, bits) => ofHalf(bits));
      for (let i = 0; i < size; i++) data[i] = halves[bits(i)];
    } else if (as === "steps") {
      const step = stored(bytes, arrays, arrays[steps]).data, columns = size / step.length;
      for (let row = 0, i = 0; row < step.length; row++) {
        for (const end = i + columns; i < end; i++) data[i] = (bits(i) - 32896) * step[row];
      }
    } else {
      new Uint8Array(data.buffer).set(bytes.subarray(at, at + data.byteLength));
    }
    return { data, shape, dtype, constant: true };
  };

  // ---- elementwise

  const ERF_INV = [ // Giles 2010, single precision: near 0, and in the tails
    [2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 0.00021858087, -0.00125372503,
      -0.00417768164, 0.246640727, 1.50140941],
    [-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
      -0.0076224613, 0.00943887047, 1.00167406, 2.83297682],
  ];
  const erfInv = (x) => {
    if (Math.abs(x) === 1) return x * Infinity;
    const w = -Math.log1p(-x * x), near = w < 5;
    const at = near ? w - 2.5 : Math.sqrt(w) - 3;
    return x * ERF_INV[near ? 0 : 1].reduce((sum, c) => sum * at + c, 0);
  };
  const erf = (x) => { // a series, or a continued fraction: to full precision
    const a = Math.abs(x);
    if (a > 6) return Math.sign(x);
    if (a < 2.5) {
      let term = a, sum = a;
      for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
        term *= -a * a / n;
        sum += term / (2 * n + 1);
      }
      return Math.sign(x) * sum * 2 / Math.sqrt(Math.PI);
    }
    let below = a;
    for (let n = 60; n > 0; n--) below = a + n / 2 / below;
    return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * below));
  };
  const toEven = (x) => {
    const r = Math.round(x);
    return Math.abs(x % 1) === 0.5 && r % 2 ? r - 1 : r;
  };
  const UNARY = {
    neg: (x) => -x, exp: Math.exp, exp2: (x) => 2 ** x, log: Math.log, log1p: Math.log1p,
    expm1: Math.expm1, tanh: Math.tanh, logistic: (x) => 1 / (1 + Math.exp(-x)), sqrt: Math.sqrt,
    rsqrt: (x) => 1 / Math.sqrt(x), cbrt: Math.cbrt, abs: Math.abs, sign: Math.sign,
    floor: Math.floor, ceil: Math.ceil, round: toEven, square: (x) => x * x, sin: Math.sin,
    cos: Math.cos, tan: Math.tan, erf, erf_inv: erfInv, is_finite: (x) => +Number.isFinite(x),
    not: (x) => +!x, stop_gradient: (x) => x, copy: (x) => x, copy_p: (x) => x,
    erfc: (x) => 1 - erf(x), asin: Math.asin, acos: Math.acos, atan: Math.atan, sinh: Math.sinh,
    cosh: Math.cosh, reduce_precision: (x) => x, real: (x) => x,
  };
  const BINARY = {
    add: (a, b) => a + b, add_any: (a, b) => a + b, sub: (a, b) => a - b, mul: (a, b) => a * b,
    div: (a, b) => a / b, max: (a, b) => (a !== a || b !== b ? NaN : a > b ? a : b),
    min: (a, b) => (a !== a || b !== b ? NaN : a < b ? a : b), pow: (a, b) => a ** b,
    rem: (a, b) => a % b, atan2: Math.atan2, eq: (a, b) => +(a === b), ne: (a, b) => +(a !== b),
    lt: (a, b) => +(a < b), le: (a, b) => +(a <= b), gt: (a, b) => +(a > b),
    ge: (a, b) => +(a >= b), and: (a, b) => a & b, or: (a, b) => a | b, xor: (a, b) => a ^ b,
    shift_left: (a, b) => (b > 31 ? 0 : a << b),
    shift_right_logical: (a, b) => (b > 31 ? 0 : a >>> b),
    shift_right_arithmetic: (a, b) => a >> Math.min(b, 31),
  };
  const WHOLE = { // of whole numbers
    mul: Math.imul, div: (a, b) => Math.trunc(a / b), not: (x) => ~x,
  };

  // The operations that cost time, as loops of their own: a function of a number called through a
  // variable costs as much as the arithmetic.
  const LOOPS = {
    add: (o, a, b) => { for (let i = 0; i < o.length; i++) o[i] = a[i] + b[i]; },
    sub: (o, a, b) => { for (let i = 0; i < o.length; i++) o[i] = a[i] - b[i]; },
    mul: (o, a, b) => { for (let i = 0; i < o.length; i++) o[i] = a[i] * b[i]; },
    max: (o, a, b) => { // NaN if either is
      for (let i = 0; i < o.length; i++) o[i] = a[i] > b[i] || a[i] !== a[i] ? a[i] : b[i];
    },
    logistic: (o, a) => { for (let i = 0; i < o.length; i++) o[i] = 1 / (1 + Math.exp(-a[i])); },
    tanh: (o, a) => { for (let i = 0; i < o.length; i++) o[i] = Math.tanh(a[i]); },
    exp: (o, a) => { for (let i = 0; i < o.length; i++) o[i] = Math.exp(a[i]); },
  };

  // ---- products

  // B [K, N] in panels of four columns, [N / 4, K, 4], so that the innermost loop reads on and on.
  const panels = (b, rows, columns, into) => {
    const packed = into ?? new Float32Array(Math.ceil(columns / 4) * 4 * rows);
    for (let j = 0, p = 0; j < columns; j += 4) {
      for (let k = 0; k < rows; k++) {
        for (let c = j; c < j + 4; c++, p++) packed[p] = c < columns ? b[k * columns + c] : 0;
      }
    }
    return packed;
  };

  // out[where[i] + j] = sum_k a[i, k] b[k, j] + bias[j]: two rows and four columns at a time.
  const multiply = (a, packed, out, where, rows, inner, columns, bias) => {
    for (let j = 0, panel = 0; j < columns; j += 4, panel += 4 * inner) {
      const s0 = bias ? bias[j] : 0, s1 = bias && j + 1 < columns ? bias[j + 1] : 0;
      const s2 = bias && j + 2 < columns ? bias[j + 2] : 0;
      const s3 = bias && j + 3 < columns ? bias[j + 3] : 0;
      const wide = columns - j;
      for (let i = 0; i < rows; i += 2) {
        const pair = i + 1 < rows;
        let c0 = s0, c1 = s1, c2 = s2, c3 = s3, d0 = s0, d1 = s1, d2 = s2, d3 = s3;
        let p = panel, x = i * inner, y = pair ? x + inner : x;
        for (const end = x + inner; x < end; x++, y++, p += 4) {
          const u = a[x], v = a[y], b0 = packed[p], b1 = packed[p + 1];
          const b2 = packed[p + 2], b3 = packed[p + 3];
          c0 += u * b0; c1 += u * b1; c2 += u * b2; c3 += u * b3;
          d0 += v * b0; d1 += v * b1; d2 += v * b2; d3 += v * b3;
        }
        let o = where[i] + j;
        out[o] = c0;
        if (wide > 1) out[o + 1] = c1;
        if (wide > 2) out[o + 2] = c2;
        if (wide > 3) out[o + 3] = c3;
        if (!pair) continue;
        o = where[i + 1] + j;
        out[o] = d0;
        if (wide > 1) out[o + 1] = d1;
        if (wide > 2) out[o + 2] = d2;
        if (wide > 3) out[o + 3] = d3;
      }
    }
  };

  // The same for a large product of patches, in float32 by WebAssembly, in whose memory the weights
  // stay.
  const LARGE = 200_000; // multiplications
  let fast; // null where there is no WebAssembly, or none with SIMD
  const assembles = () => {
    if (fast === undefined) try { fast = flaxvaeProduct(); } catch { fast = null; }
    return fast;
  };
  const rooms = {}; // in its memory, shared by all products
  const room = (use, size) => {
    if (!(rooms[use]?.size >= size)) rooms[use] = { at: fast.at(size), size };
  };
  const quick = (weights, where, from, inner, columns) => {
    const rows = Math.ceil(where.length / 4) * 4, channels = (where.length * inner) / from.length;
    room("patches", rows * inner);
    room("sums", rows * 8);
    const panels = fast.at(Math.ceil(columns / 8) * 8 * inner);
    fast.numbers().fill(0, panels / 4, panels / 4 + Math.ceil(columns / 8) * 8 * inner);
    for (let k = 0; k < inner; k++) {
      for (let j = 0; j < columns; j++) {
        const panel = Math.floor(j / 8) * inner * 8;
        fast.numbers()[panels / 4 + panel + k * 8 + (j % 8)] = weights[k * columns + j];
      }
    }
    return (source, out, bias) => {
      const numbers = fast.numbers(), sums = rooms.sums.at / 4;
      gathered(numbers, rooms.patches.at / 4, source, from, channels);
      for (let j = 0; j < columns; j += 8) {
        fast.product(rooms.patches.at, panels + j * inner * 4, rooms.sums.at, rows, inner * 4);
        const wide = Math.min(8, columns - j);
        for (let i = 0, p = sums; i < where.length; i++, p += 8) {
          const o = where[i] + j;
          for (let c = 0; c < wide; c++) out[o + c] = numbers[p + c] + (bias ? bias[j + c] : 0);
        }
      }
    };
  };

  // Runs of so many numbers, from places of which those below 0 are zeros.
  const gathered = (into, start, source, from, channels) => {
    for (let t = 0, o = start; t < from.length; t++, o += channels) {
      const at = from[t];
      if (at < 0) into.fill(0, o, o + channels);
      else for (let c = 0; c < channels; c++) into[o + c] = source[at + c];
    }
  };

  // One row: of the matrix, only the rows whose factor is not 0 are read, four at a time. After a
  // relu that is half of them.
  const row = (a, start, b, from, out, to, inner, columns, bias, sums, used) => {
    let count = 0;
    for (let k = 0; k < inner; k++) if (a[start + k] !== 0) used[count++] = k;
    if (bias) sums.set(bias); else sums.fill(0, 0, columns);
    let n = 0;
    for (; n + 3 < count; n += 4) {
      const k0 = used[n], k1 = used[n + 1], k2 = used[n + 2], k3 = used[n + 3];
      const x0 = a[start + k0], x1 = a[start + k1], x2 = a[start + k2], x3 = a[start + k3];
      const p0 = from + k0 * columns, p1 = from + k1 * columns;
      const p2 = from + k2 * columns, p3 = from + k3 * columns;
      for (let j = 0; j < columns; j++) {
        sums[j] += x0 * b[p0 + j] + x1 * b[p1 + j] + x2 * b[p2 + j] + x3 * b[p3 + j];
      }
    }
    for (; n < count; n++) {
      const x = a[start + used[n]], p = from + used[n] * columns;
      for (let j = 0; j < columns; j++) sums[j] += x * b[p + j];
    }
    for (let j = 0; j < columns; j++) out[to + j] = sums[j];
  };

  // ---- where elements come from

  const strides = (shape) => {
    const found = new Array(shape.length).fill(1);
    for (let i = shape.length - 2; i >= 0; i--) found[i] = found[i + 1] * shape[i + 1];
    return found;
  };

  // The place at which each element of an array of this shape is read, for steps along its axes.
  const places = (shape, steps, start = 0) => {
    const found = new Int32Array(product(shape));
    const at = new Array(shape.length).fill(0);
    let place = start;
    for (let i = 0; i < found.length; i++) {
      found[i] = place;
      for (let axis = shape.length - 1; axis >= 0; axis--) {
        place += steps[axis];
        if (++at[axis] < shape[axis]) break;
        place -= steps[axis] * shape[axis];
        at[axis] = 0;
      }
    }
    return found;
  };

  // As NumPy broadcasts.
  const broadcast = (from, to) => {
    const own = strides(from), lead = to.length - from.length;
    return places(to, to.map((_, i) => (i < lead || from[i - lead] === 1 ? 0 : own[i - lead])));
  };

  const plain = (map, size) => map.length === size && map.every((place, i) => place === i);
  const taken = (out, from, map) => { for (let i = 0; i < map.length; i++) out[i] = from[map[i]]; };

  // ---- operations that are no map of elements: (out, inputs, params, scratch) -> how to run it

  const moved = (map) => (out, [x]) => () => taken(out.data, x.data, map);
  const OPERATIONS = {
    broadcast_in_dim: (out, [x], { broadcast_dimensions: axes }) => {
      const own = strides(x.shape), steps = new Array(out.shape.length).fill(0);
      axes.forEach((axis, i) => { steps[axis] = x.shape[i] === 1 ? 0 : own[i]; });
      return moved(places(out.shape, steps))(out, [x]);
    },
    transpose: (out, [x], { permutation }) => {
      const own = strides(x.shape);
      return moved(places(out.shape, permutation.map((axis) => own[axis])))(out, [x]);
    },
    rev: (out, [x], { dimensions }) => {
      const own = strides(x.shape);
      const start = dimensions.reduce((sum, axis) => sum + own[axis] * (x.shape[axis] - 1), 0);
      const steps = own.map((step, axis) => (dimensions.includes(axis) ? -step : step));
      return moved(places(out.shape, steps, start))(out, [x]);
    },
    slice: (out, [x], { start_indices: starts, strides: by }) => {
      const own = strides(x.shape);
      const start = starts.reduce((sum, at, axis) => sum + at * own[axis], 0);
      const steps = own.map((step, axis) => step * (by ? by[axis] : 1));
      return moved(places(out.shape, steps, start))(out, [x]);
    },
    pad: (out, [x, value], { padding_config: config }) => {
      const own = strides(out.shape);
      const inside = places(
        x.shape, own.map((step, axis) => step * (config[axis][2] + 1)),
        config.reduce((sum, [low], axis) => sum + low * own[axis], 0));
      const map = new Int32Array(out.data.length).fill(-1);
      // A negative margin cuts, so each element is looked at by its own place.
      const at = places(x.shape, strides(x.shape)), each = strides(x.shape);
      for (let i = 0; i < at.length; i++) {
        const within = config.every(([low, , gap], axis) => {
          const own = Math.floor(i / each[axis]) % x.shape[axis];
          const place = low + own * (gap + 1);
          return place >= 0 && place < out.shape[axis];
        });
        if (within) map[inside[i]] = i;
      }
      return () => {
        const rest = value.data[0];
        for (let i = 0; i < map.length; i++) out.data[i] = map[i] < 0 ? rest : x.data[map[i]];
      };
    },
    concatenate: (out, inputs, { dimension }) => {
      const own = strides(out.shape);
      let start = 0;
      const parts = inputs.map((x) => {
        const map = places(x.shape, own, start * own[dimension]);
        start += x.shape[dimension];
        return [x, map];
      });
      return () => {
        for (const [x, map] of parts) for (let i = 0; i < map.length; i++) out.data[map[i]] = x.data[i];
      };
    },
    iota: (out, _, { dimension }) => {
      const step = strides(out.shape)[dimension];
      for (let i = 0; i < out.data.length; i++) {
        out.data[i] = Math.floor(i / step) % out.shape[dimension];
      }
      return () => {};
    },
    take: (out, [x, indices], { axis }) => {
      const inner = product(x.shape.slice(axis + 1)), size = x.shape[axis];
      const outer = product(x.shape.slice(0, axis)), count = indices.data.length;
      return () => {
        for (let i = 0, o = 0; i < outer; i++) {
          for (let k = 0; k < count; k++) {
            const at = (i * size + Math.max(0, Math.min(size - 1, indices.data[k]))) * inner;
            for (let j = 0; j < inner; j++, o++) out.data[o] = x.data[at + j];
          }
        }
      };
    },
    cumsum: (out, [x], { axis, reverse }) => {
      const step = strides(x.shape)[axis], size = x.shape[axis];
      return () => {
        for (let i = 0; i < x.data.length; i++) {
          if (Math.floor(i / step) % size) continue;
          let sum = 0;
          for (let k = 0; k < size; k++) {
            const at = i + step * (reverse ? size - 1 - k : k);
            out.data[at] = sum += x.data[at];
          }
        }
      };
    },
    select_n: (out, [which, ...cases]) => {
      const maps = [which, ...cases].map((x) => broadcast(x.shape, out.shape));
      return () => {
        for (let i = 0; i < out.data.length; i++) {
          const chosen = which.data[maps[0][i]];
          out.data[i] = cases[chosen].data[maps[chosen + 1][i]];
        }
      };
    },
    clamp: (out, inputs) => {
      const [low, at, high] = inputs.map((x) => broadcast(x.shape, out.shape));
      return () => {
        for (let i = 0; i < out.data.length; i++) {
          const least = inputs[0].data[low[i]], most = inputs[2].data[high[i]];
          out.data[i] = Math.min(Math.max(inputs[1].data[at[i]], least), most);
        }
      };
    },
    integer_pow: (out, [x], { y }) => () => {
      for (let i = 0; i < out.data.length; i++) out.data[i] = x.data[i] ** y;
    },
    convert_element_type: (out, [x]) => {
      const bool = out.dtype === "bool";
      return () => {
        for (let i = 0; i < out.data.length; i++) out.data[i] = bool ? +(x.data[i] !== 0) : x.data[i];
      };
    },
    dot_general: (out, [x, y], { dimension_numbers: [[mine, yours], [lots, others]] }, scratch) => {
      const rest = (value, used) => value.shape.map((_, i) => i).filter((i) => !used.includes(i));
      const own = rest(x, [...mine, ...lots]), theirs = rest(y, [...yours, ...others]);
      const sizes = (value, axes) => product(axes.map((i) => value.shape[i]));
      const batch = sizes(x, lots), rows = sizes(x, own);
      const inner = sizes(x, mine), columns = sizes(y, theirs);
      const ordered = (value, axes) => { // [batch, rows, inner], [batch, inner, columns]
        const each = strides(value.shape);
        const map = places(axes.map((i) => value.shape[i]), axes.map((i) => each[i]));
        if (plain(map, value.data.length)) return [value.data, null];
        const data = new value.data.constructor(map.length);
        if (value.constant) taken(data, value.data, map);
        return [data, value.constant ? null : () => taken(data, value.data, map)];
      };
      const [a, before] = ordered(x, [...lots, ...own, ...mine]);
      const [b, also] = ordered(y, [...others, ...yours, ...theirs]);
      if (batch === 1 && rows === 1) {
        const sums = new Float64Array(columns), used = new Int32Array(inner);
        return () => {
          before?.();
          also?.();
          row(a, 0, b, 0, out.data, 0, inner, columns, out.bias, sums, used);
        };
      }
      const fixed = y.constant && batch === 1 ? panels(b, inner, columns) : null;
      const where = Int32Array.from({ length: rows }, (_, i) => i * columns);
      return () => {
        before?.();
        also?.();
        for (let n = 0; n < batch; n++) {
          const at = b.subarray(n * inner * columns, (n + 1) * inner * columns);
          multiply(
            a.subarray(n * rows * inner, (n + 1) * rows * inner),
            fixed ?? panels(at, inner, columns, scratch("panel", (columns + 3) * inner)),
            out.data.subarray(n * rows * columns, (n + 1) * rows * columns),
            where, rows, inner, columns, out.bias);
        }
      };
    },
    conv_general_dilated: (out, [x, kernel], params, scratch) => {
      if (params.feature_group_count > 1) throw new Error("grouped convolutions");
      const [images, height, width, channels] = x.shape, [kh, kw, , columns] = kernel.shape;
      const [, tall, wide] = out.shape, [sy, sx] = params.window_strides;
      const [[top], [left]] = params.padding;
      const [dy, dx] = params.lhs_dilation ?? [1, 1], [ky, kx] = params.rhs_dilation ?? [1, 1];
      // A transposed convolution reads an image with zeros between its pixels. The places of the
      // output with one remainder see the same taps of it, so each remainder is one product with
      // those taps alone.
      const remainders = (step, size) => [...Array(Math.min(step, size)).keys()];
      const phases = [];
      for (const p of remainders(dy, tall)) {
        for (const q of remainders(dx, wide)) {
          const taps = [];
          for (let i = 0; i < kh; i++) {
            for (let j = 0; j < kw; j++) {
              const onRow = (p * sy + i * ky - top) % dy === 0;
              if (onRow && (q * sx + j * kx - left) % dx === 0) taps.push([i, j]);
            }
          }
          const where = [], from = [];
          for (let n = 0; n < images; n++) {
            for (let r = p; r < tall; r += dy) {
              for (let c = q; c < wide; c += dx) {
                where.push(((n * tall + r) * wide + c) * columns);
                for (const [i, j] of taps) {
                  const h = (r * sy + i * ky - top) / dy, w = (c * sx + j * kx - left) / dx;
                  const inside = h >= 0 && h < height && w >= 0 && w < width;
                  from.push(inside ? ((n * height + h) * width + w) * channels : -1);
                }
              }
            }
          }
          const part = () => {
            const size = channels * columns, found = new Float32Array(taps.length * size);
            taps.forEach(([i, j], t) => {
              const at = (i * kw + j) * size;
              found.set(kernel.data.subarray(at, at + size), t * size);
            });
            return found;
          };
          const inner = taps.length * channels, places = Int32Array.from(where);
          const origins = Int32Array.from(from);
          if (kernel.constant && where.length * inner * columns >= LARGE && assembles()) {
            phases.push(quick(part(), places, origins, inner, columns));
            continue;
          }
          const fixed = kernel.constant ? panels(part(), inner, columns) : null;
          phases.push((source, to, bias) => {
            const patches = scratch("patches", where.length * inner);
            gathered(patches, 0, source, origins, channels);
            const weights = fixed ?? panels(part(), inner, columns);
            multiply(patches, weights, to, places, where.length, inner, columns, bias);
          });
        }
      }
      return () => { for (const phase of phases) phase(x.data, out.data, out.bias); };
    },
  };
  // Reductions: each element of the input adds to one of the output.
  const reduction = (start, step) => (out, [x], { axes }) => {
    const kept = x.shape.map((size, axis) => (axes.includes(axis) ? 1 : size));
    const own = strides(kept).map((stride, axis) => (axes.includes(axis) ? 0 : stride));
    const map = places(x.shape, own), totals = new Float64Array(out.data.length);
    return () => {
      totals.fill(start);
      for (let i = 0; i < map.length; i++) totals[map[i]] = step(totals[map[i]], x.data[i]);
      out.data.set(totals);
    };
  };
  Object.assign(OPERATIONS, {
    reduce_sum: reduction(0, (a, b) => a + b), reduce_prod: reduction(1, (a, b) => a * b),
    reduce_max: reduction(-Infinity, BINARY.max), reduce_min: reduction(Infinity, BINARY.min),
    reduce_and: reduction(1, (a, b) => a & b), reduce_or: reduction(0, (a, b) => a | b),
  });
  const furthest = (better) => (out, [x], { axes: [axis] }) => {
    const step = strides(x.shape)[axis], size = x.shape[axis];
    return () => {
      for (let i = 0, o = 0; i < x.data.length; i++) {
        if (Math.floor(i / step) % size) continue;
        let best = 0;
        for (let k = 1; k < size; k++) {
          if (better(x.data[i + k * step], x.data[i + best * step])) best = k;
        }
        out.data[o++] = best;
      }
    };
  };
  OPERATIONS.argmax = furthest((a, b) => a > b);
  OPERATIONS.argmin = furthest((a, b) => a < b);

  const elementwise = (name, out, inputs) => {
    const whole = ["int", "uint"].some((kind) => inputs[0].dtype.startsWith(kind));
    const f = (whole && WHOLE[name]) || UNARY[name] || BINARY[name];
    const size = out.data.length;
    const full = inputs.map((x) => { // as large as the output, or one number
      if (x.data.length === size || (x.data.length === 1 && !LOOPS[name])) return x;
      const map = broadcast(x.shape, out.shape), data = new x.data.constructor(size);
      if (x.constant) taken(data, x.data, map);
      return { ...x, data, map: x.constant ? null : map, source: x };
    });
    const spread = full.filter((x) => x.map);
    const before = () => { for (const x of spread) taken(x.data, x.source.data, x.map); };
    const [a, b] = full.map((x) => x.data), o = out.data;
    const loop = !(whole && WHOLE[name]) && LOOPS[name];
    if (loop) return () => { before(); loop(o, a, b); };
    if (inputs.length === 1) return () => { for (let i = 0; i < size; i++) o[i] = f(a[i]); };
    const p = a.length === size ? 1 : 0, q = b.length === size ? 1 : 0;
    return () => { before(); for (let i = 0; i < size; i++) o[i] = f(a[p * i], b[q * i]); };
  };

  // ---- plans

  // {inputs, outputs, shapes, constants, ops} -> run({name: numbers}) -> {name: numbers}
  const plan = (graph, tables) => {
    const shared = new Map(); // scratch memory by use
    const scratch = (use, size) => {
      if (!(shared.get(use)?.length >= size)) shared.set(use, new Float32Array(size));
      return shared.get(use);
    };
    const values = new Map(), users = new Map();
    for (const [, inputs] of graph.ops) {
      for (const id of inputs) users.set(id, (users.get(id) ?? 0) + 1);
    }
    for (const id of Object.values(graph.outputs)) users.set(id, Infinity);
    for (const [id, number] of Object.entries(graph.constants)) values.set(+id, tables[number]);
    const fresh = (id) => {
      const [dtype, shape] = graph.shapes[id];
      return { data: make(dtype, product(shape)), shape, dtype };
    };
    for (const id of Object.values(graph.inputs)) values.set(id, fresh(id));
    const steps = [];
    const ops = graph.ops.map(([name, inputs, output, params]) => ({ name, inputs, output, params }));
    for (let i = 0; i < ops.length; i++) {
      const { name, inputs, output, params } = ops[i];
      const given = inputs.map((id) => values.get(id));
      const again = ["reshape", "squeeze", "expand_dims", "stop_gradient"].includes(name);
      if (again) { // the same numbers
        values.set(output, { ...given[0], shape: graph.shapes[output][1] });
        continue;
      }
      const known = UNARY[name] || BINARY[name], dtype = graph.shapes[output][0];
      const size = product(graph.shapes[output][1]);
      const out = fresh(output);
      if (!known && !OPERATIONS[name]) throw new Error(`the operation ${name}`);
      // A product and the bias that is added to it, the same for each row, are one step.
      const next = ops[i + 1], bias = next && values.get(next.inputs[1]);
      if (
        (name === "dot_general" || name === "conv_general_dilated") && next?.name === "add"
        && next.inputs[0] === output && users.get(output) === 1 && bias?.constant
        && bias.data.length === out.shape.at(-1) && bias.shape.at(-1) === bias.data.length
        && product(graph.shapes[next.output][1]) === size && out.dtype === dtype
        && !(name === "dot_general" && params.dimension_numbers[1][0].length)
      ) {
        out.bias = bias.data;
        i++;
      }
      steps.push(known ? elementwise(name, out, given) : OPERATIONS[name](out, given, params, scratch));
      if (out.bias) out.shape = graph.shapes[next.output][1];
      values.set(out.bias ? next.output : output, out);
    }
    return (inputs) => {
      for (const [name, id] of Object.entries(graph.inputs)) {
        const { data } = values.get(id), given = inputs[name];
        if (given === undefined) throw new Error(`no ${name}`);
        if (typeof given === "number") data.fill(given);
        else if (given.length === data.length) data.set(given);
        else throw new Error(`${name} has ${given.length} numbers: expected ${data.length}`);
      }
      for (const step of steps) step();
      const found = {};
      for (const [name, id] of Object.entries(graph.outputs)) found[name] = values.get(id).data.slice();
      return found;
    };
  };

  // Arrays and graphs of a page -> {run(name, inputs)}; a graph is planned when it is first run.
  const load = ({ arrays, graphs }, bytes) => {
    const tables = arrays.map((each) => stored(bytes, arrays, each)), plans = new Map();
    return {
      run: (name, inputs) => {
        if (!plans.has(name)) plans.set(name, plan(graphs[name], tables));
        return plans.get(name)(inputs);
      },
    };
  };

  // As the program of a worker: {load, bytes} once, then {id, name, inputs} -> {id, outputs}.
  const serve = (scope) => {
    let engine = null;
    scope.onmessage = ({ data }) => {
      try {
        if (data.load) engine = load(data.load, data.bytes);
        const outputs = data.name ? engine.run(data.name, data.inputs) : {};
        scope.postMessage({ id: data.id, outputs }, Object.values(outputs).map((x) => x.buffer));
      } catch (error) {
        scope.postMessage({ id: data.id, error: error.message });
      }
    };
  };

  return { load, plan, stored, ofText, serve };
}
