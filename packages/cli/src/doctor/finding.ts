/** What one check of `muster doctor` found. */
export type Finding = {
  id: string;
  /** `fail` is something that Muster cannot do without; `warn` something that it works worse without. */
  level: "ok" | "warn" | "fail";
  /** What was found, with the measured value. */
  what: string;
  /** Why it matters. Only when it is not ok. */
  why?: string;
  /** A command or sentence that mends it, to be copied whole. */
  fix?: string;
};
