/** The bf16 pattern every NaN is written as. */
export const BF16_NAN = 0x7fc0;

/**
 * Rounds float32 values to bfloat16 patterns, to nearest, ties to even; what exceeds the range becomes an infinity, every NaN
 * becomes 0x7FC0.
 */
export function toBf16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const patterns = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const word = bits[i]!;
    patterns[i] = (word & 0x7fffffff) > 0x7f800000 ? BF16_NAN : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return patterns;
}

/** The float32 value of each bfloat16 pattern; exact. */
export function fromBf16(patterns: Uint16Array): Float32Array {
  const bits = new Uint32Array(patterns.length);
  for (let i = 0; i < patterns.length; i++) bits[i] = patterns[i]! << 16;
  return new Float32Array(bits.buffer);
}
