/** What one check of `muster doctor` found. */
export type Finding = {
  id: string;
  /** `fail` is something that Muster cannot do without; `warn` something it works worse without; `none` something not here and not missed. */
  level: "ok" | "none" | "warn" | "fail";
  /** What was found, with the measured value. */
  what: string;
  /** Why it matters. Only when it is not ok. */
  why?: string;
  /** A command or sentence that mends it, to be copied whole. */
  fix?: string;
};
