import { CodedError } from "../errors.ts";
import { type EventType, eventTypes } from "../events/append.ts";

// What an endpoint hears: event types by name, by area (`run.*`), or all (`*`).

const areas = [...new Set(eventTypes.map((type) => `${type.split(".")[0]}.*`))];

/** Everything an endpoint may subscribe to. */
export const subscribable: readonly string[] = ["*", ...areas, ...eventTypes];

/** Subscriptions as they are stored: each once, none covered by another. @throws CodedError `INPUT_INVALID` */
export function readSubscriptions(given: readonly string[]): string[] {
  const unknown = given.find((one) => !subscribable.includes(one));
  if (unknown !== undefined)
    throw new CodedError(
      "INPUT_INVALID",
      `There is no event "${unknown.slice(0, 60)}". Ask webhookEventTypes for those there are.`,
    );
  if (given.length === 0)
    throw new CodedError("INPUT_INVALID", "An endpoint hears at least one type of event.");
  if (given.includes("*")) return ["*"];
  const covered = (one: string) => !one.endsWith(".*") && given.includes(`${one.split(".")[0]}.*`);
  return [...new Set(given)].filter((one) => !covered(one)).sort();
}

/** The types behind stored subscriptions. */
export function typesOf(subscriptions: readonly string[]): EventType[] {
  return eventTypes.filter((type) => hears(subscriptions, type));
}

export function hears(subscriptions: readonly string[], type: EventType): boolean {
  return ["*", `${type.split(".")[0]}.*`, type].some((one) => subscriptions.includes(one));
}
