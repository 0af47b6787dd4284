/** One output token as the worker claimed it and the validator measured it. */
export type Token = {
  readonly position: number;
  readonly token: number;
  readonly text: string;
  readonly claimedLogProbability: number | null;
  readonly measuredLogProbability: number | null;
  readonly margin: number | null;
};

/** What the colour of a token can say. */
export const overlays = ["none", "claimed", "measured", "difference", "margin"] as const;
export type Overlay = (typeof overlays)[number];

export const overlayTitles: Record<Overlay, { label: string; meaning: string }> = {
  none: { label: "None", meaning: "Text only." },
  claimed: {
    label: "Claimed log-probability",
    meaning: "What the worker says the policy gave the token. Darker is less likely.",
  },
  measured: {
    label: "Measured log-probability",
    meaning: "What a validator got for the same token. Darker is less likely.",
  },
  difference: {
    label: "Claim against measurement",
    meaning: "Distance of the two. Darkest is the threshold or beyond.",
  },
  margin: {
    label: "Sampling margin",
    meaning:
      "How far the token was from the one the seeded noise chooses; 0 is the same token. Darkest is the threshold or beyond.",
  },
};

/** Thresholds of the run's spec, which give the two differences their scale. */
export type Scale = { readonly logProbability: number; readonly margin: number };

/** The number an overlay shows for a token; null when nobody reported it. */
export function overlayValue(token: Token, overlay: Overlay): number | null {
  switch (overlay) {
    case "none":
      return null;
    case "claimed":
      return token.claimedLogProbability;
    case "measured":
      return token.measuredLogProbability;
    case "difference":
      return token.claimedLogProbability === null || token.measuredLogProbability === null
        ? null
        : Math.abs(token.claimedLogProbability - token.measuredLogProbability);
    case "margin":
      return token.margin;
  }
}

/** Step 0 to 5 of the sequential palette. Log-probabilities darken down to −5 nats; the differences darken up to the threshold. */
export function heatOf(token: Token, overlay: Overlay, scale: Scale): number {
  const value = overlayValue(token, overlay);
  if (value === null || Number.isNaN(value)) return 0;
  switch (overlay) {
    case "none":
      return 0;
    case "claimed":
    case "measured":
      return step(-value / 5);
    case "difference":
      return step(value / scale.logProbability);
    case "margin":
      return step(value / scale.margin);
  }
}

/** Whether a token is beyond what the run's threshold allows: marked by more than colour. */
export function isBeyond(token: Token, overlay: Overlay, scale: Scale): boolean {
  const value = overlayValue(token, overlay);
  if (value === null) return false;
  return (
    (overlay === "difference" && !(value <= scale.logProbability)) ||
    (overlay === "margin" && !(value <= scale.margin))
  );
}

function step(share: number): number {
  return Math.min(5, Math.max(0, Math.ceil(share * 5)));
}
