import { createPrivateKey, createPublicKey, type KeyObject, sign } from "node:crypto";
import type { Loader } from "./copy.ts";
import type { Random } from "./random.ts";

// People, organizations and machines: who there is, before anybody has done anything.

export const day = 86_400_000;
export const hour = 3_600_000;

/** How a machine behaves. A cheat has one way to cheat and keeps to it. */
export type Character = "honest" | "flaky" | Cheat;
export type Cheat = "lucky-draws" | "older-policy" | "invented-logprobs" | "forged-proofs";
export const cheats: readonly Cheat[] = ["lucky-draws", "older-policy", "invented-logprobs", "forged-proofs"];

export type SimulatedNode = {
  readonly id: string;
  readonly name: string;
  readonly publicKey: string;
  readonly character: Character;
  readonly region: string;
  /** Tokens a second beside those of the median machine. */
  readonly speed: number;
  readonly ownerId: string;
  readonly createdAt: number;
  /** Milliseconds of silence when the simulation ends. */
  readonly silence: number;
  readonly draining: boolean;
  /** Ed25519 over the bytes, hexadecimal. */
  sign(bytes: Uint8Array): string;
};

export type Staff = {
  readonly trainers: readonly SimulatedNode[];
  readonly validators: readonly SimulatedNode[];
  readonly evaluators: readonly SimulatedNode[];
  readonly relays: readonly SimulatedNode[];
};

export type World = {
  readonly organizations: readonly { id: string; name: string; slug: string }[];
  readonly people: readonly { id: string; email: string; name: string }[];
  readonly workers: readonly SimulatedNode[];
  readonly staff: Staff;
};

/** Where the person signs in that the commands print a link for; the organization of `npm start` and its owner. */
export const account = { email: "you@muster.localhost", organizationName: "Demo", slug: "demo" } as const;

export type WorldOptions = {
  readonly random: Random;
  readonly now: number;
  readonly workers: number;
  /** Added to slugs and addresses of everything, in a database where those of `account` are taken. */
  readonly suffix: string;
};

export function makeWorld({ random, now, workers, suffix }: WorldOptions): World {
  const places = random.fork("organizations");
  const founded = now - 200 * day;
  const organizations = [
    {
      name: suffix === "" ? account.organizationName : `Simulation${suffix}`,
      slug: suffix === "" ? account.slug : "simulation",
    },
    { name: `Aurora Collective${suffix}`, slug: "aurora-collective" },
    { name: `Basalt Research${suffix}`, slug: "basalt-research" },
  ].map(({ name, slug }, i) => ({ id: places.uuid(founded + i), name, slug: `${slug}${suffix}` }));
  const persons = random.fork("people");
  const people = [
    { name: "you", email: account.email },
    ...Array.from({ length: 23 }, (_, i) => {
      const name = `${persons.pick(firstNames)} ${persons.pick(lastNames)}`;
      return { name, email: `${name.toLowerCase().replace(" ", ".")}.${i + 1}@example.com` };
    }),
  ].map((person, i) => ({
    id: persons.uuid(founded + 10 + i),
    name: person.name,
    email: suffix === "" ? person.email : person.email.replace("@", `+simulation${suffix}@`),
  }));
  const machines = random.fork("nodes");
  const make = (kind: string, count: number, character?: Character) =>
    Array.from({ length: count }, (_, i) => makeNode(machines, { kind, i, now, people, character }));
  return {
    organizations,
    people,
    staff: {
      trainers: make("trainer", 2, "honest"),
      validators: make("validator", 8, "honest"),
      evaluators: make("evaluator", 1, "honest"),
      relays: make("relay", Math.min(24, Math.max(5, Math.floor(workers / 50))), "honest"),
    },
    workers: make("worker", workers),
  };
}

/** Writes the world's rows; memberships of the second and third organization are of a few people each. */
export function addWorld(loader: Loader, world: World, { now }: { now: number }, seed: string): void {
  const at = new Date(now - 200 * day);
  for (const { id, name, slug } of world.organizations)
    loader.add("Organization", {
      id,
      name,
      slug,
      metadata: JSON.stringify({ simulation: { seed } }),
      createdAt: at,
    });
  for (const { id, name, email } of world.people)
    loader.add("User", { id, name, email, emailVerified: true, createdAt: at, updatedAt: at });
  world.people.forEach((person, i) => {
    const organization = world.organizations[i === 0 ? 0 : i % world.organizations.length];
    if (organization === undefined) return;
    const role = i < world.organizations.length ? "owner" : i % 5 === 0 ? "admin" : "member";
    // One id of another's parts: a membership is nothing more.
    const id = `${person.id.slice(0, 24)}${organization.id.slice(24)}`;
    loader.add("Member", { id, organizationId: organization.id, userId: person.id, role, createdAt: at });
  });
  const { trainers, validators, evaluators, relays } = world.staff;
  for (const node of [...trainers, ...validators, ...evaluators, ...relays])
    addNode(
      loader,
      node,
      now,
      world.organizations.map(({ id }) => id),
    );
  for (const node of world.workers) addNode(loader, node, now, []);
}

function addNode(loader: Loader, node: SimulatedNode, now: number, worksFor: readonly string[]): void {
  const kit = hardwareOf(node);
  loader.add("Node", {
    id: node.id,
    publicKey: node.publicKey,
    name: node.name,
    ownerId: node.ownerId,
    software: node.speed > 0.6 ? "muster 0.1.0" : "muster 0.1.0-rc.2",
    protocol: 1,
    hardware: kit,
    draining: node.draining,
    progress: {
      provider: kit.providers[0] ?? null,
      memoryMiB: Math.round(300 + 900 * node.speed),
      submitted: Math.round(40 * node.speed),
      tasks: [],
    },
    worksFor,
    dropped: 0,
    lastSeenAt: new Date(now - node.silence),
    createdAt: new Date(node.createdAt),
  });
}

function makeNode(
  random: Random,
  input: {
    kind: string;
    i: number;
    now: number;
    people: World["people"];
    character: Character | undefined;
  },
): SimulatedNode {
  const { kind, i, now, people } = input;
  const createdAt = now - Math.floor((0.2 + 0.8 * random.next()) * 150 * day);
  const id = random.uuid(createdAt);
  const keys = keysOf(Buffer.from(random.hex(32), "hex"));
  const draw = random.next();
  const drawn = draw < 0.02 ? random.pick(cheats) : draw < 0.07 ? "flaky" : "honest";
  // The first of them are one of each, and there: however few there are, all kinds are among them.
  const first: Character | undefined =
    i < cheats.length ? cheats[i] : i < 2 * cheats.length ? "flaky" : undefined;
  const present = first === undefined ? random.next() : 0;
  const worker = kind === "worker";
  const number = String(i + 1).padStart(worker ? 5 : 2, "0");
  return {
    id,
    name: worker ? `${random.pick(adjectives)}-${random.pick(animals)}-${number}` : `${kind}-${number}`,
    publicKey: keys.publicKey,
    character: input.character ?? first ?? drawn,
    region: random.pick(regions),
    speed: Math.min(8, Math.exp(0.7 * random.normal())),
    ownerId: random.pick(people).id,
    createdAt,
    silence: silenceOf(random, worker ? present : 0),
    draining: worker && present > 0.99,
    sign: keys.sign,
  };
}

/** Most are there, some have just fallen silent, some are gone. */
function silenceOf(random: Random, present: number): number {
  if (present < 0.9) return random.between(0, 12_000);
  if (present < 0.93) return random.between(35_000, 110_000);
  if (present < 0.99) return random.between(5 * 60_000, 20 * hour);
  return random.between(0, 12_000);
}

function keysOf(seed: Buffer): { publicKey: string; sign(bytes: Uint8Array): string } {
  const secret: KeyObject = createPrivateKey({
    key: Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]),
    format: "der",
    type: "pkcs8",
  });
  const { x = "" } = createPublicKey(secret).export({ format: "jwk" });
  return {
    publicKey: Buffer.from(x, "base64url").toString("hex"),
    sign: (bytes) => sign(null, bytes, secret).toString("hex"),
  };
}

function hardwareOf({ speed, region, id }: SimulatedNode) {
  const rank = Math.min(machines.length - 1, Math.floor(speed * 1.6));
  const { cpu, cores, gigabytes, gpu } = machines[rank] ?? machines[0];
  return {
    os: id.endsWith("0") ? "darwin 25.1.0" : "linux 6.12.0",
    arch: id.endsWith("0") ? "arm64" : "x64",
    cpu,
    cores,
    memoryBytes: gigabytes * 2 ** 30,
    node: "v24.21.0",
    providers: gpu === null ? ["cpu"] : ["cuda", "cpu"],
    threads: Math.max(1, cores >> 1),
    ...(gpu === null ? {} : { gpu }),
    region,
  };
}

const machines = [
  { cpu: "Intel N100", cores: 4, gigabytes: 16, gpu: null },
  { cpu: "AMD Ryzen 5 5600", cores: 12, gigabytes: 32, gpu: null },
  { cpu: "AMD Ryzen 7 7700", cores: 16, gigabytes: 64, gpu: "RTX 4070, 12 GB" },
  { cpu: "Intel Core i9-13900K", cores: 32, gigabytes: 64, gpu: "RTX 4090, 24 GB" },
  { cpu: "AMD EPYC 7543", cores: 64, gigabytes: 256, gpu: "A100, 80 GB" },
  { cpu: "Intel Xeon 8480", cores: 112, gigabytes: 512, gpu: "H100, 80 GB" },
] as const;

export const regions = [
  "eu-west",
  "eu-north",
  "us-east",
  "us-west",
  "sa-east",
  "ap-south",
  "ap-east",
  "af-south",
];

const adjectives = (
  "amber brisk calm dusky eager fabled gentle hardy ivory jolly keen lively mellow nimble olive proud quiet rapid silver tidy umber vivid " +
  "wary young zesty"
).split(" ");
const animals = (
  "otter heron lynx marten ibex plover stoat tern vole wren badger crane dingo egret ferret gecko hare jackal kestrel lemur moth newt owl " +
  "puffin quail raven"
).split(" ");
const firstNames =
  "Ada Bela Chidi Dara Emeka Freya Goran Hana Iris Jonas Kaya Lena Milo Noor Otto Priya Rosa Sami Tove Yara".split(
    " ",
  );
const lastNames =
  "Abara Berg Costa Dahl Engel Fofana Garcia Haas Ito Jansen Kaur Lind Moreau Novak Okoye Petit Ruiz Sato Toth Weiss".split(
    " ",
  );
