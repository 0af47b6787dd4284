import {
  type AuditPolicy,
  auditRate,
  finalAfter,
  newStanding,
  nextStanding,
  probationGroups,
  type Standing,
} from "@muster/verification";
import type { Bench } from "./bench.ts";

// Steady state of the audits under attack, by Monte Carlo, with the coordinator's own policy code. A slot is a fifth (the adversary's
// share) of all throughput: whatever node fills it submits packs, is quarantined or leaves, and comes back at once under a new key. Nodes
// are independent given the policy, so one slot simulated for long is the mean of many.
//
// Pessimistic where it has to choose: an audit finds poison always (what checks miss is calibration's to bound), everything that is not held
// back is in a sealed batch before any verdict, the adversary knows its own standing, and a new key costs nothing.

/** When a group that is not audited may be trained on. */
type Settle =
  /** As soon as it is submitted. */
  | "at once"
  /** Once every audited group that its node submitted before or with it has its verdict, and none was a rejection. */
  | "in order";
/** At which confirmed rejection everything that a node holds is forfeited. */
type Forfeit = "third" | "first";
type Rules = { settle: Settle; forfeit: Forfeit };

/** What the coordinator does. */
const inForce: Rules = { settle: "in order", forfeit: "first" };

type Attack = {
  /** Share of groups that are poison, once it has begun. */
  rate: number;
  /** When it begins; later ones cheat only while trusted, since every group is audited before. */
  start: "from the first group" | "right at trust" | "after trust, twice as long" | "one at a time";
  /** Leaves, with all that is held, when the next rejection would quarantine it. */
  leaves: boolean;
};

const rates = [0.01, 0.05, 0.2, 0.5, 1];
const attacks: Attack[] = [true, false].flatMap((leaves) => [
  ...(["from the first group", "right at trust", "after trust, twice as long"] as const).flatMap((start) =>
    rates.map((rate) => ({ rate, start, leaves })),
  ),
  // One poisoned group, then none until it is final: nothing that is found later can count against it.
  { rate: 1, start: "one at a time" as const, leaves },
]);

const defaults: AuditPolicy = { adversaryShare: 0.2, epsilon: 1e-2, floor: 0.1 };
const strict: AuditPolicy = { adversaryShare: 0.2, epsilon: 1e-3, floor: 0.1 };

/** Groups in a pack, and packs that a node submits before the first of them has its verdicts. */
const packGroups = 16;
const packsInFlight = 2;
/** Groups that the adversary submits in each attack: enough that a share of poison is known to 2 % of itself, at 1e-3. */
const groups = 2_000_000;

export const audit: Bench = {
  options: { groups },
  async run(say, options) {
    const length = options.groups ?? groups;
    say(
      `Adversary share ${defaults.adversaryShare}, ${packGroups} groups a pack, ${packsInFlight} packs in flight, ${attacks.length} attacks of ${length} groups.`,
    );
    const alternatives = (["at once", "in order"] as const).flatMap((settle) =>
      (["third", "first"] as const).map((forfeit): Rules => ({ settle, forfeit })),
    );
    let figures: Record<string, number | { rate: number; start: string }> = {};
    for (const [name, policy] of [
      ["strict", strict],
      ["defaults", defaults],
    ] as const) {
      say(`${name}: epsilon ${policy.epsilon}, floor ${policy.floor}, N ${probationGroups(policy)}`);
      for (const rules of alternatives) {
        const own = rules.settle === inForce.settle && rules.forfeit === inForce.forfeit;
        // What is only for comparison may be known less well; a longer probation takes longer to average.
        const worst = worstOf(policy, rules, length * (policy === strict ? 3 : 1) * (own ? 1 : 0.5));
        say(
          `  trained ${rules.settle}, forfeited at the ${rules.forfeit} rejection${own ? " (in force)" : ""}: poison ${percent(worst.poison.value)} ` +
            `(${described(worst.poison.attack)}), ${worst.poison.value <= policy.epsilon ? "within" : "BEYOND"} ${percent(policy.epsilon)}; a cheated group is worth at most ` +
            `${worst.value.value.toFixed(2)} groups (${described(worst.value.attack)}), ${worst.doubled.value.toFixed(2)} with its compute counted as well as its credits`,
        );
        if (own && policy === defaults)
          figures = {
            poisonMax: rounded(worst.poison.value),
            epsilon: policy.epsilon,
            at: { rate: worst.poison.attack.rate, start: worst.poison.attack.start },
            expectedValueMax: rounded(worst.doubled.value),
          };
      }
    }
    const honest = simulate(
      defaults,
      inForce,
      { rate: 0, start: "from the first group", leaves: false },
      length,
    );
    const shares = {
      auditShareInProbation: rounded(honest.audited.probation / honest.submitted.probation),
      auditShareAtFloor: rounded(honest.audited.trusted / honest.submitted.trusted),
    };
    say(
      `An honest node: ${percent(shares.auditShareInProbation)} of its groups are audited in probation, ${percent(shares.auditShareAtFloor)} afterwards.`,
    );
    return { ...figures, ...shares };
  },
};

type Worst = { value: number; attack: Attack };

function worstOf(policy: AuditPolicy, rules: Rules, length: number) {
  const none = { value: -Infinity, attack: attacks[0]! };
  const worst: Record<"poison" | "value" | "doubled", Worst> = { poison: none, value: none, doubled: none };
  for (const attack of attacks) {
    const outcome = simulate(policy, rules, attack, length);
    const { adversaryShare } = policy;
    const trained = adversaryShare * (outcome.trained / outcome.groups) + (1 - adversaryShare);
    const found = {
      poison: (adversaryShare * (outcome.poison / outcome.groups)) / trained,
      // A group honestly made earns what it costs. One that is cheated and kept earns as much and costs nothing.
      value: (outcome.kept - outcome.forfeited) / outcome.cheated,
      // As if its compute were sold a second time.
      doubled: (2 * outcome.kept - outcome.forfeited) / outcome.cheated,
    };
    for (const figure of ["poison", "value", "doubled"] as const)
      if (found[figure] > worst[figure].value) worst[figure] = { value: found[figure], attack };
  }
  return worst;
}

type Outcome = {
  groups: number;
  cheated: number;
  /** Groups that were trained on, and those of them that were poison. */
  trained: number;
  poison: number;
  /** Cheated groups that became final, and honest ones whose credits were forfeited. */
  kept: number;
  forfeited: number;
  submitted: { probation: number; trusted: number };
  audited: { probation: number; trusted: number };
};

type Submitted = { poison: boolean; audited: boolean };

/** One slot, until it has submitted `length` groups. */
function simulate(policy: AuditPolicy, rules: Rules, attack: Attack, length: number): Outcome {
  const random = generator(length);
  const enough = probationGroups(policy);
  const outcome: Outcome = {
    groups: 0,
    cheated: 0,
    trained: 0,
    poison: 0,
    kept: 0,
    forfeited: 0,
    submitted: { probation: 0, trusted: 0 },
    audited: { probation: 0, trusted: 0 },
  };
  let node = newNode();

  const cheats = (): boolean => {
    const { state, auditedValid } = node.standing;
    const trusted = state === "TRUSTED";
    switch (attack.start) {
      case "from the first group":
        return random() < attack.rate;
      case "right at trust":
        return trusted && random() < attack.rate;
      case "after trust, twice as long":
        return trusted && auditedValid >= 2 * enough && random() < attack.rate;
      case "one at a time":
        return trusted && node.heldPoison === 0 && node.pendingPoison === 0;
    }
  };

  const train = (group: Submitted) => {
    outcome.trained++;
    if (group.poison) outcome.poison++;
  };

  const settle = () => {
    // In the order in which they were accepted: what a later group waits for, an earlier one has.
    while (node.held.size > 0 && node.standing.accepted >= node.held.first().after) {
      const { poison } = node.held.take();
      if (!poison) continue;
      outcome.kept++;
      node.heldPoison--;
    }
  };

  const hold = (group: Submitted) => {
    node.held.add({ ...group, after: finalAfter(node.standing.accepted, policy) });
    if (group.poison) node.heldPoison++;
  };

  const accepted = () => {
    node.standing = nextStanding(node.standing, "ACCEPTED", policy);
  };

  const rejected = () => {
    node.standing = nextStanding(node.standing, "REJECTED", policy);
  };

  /** What a rejection sets off: all that was trusted and is not final is audited. */
  const auditHeld = () => {
    const window = node.held.takeAll();
    node.heldPoison = 0;
    for (const group of window) {
      if (group.audited) node.held.add(group);
      else if (group.poison) rejected();
      else {
        accepted();
        node.held.add({ ...group, audited: true });
      }
    }
  };

  const forfeitHeld = () => {
    // Poison among it earns nothing, which is no loss: it cost nothing.
    for (const group of node.held.takeAll()) if (!group.poison) outcome.forfeited++;
    node.heldPoison = 0;
  };

  while (outcome.groups < length) {
    // Everything in flight was submitted under the standing of now.
    const { state } = node.standing;
    const rate = auditRate(node.standing, policy);
    const packs: Submitted[][] = [];
    for (let p = 0; p < packsInFlight; p++) {
      const pack: Submitted[] = [];
      for (let g = 0; g < packGroups; g++) {
        const poison = cheats();
        const audited = rate >= 1 || random() < rate;
        if (poison) {
          outcome.cheated++;
          node.pendingPoison++;
        }
        const phase = state === "TRUSTED" ? "trusted" : "probation";
        outcome.submitted[phase]++;
        if (audited) outcome.audited[phase]++;
        pack.push({ poison, audited });
      }
      outcome.groups += packGroups;
      packs.push(pack);
    }
    node.pendingPoison = 0;

    let failed = false;
    const before = node.standing.rejected;
    if (rules.settle === "at once")
      for (const pack of packs)
        for (const group of pack)
          if (!group.audited) {
            train(group);
            hold(group);
          }
    for (const pack of packs) {
      const caught = pack.filter(({ audited, poison }) => audited && poison).length;
      failed ||= caught > 0;
      for (const group of pack) {
        if (group.audited && group.poison) rejected();
        else if (group.audited) {
          accepted();
          train(group);
          hold(group);
        } else if (rules.settle === "in order") {
          // After a rejection what waits is audited in its turn, and poison goes no further.
          if (failed && group.poison) rejected();
          else {
            if (failed) accepted();
            train(group);
            hold({ ...group, audited: failed });
          }
        }
      }
      if (caught > 0) auditHeld();
    }
    if (rules.forfeit === "first" && node.standing.rejected > before) forfeitHeld();
    if (node.standing.state === "QUARANTINED") {
      forfeitHeld();
      node = newNode();
    } else if (attack.leaves && node.standing.rejected === 2) {
      // A day later nothing holds its credits back.
      for (const { poison } of node.held.takeAll()) if (poison) outcome.kept++;
      node = newNode();
    }
    // Last, since nothing is final while its node stands accused.
    settle();
  }
  return outcome;
}

type Held = Submitted & { after: number };

function newNode() {
  const standing: Standing = newStanding;
  return { standing, held: new Queue<Held>(), heldPoison: 0, pendingPoison: 0 };
}

/** First in, first out, without moving what is in it. */
class Queue<T> {
  #items: T[] = [];
  #head = 0;

  get size(): number {
    return this.#items.length - this.#head;
  }

  add(item: T): void {
    this.#items.push(item);
  }

  first(): T {
    return this.#items[this.#head]!;
  }

  take(): T {
    const item = this.#items[this.#head++]!;
    if (this.#head > 4096) this.#items.splice(0, this.#head);
    if (this.#head > 4096) this.#head = 0;
    return item;
  }

  takeAll(): T[] {
    const items = this.#items.slice(this.#head);
    this.#items = [];
    this.#head = 0;
    return items;
  }
}

/** Uniform in [0, 1), always the same for a seed (G. Marsaglia, "Xorshift RNGs", 2003, through a multiplier). */
function generator(seed: number): () => number {
  let state = BigInt.asUintN(32, BigInt(seed) * 2654435761n + 1n);
  let x = Number(state) | 1;
  state = 0n;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (Math.imul(x, 0x9e3779b1) >>> 0) / 2 ** 32;
  };
}

function described({ rate, start, leaves }: Attack): string {
  return `${percent(rate)} ${start}${leaves ? ", leaving in time" : ""}`;
}

function percent(share: number): string {
  return `${Number((100 * share).toPrecision(3))} %`;
}

function rounded(value: number): number {
  return Number(value.toPrecision(4));
}
