/**
 * Llama's forward pass for one sequence, written from the formulas with Hugging Face's tensor names and nothing of this package:
 * plain loops in float64. Slow, obviously right, and so what the graphs are compared with.
 */

export type ReferenceShape = {
  hiddenSize: number;
  layers: number;
  heads: number;
  kvHeads: number;
  intermediateSize: number;
  ropeTheta: number;
  rmsNormEps: number;
};
type Matrix = { rows: number; data: Float32Array };
type Vector = number[];

/** Final hidden states (after the last norm) and logits, a row a position. */
export function referenceLlama(
  shape: ReferenceShape,
  tensor: (name: string) => Matrix | undefined,
  tokens: ArrayLike<number>,
): { hidden: Vector[]; logits: Vector[] } {
  const { hiddenSize, heads, kvHeads, ropeTheta, rmsNormEps } = shape;
  const size = hiddenSize / heads;
  const need = (name: string): Matrix => {
    const found = tensor(name);
    if (found === undefined) throw new Error(`No tensor ${name}`);
    return found;
  };
  // torch.nn.Linear: y = x Wᵀ + b, W [out, in]
  const linear = (name: string, x: Vector): Vector => {
    const { rows, data } = need(`${name}.weight`);
    const bias = tensor(`${name}.bias`)?.data;
    return Array.from({ length: rows }, (_, row) => {
      let sum = bias?.[row] ?? 0;
      for (let i = 0; i < x.length; i++) sum += data[row * x.length + i]! * x[i]!;
      return sum;
    });
  };
  const norm = (name: string, x: Vector): Vector => {
    const scale = 1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + rmsNormEps);
    return x.map((value, i) => value * scale * need(`${name}.weight`).data[i]!);
  };
  // rotate_half: (x1, x2) → (x1 cos − x2 sin, x2 cos + x1 sin), the halves of a head
  const rotate = (x: Vector, position: number): Vector =>
    x.map((value, i) => {
      const pair = i % (size / 2);
      const angle = position / ropeTheta ** ((2 * pair) / size);
      const start = i - (i % size);
      const first = x[start + pair]!;
      const second = x[start + pair + size / 2]!;
      return i % size < size / 2
        ? value * Math.cos(angle) - second * Math.sin(angle)
        : value * Math.cos(angle) + first * Math.sin(angle);
    });

  const embedding = need("model.embed_tokens.weight");
  let states: Vector[] = Array.from(tokens, (token) =>
    Array.from(embedding.data.subarray(token * hiddenSize, (token + 1) * hiddenSize)),
  );
  for (let layer = 0; layer < shape.layers; layer++) {
    const own = (name: string) => `model.layers.${layer}.${name}`;
    const normed = states.map((x) => norm(own("input_layernorm"), x));
    const queries = normed.map((x, t) => rotate(linear(own("self_attn.q_proj"), x), t));
    const keys = normed.map((x, t) => rotate(linear(own("self_attn.k_proj"), x), t));
    const values = normed.map((x) => linear(own("self_attn.v_proj"), x));
    states = states.map((x, t) => {
      const attended: Vector = [];
      for (let head = 0; head < heads; head++) {
        const shared = Math.floor(head / (heads / kvHeads)) * size;
        const scores = keys.slice(0, t + 1).map((key) => {
          let dot = 0;
          for (let i = 0; i < size; i++) dot += queries[t]![head * size + i]! * key[shared + i]!;
          return dot / Math.sqrt(size);
        });
        const weights = softmax(scores);
        for (let i = 0; i < size; i++) {
          attended.push(weights.reduce((sum, weight, s) => sum + weight * values[s]![shared + i]!, 0));
        }
      }
      return plus(x, linear(own("self_attn.o_proj"), attended));
    });
    states = states.map((x) => {
      const mlp = norm(own("post_attention_layernorm"), x);
      const up = linear(own("mlp.up_proj"), mlp);
      const gated = linear(own("mlp.gate_proj"), mlp).map(
        (gate, i) => (gate / (1 + Math.exp(-gate))) * up[i]!,
      );
      return plus(x, linear(own("mlp.down_proj"), gated));
    });
  }
  const hidden = states.map((x) => norm("model.norm", x));
  const head = tensor("lm_head.weight") === undefined ? "model.embed_tokens" : "lm_head";
  return { hidden, logits: hidden.map((x) => linear(head, x)) };
}

function softmax(scores: Vector): Vector {
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

function plus(a: Vector, b: Vector): Vector {
  return a.map((value, i) => value + b[i]!);
}
